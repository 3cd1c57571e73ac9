"""Pools: which task gets which connection and when, how connections are returned and replaced, how a pool closes."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import sqlite3
import threading
import time
from contextlib import aclosing, closing, nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

import rapsqlite
from rapsqlite import Pool, PoolClosed, PoolTimeout, TooManyWaiting, _pooled, create_pool
from rapsqlite import pool as pools
from rapsqlite._guest.guest import Guest
from rapsqlite.cursor import Cursor
from tests.threads import threads_but_trios

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path

    Act = Callable[[rapsqlite.Connection], Awaitable[object]]

SCHEMA = "CREATE TABLE t (a INTEGER PRIMARY KEY, b)"
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


@pytest.fixture
def wal(database: Path) -> Path:
    """A database in WAL mode."""
    with closing(sqlite3.connect(database)) as stock:
        stock.execute("PRAGMA journal_mode = wal")
        stock.execute(SCHEMA)
    return database


# -- whole results ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["wal", "delete", "memory", "one connection"])
async def test_pool_methods_work_like_connection_methods(database: Path, kind: str) -> None:
    """And they commit: the in-memory database outlives its connections."""
    if kind == "wal":
        with closing(sqlite3.connect(database)) as stock:
            stock.execute("PRAGMA journal_mode = wal")
    target = ":memory:" if kind == "memory" else database
    async with create_pool(target, max_size=1 if kind == "one connection" else 4) as pool:
        await pool.executescript(SCHEMA)
        cursor = await pool.execute("INSERT INTO t (b) VALUES (?)", ["x"])
        assert (cursor.rowcount, cursor.lastrowid) == (1, 1)
        await pool.executemany("INSERT INTO t (b) VALUES (?)", [("y",), ("z",)])
        assert await pool.execute_insert("INSERT INTO t (b) VALUES ('last')") == (4,)
        assert await pool.fetch_all("SELECT * FROM t WHERE a < 3") == [[1, "x"], [2, "y"]]
        assert await pool.fetch_one("SELECT b FROM t WHERE a = ?", [3]) == ["z"]
        assert await pool.fetch_optional("SELECT b FROM t WHERE a = 99") is None
        assert await pool.fetch_scalar("SELECT count(*) FROM t") == 4
        assert await pool.fetch_blob("SELECT x'00ff'") == b"\x00\xff"
        assert await pool.execute_fetchall("SELECT a FROM t WHERE a = 1") == [(1,)]
        assert [row async for row in pool.stream("SELECT a FROM t")] == [[1], [2], [3], [4]]
        assert await pool.fetch_scalar("INSERT INTO t (b) VALUES ('returning') RETURNING a") == 5
        with pytest.raises(rapsqlite.IntegrityError):
            await pool.executemany("INSERT INTO t VALUES (?, 'undone')", [(6,), (1,)])
        assert await pool.fetch_scalar("SELECT max(a) FROM t") == 5
        assert pool.statistics()["out"] == 0


DEFERRED_KEY = "CREATE TABLE u (a REFERENCES t DEFERRABLE INITIALLY DEFERRED)"


@pytest.mark.parametrize("rows", ["VALUES (1)", "VALUES (1), (2)", "SELECT i FROM n"])
@pytest.mark.parametrize("verb", ["execute", "execute_insert"])
async def test_statement_whose_rows_are_not_wanted_is_committed_or_raises(wal: Path, verb: str, rows: str) -> None:
    """INSERT ... RETURNING commits after its last row."""
    insert = f"WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 9999) INSERT INTO u {rows} RETURNING a"
    async with create_pool(wal, pragmas={"foreign_keys": True}) as pool:
        await pool.execute(DEFERRED_KEY)
        with pytest.raises(rapsqlite.IntegrityError, match="FOREIGN KEY"):
            await getattr(pool, verb)(insert)
        assert await pool.fetch_scalar("SELECT count(*) FROM u") == 0

        await pool.executemany("INSERT INTO t VALUES (?, 0)", [(i,) for i in range(1, 10_000)])
        await getattr(pool, verb)(insert)
        assert await pool.fetch_scalar("SELECT count(*) FROM u") > 0


@pytest.mark.parametrize("verb", ["execute", "execute_insert"])
async def test_statement_cancelled_while_it_ends_is_committed_and_says_so(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Its changes were committed, while its task was told that they had been cancelled."""
    insert = "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 9999) INSERT INTO t (a) SELECT i FROM n"
    end, has_returned = Cursor._end, False
    with anyio.CancelScope() as scope:

        async def cancelled(cursor: Cursor) -> None:
            assert cursor._batches is not None
            scope.cancel()
            await end(cursor)

        monkeypatch.setattr(Cursor, "_end", cancelled)
        await getattr(pool, verb)(f"{insert} RETURNING a, zeroblob(20)")
        has_returned = True
        await anyio.lowlevel.checkpoint()

    assert has_returned
    assert scope.cancelled_caught
    assert await pool.fetch_scalar("SELECT count(*) FROM t") == 9999


async def test_cursor_of_a_statement_whose_rows_are_not_wanted_counts_its_changes(pool: Pool) -> None:
    cursor = await pool.execute("INSERT INTO t (b) VALUES (1), (2), (3), (4) RETURNING a")

    assert (cursor.rowcount, cursor.lastrowid) == (4, 4)
    with pytest.raises(rapsqlite.ProgrammingError, match="closed"):
        await cursor.fetchone()


async def test_readers_and_the_writer_are_different_connections(pool: Pool) -> None:
    async with pool.acquire() as writer, pool.acquire(read_only=True) as one, pool.acquire(read_only=True) as two:
        await writer.execute("INSERT INTO t (b) VALUES (1)")
        assert await one.fetch_scalar("SELECT count(*) FROM t") == 0
        await writer.commit()
        assert await two.fetch_scalar("SELECT count(*) FROM t") == 1
        assert pool.statistics()["size"] == 3
        with pytest.raises(rapsqlite.OperationalError, match=r"readonly database \(this pool connection is read-only"):
            await one.execute("INSERT INTO t (b) VALUES (2)")


async def test_acquire_block_commits_on_success_and_rolls_back_on_an_exception(pool: Pool) -> None:
    async with pool.acquire() as conn:
        await conn.execute("INSERT INTO t (b) VALUES ('kept')")
    with pytest.raises(KeyError):  # noqa: PT012 - the block is what is tested
        async with pool.acquire() as conn:
            await conn.execute("INSERT INTO t (b) VALUES ('undone')")
            raise KeyError

    assert await pool.fetch_all("SELECT b FROM t") == [["kept"]]


async def test_acquire_block_that_is_entered_twice_is_refused(pool: Pool) -> None:
    """The first exit would commit and return the connection of the other task."""
    acquisition = pool.acquire(read_only=True)
    async with acquisition as conn:
        with pytest.raises(rapsqlite.ProgrammingError, match=r"in use: call acquire\(\) for each block"):
            await acquisition.__aenter__()
        assert await conn.fetch_scalar("SELECT 1") == 1
    async with acquisition as conn:
        assert await conn.fetch_scalar("SELECT 2") == 2
    assert pool.statistics()["out"] == 0


async def test_acquire_block_whose_entry_failed_can_be_entered(pool: Pool) -> None:
    acquisition = pool.acquire(timeout=0.01)
    async with pool.acquire():
        with pytest.raises(rapsqlite.ProgrammingError, match="wait for itself"):
            await acquisition.__aenter__()
    async with acquisition as conn:
        assert await conn.fetch_scalar("SELECT 1") == 1


async def test_transactions_of_a_pool_begin_immediate_and_queue(pool: Pool) -> None:
    """Reading before writing is safe: two such transactions on two connections would fail."""

    async def add() -> None:
        async with pool.transaction() as conn:
            count = await conn.fetch_scalar("SELECT count(*) FROM t")
            await anyio.lowlevel.checkpoint()
            await conn.execute("INSERT INTO t VALUES (?, 'x')", [count + 1])

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(add)

    assert await pool.fetch_scalar("SELECT max(a) FROM t") == 20


async def test_transaction_that_only_reads_is_a_snapshot(pool: Pool) -> None:
    async with pool.transaction(read_only=True) as conn:
        assert await conn.fetch_scalar("SELECT count(*) FROM t") == 0
        await pool.execute("INSERT INTO t (b) VALUES (1)")
        assert await conn.fetch_scalar("SELECT count(*) FROM t") == 0

    assert await pool.fetch_scalar("SELECT count(*) FROM t") == 1


# -- waiting ---------------------------------------------------------------------------------------


async def test_tasks_get_connections_in_the_order_in_which_they_asked(pool: Pool) -> None:
    order: list[int] = []

    async def take(number: int) -> None:
        async with pool.acquire():
            order.append(number)
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks, pool.acquire():
        for number in range(10):
            tasks.start_soon(take, number)
            await anyio.wait_all_tasks_blocked()
        assert pool.statistics()["waiting"] == 10

    assert order == list(range(10))


@pytest.mark.parametrize("lend", [Pool.acquire, Pool.transaction])
async def test_timeout_error_says_where_connections_were_acquired(pool: Pool, lend: Any) -> None:
    async def hold(done: anyio.Event, *, task_status: Any) -> None:
        async with lend(pool):
            task_status.started()
            await done.wait()

    done = anyio.Event()
    async with anyio.create_task_group() as tasks:
        await tasks.start(hold, done)
        with pytest.raises(
            PoolTimeout, match=r"writer; connections are out, acquired at .*test_pool\.py:\d+"
        ) as caught:
            await pool.acquire(timeout=0.01)
        done.set()

    assert isinstance(caught.value, TimeoutError)
    assert caught.value.sqlite_errorname == "SQLITE_BUSY"
    assert pool.statistics()["timeouts"] == 1
    async with pool.acquire(timeout=0.5):
        pass


async def test_too_many_waiting_tasks_are_refused(wal: Path) -> None:
    async with create_pool(wal, max_waiting=1) as pool:

        async def wait() -> None:
            async with pool.acquire():
                pass

        async with anyio.create_task_group() as tasks, pool.acquire():
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(TooManyWaiting, match="1 tasks are already waiting"):
                await pool.acquire()


async def test_task_that_acquires_the_writer_twice_is_refused_immediately(pool: Pool) -> None:
    async with pool.acquire():
        with pytest.raises(rapsqlite.ProgrammingError, match="would wait for itself"):
            await pool.execute("INSERT INTO t (b) VALUES (1)")


@pytest.mark.parametrize("when", ["waiting", "handed over"])
async def test_cancelled_wait_leaks_no_connection(pool: Pool, when: str) -> None:
    """Neither before a connection was handed to the task nor between that and its waking."""
    scope = anyio.CancelScope()

    async def wait() -> None:
        with scope:
            async with pool.acquire():
                await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        conn = await pool.acquire()
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        if when == "waiting":
            scope.cancel()
            await anyio.wait_all_tasks_blocked()
            await pool.release(conn)
        else:
            await pool.release(conn)
            scope.cancel()

    async with pool.acquire(timeout=1):
        assert pool.statistics()["waiting"] == 0


def test_stream_that_is_left_early_returns_its_connection(wal: Path) -> None:
    """Python ends the iterator when it is collected, and then it must not wait."""

    async def main() -> None:
        async with create_pool(wal, max_size=2) as pool:
            for _ in range(5):
                async for row in pool.stream("SELECT 1 UNION ALL SELECT 2"):
                    assert row == [1]
                    break
                gc.collect()
                await asyncio.sleep(0)
            assert await pool.fetch_all("SELECT 1") == [[1]]
            assert pool.statistics()["replaced"] == 0

    asyncio.run(main())


# -- what comes back -------------------------------------------------------------------------------


async def statement_left_open(conn: rapsqlite.Connection) -> object:
    cursor = await conn.execute("SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3")
    await cursor.fetchone()
    return cursor


async def blob_left_open(conn: rapsqlite.Connection) -> object:
    await conn.execute("INSERT OR REPLACE INTO t VALUES (1, x'00')")
    await conn.commit()
    return await conn.blobopen("t", "b", 1)


async def python_settings(conn: rapsqlite.Connection) -> None:
    conn.row_factory = "dict"
    conn.isolation_level = None
    conn.timeout = 0.25
    conn.register_adapter(complex, str)


LEFT_BEHIND: dict[str, Act] = {
    "transaction": lambda conn: conn.begin(),
    "temporary table": lambda conn: conn.execute("CREATE TEMP TABLE leftover (a)"),
    "pragma": lambda conn: conn.execute("PRAGMA foreign_keys = ON"),
    "set_pragma": lambda conn: conn.set_pragma("synchronous", 0),
    "unreadable pragma": lambda conn: conn.execute("PRAGMA case_sensitive_like = ON"),
    "checkpoints": lambda conn: conn.execute("PRAGMA wal_autocheckpoint = 0"),
    "attached database": lambda conn: conn.execute("ATTACH ':memory:' AS other"),
    "function": lambda conn: conn.create_function("leftover", 0, lambda: 1),
    "limit": lambda conn: conn.setlimit(rapsqlite.SQLITE_LIMIT_LENGTH, 1000),
    "trace": lambda conn: conn.set_trace_callback(print),
    "statement": statement_left_open,
    "blob": blob_left_open,
    "prepared": lambda conn: conn.prepare("SELECT 1").fetch_all(),
    "settings": python_settings,
}
STATE = (
    "SELECT (SELECT count(*) FROM sqlite_temp_schema), (SELECT * FROM pragma_foreign_keys), 'a' LIKE 'A',"
    " (SELECT * FROM pragma_synchronous), (SELECT count(*) FROM pragma_database_list WHERE name = 'other'),"
    " (SELECT count(*) FROM pragma_function_list WHERE name = 'leftover')"
)


@pytest.mark.parametrize("read_only", [False, True], ids=["writer", "reader"])
async def test_no_state_of_a_borrower_reaches_the_next(wal: Path, read_only: bool) -> None:
    async with create_pool(wal, max_size=2) as pool:
        async with pool.acquire(read_only=read_only) as conn:
            before = await conn.fetch_one(STATE)
        for left in [left for left in LEFT_BEHIND if not (read_only and left == "blob")]:
            conn = await pool.acquire(read_only=read_only)
            kept = await LEFT_BEHIND[left](conn)
            await pool.release(conn)

            async with pool.acquire(read_only=read_only) as conn:
                assert not conn.in_transaction, left
                assert await conn.fetch_one(STATE) == before, left
                assert (await conn.statistics())["open_statements"] == 0, left
                assert await conn.fetch_scalar("PRAGMA wal_autocheckpoint") == 1000, left
                assert conn.isolation_level == "", left
                assert conn.timeout == 5.0, left
                assert await conn.getlimit(rapsqlite.SQLITE_LIMIT_LENGTH) > 1000, left
                if not read_only:
                    await conn.execute("INSERT INTO t (b) VALUES ('next')")
            del kept
            gc.collect()
            assert await pool.fetch_scalar("SELECT 1") == 1


async def test_database_that_a_borrower_has_replaced_in_memory_does_not_take_the_next_ones_writes(pool: Pool) -> None:
    async with pool.acquire() as conn:
        await conn.deserialize(await conn.serialize())
        await conn.execute("INSERT INTO t (b) VALUES ('in memory')")

    await pool.execute("INSERT INTO t (b) VALUES ('in the file')")

    assert await pool.fetch_all("SELECT b FROM t") == [["in the file"]]


async def test_journal_mode_of_a_borrower_is_reset(database: Path) -> None:
    """Outside WAL mode it belongs to the connection."""
    async with create_pool(database) as pool:
        await pool.executescript(SCHEMA)
        async with pool.acquire() as conn:
            await conn.execute("PRAGMA journal_mode = off")
        assert await pool.fetch_scalar("PRAGMA journal_mode") == "delete"


@pytest.mark.parametrize("returned_by", ["its task", "another task"])
async def test_connection_returned_inside_an_open_block_is_replaced(pool: Pool, returned_by: str) -> None:
    """Returning it does not wait for the block to end, and the next borrower is in no block."""
    conn = await pool.acquire()
    block = conn.transaction()
    returned = anyio.Event()

    async def hold() -> None:
        await block.__aenter__()
        await conn.execute("INSERT INTO t (b) VALUES ('undone')")
        if returned_by == "its task":
            await pool.release(conn)
        else:
            entered.set()
            await returned.wait()

    entered = anyio.Event()
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hold)
            if returned_by == "another task":
                await entered.wait()
                await pool.release(conn)
            returned.set()
        async with pool.transaction() as another:
            await another.execute("INSERT INTO t (b) VALUES ('kept')")
    with pytest.raises(rapsqlite.ClosedError):
        await block.__aexit__(None, None, None)

    assert await pool.fetch_all("SELECT b FROM t") == [["kept"]]


async def test_harmless_use_replaces_no_connection(pool: Pool) -> None:
    """Opening another connection costs more than resetting one."""
    for _ in range(5):
        async with pool.acquire() as conn:
            await conn.execute("INSERT INTO t (b) VALUES (1)")
            await conn.get_table_info("t")
            await conn.execute("PRAGMA user_version = 5")
            await statement_left_open(conn)

    assert pool.statistics()["replaced"] == 0


async def test_returned_connection_and_its_objects_refuse_use(pool: Pool) -> None:
    conn = await pool.acquire()
    cursor = await conn.execute("SELECT 1 UNION ALL SELECT 2")
    prepared = conn.prepare("SELECT 1")
    await prepared.fetch_all()
    await pool.release(conn)

    for use in (lambda: conn.fetch_all("SELECT 1"), cursor.fetchall, prepared.fetch_all, conn.commit):
        with pytest.raises(rapsqlite.ClosedError, match="returned to its pool"):
            await use()
    assert not conn.is_alive()
    await conn.close()
    with pytest.raises(rapsqlite.ProgrammingError, match="already returned"):
        await pool.release(conn)
    async with pool.acquire() as another:
        assert await another.fetch_scalar("SELECT 1") == 1


async def test_foreign_connection_is_not_accepted(pool: Pool) -> None:
    """The pool would lend out a connection to another database."""
    async with rapsqlite.connect(":memory:") as conn:
        with pytest.raises(rapsqlite.ProgrammingError, match="belongs to another pool"):
            await pool.release(conn)


@pytest.mark.parametrize("read_only", [False, True])
async def test_connection_broken_or_closed_by_its_borrower_is_replaced(pool: Pool, read_only: bool) -> None:
    async with pool.acquire(read_only=read_only) as conn:
        await conn.close()
    async with pool.acquire(read_only=read_only) as conn:
        conn._state.guest.kill()
        with pytest.raises(rapsqlite.Error):
            await conn.fetch_all(ENDLESS)

    async with pool.acquire(read_only=read_only) as conn:
        assert await conn.fetch_scalar("SELECT 1") == 1
    assert pool.statistics()["replaced"] == 2


async def test_connection_stopped_by_its_borrower_is_never_lent_again(pool: Pool) -> None:
    """It looks alive until its thread has noticed."""
    for _ in range(20):
        async with pool.acquire() as conn:
            conn.stop()
        assert await pool.execute_insert("INSERT INTO t (b) VALUES (1)") is not None


async def test_connection_that_its_borrower_is_closing_is_never_lent_again(pool: Pool) -> None:
    for checkpoints in (1, 2, 3) * 7:
        conn = await pool.acquire()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(conn.close)
            for _ in range(checkpoints):
                await anyio.lowlevel.checkpoint()
            await pool.release(conn)
            assert await pool.execute_insert("INSERT INTO t (b) VALUES (1)") is not None


async def test_close_that_waits_for_a_function_spares_the_next_borrower(pool: Pool) -> None:
    """The connection may be returned and lent again before the function ends."""
    is_running, may_end, is_closed = threading.Event(), threading.Event(), anyio.Event()

    def run() -> None:
        is_running.set()
        may_end.wait(50)

    async def close() -> None:
        await conn.close()
        is_closed.set()

    conn = await pool.acquire()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(conn._execute, run)
        await anyio.to_thread.run_sync(is_running.wait)
        tasks.start_soon(close)
        await anyio.wait_all_tasks_blocked()
        await pool.release(conn)
        async with pool.acquire() as other:
            await other.execute("INSERT INTO t (b) VALUES ('kept')")
            may_end.set()
            await is_closed.wait()

    assert await pool.fetch_all("SELECT b FROM t") == [["kept"]]


async def test_function_still_running_when_its_connection_is_returned_delays_nobody_else(wal: Path) -> None:
    """Neither the next borrower's functions nor closing the pool."""
    is_running, may_end, has_ended = threading.Event(), threading.Event(), threading.Event()

    def run() -> None:
        is_running.set()
        may_end.wait(50)
        has_ended.set()

    pool = await create_pool(wal, max_size=1)
    conn = await pool.acquire()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(conn._execute, run)
        await anyio.to_thread.run_sync(is_running.wait)
        await pool.release(conn)
        async with pool.acquire() as other:
            assert await other._execute(int) == 0
        await pool.aclose()
        assert not has_ended.is_set()
        may_end.set()


async def test_connection_that_breaks_while_idle_is_replaced_without_notice(pool: Pool) -> None:
    async with pool.acquire() as conn:
        guest = conn._state.guest
    await guest._guest.close()  # type: ignore[attr-defined]

    assert await pool.execute_insert("INSERT INTO t (b) VALUES (1)") == (1,)


async def test_statement_still_running_when_its_connection_is_returned_is_ended(pool: Pool) -> None:
    async def run(conn: rapsqlite.Connection) -> None:
        with pytest.raises(rapsqlite.Error):
            await conn.fetch_all(ENDLESS)

    async with anyio.create_task_group() as tasks:
        conn = await pool.acquire(read_only=True)
        tasks.start_soon(run, conn)
        await anyio.wait_all_tasks_blocked()
        await pool.release(conn)

    assert await pool.fetch_scalar("SELECT 1") == 1


async def test_executemany_between_two_chunks_when_its_connection_is_returned_does_not_reach_the_next_borrower(
    wal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No task waits for the chunk in flight, which begins a transaction."""

    async def let_others_run(*_: object) -> None:
        sent.set()
        await returned.wait()

    async def prepare(conn: rapsqlite.Connection) -> None:
        await conn.create_function("finished", 0, lambda: finish.wait(20))

    async def insert(conn: rapsqlite.Connection) -> None:
        async with aclosing(numbers()) as sets:
            with pytest.raises(rapsqlite.ClosedError):
                await conn.executemany("INSERT INTO t (b) VALUES (finished() + ?)", sets)

    async def numbers() -> AsyncGenerator[tuple[int], None]:
        yield (1,)

    monkeypatch.setattr(Guest, "let_others_run", let_others_run)
    sent, returned, finish = anyio.Event(), anyio.Event(), threading.Event()
    async with create_pool(wal, max_size=2, init_hook=prepare) as pool, anyio.create_task_group() as tasks:
        conn = await pool.acquire()
        tasks.start_soon(insert, conn)
        await sent.wait()
        await pool.release(conn)
        finish.set()
        returned.set()

        async with pool.acquire() as conn:
            assert not await conn.in_transaction_async()
            assert await conn.fetch_scalar("SELECT count(*) FROM t") == 0


async def test_connection_that_is_dropped_is_reported_and_replaced(pool: Pool) -> None:
    with pytest.warns(ResourceWarning, match=r"acquired from a pool at .*test_pool\.py:\d+, was deleted before"):  # noqa: PT031
        conn: Any = await pool.acquire()
        del conn
        gc.collect()

    async with pool.acquire(timeout=50) as conn:
        assert await conn.fetch_scalar("SELECT 1") == 1


# -- hooks, sizes, lifetimes -----------------------------------------------------------------------


async def test_hooks_see_each_connection(wal: Path) -> None:
    """Each at its time: once when opened, when lent, when returned."""
    seen: list[str] = []

    async def init(conn: rapsqlite.Connection) -> None:
        await conn.create_function("answer", 0, lambda: 42)
        seen.append("init")

    async def check(conn: rapsqlite.Connection) -> None:
        seen.append("check")

    async def reset(conn: rapsqlite.Connection) -> None:
        seen.append("reset")

    async with create_pool(wal, init_hook=init, check=check, reset=reset) as pool, pool.acquire() as conn:
        assert await conn.fetch_scalar("SELECT answer()") == 42

    assert seen == ["init", "check", "reset"]


@pytest.mark.parametrize("hook", ["check", "reset"])
async def test_connection_whose_hook_raises_is_replaced(wal: Path, hook: str) -> None:
    calls = []

    async def fail_once(conn: rapsqlite.Connection) -> None:
        calls.append(conn)
        if len(calls) == 1:
            raise KeyError

    async with create_pool(wal, **{hook: fail_once}) as pool:
        for _ in range(2):
            async with pool.acquire() as conn:
                assert await conn.fetch_scalar("SELECT 1") == 1
        assert pool.statistics()["opened"] == 2


async def test_init_hook_that_raises_fails_opening_and_leaves_no_connection(wal: Path) -> None:
    async def fail(conn: rapsqlite.Connection) -> None:
        raise KeyError("no")

    def count_threads() -> int:
        return sum(thread.name.startswith("rapsqlite") for thread in threading.enumerate())  # Trio keeps its own

    threads = count_threads()
    pool = create_pool(wal, init_hook=fail)
    for _ in range(2):
        with pytest.raises(KeyError):
            await pool.wait_ready()
        with pytest.raises(KeyError):
            await pool.acquire()
    await pool.aclose()
    for _ in range(200):
        if count_threads() <= threads:
            break
        await anyio.sleep(0.01)
    assert count_threads() <= threads


@pytest.mark.parametrize(
    "options",
    [{"max_size": 0}, {"min_size": -1}, {"min_size": 3, "max_size": 2}, {"max_size": "2"}, {"autocommit": False}],
    ids=str,
)
def test_invalid_sizes_and_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"size|autocommit"):
        create_pool(":memory:", **options)
    with pytest.raises(TypeError):
        create_pool(":memory:", no_such_option=1)


@pytest.mark.parametrize("value", [0, -1, -0.5, float("nan")])
@pytest.mark.parametrize("option", ["idle_timeout", "max_lifetime"])
def test_time_limit_that_is_not_positive_is_refused(option: str, value: float) -> None:
    """In some pools it means no limit, in others at once."""
    with pytest.raises(ValueError, match=rf"{option} must be more than 0 seconds, or None for no limit"):
        create_pool(":memory:", **{option: value})


async def test_min_size_is_opened_immediately_and_can_be_changed(wal: Path) -> None:
    async with create_pool(wal, min_size=3, max_size=4) as pool:
        assert pool.statistics()["size"] == 3
        await pool.resize(min_size=1, max_size=2)
        assert pool.statistics()["size"] == 2
        await pool.resize(max_size=1)
        async with pool.acquire(read_only=True) as conn:
            await conn.execute("INSERT INTO t (b) VALUES ('the only connection writes')")
        assert pool.statistics()["size"] == 1
        await pool.resize(max_size=5)
        async with pool.acquire(), pool.acquire(read_only=True), pool.acquire(read_only=True):
            assert pool.statistics()["size"] == 3
        with pytest.raises(ValueError, match="max_size"):
            await pool.resize(max_size=0)


@pytest.fixture
def ticking_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes between two readings; on Windows up to 16 ms are one moment."""
    clock = SimpleNamespace(monotonic=itertools.count(100.0).__next__)
    for module in (pools, _pooled):
        monkeypatch.setattr(module, "time", clock)


async def test_growing_the_pool_serves_waiting_tasks(wal: Path) -> None:
    async with create_pool(wal, max_size=2) as pool, anyio.create_task_group() as tasks:

        async def read() -> None:
            await pool.fetch_scalar("SELECT 1")
            read_one.set()

        read_one = anyio.Event()
        async with pool.acquire(read_only=True):
            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            assert not read_one.is_set()
            await pool.resize(max_size=3)
            await read_one.wait()


@pytest.mark.usefixtures("ticking_clock")
async def test_drained_and_old_connections_are_replaced(wal: Path) -> None:
    """Idle ones at once, a lent one when it comes back."""
    async with create_pool(wal, max_lifetime=1e-9) as pool:
        for _ in range(3):
            await pool.fetch_scalar("SELECT 1")
        assert pool.statistics()["opened"] >= 3
    async with create_pool(wal) as pool:
        async with pool.acquire():
            await pool.fetch_scalar("SELECT 1")
            await pool.drain()
            assert pool.statistics()["size"] == 1
        assert pool.statistics()["size"] == 0
        assert await pool.fetch_scalar("SELECT 1") == 1


@pytest.mark.usefixtures("ticking_clock")
async def test_connection_is_never_too_old_to_be_used_once(wal: Path) -> None:
    """However short its lifetime: `min_size` connections open, and opening them ends."""
    with anyio.fail_after(50):
        async with create_pool(wal, min_size=3, max_lifetime=1e-9, acquire_timeout=None) as pool:
            assert (pool.statistics()["opened"], pool.statistics()["idle"]) == (3, 3)
            await pool.wait_ready()
            assert pool.statistics()["opened"] == 3
            for _ in range(3):
                assert await pool.fetch_scalar("SELECT 1") == 1
            assert pool.statistics()["opened"] <= 6


@pytest.mark.parametrize("is_first", [True, False], ids=["first", "later"])
async def test_connection_that_is_being_opened_while_the_pool_is_drained_is_replaced(wal: Path, is_first: bool) -> None:
    """The file may have been replaced after it was opened."""
    opened: list[rapsqlite.Connection] = []
    is_opening, may_open = anyio.Event(), anyio.Event()
    may_open.set()

    async def init(conn: rapsqlite.Connection) -> None:
        opened.append(conn)
        is_opening.set()
        await may_open.wait()

    async def check(conn: rapsqlite.Connection) -> None:
        lent.append(conn)

    lent: list[rapsqlite.Connection] = []
    pool = create_pool(wal, init_hook=init, check=check)
    if not is_first:
        await pool
    is_opening, may_open = anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pool.fetch_all, "SELECT 1")
        await is_opening.wait()
        await pool.drain()
        old = list(opened)
        may_open.set()
    lent.clear()
    await pool.fetch_all("SELECT 1")
    await pool.execute("INSERT INTO t (b) VALUES (1)")
    await pool.aclose()

    assert len(lent) == 2
    assert not any(conn is each for conn in lent for each in old)


@pytest.mark.usefixtures("ticking_clock")
async def test_idle_connections_beyond_min_size_are_closed(wal: Path) -> None:
    async with create_pool(wal, idle_timeout=1e-9) as pool:
        async with pool.acquire(read_only=True), pool.acquire(read_only=True):
            assert pool.statistics()["size"] == 3
        await pool.execute("INSERT INTO t (b) VALUES (1)")
        assert pool.statistics()["size"] == 1


async def test_pool_statistics_count(pool: Pool) -> None:
    """One acquired and returned connection changes only the counters of these."""
    async with pool.acquire():
        pass
    counts = pool.statistics()

    assert counts["acquired"] == 1
    assert counts["opened"] == counts["size"] == counts["idle"] == 1
    assert counts["closed"] == counts["out"] == counts["waiting"] == counts["errors"] == 0


@pytest.mark.parametrize("value", [-1, "3", 1.5])
def test_invalid_number_of_waiting_tasks_is_refused(value: Any) -> None:
    """It is a mistake that would otherwise show once tasks wait."""
    with pytest.raises(ValueError, match="max_waiting must be a number of tasks, or None for no limit"):
        create_pool(":memory:", max_waiting=value)


@pytest.mark.parametrize("begins", ["async with", "await"])
async def test_pool_that_fails_to_open_leaves_no_connection(wal: Path, begins: str) -> None:
    """Its block is not entered, or its caller does not get it, so nothing could close it. It can be entered again."""
    opened: list[rapsqlite.Connection] = []

    async def hook(conn: rapsqlite.Connection) -> None:
        opened.append(conn)
        if len(opened) == 3:
            raise KeyError

    pool = create_pool(wal, min_size=4, init_hook=hook)
    with pytest.raises(KeyError):
        await (pool.__aenter__() if begins == "async with" else pool)
    assert (len(opened), pool.statistics()["size"]) == (3, 0)
    assert not any(conn.is_alive() for conn in opened)

    async with pool:
        assert pool.statistics()["size"] == 4


async def test_pool_statistics_have_the_age_of_the_oldest_connection_and_loan(pool: Pool) -> None:
    assert pool.statistics()["oldest_out_s"] == 0
    async with pool.acquire(), pool.acquire(read_only=True):
        ages = pool.statistics()
        assert ages["oldest_s"] >= ages["oldest_out_s"] >= 0
        later = pool.statistics()
        assert later["oldest_s"] >= ages["oldest_s"]
    assert pool.statistics()["oldest_s"] >= later["oldest_s"]
    await pool.drain()
    assert pool.statistics()["oldest_s"] == 0


# -- the end ---------------------------------------------------------------------------------------


async def test_closing_waits_for_borrowers_and_refuses_waiting_tasks(wal: Path) -> None:
    errors: list[BaseException] = []
    pool = await create_pool(wal)
    conn = await pool.acquire()

    async def wait() -> None:
        with pytest.raises(PoolClosed) as caught:
            await pool.acquire()
        errors.append(caught.value)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(pool.aclose)
        await anyio.wait_all_tasks_blocked()
        assert len(errors) == 1
        await conn.execute("INSERT INTO t (b) VALUES ('kept')")
        await conn.commit()
        await pool.release(conn)

    await pool.aclose()
    with pytest.raises(PoolClosed):
        await pool.fetch_all("SELECT 1")
    with closing(sqlite3.connect(wal)) as stock:
        assert stock.execute("SELECT b FROM t").fetchall() == [("kept",)]


async def test_closing_leaves_only_the_database_file(wal: Path) -> None:
    """Only the last connection to close checkpoints the WAL, and only if it may write."""
    async with create_pool(wal, min_size=3, max_size=3) as pool:
        await pool.execute("CREATE TABLE beside (a)")
        await pool.fetch_all("SELECT * FROM beside")

    assert [path.name for path in wal.parent.iterdir()] == [wal.name]


async def test_closing_with_a_timeout_closes_borrowed_connections_and_says_where_they_were_acquired(wal: Path) -> None:
    pool = await create_pool(wal)
    conn = await pool.acquire()

    with pytest.warns(ResourceWarning, match=r"connections still out, acquired at .*test_pool\.py:\d+"):
        await pool.aclose(timeout=0.01)

    with pytest.raises(rapsqlite.Error):
        await conn.fetch_all("SELECT 1")
    await conn.close()


@pytest.mark.parametrize("is_open", [True, False], ids=["open transaction", "nothing open"])
async def test_block_whose_transaction_is_lost_as_its_pool_closes_raises(wal: Path, is_open: bool) -> None:
    """A clean exit of the block means that everything is committed."""
    pool = await create_pool(wal)

    async def use(*, task_status: Any) -> None:
        with pytest.raises(PoolClosed, match="a transaction was open") if is_open else nullcontext():
            async with pool.acquire() as conn:
                await conn.execute("INSERT INTO t (b) VALUES (1)")
                if not is_open:
                    await conn.commit()
                task_status.started()
                await is_closed.wait()

    is_closed = anyio.Event()
    async with anyio.create_task_group() as tasks:
        await tasks.start(use)
        with pytest.warns(ResourceWarning, match="connections still out"):
            await pool.aclose(timeout=0.01)
        is_closed.set()

    with closing(sqlite3.connect(wal)) as stock:
        assert stock.execute("SELECT b FROM t").fetchall() == ([] if is_open else [(1,)])


async def test_block_whose_transaction_is_lost_as_its_connection_breaks_raises(pool: Pool) -> None:
    """As the block of `connect` does, although the first error was caught."""
    with pytest.raises(rapsqlite.Error):  # noqa: PT012 - the end of the block raises
        async with pool.acquire() as conn:
            await conn.execute("INSERT INTO t (b) VALUES (1)")
            conn._state.guest.kill()
            with pytest.raises(rapsqlite.Error):
                await conn.fetch_all(ENDLESS)

    assert await pool.fetch_all("SELECT b FROM t") == []


async def test_block_whose_connection_was_returned_or_closed_inside_ends_in_silence(pool: Pool) -> None:
    """As the block of `connect` does after close()."""
    for end in (pool.release, rapsqlite.Connection.close, rapsqlite.Connection.stop):
        async with pool.acquire() as conn:
            await conn.execute("INSERT INTO t (b) VALUES (1)")
            ending = end(conn)
            assert ending is not None
            await ending

    assert await pool.fetch_all("SELECT b FROM t") == []


def test_pool_that_is_dropped_is_reported(database: Path) -> None:
    """As for a connection: the collector closes it, but nobody knows when."""

    async def main() -> None:
        await create_pool(database)

    with pytest.warns(ResourceWarning, match=r"a pool of .* was deleted before being closed"):  # noqa: PT031
        asyncio.run(main())
        gc.collect()


def test_pool_of_another_loop_is_refused(database: Path) -> None:
    """Tasks of two loops cannot wake each other. A pool whose loop is closed can still be closed."""
    pool = create_pool(database)

    async def use() -> None:
        await pool.fetch_scalar("SELECT 1")

    asyncio.run(use())
    with pytest.raises(rapsqlite.ProgrammingError, match="another event loop"):
        asyncio.run(use())
    asyncio.run(pool.aclose())


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_pool_whose_loop_was_closed_with_tasks_in_it_can_be_closed_in_another(wal: Path) -> None:
    """A task that had the writer, one that waited for it, and a stream: nobody goes on, so nobody is waited for."""
    threads = threading.active_count()
    loop = asyncio.new_event_loop()
    pool = loop.run_until_complete(create_pool(wal, max_size=2).wait_ready())

    async def hold() -> None:
        async with pool.acquire() as conn:
            await conn.execute("INSERT INTO t (b) VALUES ('undone')")
            await asyncio.sleep(3600)

    async def stream() -> None:
        async for _ in pool.stream("SELECT 1 UNION ALL SELECT 2"):
            streams.set()
            await asyncio.sleep(3600)

    async def main() -> None:
        tasks.extend(asyncio.ensure_future(act()) for act in (hold, hold, stream))
        await streams.wait()
        assert (pool.statistics()["waiting"], pool.statistics()["out"]) == (1, 2)

    streams = asyncio.Event()

    tasks: list[asyncio.Future[None]] = []
    loop.run_until_complete(main())
    loop.close()
    tasks.clear()
    gc.collect()

    asyncio.run(asyncio.wait_for(pool.aclose(), 30))

    assert pool.statistics()["size"] == 0
    for _ in range(1000):
        if threading.active_count() <= threads:
            break
        time.sleep(0.01)
    assert threading.active_count() <= threads
    with closing(sqlite3.connect(wal)) as stock:
        assert stock.execute("SELECT * FROM t").fetchall() == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork()")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_pool_of_the_parent_is_refused_after_a_fork(database: Path) -> None:
    pool = create_pool(database)
    asyncio.run(pool.wait_ready())
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(pool.acquire()._pool.fetch_scalar("SELECT 1"))
        except rapsqlite.ProgrammingError as error:
            os._exit(0 if "parent" in str(error) else 2)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    asyncio.run(pool.aclose())

    assert status == 0


async def test_deleted_database_is_an_error_until_it_exists_again(database: Path) -> None:
    async with create_pool(database) as pool:
        await pool.executescript(SCHEMA)
        await anyio.Path(database).unlink()
        with pytest.raises(rapsqlite.OperationalError):
            await pool.execute("INSERT INTO t (b) VALUES (1)")
        await pool.executescript(SCHEMA)
        assert await pool.execute_insert("INSERT INTO t (b) VALUES (1)") == (1,)


async def test_pool_of_a_database_that_cannot_be_opened_raises_in_every_waiting_task(tmp_path: Path) -> None:
    pool = create_pool(tmp_path / "nowhere" / "x.db")
    errors = []

    async def use() -> None:
        with pytest.raises(rapsqlite.OperationalError) as caught:
            await pool.fetch_all("SELECT 1")
        errors.append(caught.value.sqlite_errorname)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(use)
    await pool.aclose()

    assert len(errors) == 5
    assert {name[:15] for name in errors} == {"SQLITE_CANTOPEN"}


def open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0


async def test_pool_leaks_nothing(wal: Path) -> None:
    """Neither a thread nor a descriptor, however often a pool is opened and closed."""
    gc.collect()  # for other tests' connections
    threads, files = threads_but_trios(), open_files()
    for _ in range(3):
        async with create_pool(wal, min_size=2, max_size=4) as pool, anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(pool.fetch_all, "SELECT * FROM t")

    assert threads_but_trios() <= threads
    assert open_files() <= files + 4
