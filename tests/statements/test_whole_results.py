"""The ``fetch_*`` methods, ``stream`` and ``execute_iter``: shapes, types, ends."""

from __future__ import annotations

import dataclasses
import gc
import sqlite3
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import anyio
import anyio.lowlevel
import msgspec
import pytest

import rapsqlite
from rapsqlite import Row, connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?) SELECT i FROM n"


@pytest.fixture
async def conn() -> AsyncIterator[rapsqlite.Connection]:
    async with connect(":memory:", isolation_level=None) as connection:
        await connection.executescript("""
            CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT, c BLOB);
            INSERT INTO t VALUES (1, 'one', x'01'), (2, 'two', NULL);
        """)
        yield connection


async def test_rows_are_lists_by_default(conn: rapsqlite.Connection) -> None:
    assert await conn.fetch_all("SELECT a, b FROM t") == [[1, "one"], [2, "two"]]
    assert await conn.fetch_one("SELECT a, b FROM t") == [1, "one"]
    assert await conn.fetch_optional("SELECT a, b FROM t WHERE a = ?", [2]) == [2, "two"]
    assert await conn.execute_fetchall("SELECT a, b FROM t") == [(1, "one"), (2, "two")]


async def test_aiosqlite_compat_makes_them_tuples() -> None:
    async with connect(":memory:", aiosqlite_compat=True) as conn:
        assert await conn.fetch_all("SELECT 1, 2") == [(1, 2)]
        assert await conn.fetch_one("SELECT 1, 2") == (1, 2)


async def test_each_fetch_method_has_its_result_for_no_rows(conn: rapsqlite.Connection) -> None:
    """Each ``fetch_*`` method has its own answer for an empty result."""
    nothing = "SELECT a FROM t WHERE a = 99"

    assert await conn.fetch_all(nothing) == []
    assert await conn.fetch_optional(nothing) is None
    assert await conn.fetch_scalar(nothing) is None
    assert await conn.fetch_blob(nothing) is None
    with pytest.raises(rapsqlite.DatabaseError, match="no rows"):
        await conn.fetch_one(nothing)


async def test_scalar_must_be_one_column(conn: rapsqlite.Connection) -> None:
    conn.row_factory = "dict"

    assert await conn.fetch_scalar("SELECT b FROM t") == "one"
    with pytest.raises(rapsqlite.ProgrammingError, match="2"):
        await conn.fetch_scalar("SELECT a, b FROM t")


async def test_blob_is_bytes_or_none(conn: rapsqlite.Connection) -> None:
    assert await conn.fetch_blob("SELECT c FROM t WHERE a = 1") == b"\x01"
    assert await conn.fetch_blob("SELECT c FROM t WHERE a = 2") is None
    with pytest.raises(TypeError, match="str"):
        await conn.fetch_blob("SELECT b FROM t")


@pytest.mark.parametrize("verb", ["fetch_all", "fetch_optional", "fetch_scalar", "execute_fetchall"])
async def test_statement_without_rows_is_executed(conn: rapsqlite.Connection, verb: str) -> None:
    assert not await getattr(conn, verb)("INSERT INTO t (b) VALUES ('new')")

    assert await conn.fetch_scalar("SELECT count(*) FROM t") == 3


async def test_fetching_the_first_returned_row_still_inserts_all(conn: rapsqlite.Connection) -> None:
    row = await conn.fetch_one("INSERT INTO t (b) VALUES ('x'), ('y'), ('z') RETURNING b")

    assert row == ["x"]
    assert await conn.fetch_scalar("SELECT count(*) FROM t") == 5


async def test_first_row_leaves_the_rest_uncomputed(conn: rapsqlite.Connection) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"

    assert await conn.fetch_one(endless) == [1]
    assert await conn.fetch_scalar(endless) == 1


def of_cursor(cursor: Any, row: Any) -> Any:
    return [column[0] for column in cursor.description], row


FACTORIES: dict[str, Any] = {
    "tuple": "tuple",
    "list": list,
    "dict": "dict",
    "Row": Row,
    "sqlite3.Row": sqlite3.Row,
    "of cursor and row": of_cursor,
    "of the row": lambda row: sum(row[:1]),
}


@pytest.mark.parametrize("name", FACTORIES)
async def test_row_factory_applies_to_every_verb(conn: rapsqlite.Connection, name: str) -> None:
    conn.row_factory = FACTORIES[name]
    sql = "SELECT a, b FROM t ORDER BY a"
    rows = await conn.execute_fetchall(sql)

    async with conn.execute(sql) as cursor:
        assert await cursor.fetchall() == rows
    async with conn.execute(sql) as cursor:
        assert [row async for row in cursor] == rows
    assert await conn.fetch_all(sql) == rows
    assert await conn.fetch_one(sql) == rows[0]
    assert await conn.fetch_optional(sql) == rows[0]
    assert [row async for row in conn.stream(sql)] == rows
    assert [row async for chunk in conn.execute_iter(sql) for row in chunk] == rows
    assert await conn.prepare(sql).fetch_all() == rows
    assert type(rows[0]) is type((await conn.fetch_all(sql))[0])


async def test_exception_of_a_row_factory_is_raised(conn: rapsqlite.Connection) -> None:
    def fail(_cursor: Any, _row: Any) -> None:
        raise LookupError("no such thing")

    conn.row_factory = fail

    for verb in (conn.fetch_all, conn.fetch_one, conn.execute_fetchall):
        with pytest.raises(LookupError, match="no such thing"):
            await verb("SELECT 1")


# -- into ------------------------------------------------------------------------------------------


class AsStruct(msgspec.Struct):
    a: int
    b: str
    c: bytes | None = None


@dataclasses.dataclass
class AsDataclass:
    a: int
    b: str
    c: bytes | None = None


class AsNamedTuple(NamedTuple):
    a: int
    b: str
    c: bytes | None = None


class AsTypedDict(TypedDict):
    a: int
    b: str
    c: bytes | None


@pytest.mark.parametrize("kind", [AsStruct, AsDataclass, AsNamedTuple, AsTypedDict])
async def test_into_returns_objects_of_the_type(conn: rapsqlite.Connection, kind: Any) -> None:
    sql = "SELECT c, b, a FROM t ORDER BY a"
    first, second = kind(a=1, b="one", c=b"\x01"), kind(a=2, b="two", c=None)
    conn.row_factory = Row  # into takes precedence

    assert await conn.fetch_all(sql, into=kind) == [first, second]
    assert await conn.fetch_one(sql, into=kind) == first
    assert await conn.fetch_optional(f"SELECT * FROM ({sql}) WHERE a > ?", [1], into=kind) == second
    assert await conn.fetch_optional(f"SELECT * FROM ({sql}) WHERE a > ?", [2], into=kind) is None
    assert [row async for row in conn.stream(sql, into=kind)] == [first, second]
    assert await conn.prepare(sql).fetch_all(into=kind) == [first, second]
    assert type(await conn.fetch_one(sql, into=kind)) is type(first)


async def test_into_error_names_row_and_column(conn: rapsqlite.Connection) -> None:
    sql = f"SELECT i AS a, CASE WHEN i = 70000 THEN NULL ELSE 'x' END AS b FROM ({NUMBERS})"

    with pytest.raises(rapsqlite.DataError, match="row 69999, column 'b'"):
        await conn.fetch_all(sql, [100_000], into=AsStruct)

    assert await conn.fetch_scalar("SELECT 1") == 1


async def test_into_refuses_other_types(conn: rapsqlite.Connection) -> None:
    with pytest.raises(TypeError, match="into="):
        await conn.fetch_all("SELECT 1", into=int)


# -- streams ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count, size", [(0, 3), (1, 3), (9, 3), (10, 3), (10_000, 999)])
async def test_chunks_have_the_requested_size(conn: rapsqlite.Connection, count: int, size: int) -> None:
    chunks = [chunk async for chunk in conn.execute_iter(f"{NUMBERS} LIMIT ?", [count + 1, count], chunk_size=size)]

    assert [row for chunk in chunks for row in chunk] == [[i + 1] for i in range(count)]
    assert all(len(chunk) == size for chunk in chunks[:-1])
    assert all(chunks)


async def test_chunk_size_defaults_to_the_connections(conn: rapsqlite.Connection) -> None:
    conn.iter_chunk_size = 7

    assert [len(chunk) async for chunk in conn.execute_iter(NUMBERS, [20])] == [7, 7, 6]


async def test_chunk_size_must_be_positive(conn: rapsqlite.Connection) -> None:
    with pytest.raises(ValueError, match="chunk_size"):
        conn.execute_iter("SELECT 1", chunk_size=0)


async def test_stream_yields_every_row(conn: rapsqlite.Connection) -> None:
    assert [row async for row in conn.stream(NUMBERS, [20_000])] == [[i + 1] for i in range(20_000)]


async def test_stream_does_not_run_before_its_first_row(conn: rapsqlite.Connection) -> None:
    stream = conn.stream("INSERT INTO t (b) VALUES ('x') RETURNING b")
    assert await conn.fetch_scalar("SELECT count(*) FROM t") == 2

    assert [row async for row in stream] == [["x"]]
    assert await conn.fetch_scalar("SELECT count(*) FROM t") == 3


@pytest.mark.parametrize("make", [lambda c: c.stream(NUMBERS, [100_000]), lambda c: c.execute_iter(NUMBERS, [100_000])])
async def test_leaving_a_stream_ends_its_statement(conn: rapsqlite.Connection, make: Any) -> None:
    before = (await conn.statistics())["open_statements"]

    async for _ in make(conn):
        break
    gc.collect()
    async with make(conn) as stream:
        await stream.__anext__()
        assert (await conn.statistics())["open_statements"] == before + 1

    assert (await conn.statistics())["open_statements"] == before
    with pytest.raises(rapsqlite.ProgrammingError, match="closed"):
        await stream.__anext__()


@pytest.mark.parametrize("make", [lambda c: c.stream(NUMBERS, [9_999]), lambda c: c.execute_iter(NUMBERS, [9_999])])
async def test_tasks_share_a_stream_from_its_first_row_on(conn: rapsqlite.Connection, make: Any) -> None:
    """A task that comes while another one starts the statement would take the stream for an empty one."""

    async def read(task: int) -> None:
        async for _ in stream:
            counts[task] += 1
            await anyio.lowlevel.checkpoint()

    stream = make(conn)
    counts = [0] * 3
    async with anyio.create_task_group() as tasks:
        for task in range(3):
            tasks.start_soon(read, task)

    assert all(counts)
    assert sum(counts) == len([each async for each in make(conn)])


async def test_error_of_a_stream_is_raised_at_its_first_row(conn: rapsqlite.Connection) -> None:
    stream = conn.stream("SELECT * FROM missing")

    with pytest.raises(rapsqlite.OperationalError, match="no such table"):
        await stream.__anext__()
