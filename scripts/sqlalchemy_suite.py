"""A pytest plugin for SQLAlchemy's own tests: makes this dialect known to them and records which tests passed.

Used by sqlalchemy_suite.sh, which compares two drivers. RAPSQLITE_PASSED names the file to write.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

_DRIVER = re.compile(r"_sqlite\+\w+")  # a part of the names of tests: driver and version of SQLite
_passed: set[str] = set()


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:  # noqa: ARG001
    """Run the test of ``lastrowid`` too, whose requirement is a list of drivers."""
    from sqlalchemy.testing import config, exclusions

    requirements: Any = type(config.requirements)
    anything: Any = exclusions.open
    requirements.dbapi_lastrowid = property(lambda _: anything())


def pytest_collection_finish(session: pytest.Session) -> None:
    """Tell a server-side cursor by its attribute: the tests have a list of drivers, which has no others."""
    for item in session.items:
        cls: Any = getattr(item, "cls", None)
        if cls is not None and cls.__name__.startswith("ServerSideCursorsTest"):
            cls._is_server_side = lambda _, cursor: cursor.server_side


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Record a test that passed, including its set-up and teardown."""
    name = _DRIVER.sub("", report.nodeid)
    if report.when == "call" and report.passed:
        _passed.add(name)
    elif report.failed:
        _passed.discard(name)


def pytest_sessionfinish() -> None:
    """Write the names of the tests that passed."""
    Path(os.environ["RAPSQLITE_PASSED"]).write_text("\n".join(sorted(_passed)) + "\n", encoding="utf-8")


def compare(theirs: Path, ours: Path) -> None:
    """Print how many tests pass with each driver, and which pass with the first one only."""
    first, second = (set(path.read_text(encoding="utf-8").splitlines()) for path in (theirs, ours))
    print(f"{theirs.stem}: {len(first)} passed; {ours.stem}: {len(second)} passed")
    for name in sorted(first - second):
        print(f"  only with aiosqlite: {name}")


if __name__ == "__main__":
    compare(Path(sys.argv[1]), Path(sys.argv[2]))
