"""Cursors: their attributes, fetching, and how streams end. sqlite3 is right."""

from __future__ import annotations

import ctypes
import gc
import os
import sqlite3
import sys
import tracemalloc
from typing import TYPE_CHECKING, Any

import anyio.lowlevel
import pytest

import rapsqlite
from rapsqlite import Cursor, Row, connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?) SELECT i FROM n"
SCHEMA = "CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT, c REAL)"


@pytest.fixture
async def conn() -> AsyncIterator[rapsqlite.Connection]:
    async with connect(":memory:") as connection:
        await connection.execute(SCHEMA)
        yield connection


@pytest.fixture
def stock() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    connection.execute(SCHEMA)
    yield connection
    connection.close()


def state_of(cursor: Any) -> tuple[Any, ...]:
    return cursor.rowcount, cursor.lastrowid, cursor.description


STATEMENTS: list[tuple[str, Any]] = [
    ("SELECT 1 AS one, 2", ()),
    ("INSERT INTO t VALUES (10, 'x', 0.5)", ()),
    ("INSERT INTO t (b) VALUES (?), (?)", ("y", "z")),
    ("SELECT * FROM t", ()),
    ("REPLACE INTO t VALUES (10, :b, :c)", {"b": "w", "c": 1}),
    ("UPDATE t SET c = 2 WHERE b <> 'z'", ()),
    ("DELETE FROM t WHERE b = 'z'", ()),
    ("CREATE TABLE u (a)", ()),
    ("DROP TABLE u", ()),
    ("PRAGMA user_version", ()),
    ("EXPLAIN QUERY PLAN SELECT * FROM t", ()),
    ("", ()),
    ("-- nothing", ()),
    ('SELECT a AS "a b", b AS "a b" FROM t LIMIT 0', ()),
]


async def test_cursor_reports_what_sqlite3_reports(conn: rapsqlite.Connection, stock: sqlite3.Connection) -> None:
    ours, theirs = await conn.cursor(), stock.cursor()
    assert state_of(ours) == state_of(theirs)

    for sql, parameters in STATEMENTS:
        await ours.execute(sql, parameters)
        theirs.execute(sql, parameters)

        assert state_of(ours) == state_of(theirs), sql
        rows = theirs.fetchall()
        if not sql.startswith("EXPLAIN"):  # its ids differ between SQLite versions
            assert await ours.fetchall() == rows, sql
        assert state_of(ours) == state_of(theirs), sql
        assert conn.in_transaction == stock.in_transaction, sql


async def test_executemany_reports_what_sqlite3_reports(conn: rapsqlite.Connection, stock: sqlite3.Connection) -> None:
    ours, theirs = await conn.cursor(), stock.cursor()

    for sets in ([], [(1, "a")], [(i, "b") for i in range(2, 5000)]):
        await ours.executemany("INSERT INTO t (a, b) VALUES (?, ?)", iter(sets))
        theirs.executemany("INSERT INTO t (a, b) VALUES (?, ?)", iter(sets))

        assert state_of(ours) == state_of(theirs)
        assert conn.in_transaction == stock.in_transaction
        assert conn.total_changes == stock.total_changes

    assert await conn.execute_fetchall("SELECT * FROM t") == stock.execute("SELECT * FROM t").fetchall()


async def test_executescript_commits_first_as_in_sqlite3(conn: rapsqlite.Connection, stock: sqlite3.Connection) -> None:
    script = """
        INSERT INTO t (b) VALUES ('a; -- not a comment'); /* ; */
        CREATE TRIGGER tr AFTER INSERT ON t BEGIN UPDATE t SET c = 1; SELECT ';'; END;
        INSERT INTO t (b) VALUES ('second') -- no semicolon at the end
    """
    await conn.execute("INSERT INTO t (b) VALUES ('open')")
    stock.execute("INSERT INTO t (b) VALUES ('open')")

    cursor = await conn.executescript(script)
    theirs = stock.executescript(script)

    assert state_of(cursor) == state_of(theirs)
    assert conn.in_transaction == stock.in_transaction
    assert await conn.execute_fetchall("SELECT * FROM t") == stock.execute("SELECT * FROM t").fetchall()


async def test_failing_script_keeps_what_ran_before(conn: rapsqlite.Connection) -> None:
    with pytest.raises(rapsqlite.OperationalError, match="no such table"):
        await conn.executescript("INSERT INTO t (b) VALUES ('kept'); INSERT INTO missing VALUES (1)")

    assert await conn.fetch_all("SELECT b FROM t") == [["kept"]]


@pytest.mark.parametrize(
    "sql, parameters",
    [
        ("SELEKT", ()),
        ("SELECT * FROM missing", ()),
        ("SELECT missing FROM t", ()),
        ("SELECT 1; SELECT 2", ()),
        ("SELECT ?", ()),
        ("SELECT ?", (1, 2)),
        ("SELECT :name", {"other": 1}),
        ("SELECT ?", (2**63,)),
        ("SELECT ?", (object(),)),
        ("SELECT ?", 5),
        ("SELECT 'a\0b'", ()),
        (5, ()),
        (b"SELECT 1", ()),
        ("INSERT INTO t VALUES (1, 2, 3, 4)", ()),
        ("INSERT INTO t (a) VALUES ('text')", ()),
    ],
)
async def test_wrong_statement_raises_as_in_sqlite3(
    conn: rapsqlite.Connection, stock: sqlite3.Connection, sql: Any, parameters: Any
) -> None:
    with pytest.raises((sqlite3.Error, sqlite3.Warning, TypeError, ValueError, OverflowError)) as theirs:
        stock.execute(sql, parameters)
    expected = theirs.type if theirs.type is not sqlite3.Warning else sqlite3.ProgrammingError  # Python 3.10

    with pytest.raises(expected):
        await conn.execute(sql, parameters)

    assert await conn.fetch_scalar("SELECT 1") == 1


async def test_fetch_methods_return_the_same_as_in_sqlite3(
    conn: rapsqlite.Connection, stock: sqlite3.Connection
) -> None:
    ours = await conn.execute(NUMBERS, [100_000])
    theirs = stock.execute(NUMBERS, [100_000])

    assert await ours.fetchone() == theirs.fetchone()
    assert await ours.fetchmany() == theirs.fetchmany()
    assert await ours.fetchmany(300) == theirs.fetchmany(300)
    ours.arraysize = theirs.arraysize = 70_000
    assert await ours.fetchmany() == theirs.fetchmany()
    assert await ours.fetchmany(1) == theirs.fetchmany(1)
    assert await ours.fetchall() == theirs.fetchall()
    assert await ours.fetchone() is theirs.fetchone()
    assert await ours.fetchmany(5) == theirs.fetchmany(5)
    assert await ours.fetchall() == theirs.fetchall()


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 50_000])
async def test_iteration_gives_every_row_once(conn: rapsqlite.Connection, count: int) -> None:
    async with conn.execute(f"{NUMBERS} LIMIT ?", [max(count, 1), count]) as cursor:
        rows = [row async for row in cursor]

    assert rows == [(i + 1,) for i in range(count)]


async def test_iteration_can_be_left_and_resumed(conn: rapsqlite.Connection) -> None:
    cursor = await conn.execute(NUMBERS, [10_000])

    async for (number,) in cursor:
        if number == 5_000:
            break
    rest = await cursor.fetchall()

    assert rest[0] == (5_001,)
    assert rest[-1] == (10_000,)


async def test_returning_counts_its_rows_once_it_has_ended(
    conn: rapsqlite.Connection, stock: sqlite3.Connection
) -> None:
    sql = "INSERT INTO t (b) VALUES (1), (2), (3) RETURNING a"

    ours, theirs = await conn.execute(sql), stock.execute(sql)

    assert await ours.fetchall() == theirs.fetchall()
    assert ours.rowcount == theirs.rowcount == 3


async def test_open_cursor_reads_to_the_end_across_a_commit(conn: rapsqlite.Connection) -> None:
    cursor = await conn.execute(NUMBERS, [20_000])
    await cursor.fetchone()

    await conn.execute("INSERT INTO t (b) VALUES ('x')")
    await conn.commit()

    assert len(await cursor.fetchall()) == 19_999


async def test_executing_again_discards_remaining_rows(conn: rapsqlite.Connection) -> None:
    cursor = await conn.execute(NUMBERS, [20_000])

    await cursor.execute("SELECT 'other'")

    assert await cursor.fetchall() == [("other",)]


async def test_failed_statement_leaves_no_rows(conn: rapsqlite.Connection) -> None:
    cursor = await conn.execute("SELECT 1")

    with pytest.raises(rapsqlite.OperationalError):
        await cursor.execute("SELECT * FROM missing")

    assert await cursor.fetchall() == []
    assert cursor.description is None


async def test_closed_cursor_raises(conn: rapsqlite.Connection) -> None:
    """As in sqlite3. Closing it twice is no error."""
    cursor = await conn.execute("SELECT 1")
    await cursor.close()
    await cursor.close()

    for fetch in (cursor.fetchone, cursor.fetchall, cursor.fetchmany, lambda: cursor.execute("SELECT 1")):
        with pytest.raises(rapsqlite.ProgrammingError, match="closed cursor"):
            await fetch()


async def test_cursor_of_a_closed_connection_raises() -> None:
    conn = await connect(":memory:")
    cursor = await conn.execute(NUMBERS, [10])
    await conn.close()

    with pytest.raises(rapsqlite.ProgrammingError, match="Connection closed"):
        await cursor.fetchall()
    await cursor.close()


async def test_cursor_can_be_dropped_if_its_connection_closes_before_its_reply() -> None:
    """The guest that holds its rows used to be looked up through the closed connection, which raised."""
    conn = await connect(":memory:")
    cursor = await conn.cursor()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cursor.execute, NUMBERS, [100_000])
        for _ in range(2):  # until it has sent its statement
            await anyio.lowlevel.checkpoint()
        await conn.close()

    with pytest.raises(rapsqlite.ProgrammingError, match="Connection closed"):
        await cursor.fetchone()
    del cursor  # an exception here would be a warning, and that an error
    gc.collect()


async def test_operations_are_context_managers(conn: rapsqlite.Connection) -> None:
    async with conn.cursor() as cursor:
        assert isinstance(cursor, Cursor)
        assert await cursor.execute("SELECT 1") is cursor
    async with conn.execute("SELECT 1") as cursor:
        pass
    with pytest.raises(rapsqlite.ProgrammingError):
        await cursor.fetchone()
    async with conn.execute_insert("INSERT INTO t (b) VALUES (1)") as row:
        assert row == (1,)
    async with conn.execute_fetchall("SELECT 1 UNION SELECT 2") as rows:
        assert rows == [(1,), (2,)]


async def test_execute_insert_raises_if_its_statement_is_not_committed() -> None:
    """INSERT ... RETURNING commits after its last row, which nobody fetches."""
    async with connect(":memory:", isolation_level=None, pragmas={"foreign_keys": True}) as conn:
        await conn.execute("CREATE TABLE t (a PRIMARY KEY)")
        await conn.execute("CREATE TABLE u (a REFERENCES t DEFERRABLE INITIALLY DEFERRED)")

        with pytest.raises(rapsqlite.IntegrityError, match="FOREIGN KEY"):
            await conn.execute_insert("INSERT INTO u VALUES (1) RETURNING a")
        assert await conn.fetch_scalar("SELECT count(*) FROM u") == 0


@pytest.mark.parametrize(
    "factory", [None, "tuple", "list", "dict", Row, lambda cursor, row: (len(cursor.description), row)]
)
async def test_execute_insert_returns_a_row_like_a_query(conn: rapsqlite.Connection, factory: Any) -> None:
    conn.row_factory = factory

    row = await conn.execute_insert("INSERT INTO t (b) VALUES (1)")

    [expected] = await conn.execute_fetchall("SELECT last_insert_rowid()")
    assert row == expected
    assert type(row) is type(expected)


async def test_row_factory_can_change_while_rows_are_left(conn: rapsqlite.Connection) -> None:
    cursor = await conn.execute(f"{NUMBERS}", [1_000])

    first = await cursor.fetchone()
    cursor.row_factory = Row
    second = await cursor.fetchone()
    cursor.row_factory = lambda _cursor, row: row[0]
    rest = await cursor.fetchall()

    assert first == (1,)
    assert isinstance(second, Row)
    assert second["i"] == 2
    assert rest == list(range(3, 1_001))


async def test_row_factory_of_another_wire_shape_applies_to_the_next_statement(conn: rapsqlite.Connection) -> None:
    cursor = await conn.execute(NUMBERS, [3])

    with pytest.raises(rapsqlite.ProgrammingError, match="dict"):
        cursor.row_factory = "dict"

    await cursor.fetchall()
    cursor.row_factory = "dict"
    await cursor.execute(NUMBERS, [1])
    assert await cursor.fetchall() == [{"i": 1}]


async def test_text_factory_and_row_factory_of_the_connection_apply(conn: rapsqlite.Connection) -> None:
    conn.row_factory, conn.text_factory = Row, bytes

    async with conn.execute("SELECT 'text' AS name") as cursor:
        row = await cursor.fetchone()

    assert row["NAME"] == b"text"
    conn.row_factory, conn.text_factory = None, lambda raw: raw.decode("latin-1").upper()
    assert await conn.execute_fetchall("SELECT CAST(x'e9' AS TEXT), x'e9'") == [("É", b"\xe9")]


LONG_ROWS = "SELECT i, 'a text of some length ' || i FROM (" + NUMBERS + ")"


async def test_iteration_holds_a_bounded_number_of_rows(conn: rapsqlite.Connection) -> None:
    tracemalloc.start()
    try:
        async with conn.execute(LONG_ROWS, [80_000]) as cursor:
            await cursor.fetchone()
            tracemalloc.reset_peak()
            start = tracemalloc.get_traced_memory()[0]
            async for _ in cursor:
                pass
        peak = tracemalloc.get_traced_memory()[1] - start
    finally:
        tracemalloc.stop()

    assert peak < 2_000_000  # bytes; all rows together take 12 million


def resident_bytes() -> int:
    if sys.platform == "win32":
        return resident_bytes_on_windows()
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def resident_bytes_on_windows() -> int:
    """Return WorkingSetSize of PROCESS_MEMORY_COUNTERS."""
    counters = (ctypes.c_size_t * 9)()
    kernel = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined, unused-ignore]
    assert kernel.K32GetProcessMemoryInfo(ctypes.c_void_p(-1), counters, ctypes.sizeof(counters))
    return counters[2]


@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform == "darwin", reason="has no call for it that Python knows")
@pytest.mark.parametrize("count", [500_000, pytest.param(10_000_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("verb", ["execute", "stream"])
async def test_millions_of_rows_are_streamed_in_twenty_megabytes(
    conn: rapsqlite.Connection, verb: str, count: int
) -> None:
    rows = (await conn.execute(LONG_ROWS, [count])) if verb == "execute" else conn.stream(LONG_ROWS, [count])
    await rows.__anext__()
    start = highest = resident_bytes()
    async for number, _ in rows:
        if number % 50_000 == 0:
            highest = max(highest, resident_bytes())

    assert number == count
    assert highest - start < 20_000_000


async def test_iter_chunk_size_is_stored_and_changes_no_row(conn: rapsqlite.Connection) -> None:
    """In aiosqlite it is the number of rows requested from the thread at a time; here batches are sized in bytes."""
    conn.iter_chunk_size = 7
    for size in (1, 3, 64, 1_000):
        async with conn.execute(NUMBERS, [500]) as cursor:
            assert cursor.iter_chunk_size == 7
            cursor.iter_chunk_size = size
            assert [number async for (number,) in cursor] == list(range(1, 501))
            assert cursor.iter_chunk_size == size


async def test_guest_pauses_while_the_consumer_is_slow(conn: rapsqlite.Connection) -> None:
    await conn.executemany("INSERT INTO t (b) VALUES (?)", [("x" * 100,) for _ in range(50_000)])
    cursor = await conn.execute("SELECT * FROM t")
    await cursor.fetchmany(1_000)

    async def pages_read() -> int:
        return (await conn.statistics())["page_cache_hits"]

    await conn.total_changes_async()  # after the batch that is made ahead
    before = await pages_read()
    for _ in range(50):
        await conn.total_changes_async()
    assert await pages_read() == before

    assert len(await cursor.fetchall()) == 49_000
    assert await pages_read() > before + 100


async def open_statements(conn: rapsqlite.Connection) -> int:
    return (await conn.statistics())["open_statements"]


@pytest.mark.parametrize("end", ["close", "drop", "again", "exhaust"])
async def test_statement_ends_with_its_cursor(conn: rapsqlite.Connection, end: str) -> None:
    before = await open_statements(conn)
    cursor: Cursor | None = await conn.execute(NUMBERS, [100_000])
    assert cursor is not None
    await cursor.fetchmany(1_000)
    assert await open_statements(conn) == before + 1

    if end == "close":
        await cursor.close()
    elif end == "drop":
        cursor = None
        gc.collect()
    elif end == "again":
        await cursor.execute("SELECT 1")
    else:
        await cursor.fetchall()

    assert await open_statements(conn) == before


async def test_table_can_be_dropped_after_its_reader_was_dropped(conn: rapsqlite.Connection) -> None:
    await conn.executemany("INSERT INTO t (b) VALUES (?)", [(i,) for i in range(1_000)])
    async with conn.execute("SELECT * FROM t") as cursor:
        await cursor.fetchone()
        await conn.commit()
        with pytest.raises(rapsqlite.OperationalError, match="locked"):
            await conn.execute("DROP TABLE t")

    await conn.execute("DROP TABLE t")


async def test_failing_iterable_keeps_the_sets_before(conn: rapsqlite.Connection, stock: sqlite3.Connection) -> None:
    def sets() -> Iterator[tuple[int, str]]:
        for i in range(3_000):
            yield i, "x"
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        stock.executemany("INSERT INTO t (a, b) VALUES (?, ?)", sets())
    with pytest.raises(LookupError, match="no more"):
        await conn.executemany("INSERT INTO t (a, b) VALUES (?, ?)", sets())

    expected = stock.execute("SELECT count(*) FROM t").fetchone()[0]
    assert await conn.fetch_scalar("SELECT count(*) FROM t") == expected == 3_000
    assert conn.in_transaction == stock.in_transaction


async def test_executemany_stops_at_the_first_error(conn: rapsqlite.Connection) -> None:
    sets = [(i, "x") for i in range(10_000)]
    sets[7_000] = (5, "duplicate")

    with pytest.raises(rapsqlite.IntegrityError) as caught:
        await conn.executemany("INSERT INTO t (a, b) VALUES (?, ?)", sets)

    assert caught.value.parameter_set == 7_000
    assert await conn.fetch_scalar("SELECT count(*) FROM t") == 7_000


async def test_executemany_refuses_queries_as_in_sqlite3(conn: rapsqlite.Connection, stock: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.ProgrammingError) as theirs:
        stock.executemany("SELECT ?", [(1,)])
    with pytest.raises(rapsqlite.ProgrammingError) as ours:
        await conn.executemany("SELECT ?", [(1,)])

    assert str(ours.value) == str(theirs.value)


async def test_invalid_sql_is_an_error_even_without_sets(conn: rapsqlite.Connection) -> None:
    with pytest.raises(rapsqlite.OperationalError, match="no such table"):
        await conn.executemany("INSERT INTO missing VALUES (?)", [])


async def test_computed_mapping_is_asked_for_the_statements_names(
    conn: rapsqlite.Connection, stock: sqlite3.Connection
) -> None:
    class Echo(dict[str, Any]):
        def __missing__(self, key: str) -> str:
            return key.upper()

    sql = "SELECT :a, :b"

    assert await conn.execute_fetchall(sql, Echo(b=2)) == stock.execute(sql, Echo(b=2)).fetchall()


@pytest.mark.parametrize("nothing", ["", ";", "-- nothing", "/* nothing */ ;", " \n"])
async def test_text_without_a_statement_leaves_lastrowid_unchanged(
    conn: rapsqlite.Connection, stock: sqlite3.Connection, nothing: str
) -> None:
    """It used to change to the connection's, although such a text inserts nothing."""
    insert = "INSERT INTO t (b) VALUES ('x')"
    states = []
    await conn.execute(insert)
    stock.execute(insert)
    ours, theirs = await conn.cursor(), stock.cursor()
    for statement in (nothing, insert, nothing, "SELECT 1", nothing):
        await ours.execute(statement)
        theirs.execute(statement)
        states.append((state_of(ours), state_of(theirs)))

    assert [ours for ours, _ in states] == [theirs for _, theirs in states]
    assert states[0][0][1] is None
    assert await conn.execute_insert(nothing) == (2,)


@pytest.mark.parametrize("earlier", [0, 1, 700, 5000])
@pytest.mark.parametrize("wrong", [("\ud800", "x"), (object(), "x"), (2**70, "x"), (1,), 5], ids=str)
async def test_error_of_an_earlier_set_is_raised_first(
    conn: rapsqlite.Connection, stock: sqlite3.Connection, earlier: int, wrong: Any
) -> None:
    """Sets are encoded in bulk; one that cannot be encoded waits until the sets before it are executed."""
    insert = "INSERT INTO t (a, b) VALUES (?, ?)"
    sets = [*((number, "y") for number in range(earlier)), (0, "y"), wrong]
    raised = []
    for library in (conn, stock):
        with pytest.raises(Exception) as caught:
            await maybe(library.executemany(insert, sets))
        raised.append(type(caught.value).__name__)

    assert raised[0] == raised[1]
    expected = stock.execute("SELECT count(*) FROM t").fetchone()
    assert await conn.execute_fetchall("SELECT count(*) FROM t") == [expected]


async def maybe(result: Any) -> Any:
    return await result if hasattr(result, "__await__") else result
