"""The hook that receives a row's values before it changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from rapsqlite import SQLITE_DELETE, SQLITE_INSERT, SQLITE_UPDATE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SETUP = """CREATE TABLE t (id INTEGER PRIMARY KEY, a, b); CREATE TABLE w (k TEXT PRIMARY KEY, v) WITHOUT ROWID;
    CREATE TABLE log (n); INSERT INTO t VALUES (1, 'one', x'01'), (2, 'two', 2.5);"""


@pytest.fixture
async def conn() -> AsyncIterator[rapsqlite.Connection]:
    async with rapsqlite.connect(":memory:") as connection:
        await connection.executescript(SETUP)
        yield connection


async def told(conn: rapsqlite.Connection, sql: str) -> list[tuple[Any, ...]]:
    """Return what the hook receives for one statement."""
    seen: list[tuple[Any, ...]] = []
    await conn.set_preupdate_hook(lambda *arguments: seen.append(arguments))
    await conn.execute(sql)
    await conn.set_preupdate_hook(None)
    return seen


@pytest.mark.parametrize(
    "sql, expected",
    [
        ("INSERT INTO t VALUES (7, NULL, 'text')", [(SQLITE_INSERT, "main", "t", None, 7, None, [7, None, "text"])]),
        ("UPDATE t SET a = 3 WHERE id = 1",
         [(SQLITE_UPDATE, "main", "t", 1, 1, [1, "one", b"\x01"], [1, 3, b"\x01"])]),
        ("UPDATE t SET id = 9 WHERE id = 1",
         [(SQLITE_UPDATE, "main", "t", 1, 9, [1, "one", b"\x01"], [9, "one", b"\x01"])]),
        ("DELETE FROM t WHERE id = 2", [(SQLITE_DELETE, "main", "t", 2, None, [2, "two", 2.5], None)]),
        ("DELETE FROM t",
         [(SQLITE_DELETE, "main", "t", 1, None, [1, "one", b"\x01"], None),
          (SQLITE_DELETE, "main", "t", 2, None, [2, "two", 2.5], None)]),
        ("SELECT * FROM t", []),
    ],
)  # fmt: skip
async def test_hook_gets_the_values_before_and_after(
    conn: rapsqlite.Connection, sql: str, expected: list[tuple[Any, ...]]
) -> None:
    assert await told(conn, sql) == expected


@pytest.mark.parametrize("stays_prepared", [True, False])
async def test_statement_prepared_before_the_hook_calls_it_too(
    conn: rapsqlite.Connection, stays_prepared: bool
) -> None:
    """Without a hook SQLite compiles a DELETE of all rows so that it visits none of them."""
    statement = conn.prepare("DELETE FROM t") if stays_prepared else None

    async def delete() -> None:
        await (conn.execute("DELETE FROM t") if statement is None else statement.execute())

    await delete()
    await conn.rollback()
    seen: list[tuple[Any, ...]] = []
    await conn.set_preupdate_hook(lambda *arguments: seen.append(arguments))
    await delete()

    assert [row[5] for row in seen] == [[1, "one", b"\x01"], [2, "two", 2.5]]
    if statement is not None:
        await statement.close()


async def test_changes_by_triggers_and_in_tables_without_row_ids_are_reported(conn: rapsqlite.Connection) -> None:
    await conn.executescript("CREATE TRIGGER g AFTER INSERT ON w BEGIN INSERT INTO log VALUES (new.v); END")

    seen = await told(conn, "INSERT INTO w VALUES ('k', 5)")

    assert [(entry[2], entry[6]) for entry in seen] == [("w", ["k", 5]), ("log", [5])]


async def test_write_to_an_open_blob_is_an_update_whose_new_values_are_unknown(conn: rapsqlite.Connection) -> None:
    seen: list[tuple[Any, ...]] = []
    async with conn.blobopen("t", "b", 1) as blob:
        await conn.set_preupdate_hook(lambda *arguments: seen.append(arguments))
        await blob.write(b"\xff")

    assert seen == [(SQLITE_UPDATE, "main", "t", 1, 1, [1, "one", b"\x01"], None)]
    await conn.set_preupdate_hook(None)
    assert await conn.fetch_scalar("SELECT b FROM t WHERE id = 1") == b"\xff"


async def test_exception_in_the_preupdate_hook_fails_the_statement(conn: rapsqlite.Connection) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("on purpose")

    await conn.set_preupdate_hook(fail)
    with pytest.raises(rapsqlite.OperationalError, match="preupdate hook raised exception") as caught:
        await conn.execute("DELETE FROM t")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)

    await conn.set_preupdate_hook(None)
    assert await conn.fetch_scalar("SELECT count(*) FROM t") == 2
    assert len(conn._state.guest.callbacks) == 0
    with pytest.raises(TypeError):
        await conn.set_preupdate_hook(5)  # type: ignore[arg-type]
