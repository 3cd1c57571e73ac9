"""Each common mistake raises an error that says what to write instead."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from rapsqlite import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@pytest.fixture
async def conn() -> AsyncIterator[Any]:
    async with connect(":memory:") as connection:
        await connection.execute("CREATE TABLE t (a)")
        await connection.commit()
        yield connection


def entered(block: Any) -> None:
    with block:
        pass


async def nested(conn: Any) -> None:
    async with conn.transaction(), conn.transaction():
        pass


async def loop_over(operation: Any) -> None:
    async for _ in operation:
        pass


async def after_close(conn: Any) -> None:
    await conn.close()
    await conn.execute("SELECT 1")


# The mistake, and part of the error message.
MISTAKES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "with connect(...)": (lambda _: entered(connect(":memory:")), "use `async with` for a Connection"),
    "with conn.transaction()": (lambda conn: entered(conn.transaction()), "use `async with` for a Transaction"),
    "with conn.savepoint()": (lambda conn: entered(conn.savepoint()), "use `async with` for a Savepoint"),
    "with conn.execute(...)": (lambda conn: with_operation(conn), "use `async with` for a Operation"),
    "for row in await conn.execute(...)": (lambda conn: over_cursor(conn), "use `async for` with a Cursor"),
    "for row in conn.stream(...)": (lambda conn: list(conn.stream("SELECT 1")), "use `async for` with a RowStream"),
    "async for row in conn.execute(...)": (lambda conn: loop_over(conn.execute("SELECT 1")), "conn.stream(sql)"),
    "conn.execute(...).fetchall()": (lambda conn: without_await(conn, "fetchall"), "(await ...).fetchall"),
    "conn.cursor().execute(...)": (lambda conn: without_await(conn, "execute"), "(await ...).execute"),
    "connect(...).execute(...)": (lambda _: connect(":memory:").execute("SELECT 1"), "await connect(...)"),
    "await connect(...) twice": (lambda conn: conn.connect_again(), "call connect() again"),
    "connect('sqlite:///a.db')": (lambda _: connect("sqlite:///a.db"), "write connect('a.db')"),
    "connect('sqlite:////a.db')": (lambda _: connect("sqlite:////a.db"), "write connect('/a.db')"),
    "connect('sqlite+aiosqlite://')": (lambda _: connect("sqlite+aiosqlite://"), "write connect(':memory:')"),
    "connect('libsql://...')": (lambda _: connect("libsql://a.turso.io"), "write connect(path)"),
    "connect('https://...')": (lambda _: connect("https://a.example/a.db"), "write connect(path)"),
    "connect('postgresql://...')": (lambda _: connect("postgresql://a/b"), "write connect(path)"),
    "connect(None)": (lambda _: connect(None), "must be str, bytes or a path"),  # type: ignore[arg-type]
    "several statements": (lambda conn: conn.execute("SELECT 1; SELECT 2"), "executescript"),
    "%s as a placeholder": (lambda conn: conn.execute("SELECT %s", [1]), "? or :name"),
    "a str as parameters": (lambda conn: conn.execute("SELECT ?", "text"), "[value]"),
    "a number as parameters": (lambda conn: conn.execute("SELECT ?", 5), "[value]"),
    "transaction() in transaction()": (nested, "use savepoint() to nest"),
    "fetch_one without rows": (lambda conn: conn.fetch_one("SELECT a FROM t"), "fetch_optional"),
    "fetch_scalar of two columns": (lambda conn: conn.fetch_scalar("SELECT 1, 2"), "expects one column"),
    "into=dict": (lambda conn: conn.fetch_all("SELECT 1", into=dict), 'row_factory="dict"'),
    "after close": (after_close, "Connection closed"),
    "isolation_level='OFF'": (lambda _: connect(":memory:", isolation_level="OFF"), "isolation_level"),  # type: ignore[arg-type]
    "a row factory by another name": (lambda _: connect(":memory:", row_factory="dicts"), '"dict"'),  # type: ignore[arg-type]
    "factory of sqlite3": (lambda _: connect(":memory:", factory=Native), "subclass of rapsqlite.Connection"),
}


class Native(__import__("sqlite3").Connection):  # type: ignore[misc]
    pass


def with_operation(conn: Any) -> None:
    operation = conn.execute("SELECT 1")
    try:
        entered(operation)
    finally:
        operation.close()


def without_await(conn: Any, name: str) -> None:
    operation = conn.execute("SELECT 1")
    try:
        getattr(operation, name)()
    finally:
        operation.close()


async def over_cursor(conn: Any) -> None:
    for _ in await conn.execute("SELECT 1"):
        pass


def told(error: BaseException) -> str:
    return "\n".join([str(error), *getattr(error, "__notes__", ())])


# Their messages are sqlite3's; notes exist since Python 3.11.
NOTED = {"several statements", "%s as a placeholder", "a str as parameters", "a number as parameters"}


@pytest.mark.parametrize("mistake", sorted(MISTAKES.keys() - {"await connect(...) twice"}))
async def test_mistake_raises_an_error_that_says_what_to_write(conn: Any, mistake: str) -> None:
    attempt, answer = MISTAKES[mistake]

    with pytest.raises((rapsqlite.Error, TypeError, ValueError, AttributeError)) as caught:  # noqa: PT012
        result = attempt(conn)
        if hasattr(result, "__await__"):
            await result

    if sys.version_info >= (3, 11) or mistake not in NOTED:
        assert answer in told(caught.value)


async def test_opening_a_connection_twice_says_what_to_write() -> None:
    async with connect(":memory:") as conn:
        with pytest.raises(rapsqlite.ProgrammingError, match=r"call connect\(\) again"):
            await conn


def test_at_least_twenty_mistakes_are_covered() -> None:
    assert len(MISTAKES) > 20


def test_path_that_looks_like_a_url_is_accepted() -> None:
    """For example a drive letter, a name with a colon, a URI."""
    for name in ("C://a.db", "a:b", "file:a.db", "file:///a.db", "dir//x.db", "://"):
        connect(name)
