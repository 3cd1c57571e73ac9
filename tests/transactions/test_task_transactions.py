"""Transactions belong to the task that opened them: other tasks' statements wait, and no task waits for itself."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
from contextlib import ExitStack, aclosing, closing
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import rapsqlite
from rapsqlite import connect
from rapsqlite._guest.request_queue import RequestQueue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from rapsqlite._guest.request import PendingRequest
    from rapsqlite._loops import Loop

    Act = Callable[[rapsqlite.Connection], Awaitable[object]]

SCHEMA = "CREATE TABLE t (a INTEGER PRIMARY KEY, b)"
NUMBERS = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n LIMIT 5000) SELECT i FROM n"


@pytest.fixture
async def conn(database: Path) -> AsyncIterator[rapsqlite.Connection]:
    async with connect(database, isolation_level=None) as connection:
        await connection.execute(SCHEMA)
        await connection.execute("INSERT INTO t VALUES (1, x'00')")
        yield connection


class Holder:
    """A task with an open block."""

    def __init__(self, conn: rapsqlite.Connection, block: Any = None) -> None:
        self._block = block or conn.transaction()
        self._conn = conn
        self._entered = anyio.Event()
        self._release = anyio.Event()

    async def hold(self) -> None:
        async with self._block:
            await self._conn.execute("INSERT INTO t (b) VALUES ('held')")
            self._entered.set()
            await self._release.wait()
            await self._conn.execute("UPDATE t SET b = 'held to the end' WHERE b = 'held'")

    async def entered(self) -> None:
        await self._entered.wait()

    def release(self) -> None:
        self._release.set()


async def streamed(conn: rapsqlite.Connection) -> None:
    async with aclosing(conn.stream("SELECT * FROM t")) as rows:
        async for _ in rows:
            pass


async def opened_blob(conn: rapsqlite.Connection) -> None:
    async with conn.blobopen("t", "b", 1, readonly=True) as blob:
        await blob.read()


async def copied(conn: rapsqlite.Connection) -> None:
    async with connect(":memory:") as target:
        await conn.backup(target)


async def copied_over(conn: rapsqlite.Connection) -> None:
    async with connect(":memory:") as source:
        await source.execute(SCHEMA)
        await source.execute("INSERT INTO t (b) VALUES ('copied')")
        await source.commit()
        await source.backup(conn)


async def in_savepoint(conn: rapsqlite.Connection) -> None:
    async with conn.savepoint():
        await conn.execute("INSERT INTO t (b) VALUES ('other')")


async def in_block(conn: rapsqlite.Connection) -> None:
    async with conn.transaction():
        await conn.execute("INSERT INTO t (b) VALUES ('other')")


VERBS: dict[str, Act] = {
    "execute": lambda conn: conn.execute("INSERT INTO t (b) VALUES ('other')"),
    "fetch_all": lambda conn: conn.fetch_all("SELECT * FROM t"),
    "fetch_one": lambda conn: conn.fetch_one("SELECT * FROM t"),
    "executemany": lambda conn: conn.executemany("INSERT INTO t (b) VALUES (?)", [("other",)]),
    "executescript": lambda conn: conn.executescript("INSERT INTO t (b) VALUES ('other')"),
    "execute_insert": lambda conn: conn.execute_insert("INSERT INTO t (b) VALUES ('other')"),
    "stream": streamed,
    "prepared": lambda conn: conn.prepare("SELECT * FROM t").fetch_all(),
    "blob": opened_blob,
    "backup": copied,
    "target of a backup": copied_over,
    "serialize": lambda conn: conn.serialize(),
    "iterdump": lambda conn: conn.iterdump(),
    "begin": lambda conn: conn.begin(),
    "commit": lambda conn: conn.commit(),
    "rollback": lambda conn: conn.rollback(),
    "savepoint": in_savepoint,
    "transaction": in_block,
    "set_pragma": lambda conn: conn.set_pragma("user_version", 1),
    "create_function": lambda conn: conn.create_function("f", 0, lambda: 1),
    "changes": lambda conn: conn.changes(),
    "get_tables": lambda conn: conn.get_tables(),
}


async def start_anew(conn: rapsqlite.Connection) -> None:
    """Undo what a verb has done to the table."""
    await conn.rollback()
    await conn.execute("DROP TABLE t")
    await conn.execute(SCHEMA)
    await conn.execute("INSERT INTO t VALUES (1, x'00')")


@pytest.mark.parametrize("kind", ["transaction", "savepoint"])
async def test_every_verb_of_another_task_waits_for_the_end_of_a_block(conn: rapsqlite.Connection, kind: str) -> None:
    for verb in VERBS:
        await check_that_verb_waits(conn, verb, kind)
        await start_anew(conn)


async def check_that_verb_waits(conn: rapsqlite.Connection, verb: str, kind: str) -> None:
    holder = Holder(conn, getattr(conn, kind)())
    done = anyio.Event()

    async def other() -> None:
        await VERBS[verb](conn)
        done.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(holder.hold)
        await holder.entered()
        tasks.start_soon(other)
        for _ in range(3):
            await anyio.wait_all_tasks_blocked()
        assert not done.is_set(), verb
        holder.release()
        await done.wait()

    await conn.rollback()
    if verb != "target of a backup":
        assert await conn.fetch_scalar("SELECT b FROM t WHERE a = 2") == "held to the end", verb


async def test_statement_of_another_task_is_not_rolled_back_with_a_block(conn: rapsqlite.Connection) -> None:
    """It used to join the transaction, and was undone when that was rolled back."""
    entered = anyio.Event()

    async def failing() -> None:
        async with conn.transaction():
            await conn.execute("INSERT INTO t (b) VALUES ('undone')")
            entered.set()
            await anyio.wait_all_tasks_blocked()
            raise KeyError

    async def fails() -> None:
        with pytest.raises(KeyError):
            await failing()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fails)
        await entered.wait()
        await conn.execute("INSERT INTO t (b) VALUES ('kept')")

    assert await conn.fetch_all("SELECT b FROM t WHERE a > 1") == [["kept"]]


async def test_fetches_of_another_tasks_cursor_wait_for_the_block(conn: rapsqlite.Connection) -> None:
    holder = Holder(conn)
    rows: list[Any] = []

    async def read_on(cursor: rapsqlite.Cursor) -> None:
        rows.extend(await cursor.fetchall())

    async with conn.execute(NUMBERS) as cursor, anyio.create_task_group() as tasks:
        rows.append(await cursor.fetchone())
        tasks.start_soon(holder.hold)
        await holder.entered()
        tasks.start_soon(read_on, cursor)
        await anyio.wait_all_tasks_blocked()
        assert len(rows) < 5000
        holder.release()

    assert [number for (number,) in rows] == list(range(1, 5001))


async def test_waiting_statements_and_blocks_run_in_order(conn: rapsqlite.Connection) -> None:
    """Both statements and blocks; no later task overtakes an earlier one."""
    holder = Holder(conn)

    async def statement(number: int) -> None:
        await conn.execute("INSERT INTO t (b) VALUES (?)", [number])

    async def block(number: int) -> None:
        async with conn.transaction():
            await statement(number)
            await anyio.wait_all_tasks_blocked()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(holder.hold)
        await holder.entered()
        for number in range(12):
            tasks.start_soon(block if number % 3 == 0 else statement, number)
            await anyio.wait_all_tasks_blocked()
        holder.release()

    assert await conn.fetch_all("SELECT b FROM t WHERE a > 2 ORDER BY a") == [[number] for number in range(12)]


async def test_raw_begin_is_shared(conn: rapsqlite.Connection) -> None:
    """As in aiosqlite: only blocks belong to a task."""

    async def other() -> None:
        await conn.execute("INSERT INTO t (b) VALUES ('joins')")

    await conn.begin()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
    await conn.rollback()

    assert await conn.fetch_scalar("SELECT count(*) FROM t") == 1


async def test_every_verb_of_a_task_started_inside_a_block_is_refused_immediately(conn: rapsqlite.Connection) -> None:
    """The block waits for the task, and the task would wait for the block."""

    async def child(verb: str) -> None:
        with pytest.raises(rapsqlite.ProgrammingError, match="started inside"):
            await VERBS[verb](conn)
        refused.append(verb)

    refused: list[str] = []
    async with conn.transaction():
        for verb in VERBS:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(child, verb)
        await conn.execute("INSERT INTO t (b) VALUES ('kept')")

    assert refused == list(VERBS)
    assert await conn.fetch_scalar("SELECT count(*) FROM t") == 2


async def test_admitted_children_take_part_in_the_block(conn: rapsqlite.Connection) -> None:
    async def child(number: int) -> None:
        await conn.execute("INSERT INTO t (b) VALUES (?)", [number])

    with pytest.raises(KeyError):  # noqa: PT012 - the block is what is tested
        async with conn.transaction(scope="children"):
            async with anyio.create_task_group() as tasks:
                for number in range(5):
                    tasks.start_soon(child, number)
            assert await conn.fetch_scalar("SELECT count(*) FROM t") == 6
            raise KeyError

    assert await conn.fetch_scalar("SELECT count(*) FROM t") == 1


async def test_admitted_children_run_while_other_tasks_wait(conn: rapsqlite.Connection) -> None:
    go, done = anyio.Event(), anyio.Event()

    async def outsider() -> None:
        await go.wait()
        await conn.execute("INSERT INTO t (b) VALUES ('outsider')")
        done.set()

    async def child() -> None:
        await conn.execute("INSERT INTO t (b) VALUES ('child')")

    async with anyio.create_task_group() as outside:
        outside.start_soon(outsider)
        async with conn.transaction(scope="children"):
            go.set()
            await anyio.wait_all_tasks_blocked()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(child)
            assert not done.is_set()

    assert await conn.fetch_all("SELECT b FROM t WHERE a > 1 ORDER BY a") == [["child"], ["outsider"]]


async def test_savepoints_of_children_do_not_mix(conn: rapsqlite.Connection) -> None:
    """If a sibling's statement joined the newest savepoint, it would be undone with it."""

    async def child(number: int) -> None:
        try:
            async with conn.savepoint():
                await conn.execute("INSERT INTO t (b) VALUES (?)", [number])
                await anyio.lowlevel.checkpoint()
                await conn.execute("INSERT INTO t (b) VALUES (?)", [number])
                if number % 2:
                    raise KeyError
        except KeyError:
            pass

    async with conn.transaction(scope="children"), anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(child, number)

    assert await conn.fetch_all("SELECT b FROM t WHERE a > 1 ORDER BY b") == [[n] for n in (0, 0, 2, 2, 4, 4)]


async def test_scope_of_a_connection_is_the_default_of_its_blocks(database: Path) -> None:
    async with connect(database, isolation_level=None, transaction_scope="connection") as conn:
        await conn.execute(SCHEMA)
        holder = Holder(conn)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(holder.hold)
            await holder.entered()
            await conn.execute("INSERT INTO t (b) VALUES ('joins')")
            holder.release()
        owned = Holder(conn, conn.transaction(scope="task"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(owned.hold)
            await owned.entered()
            with anyio.move_on_after(0.01) as scope:
                await conn.execute("INSERT INTO t (b) VALUES ('waits')")
            owned.release()

    assert scope.cancelled_caught


@pytest.mark.parametrize("wrong", ["tasks", "", 5])
async def test_unknown_scope_is_refused(conn: rapsqlite.Connection, wrong: Any) -> None:
    for make in (conn.transaction, conn.savepoint):
        with pytest.raises(ValueError, match="scope"):
            make(scope=wrong)
    with pytest.raises(ValueError, match="scope"):
        connect(":memory:", transaction_scope=wrong)


async def test_backup_inside_a_block_of_the_same_task_is_refused(
    conn: rapsqlite.Connection,
) -> None:
    async with connect(":memory:") as target, conn.transaction():
        await conn.execute("INSERT INTO t (b) VALUES ('open')")
        with pytest.raises(rapsqlite.OperationalError, match="transaction of this task"):
            await conn.backup(target)
        with pytest.raises(rapsqlite.OperationalError, match="transaction of this task"):
            await conn.serialize()


# -- who ends the wait -----------------------------------------------------------------------------


async def test_cancelled_wait_ends_immediately_and_does_nothing(conn: rapsqlite.Connection) -> None:
    """Except a rollback, which always completes and therefore waits for the block."""
    holder = Holder(conn)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(holder.hold)
        await holder.entered()
        for verb in [verb for verb in VERBS if verb != "rollback"]:
            with anyio.move_on_after(0.01) as scope:
                await VERBS[verb](conn)
            assert scope.cancelled_caught, verb
        holder.release()

    assert not conn.in_transaction
    assert await conn.fetch_all("SELECT b FROM t WHERE a > 1") == [["held to the end"]]


def test_wait_that_is_cancelled_twice_ends(database: Path) -> None:
    async def main() -> None:
        async with connect(database) as conn:
            await conn.execute(SCHEMA)
            await conn.commit()
            async with conn.transaction():
                task = await started_outside(conn)
                task.cancel()
                task.cancel()
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await conn.execute("INSERT INTO t (b) VALUES ('kept')")
            assert await conn.fetch_all("SELECT b FROM t") == [["kept"]]

    async def started_outside(conn: rapsqlite.Connection) -> asyncio.Task[Any]:
        import contextvars

        async def insert() -> None:
            await conn.execute("INSERT INTO t (b) VALUES ('cancelled')")

        task = contextvars.Context().run(asyncio.get_running_loop().create_task, insert())
        await asyncio.sleep(0.01)
        return task

    asyncio.run(main())


async def test_cancelled_rollback_of_another_task_completes_after_the_block(conn: rapsqlite.Connection) -> None:
    holder = Holder(conn, conn.savepoint())
    scopes: list[anyio.CancelScope] = []

    async def roll_back() -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            await conn.rollback()

    await conn.begin()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(holder.hold)
        await holder.entered()
        tasks.start_soon(roll_back)
        await anyio.wait_all_tasks_blocked()
        scopes[0].cancel()
        await anyio.wait_all_tasks_blocked()
        assert conn.in_transaction
        holder.release()

    assert not conn.in_transaction
    assert await conn.fetch_scalar("SELECT count(*) FROM t") == 1


@pytest.mark.parametrize("level", [1, 2])
async def test_cancelling_the_owner_lets_waiting_tasks_continue(conn: rapsqlite.Connection, level: int) -> None:
    scopes = [anyio.CancelScope() for _ in range(level)]  # inside each other
    entered = anyio.Event()

    async def owner() -> None:
        with ExitStack() as stack:
            for scope in scopes:
                stack.enter_context(scope)
            async with conn.transaction():
                await conn.execute("INSERT INTO t (b) VALUES ('undone')")
                entered.set()
                await anyio.sleep_forever()

    async def other() -> None:
        await conn.execute("INSERT INTO t (b) VALUES ('kept')")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(owner)
        await entered.wait()
        tasks.start_soon(other)
        await anyio.wait_all_tasks_blocked()
        for scope in scopes:
            scope.cancel()

    assert await conn.fetch_all("SELECT b FROM t WHERE a > 1") == [["kept"]]


@pytest.mark.parametrize("kind", ["transaction", "savepoint"])
async def test_timeout_bounds_the_wait_for_a_block(conn: rapsqlite.Connection, kind: str) -> None:
    holder = Holder(conn)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(holder.hold)
        await holder.entered()
        with pytest.raises(rapsqlite.OperationalError, match=r"longer than 0\.01 s") as caught:
            async with getattr(conn, kind)(timeout=0.01):
                pytest.fail("the block was entered")
        holder.release()

    assert caught.value.sqlite_errorname == "SQLITE_BUSY"
    async with getattr(conn, kind)(timeout=30):
        await conn.execute("INSERT INTO t (b) VALUES (1)")


async def test_interrupt_ends_waiting_statements(conn: rapsqlite.Connection) -> None:
    holder = Holder(conn)
    errors: list[str] = []

    async def other() -> None:
        with pytest.raises(rapsqlite.OperationalError) as caught:
            await conn.fetch_all("SELECT 1")
        errors.append(caught.value.sqlite_errorname)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(holder.hold)
        await holder.entered()
        tasks.start_soon(other)
        await anyio.wait_all_tasks_blocked()
        await conn.interrupt()
        await anyio.wait_all_tasks_blocked()
        assert errors == ["SQLITE_INTERRUPT"]
        holder.release()


async def test_closing_does_not_wait_for_blocks_and_ends_every_wait(database: Path) -> None:
    conn = await connect(database)
    await conn.execute(SCHEMA)
    await conn.commit()
    errors: list[type[BaseException]] = []
    entered, closed = anyio.Event(), anyio.Event()

    async def owner() -> None:
        with pytest.raises(rapsqlite.ClosedError):  # noqa: PT012 - the block is what is tested
            async with conn.transaction():
                await conn.execute("INSERT INTO t (b) VALUES ('undone')")
                entered.set()
                await closed.wait()

    async def other() -> None:
        with pytest.raises(rapsqlite.Error) as caught:
            await conn.fetch_all("SELECT 1")
        errors.append(caught.type)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(owner)
        await entered.wait()
        tasks.start_soon(other)
        await anyio.wait_all_tasks_blocked()
        await conn.close()
        closed.set()

    assert errors == [rapsqlite.ClosedError] or issubclass(errors[0], rapsqlite.ProgrammingError)
    with closing(sqlite3.connect(database)) as stock:
        assert stock.execute("SELECT count(*) FROM t").fetchone() == (0,)


async def test_block_abandoned_by_its_task_is_open_to_every_task(conn: rapsqlite.Connection) -> None:
    """A fixture enters the block in one task, the test runs in another, and the block is left in a third."""
    block = conn.transaction()

    async def enter() -> None:
        await block.__aenter__()

    async def use() -> None:
        await conn.execute("INSERT INTO t (b) VALUES ('undone')")
        with pytest.raises(rapsqlite.OperationalError, match=r"savepoint\(\)"):
            async with conn.transaction():
                pytest.fail("it was entered")
        async with conn.savepoint():
            await conn.execute("INSERT INTO t (b) VALUES ('undone too')")

    async def leave() -> None:
        await block.__aexit__(KeyError, KeyError(), None)

    for step in (enter, use, leave):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(step)

    assert await conn.fetch_scalar("SELECT count(*) FROM t") == 1


def test_waiting_task_continues_when_the_owner_ends_without_leaving_its_block(database: Path) -> None:
    async def main() -> None:
        async with connect(database) as conn:
            await conn.execute(SCHEMA)
            await conn.commit()
            block = conn.transaction()
            entered, go = asyncio.Event(), asyncio.Event()

            async def enter() -> None:
                await block.__aenter__()
                entered.set()
                await go.wait()

            async def other() -> None:
                await entered.wait()
                await conn.execute("INSERT INTO t (b) VALUES ('joins')")

            tasks = [asyncio.create_task(enter()), asyncio.create_task(other())]
            await entered.wait()
            await asyncio.sleep(0.01)
            go.set()
            await asyncio.gather(*tasks)
            await block.__aexit__(None, None, None)
            assert await conn.fetch_all("SELECT b FROM t") == [["joins"]]

    asyncio.run(main())


async def test_waiting_tasks_of_every_loop_continue_when_the_owner_ends_inside_its_block(
    conn: rapsqlite.Connection,
) -> None:
    block = conn.transaction()
    entered, go = anyio.Event(), anyio.Event()

    async def enter() -> None:
        await block.__aenter__()
        entered.set()
        await go.wait()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(enter)
            await entered.wait()
            tasks.start_soon(conn.execute, "INSERT INTO t (b) VALUES ('joins')")
            await anyio.wait_all_tasks_blocked()
            go.set()
        await block.__aexit__(None, None, None)

    assert await conn.fetch_all("SELECT b FROM t WHERE a > 1") == [["joins"]]


@pytest.mark.parametrize("kind", ["transaction", "savepoint"])
async def test_block_that_ends_while_another_task_begins_to_wait_for_it_lets_that_task_in(
    conn: rapsqlite.Connection, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A finalizer may end it in another thread. That was noted, but only a later request let the task in."""
    holder, hold_back = conn.transaction(), RequestQueue._hold_back
    is_held, is_over = anyio.Event(), anyio.Event()

    def end_meanwhile(queue: RequestQueue, pending: PendingRequest, loop: Loop) -> bool:
        held = hold_back(queue, pending, loop)
        if held:
            finalizer = threading.Thread(target=holder._block.abandon)
            finalizer.start()
            finalizer.join()
        return held

    async def hold() -> None:
        await holder.__aenter__()
        is_held.set()
        await is_over.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold)
        await is_held.wait()
        monkeypatch.setattr(RequestQueue, "_hold_back", end_meanwhile)
        with anyio.fail_after(30):
            async with conn.transaction() if kind == "transaction" else conn.savepoint():
                await conn.execute("INSERT INTO t (b) VALUES ('after it')")
        is_over.set()

    assert await conn.fetch_scalar("SELECT count(*) FROM t") == 2


@pytest.mark.parametrize(
    "name, value", [("isolation_level", None), ("autocommit", True), ("autocommit", False)], ids=str
)
async def test_setting_of_another_task_that_would_commit_a_block_is_refused(
    database: Path, name: str, value: Any
) -> None:
    """The owner's next statement used to apply it, which committed half of the block."""
    async with connect(database) as conn:
        await conn.execute(SCHEMA)
        await conn.commit()
        holder = Holder(conn)
        before = getattr(conn, name)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(holder.hold)
            await holder.entered()
            with pytest.raises(rapsqlite.ProgrammingError, match="would commit it"):
                setattr(conn, name, value)
            assert getattr(conn, name) == before
            conn.isolation_level = "IMMEDIATE"
            holder.release()
        setattr(conn, name, value)
        assert await conn.fetch_all("SELECT b FROM t") == [["held to the end"]]


def held_in_a_loop_that_is_closed(database: Path) -> rapsqlite.Connection:
    """Return a connection with an open block whose task waits for ever."""
    loop = asyncio.new_event_loop()
    conn = loop.run_until_complete(opened(database))
    entered = asyncio.Event()

    async def hold() -> None:
        async with conn.transaction():
            await conn.execute("INSERT INTO t (b) VALUES ('undone')")
            entered.set()
            await loop.create_future()

    task = loop.create_task(hold())
    loop.run_until_complete(entered.wait())
    loop.close()
    assert not task.done()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    return conn


def test_closing_the_owners_loop_lets_other_loops_continue(database: Path) -> None:
    """Its task never ends: it is collected, and takes its transaction with it."""
    conn = held_in_a_loop_that_is_closed(database)
    gc.collect()

    async def go_on() -> None:
        await asyncio.wait_for(conn.execute("INSERT INTO t (b) VALUES ('kept')"), 20)
        await conn.commit()
        assert await conn.fetch_all("SELECT b FROM t") == [["kept"]]
        await conn.close()

    asyncio.run(go_on())


async def opened(database: Path) -> rapsqlite.Connection:
    conn = await connect(database)
    await conn.execute(SCHEMA)
    await conn.commit()
    return conn


def test_loops_of_several_threads_wait_for_the_blocks_of_each_other(database: Path) -> None:
    conn = asyncio.run(opened(database))
    errors: list[BaseException] = []

    async def work(name: str) -> None:
        for number in range(25):
            if number % 3 == 0:
                await conn.execute("UPDATE t SET b = b + 1")
                continue
            async with conn.transaction():
                value = await conn.fetch_scalar("SELECT b FROM t")
                await asyncio.sleep(0)
                await conn.execute("UPDATE t SET b = ?", [value + 1])

    def run(name: str) -> None:
        try:
            asyncio.run(work(name))
        except BaseException as error:  # noqa: BLE001 - it is raised below
            errors.append(error)

    async def prepare() -> None:
        conn.isolation_level = None
        await conn.execute("INSERT INTO t (b) VALUES (0)")

    asyncio.run(prepare())
    threads = [threading.Thread(target=run, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def check() -> int:
        total: int = await conn.fetch_scalar("SELECT b FROM t")
        await conn.close()
        return total

    assert not errors
    assert asyncio.run(check()) == 75


# -- read, then write ------------------------------------------------------------------------------


async def test_write_on_an_old_snapshot_fails_with_advice(database: Path) -> None:
    async with connect(database, pragmas={"journal_mode": "wal"}) as first, connect(database) as second:
        await first.execute(SCHEMA)
        await first.commit()
        async with first.transaction():
            await first.fetch_all("SELECT * FROM t")
            await second.execute("INSERT INTO t (b) VALUES (1)")
            await second.commit()
            with pytest.raises(rapsqlite.OperationalError, match=r"is locked.*transaction\('IMMEDIATE'\)") as caught:
                await first.execute("INSERT INTO t (b) VALUES (2)")

        assert caught.value.sqlite_errorname == "SQLITE_BUSY_SNAPSHOT"


async def test_transaction_mode_of_a_connection_is_the_default_of_its_transactions(database: Path) -> None:
    async with connect(database, transaction_mode="IMMEDIATE") as first, connect(database, timeout=0.01) as second:
        async with first.transaction():
            with pytest.raises(rapsqlite.OperationalError, match="locked"):
                await second.begin("IMMEDIATE")
        async with first.transaction("DEFERRED"):
            await second.begin("IMMEDIATE")
            await second.rollback()
        await first.begin()
        with pytest.raises(rapsqlite.OperationalError, match="locked"):
            await second.begin("IMMEDIATE")
        await first.rollback()
    with pytest.raises(ValueError, match="mode"):
        connect(database, transaction_mode="SOMETIMES")  # type: ignore[arg-type]
