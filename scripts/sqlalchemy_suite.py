"""A pytest plugin for SQLAlchemy's own tests that makes this dialect known to them. Used by sqlalchemy_suite.sh."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:  # noqa: ARG001
    """Add this driver to the lists of drivers that are the requirements of two tests: ``lastrowid``, closed cursors."""
    from sqlalchemy.testing import config, exclusions

    engine: Any = config.db
    if engine.dialect.driver != "rapsqlite":
        return
    requirements: Any = type(config.requirements)
    anything: Any = exclusions.open
    for name in ("dbapi_lastrowid", "async_dialect_with_await_close"):
        setattr(requirements, name, property(lambda _: anything()))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Tell a server-side cursor by its attribute: the tests have a list of drivers, which has no others."""
    for item in session.items:
        cls: Any = getattr(item, "cls", None)
        if cls is not None and cls.__name__.startswith("ServerSideCursorsTest"):
            cls._is_server_side = lambda _, cursor: cursor.server_side
