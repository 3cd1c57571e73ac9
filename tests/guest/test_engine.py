"""The engine itself, driven by the requests of docs/abi.md: what the public API cannot reach, or hides."""

from __future__ import annotations

import sqlite3
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest

from rapsqlite import _constants as abi
from rapsqlite._files.file_table import FileTable
from rapsqlite._guest.guest import Guest
from rapsqlite._wasm.rings import Request
from rapsqlite.errors import (
    DataError,
    IntegrityError,
    InternalError,
    OperationalError,
    ProgrammingError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rapsqlite._wasm.rings import Reply

pytestmark = pytest.mark.anyio

encode = msgspec.msgpack.encode
decode = msgspec.msgpack.decode

COUNT_TO = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {}) "
ENDLESS = b"WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c) SELECT sum(i) FROM c"


class Engine:
    """A guest with an in-memory database, and short forms of requests."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest

    async def execute(self, sql: str, *params: object, format: int = 0, most: int = 0) -> Reply:
        """EXECUTE: the first ``most`` rows."""
        encoded = encode(params) if params else b""
        return await self.guest.call(Request(abi.OP_EXECUTE, sql.encode(), encoded, format=format, argument=most))

    async def fetch(self, sql: str, *params: object, most: int = 0) -> list[Any]:
        """FETCH: all rows."""
        encoded = encode(params) if params else b""
        rows, _ = await self.guest.collect(Request(abi.OP_FETCH, sql.encode(), encoded, argument=most), decode)
        return rows

    async def statistics(self) -> dict[str, int]:
        """Return the engine's counters."""
        reply = await self.guest.call(Request(abi.OP_CONTROL, target=abi.CONTROL_OP_STATISTICS))
        counters: dict[str, int] = decode(reply.rows)
        return counters


@asynccontextmanager
async def running(**options: int) -> AsyncIterator[Engine]:
    """Open an in-memory database, and close it; nothing may be left open or unanswered then."""
    guest = Guest(":memory:", FileTable(b":memory:"), 5.0)
    guest.start()
    try:
        await guest.call(Request(abi.OP_OPEN, b":memory:", encode(options)))
        yield Engine(guest)
        await guest.call(Request(abi.OP_CLOSE))
    finally:
        await guest.close()
    assert guest.state == "closed"


async def test_empty_statement_succeeds_without_columns() -> None:
    async with running() as engine:
        for sql in ("", " \n", ";", "-- nothing", "/* nothing", ";;-- a\n/* b */;"):
            reply = await engine.execute(sql)

            assert (reply.column_count, reply.rows, reply.handle, reply.changes) == (0, b"", 0, -1)


async def test_blanks_around_a_statement_do_not_matter() -> None:
    async with running() as engine:
        for sql in ("; ; SELECT 7", "-- a\n SELECT 7", "/* a */SELECT 7; -- b", "SELECT 7;;\t/* b"):
            assert await engine.fetch(sql) == [[7]]


async def test_second_statement_is_refused_and_nothing_runs() -> None:
    async with running() as engine:
        await engine.execute("CREATE TABLE t (a)")

        with pytest.raises(ProgrammingError, match="one statement at a time"):
            await engine.execute("INSERT INTO t VALUES (1); SELECT 1")

        assert await engine.fetch("SELECT * FROM t") == []


CHANGING = [
    "INSERT INTO t VALUES (1)", "REPLACE INTO t VALUES (1)", "UPDATE t SET a = 1", "DELETE FROM t",
    "WITH w AS (SELECT 1) INSERT INTO t SELECT * FROM w", "/* SELECT */ insert into t values (1)",
    "INSERT INTO t VALUES (1) RETURNING a", "INSERT INTO v VALUES (2)", "INSERT INTO f VALUES ('x')",
]  # fmt: skip
NOT_CHANGING = [
    "SELECT 'INSERT'", "CREATE TABLE u (a)", "CREATE INDEX i ON t(a)", "DROP TABLE w", "ALTER TABLE t ADD COLUMN c",
    "PRAGMA user_version = 3", "ANALYZE", "VACUUM", "EXPLAIN INSERT INTO t VALUES (1)", "REINDEX", "SELECT * FROM r",
    "CREATE TABLE x AS SELECT 1", "CREATE VIRTUAL TABLE g USING fts5(a)", "SELECT * FROM f",
]  # fmt: skip
SCHEMA = b"""
CREATE TABLE t (a); CREATE TABLE w (a); CREATE VIEW v AS SELECT a FROM t;
CREATE TRIGGER tr INSTEAD OF INSERT ON v BEGIN INSERT INTO t VALUES (new.a); END;
CREATE VIRTUAL TABLE f USING fts5(a); CREATE VIRTUAL TABLE r USING rtree(id, lo, hi);
"""


@pytest.mark.parametrize("sql", CHANGING + NOT_CHANGING)
async def test_kind_of_statement_comes_from_the_parser(sql: str) -> None:
    """The text does not show it: comments, WITH or triggers may precede or follow."""
    async with running() as engine:
        await engine.guest.call(Request(abi.OP_SCRIPT, SCHEMA))

        reply = await engine.execute(sql, format=1 << abi.FORMAT_BEGIN_SHIFT)

        changes = sql in CHANGING
        assert bool(reply.flags & abi.REPLY_CHANGES_DATA) == changes
        assert bool(reply.flags & abi.REPLY_IN_TRANSACTION) == changes
        assert (reply.changes >= 0) == changes


@pytest.mark.parametrize("kind, locked", [(1, False), (2, False), (3, True), (4, True)])
async def test_implicit_begin_takes_the_lock_of_its_mode(kind: int, locked: bool, tmp_path: Any) -> None:
    path = tmp_path / "test.db"
    with sqlite3.connect(path) as setup:
        setup.execute("CREATE TABLE t (a)")
    setup.close()
    guest = Guest(str(path), FileTable(str(path).encode()), 5.0)
    guest.start()
    await guest.call(Request(abi.OP_OPEN, str(path).encode()))

    # It changes no row, so only IMMEDIATE and EXCLUSIVE request more than a shared lock.
    await guest.call(Request(abi.OP_EXECUTE, b"DELETE FROM t WHERE 0", format=kind << abi.FORMAT_BEGIN_SHIFT))

    assert guest.in_transaction
    other = sqlite3.connect(path, timeout=0, isolation_level=None)
    if locked:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
    other.close()
    await guest.call(Request(abi.OP_EXECUTE, b"ROLLBACK"))
    await guest.call(Request(abi.OP_CLOSE))
    await guest.close()


async def test_changes_of_returning_are_counted_when_it_ends() -> None:
    async with running() as engine:
        await engine.execute("CREATE TABLE t (a)")
        sql = f"INSERT INTO t {COUNT_TO.format(300)} SELECT i FROM c RETURNING a"

        first = await engine.execute(sql, most=2)
        last = await engine.guest.call(Request(abi.OP_NEXT, target=first.handle))

        assert (first.row_count, first.changes) == (256, 0)
        assert (last.row_count, last.changes, last.handle) == (44, 300, 0)
        assert await engine.fetch(sql, most=1) == [[1]]
        assert await engine.fetch("SELECT count(*) FROM t") == [[600]]


async def test_rows_come_in_pages_until_the_handle_ends() -> None:
    async with running() as engine:
        reply = await engine.execute(COUNT_TO.format(10) + "SELECT i FROM c", most=4)
        handle, pages = reply.handle, [decode(reply.rows)]
        while reply.handle:
            reply = await engine.guest.call(Request(abi.OP_NEXT, target=handle, argument=4))
            pages.append(decode(reply.rows))

        assert pages == [[[1], [2], [3], [4]], [[5], [6], [7], [8]], [[9], [10]]]
        with pytest.raises(ProgrammingError, match="closed"):
            await engine.guest.call(Request(abi.OP_NEXT, target=handle))
        assert (await engine.statistics())["open_statements"] == 0


async def test_statement_ends_when_exactly_all_rows_are_read() -> None:
    """A statement that stays open needlessly keeps its lock."""
    async with running() as engine:
        reply = await engine.execute(COUNT_TO.format(4) + "SELECT i FROM c", most=4)

        assert (reply.row_count, reply.handle) == (4, 0)


async def test_two_cursors_with_the_same_sql_are_two_statements() -> None:
    async with running() as engine:
        sql = COUNT_TO.format(3) + "SELECT i FROM c"
        first = await engine.execute(sql, most=1)
        second = await engine.execute(sql, most=1)

        rest = [
            decode((await engine.guest.call(Request(abi.OP_NEXT, target=reply.handle))).rows)
            for reply in (first, second)
        ]

        assert first.handle != second.handle
        assert rest == [[[2], [3]], [[2], [3]]]
        assert (await engine.statistics())["cached_statements"] == 1


async def test_statement_of_a_finished_cursor_returns_to_the_cache() -> None:
    async with running() as engine:
        sql = COUNT_TO.format(3) + "SELECT i FROM c"
        reply = await engine.execute(sql, most=1)
        await engine.guest.call(Request(abi.OP_FINISH, target=reply.handle))
        await engine.guest.call(Request(abi.OP_FINISH, target=reply.handle))
        await engine.execute(sql)

        statistics = await engine.statistics()

        assert (statistics["cache_hits"], statistics["open_statements"]) == (1, 0)


async def test_parameters_of_an_open_cursor_outlive_the_request() -> None:
    """Bound text is read again with every row, long after the request's bytes were released."""
    async with running() as engine:
        text, blob = "x" * 5000, b"\x00\xff" * 900
        sql = COUNT_TO.format(3) + "SELECT ?, ? FROM c"
        reply = await engine.execute(sql, text, blob, most=1)
        for number in range(200):
            await engine.fetch("SELECT ?", "overwritten " * 400 + str(number))

        rest = await engine.guest.call(Request(abi.OP_NEXT, target=reply.handle))

        assert decode(rest.rows) == [[text, blob]] * 2


async def test_prepared_statement_can_be_executed_repeatedly() -> None:
    async with running() as engine:
        reply = await engine.guest.call(Request(abi.OP_PREPARE, b"SELECT :a + ?2 AS total"))
        described = decode(reply.rows)
        rows = [
            (
                await engine.guest.collect(
                    Request(abi.OP_FETCH_PREPARED, b"", encode([n, 1]), target=reply.handle), decode
                )
            )[0]
            for n in range(3)
        ]
        page = await engine.guest.call(Request(abi.OP_EXECUTE_PREPARED, b"", encode([5, 5]), target=reply.handle))
        await engine.guest.call(Request(abi.OP_RELEASE, target=reply.handle))

        assert described == {"columns": [["total", None]], "parameters": [":a", "?2"], "readonly": True}
        assert rows == [[[1]], [[2]], [[3]]]
        assert (decode(page.rows), page.handle) == ([[10]], 0)
        with pytest.raises(ProgrammingError, match="prepared statement is closed"):
            await engine.guest.call(Request(abi.OP_FETCH_PREPARED, b"", encode([1, 1]), target=reply.handle))


async def test_schema_change_reaches_cached_and_prepared_statements() -> None:
    async with running() as engine:
        await engine.execute("CREATE TABLE t (a)")
        await engine.execute("INSERT INTO t VALUES (1)")
        prepared = await engine.guest.call(Request(abi.OP_PREPARE, b"SELECT * FROM t"))
        assert await engine.fetch("SELECT * FROM t") == [[1]]

        await engine.execute("ALTER TABLE t ADD COLUMN b DEFAULT 2")

        assert await engine.fetch("SELECT * FROM t") == [[1, 2]]
        rows, reply = await engine.guest.collect(
            Request(abi.OP_FETCH_PREPARED, target=prepared.handle, format=abi.FORMAT_COLUMNS), decode
        )
        assert (rows, decode(reply.columns)) == ([[1, 2]], ["a", "b"])


async def test_large_requests_and_replies_are_passed_outside_the_rings() -> None:
    async with running() as engine:
        blob = bytes(range(256)) * 20_000
        text = "ä" * 3_000_000

        assert await engine.fetch("SELECT ?, ?", blob, text) == [[blob, text]]
        assert await engine.fetch("SELECT length('" + "y" * 500_000 + "')") == [[500_000]]
        assert (await engine.statistics())["spills"] >= 1


@pytest.mark.parametrize("beyond, payloads", [(-1, 0), (0, 0), (1, 1)])
async def test_guest_calls_the_host_only_for_requests_that_do_not_fit_the_ring(beyond: int, payloads: int) -> None:
    """Such a call waits for the GIL, which the event loop's thread may hold while it encodes the next request."""
    async with running() as engine:
        head = b"SELECT length(?)"
        blob = bytes(abi.REQUEST_INLINE_BYTES - len(head) - 6 + beyond)  # in an array of one, with its own head
        before = engine.guest.host.counts["payload"]

        assert await engine.fetch(head.decode(), blob) == [[len(blob)]]

        assert engine.guest.host.counts["payload"] - before == payloads


async def test_many_rows_arrive_complete_and_in_order() -> None:
    """More than the reply ring holds: the guest has to wait for the host."""
    async with running() as engine:
        rows = await engine.fetch(COUNT_TO.format(300_000) + "SELECT i, 'row ' || i FROM c")

        assert len(rows) == 300_000
        assert all(row == [number, f"row {number}"] for number, row in enumerate(rows, 1))
        assert (await engine.statistics())["batches"] > 10


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_rows": 10}, "more than 10 rows"),
        ({"max_bytes": 300}, "more than 300 bytes"),
        ({"statement_steps": 3000}, "more than 3000 steps"),
    ],
)
async def test_limit_ends_only_the_statement(options: dict[str, int], message: str) -> None:
    async with running(**options) as engine:
        sql = COUNT_TO.format(5000) + "SELECT i, 'x' FROM c"
        with pytest.raises(DataError, match=message):
            await engine.fetch(sql)
        reply = await engine.execute(sql)

        assert reply.kind == abi.REPLY_FAILED
        assert reply.row_count == len(decode(reply.rows)) > 0
        assert isinstance(reply.error, DataError)
        assert message in str(reply.error)
        assert await engine.fetch("SELECT 1") == [[1]]
        assert (await engine.statistics())["open_statements"] == 0


async def test_result_just_below_its_limit_is_complete() -> None:
    async with running(max_rows=10) as engine:
        assert len(await engine.fetch(COUNT_TO.format(10) + "SELECT i FROM c")) == 10


async def test_limit_on_rows_counts_over_all_pages() -> None:
    async with running(max_rows=10) as engine:
        reply = await engine.execute(COUNT_TO.format(20) + "SELECT i FROM c", most=8)

        reply = await engine.guest.call(Request(abi.OP_NEXT, target=reply.handle, argument=8))

        assert decode(reply.rows) == [[9], [10]]
        assert "more than 10 rows" in str(reply.error)


async def test_interrupt_ends_only_the_running_requests() -> None:
    async with running() as engine:
        with anyio.move_on_after(0.05) as scope:
            await engine.fetch(ENDLESS.decode())

        assert scope.cancelled_caught
        assert await engine.fetch("SELECT 1") == [[1]]


async def test_interrupted_executemany_reports_where_it_stopped() -> None:
    async with running() as engine:
        await engine.execute("CREATE TABLE t (a)")
        sql = b"INSERT INTO t SELECT ? FROM (" + (COUNT_TO.format(10**9) + "SELECT i FROM c").encode() + b")"

        async with anyio.create_task_group() as tasks:

            async def insert() -> None:
                with pytest.raises(OperationalError, match="interrupted") as caught:
                    await engine.guest.call(Request(abi.OP_MANY, sql, encode([[1], [2]])))
                assert caught.value.sqlite_errorcode == abi.SQLITE_INTERRUPT

            tasks.start_soon(insert)
            await anyio.sleep(0.05)
            engine.guest.interrupt()

        assert await engine.fetch("SELECT count(*) FROM t") == [[0]]


async def test_failing_set_is_reported_and_the_ones_before_it_are_kept() -> None:
    async with running() as engine:
        await engine.execute("CREATE TABLE t (a PRIMARY KEY)")

        with pytest.raises(IntegrityError) as caught:
            await engine.guest.call(
                Request(abi.OP_MANY, b"INSERT INTO t VALUES (?)", encode([[1], [2], [1]]), target=100)
            )

        assert "102" in " ".join(getattr(caught.value, "__notes__", ["102"]))
        assert await engine.fetch("SELECT a FROM t") == [[1], [2]]


async def test_engine_refuses_executemany_of_queries() -> None:
    async with running() as engine:
        for sql in (b"SELECT ?", b"", b"-- nothing"):
            with pytest.raises(ProgrammingError, match=r"executemany\(\) can only execute DML"):
                await engine.guest.call(Request(abi.OP_MANY, sql, encode([[1]])))


async def test_script_may_contain_triggers_strings_and_comments() -> None:
    script = """
        CREATE TABLE t (a); -- a comment; with a semicolon
        CREATE TRIGGER tr AFTER INSERT ON t WHEN new.a = 1 BEGIN
            INSERT INTO t VALUES ('a;b'); INSERT INTO t VALUES (2);
        END;
        /* INSERT INTO t VALUES (9); */ INSERT INTO t VALUES (1); SELECT * FROM t; ;
        INSERT INTO t VALUES (3)"""
    expected = sqlite3.connect(":memory:")
    expected.executescript(script)
    async with running() as engine:
        await engine.guest.call(Request(abi.OP_SCRIPT, script.encode()))

        rows = await engine.fetch("SELECT a FROM t")

    assert rows == [list(row) for row in expected.execute("SELECT a FROM t")]
    expected.close()


async def test_error_in_a_script_points_into_the_script() -> None:
    async with running() as engine:
        script = "CREATE TABLE t (a); INSERT INTO t VALUES (1); SELECT nope FROM t; INSERT INTO t VALUES (2)"

        with pytest.raises(OperationalError, match="no such column: nope") as caught:
            await engine.guest.call(Request(abi.OP_SCRIPT, script.encode()))

        assert caught.value.sqlite_offset == script.index("nope")
        assert await engine.fetch("SELECT a FROM t") == [[1]]


async def test_script_takes_time_linear_in_its_statements() -> None:
    """SQLite copies text that does not end in a NUL; once per statement that is quadratic."""
    async with running() as engine:
        statements = 20_000

        with anyio.fail_after(20):
            await engine.guest.call(
                Request(abi.OP_SCRIPT, b"SELECT 1 /* some more text, so that it has a length */;" * statements)
            )


async def test_a_thousand_names_in_any_order_get_their_values() -> None:
    async with running() as engine:
        names = [f"n{number}" for number in range(1000)]
        sql = ("SELECT " + ", ".join(f":{name}" for name in names)).encode()
        for order in (names, names[::-1], [*names[500:], *names[:500], "unused"]):
            values = {name: name[1:] for name in order}

            rows, _ = await engine.guest.collect(Request(abi.OP_FETCH, sql, encode(values)), decode)

            assert rows == [[name[1:] for name in names]]


MALFORMED = [b"\x91", b"\x92\x01", b"\x91\xc1", b"\x90\x90", b"\x81\x01\x01", b"\xdd\xff\xff\xff\xff", b"\x91\x90"]


@pytest.mark.parametrize("params", MALFORMED)
async def test_malformed_parameters_are_an_internal_error(params: bytes) -> None:
    async with running() as engine:
        for operation in (abi.OP_FETCH, abi.OP_EXECUTE):
            with pytest.raises(InternalError, match="malformed request"):
                await engine.guest.call(Request(operation, b"SELECT ?", params))

        assert await engine.fetch("SELECT ?", 1) == [[1]]


async def test_unknown_requests_are_internal_errors() -> None:
    async with running() as engine:
        with pytest.raises(InternalError, match="unknown operation 99"):
            await engine.guest.call(Request(99))
        with pytest.raises(InternalError, match="unknown control operation 77"):
            await engine.guest.call(Request(abi.OP_CONTROL, target=77))
        with pytest.raises(InternalError, match="already has a connection"):
            await engine.guest.call(Request(abi.OP_OPEN, b":memory:"))


async def test_unknown_option_of_open_is_an_error() -> None:
    guest = Guest(":memory:", FileTable(b":memory:"), 5.0)
    guest.start()

    with pytest.raises(InternalError, match="unknown option of OPEN: colour"):
        await guest.call(Request(abi.OP_OPEN, b":memory:", encode({"colour": 1})))

    await guest.close()


async def test_limits_and_flags_are_read_and_set() -> None:
    async with running() as engine:

        async def control(what: int, *arguments: int) -> int:
            reply = await engine.guest.call(Request(abi.OP_CONTROL, b"", encode(arguments), target=what))
            value: int = decode(reply.rows)
            return value

        category = abi.SQLITE_LIMIT_VARIABLE_NUMBER
        assert await control(abi.CONTROL_OP_LIMIT, category, 1) == 32_766
        assert await control(abi.CONTROL_OP_LIMIT, category) == 1
        with pytest.raises(OperationalError, match="too many SQL variables"):
            await engine.fetch("SELECT ?, ?", 1, 2)
        with pytest.raises(ProgrammingError, match="'category' is out of bounds"):
            await control(abi.CONTROL_OP_LIMIT, 1111)
        switch = abi.SQLITE_DBCONFIG_ENABLE_FKEY
        assert await control(abi.CONTROL_OP_CONFIG, switch) == 0
        assert await control(abi.CONTROL_OP_CONFIG, switch, 1) == 1
        assert await engine.fetch("PRAGMA foreign_keys") == [[1]]
        with pytest.raises(ProgrammingError, match="unknown config 'op'"):
            await control(abi.CONTROL_OP_CONFIG, 1)


async def test_allocation_that_fails_is_an_error() -> None:
    """SQLite allows a blob of a gigabyte, but this guest's memory does not."""
    guest = Guest(":memory:", FileTable(b":memory:"), 5.0, memory_limit_bytes=32 << 20)
    guest.start()
    await guest.call(Request(abi.OP_OPEN, b":memory:"))

    for sql in (b"SELECT zeroblob(900000000)", b"SELECT hex(zeroblob(20000000))", b"SELECT zeroblob(20000000), 1"):
        with pytest.raises((MemoryError, OperationalError)):
            await guest.call(Request(abi.OP_FETCH, sql))

    rows, _ = await guest.collect(Request(abi.OP_FETCH, b"SELECT length(zeroblob(1000000))"), decode)
    assert rows == [[1_000_000]]
    await guest.call(Request(abi.OP_CLOSE))
    await guest.close()
