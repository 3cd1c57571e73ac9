"""Running out of memory anywhere, in SQLite or around it, is an OutOfMemoryError, and the connection continues.

An extension takes all memory except a given amount: with every amount a different allocation is the first to fail.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

LONG = os.environ.get("RAPSQLITE_LONG") == "1"
ROOM_BYTES = 3 << 20  # enough for any of the statements
LETTERS = 100_000


def rooms() -> Iterator[int]:
    """Amounts of memory left, close together where they are small."""
    room = 0
    while room < ROOM_BYTES:
        yield room
        room += max(16 if LONG else 80, room // (200 if LONG else 12) // 16 * 16)


@pytest.fixture(scope="module")
def hog(build: Callable[..., Path]) -> Path:
    """The extension that takes all memory."""
    return build("hog", Path(__file__).with_name("hog.c").read_text(encoding="utf-8"))


WORK: dict[str, Any] = {
    "a new statement": lambda conn: conn.fetch_all(f"SELECT 1 -- {'x' * LETTERS}"),
    "rows": lambda conn: conn.fetch_all("SELECT * FROM t"),
    "rows as dicts": lambda conn: dicts(conn),
    "a large row": lambda conn: conn.fetch_all(f"SELECT v, printf('%{LETTERS}s', v) FROM t"),
    "rows with long names": lambda conn: conn.fetch_all(f'SELECT v AS "{"n" * LETTERS}" FROM t'),
    "parameters": lambda conn: conn.fetch_all("SELECT ?, ?2, ?", ("x" * LETTERS, 2, b"y" * LETTERS)),
    "named parameters": lambda conn: conn.fetch_all("SELECT :b, :a", {"a": 1, "b": "x" * LETTERS}),
    "an insert": lambda conn: conn.execute("INSERT INTO t VALUES (?)", ("x" * 3000,)),
    "many inserts": lambda conn: conn.executemany("INSERT INTO t VALUES (?)", [("x" * 300,)] * 200),
    "a write that fills the buffer": lambda conn: conn.execute("INSERT INTO t VALUES (zeroblob(500000))"),
    "a script": lambda conn: conn.executescript(f"SELECT 1; SELECT 2; -- {'x' * LETTERS}\n SELECT 3"),
    "an error": lambda conn: conn.fetch_all("SELECT no_such_column FROM t"),
    "an error with a long text": lambda conn: conn.execute("DELETE FROM guarded"),
    "text that is not UTF-8": lambda conn: conn.fetch_all(f"SELECT CAST(x'ff' AS TEXT) AS \"{'n' * LETTERS}\""),
    "a temporary table": lambda conn: conn.executescript(
        "CREATE TEMP TABLE IF NOT EXISTS u (v); INSERT INTO u SELECT v FROM t; DROP TABLE u"
    ),
    "sorting": lambda conn: conn.fetch_all("SELECT a.v FROM t a, t b ORDER BY 1"),
    "an image": lambda conn: conn.serialize(),
    "a cursor": lambda conn: first_row_of_cursor(conn),
    "a prepared statement": lambda conn: prepared(conn),
    "a blob": lambda conn: blob(conn),
    "a backup": lambda conn: backup(conn),
    "calls of a function": lambda conn: conn.fetch_all("SELECT g(v), g(v || 'x') FROM t"),
    "calls with large arguments": lambda conn: conn.fetch_all(f"SELECT g(printf('%{LETTERS}s', v)) FROM t LIMIT 3"),
    "an attached database": lambda conn: conn.executescript("ATTACH ':memory:' AS m; DETACH m"),
}


EXPIRING: dict[str, Any] = {
    "a session": lambda conn: session(conn),
    "a function": lambda conn: conn.create_function("f" * 200, 1, str),
}


async def dicts(conn: rapsqlite.Connection) -> None:
    conn.row_factory = dict
    try:
        await conn.fetch_all("SELECT v, v AS w, 5 AS x FROM t")
    finally:
        conn.row_factory = None


async def first_row_of_cursor(conn: rapsqlite.Connection) -> None:
    cursor = await conn.execute("SELECT a.v FROM t a, t b")
    await cursor.fetchone()
    await cursor.close()


async def prepared(conn: rapsqlite.Connection) -> None:
    async with conn.prepare(f"SELECT v, :{'p' * 1000} FROM t") as statement:
        await statement.fetch_all({"p" * 1000: 1})


async def blob(conn: rapsqlite.Connection) -> None:
    async with conn.blobopen("large", "v", 1) as opened:
        assert len(await opened.read()) == LETTERS
        await opened.seek(0)
        await opened.write(b"z" * LETTERS)


async def session(conn: rapsqlite.Connection) -> None:
    async with conn.session() as recorded:
        await recorded.attach("t")
        await conn.execute("INSERT INTO t VALUES (?)", ("x" * 3000,))
        await recorded.changeset()


async def backup(conn: rapsqlite.Connection) -> None:
    async with rapsqlite.connect(":memory:") as target:
        await conn.backup(target)


async def tables(conn: rapsqlite.Connection) -> None:
    """Fill a database for the work."""
    await conn.executescript(
        f"""
        PRAGMA synchronous = OFF;
        CREATE TABLE t (v);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 50) INSERT INTO t SELECT hex(i) FROM n;
        CREATE TABLE guarded (v);
        INSERT INTO guarded VALUES (1);
        CREATE TRIGGER guard BEFORE DELETE ON guarded BEGIN SELECT RAISE(ABORT, '{"no " * (LETTERS // 3)}'); END;
        CREATE TABLE large (id INTEGER PRIMARY KEY, v);
        INSERT INTO large VALUES (1, zeroblob({LETTERS}));
        """
    )
    await conn.create_function("g", 1, lambda text: text[:10])


@asynccontextmanager
async def starving(
    hog: Path, path: Path | str
) -> AsyncIterator[tuple[rapsqlite.Connection, rapsqlite.PreparedStatement]]:
    """Open a connection, with the statement that takes memory away and returns it."""
    async with rapsqlite.connect(path, isolation_level=None, limits={"memory_bytes": 16 << 20}) as conn:
        await tables(conn)
        await conn.enable_load_extension(True)
        await conn.load_extension(hog)
        async with conn.prepare("SELECT hog(?)") as leave:
            yield conn, leave


async def outcome(conn: rapsqlite.Connection, leave: rapsqlite.PreparedStatement, work: str, room: int) -> str:
    """Do the work with at most ``room`` bytes of memory."""
    with suppress(rapsqlite.OutOfMemoryError):  # for its own reply
        await leave.fetch_all((room,))
    try:
        await (WORK | EXPIRING)[work](conn)
    except rapsqlite.OutOfMemoryError:
        return "no memory"
    except rapsqlite.Error as error:
        return str(error)[:30]
    return "done"


@pytest.mark.parametrize("where", ["memory", "file"])
@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")])
async def test_out_of_memory_at_any_allocation_is_an_error(hog: Path, database: Path, where: str, work: str) -> None:
    outcomes: list[str] = []
    async with starving(hog, database if where == "file" else ":memory:") as (conn, leave):
        for room in rooms():
            outcomes.append(await outcome(conn, leave, work, room))
            await leave.fetch_all((-1,))
            with suppress(rapsqlite.OperationalError):
                await conn.rollback()
            await conn.execute("DELETE FROM t WHERE length(v) > 2")
        assert await conn.fetch_all("PRAGMA integrity_check") == [["ok"]]

    assert "no memory" in outcomes
    assert outcomes[-1] != "no memory"


@pytest.mark.parametrize("work", EXPIRING)
async def test_connection_without_memory_can_be_closed(hog: Path, work: str) -> None:
    """This work makes SQLite re-prepare every statement, including the one that returns memory."""
    outcomes: list[str] = []
    for room in range(0, 60_000, 500):
        async with starving(hog, ":memory:") as (conn, leave):
            outcomes.append(await outcome(conn, leave, work, room))
            assert conn._state.guest.state == "ok"

    assert {"no memory", "done"} <= set(outcomes)


FILLS = {
    "main": "INSERT INTO filled VALUES (randomblob(?))",
    "temp": "INSERT INTO temp.filling VALUES (randomblob(?))",
}


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")])
async def test_in_memory_database_can_be_filled_up_to_the_limit(fill: str) -> None:
    """The memory grows in steps of 64 KiB: at each limit a different step is refused."""
    for step in range(160 if LONG else 8):
        limit = (16 << 20) + step * 65_536
        async with rapsqlite.connect(":memory:", isolation_level=None, limits={"memory_bytes": limit}) as conn:
            await conn.executescript(
                "PRAGMA temp_store = MEMORY; CREATE TABLE filled (v); CREATE TEMP TABLE filling (v)"
            )
            sizes = [(5_000 + 7 * number,) for number in range(10_000)]
            with pytest.raises(rapsqlite.OutOfMemoryError):
                await conn.executemany(FILLS[fill], sizes)
            with suppress(rapsqlite.OutOfMemoryError):
                await conn.serialize()
            assert await conn.fetch_scalar("SELECT 1") == 1
            await conn.executescript("DELETE FROM filled; DELETE FROM filling")
            await conn.execute(FILLS[fill], (100,))
