"""Fixtures for pytest: a database per test, copied from a template, or one transaction per test, rolled back.

The fixtures run blocking in their own thread and need no plugin for async fixtures. A connection works in every event
loop, so tests can use anyio's plugin, pytest-asyncio or pytest-trio. Override `rapsqlite_schema` and
`rapsqlite_options` in a conftest.py. https://docs.pytest.org/en/stable/how-to/fixtures.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping
    from pathlib import Path

    from rapsqlite.connection import Connection

    Schema = str | Callable[[Connection], Awaitable[object]] | None


@pytest.fixture(scope="session")
def rapsqlite_schema() -> Schema:
    """Return how to fill the template: an SQL script, or an async function that takes a connection. Override it."""
    return None


@pytest.fixture(scope="session")
def rapsqlite_options() -> Mapping[str, Any]:
    """Return the options that all fixtures pass to `rapsqlite.connect`. Override it."""
    return {}


@pytest.fixture(scope="session")
def rapsqlite_template(
    tmp_path_factory: pytest.TempPathFactory, rapsqlite_schema: Schema, rapsqlite_options: Mapping[str, Any]
) -> Iterator[Connection]:
    """Return an open connection to the database that is copied for each test."""
    path = tmp_path_factory.mktemp("rapsqlite") / "template.db"
    yield from _connected(path, rapsqlite_options, rapsqlite_schema)


@pytest.fixture
def rapsqlite_database(tmp_path: Path, rapsqlite_template: Connection) -> Path:
    """Return the path of this test's own database, a copy of the template."""
    return _copied(rapsqlite_template, tmp_path / "rapsqlite.db")


@pytest.fixture
def rapsqlite_connection(rapsqlite_database: Path, rapsqlite_options: Mapping[str, Any]) -> Iterator[Connection]:
    """Return an open connection to `rapsqlite_database`."""
    yield from _connected(rapsqlite_database, rapsqlite_options)


@pytest.fixture(scope="session")
def rapsqlite_shared_database(tmp_path_factory: pytest.TempPathFactory, rapsqlite_template: Connection) -> Path:
    """Return the path of the copy of the template that `rapsqlite_transaction` uses."""
    return _copied(rapsqlite_template, tmp_path_factory.mktemp("rapsqlite") / "shared.db")


@pytest.fixture
def rapsqlite_transaction(
    rapsqlite_shared_database: Path, rapsqlite_options: Mapping[str, Any]
) -> Iterator[Connection]:
    """Return a connection in a transaction that is rolled back after the test; faster than a copy.

    All tests share one database. A test fails if it commits or rolls back; savepoints are allowed.
    """
    options = {**rapsqlite_options, "isolation_level": None}
    if options.get("autocommit") is False:
        del options["autocommit"]  # with it a transaction is always open: `begin` fails, and a commit goes unnoticed
    for connection in _connected(rapsqlite_shared_database, options):
        _blocking(connection.begin)
        yield connection
        kept = connection.in_transaction
        _blocking(connection.rollback)
        if not kept:
            pytest.fail("the test ended the transaction of rapsqlite_transaction: use rapsqlite_connection", False)


def _connected(path: Path, options: Mapping[str, Any], schema: Schema = None) -> Iterator[Connection]:
    from rapsqlite import connect  # only tests that use a fixture need the package

    connection = connect(path, **options)
    _blocking(lambda: connection)
    try:
        if isinstance(schema, str):
            _blocking(connection.executescript, schema)
        elif schema is not None:
            _blocking(schema, connection)
        _blocking(connection.commit)
        yield connection
    finally:
        _blocking(connection.close)


def _copied(template: Connection, path: Path) -> Path:
    async def copy() -> None:
        from rapsqlite import connect  # see above

        async with connect(path) as target:
            await template.backup(target)

    _blocking(copy)
    return path


def _blocking(function: Callable[..., Any], *args: Any) -> Any:
    from rapsqlite._blocking import Worker  # see above

    return Worker().block(function, *args)
