"""Callbacks that do not return: they are interrupted if Python can do so, otherwise abandoned; nothing hangs."""

from __future__ import annotations

import sqlite3
import textwrap
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import rapsqlite
from rapsqlite import _constants as abi
from rapsqlite._guest.escalation import Escalation
from rapsqlite._wasm.rings import Request
from tests.callbacks.lingering import Blocked, Endless, impatient, impatient_once, started
from tests.played_time import LATE_S, play_time_limits
from tests.programs import run_python

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite._guest.request import PendingRequest

ROOT = Path(__file__).resolve().parents[2]
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT f(i) + 1 FROM n) SELECT count(*) FROM n"


async def cancelled_while_in(
    callback: Endless | Blocked, operation: Callable[[], Any], *, let_go: threading.Event | None = None
) -> None:
    """Run an operation and cancel it once its callback runs, then set ``let_go``; return when its task has ended."""
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            with scope:
                await operation()
            assert scope.cancelled_caught

        scope = anyio.CancelScope()
        tasks.start_soon(run)
        await started(callback)
        scope.cancel()
        if let_go is not None:
            await anyio.wait_all_tasks_blocked()
            let_go.set()


def twice_forced(conn: rapsqlite.Connection) -> anyio.Event:
    """Return an event that is set once a grace period has expired twice."""
    queue = conn._state.guest._queue
    force_answer, forced = queue.force_answer, anyio.Event()

    def force(pending: PendingRequest) -> None:
        force_answer(pending)
        if pending.timeouts == 2:
            forced.set()

    queue.force_answer = force
    return forced


async def test_cancellation_ends_an_endless_function_and_the_connection_stays_usable() -> None:
    async with rapsqlite.connect(":memory:") as conn:
        impatient_once(conn)
        endless = Endless()
        await conn.create_function("f", 0, endless)
        await conn.create_function("g", 1, lambda value: value)

        await cancelled_while_in(endless, lambda: conn.fetch_scalar("SELECT f()"))

        assert await conn.fetch_all("SELECT g(value) FROM json_each('[1, 2, 3]')") == [[1], [2], [3]]


@pytest.mark.parametrize("sql", [ENDLESS, "SELECT f(id) FROM t", "INSERT INTO t (a) SELECT f(id) FROM t"])
@pytest.mark.parametrize("deterministic", [False, True])
async def test_cancelled_statement_calls_its_function_no_more(sql: str, deterministic: bool) -> None:
    """SQLite itself would notice the cancellation only hundreds of rows later."""
    blocked, calls = Blocked(1), 0

    def f(value: int) -> int:
        nonlocal calls
        calls += 1
        blocked()
        return value

    async with rapsqlite.connect(":memory:", isolation_level=None) as conn:
        await conn.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
        await conn.executemany("INSERT INTO t (a) VALUES (?)", [(0,)] * 30)
        await conn.create_function("f", 1, f, deterministic=deterministic)
        await cancelled_while_in(blocked, lambda: conn.fetch_all(sql), let_go=blocked.let_go)

        assert calls == 1
        assert await conn.fetch_scalar("SELECT count(*) FROM t") == 30


async def test_cancelled_statement_asks_its_window_function_for_no_more_values() -> None:
    blocked, values = Blocked(1), 0

    class Window:
        def step(self, value: int) -> None:
            """Keep nothing."""

        inverse = step

        def value(self) -> int:
            nonlocal values
            values += 1
            return blocked()

        def finalize(self) -> int:
            return 1

    rows = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n LIMIT 30)"
    async with rapsqlite.connect(":memory:", isolation_level=None) as conn:
        await conn.create_window_function("w", 1, Window)
        sql = f"{rows} SELECT w(i) OVER (ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM n"
        await cancelled_while_in(blocked, lambda: conn.fetch_all(sql), let_go=blocked.let_go)

        assert values == 1
        assert await conn.fetch_scalar("SELECT 1") == 1


@pytest.mark.parametrize("method", ["step", "finalize", "__init__"])
async def test_cancellation_ends_every_endless_method_of_an_aggregate(method: str) -> None:
    endless = Endless()
    methods = {"step": lambda _self, _value: None, "finalize": lambda _self: 0, method: endless}
    async with rapsqlite.connect(":memory:") as conn:
        impatient_once(conn)
        await conn.create_aggregate("f", 1, type("Aggregate", (), methods))

        await cancelled_while_in(endless, lambda: conn.fetch_scalar("SELECT f(1)"))

        assert await conn.fetch_scalar("SELECT 1") == 1


async def test_interrupt_ends_an_endless_function_with_a_clear_exception() -> None:
    async with rapsqlite.connect(":memory:") as conn, anyio.create_task_group() as tasks:
        impatient_once(conn)
        endless = Endless()
        await conn.create_function("f", 0, endless)

        async def interrupt() -> None:
            await started(endless)
            await conn.interrupt()

        tasks.start_soon(interrupt)
        with pytest.raises(rapsqlite.OperationalError) as caught:
            await conn.fetch_scalar("SELECT f()")

        assert type(caught.value.__cause__).__name__ == "CallbackInterrupted"
        assert await conn.fetch_scalar("SELECT 1") == 1


async def test_callback_that_returns_in_time_is_not_interrupted() -> None:
    async with rapsqlite.connect(":memory:") as conn, anyio.create_task_group() as tasks:
        blocked = Blocked(1)
        await conn.create_function("f", 0, blocked)

        async def interrupt() -> None:
            await started(blocked)
            await conn.interrupt()
            blocked.let_go.set()

        tasks.start_soon(interrupt)
        # It was the statement's last step.
        assert await conn.fetch_scalar("SELECT f()") == 1


async def test_uninterruptible_callback_costs_only_its_connection(database: Path) -> None:
    """The task ends, the locks are released, closing does not hang, and the thread ends once the callback returns."""
    blocked = Blocked(1)
    conn = await rapsqlite.connect(database)
    await conn.execute("CREATE TABLE t (a)")
    await conn.commit()
    impatient(conn)
    await conn.create_function("f", 0, blocked)

    await cancelled_while_in(blocked, lambda: conn.execute("INSERT INTO t SELECT f()"))

    with pytest.raises(rapsqlite.OperationalError, match="a callback of its statement has not returned"):
        await conn.fetch_scalar("SELECT 1")
    assert not conn.is_alive()
    with closing(sqlite3.connect(database, timeout=30)) as other, other:
        assert other.execute("SELECT * FROM t").fetchall() == []
        other.execute("INSERT INTO t VALUES (1)")
    guest = conn._state.guest
    await conn.close()
    assert guest.is_running()
    blocked.let_go.set()
    await anyio.to_thread.run_sync(guest.join, 30)
    assert not guest.is_running()
    async with rapsqlite.connect(database) as again:
        assert await again.fetch_all("SELECT * FROM t") == [[1]]
        assert await again.fetch_scalar("PRAGMA integrity_check") == "ok"


async def test_callback_that_the_time_limit_interrupted_has_time_to_end_although_its_task_is_cancelled() -> None:
    """The task gave the connection up a moment after the watchdog had interrupted the callback."""
    blocked = Blocked(1)
    async with rapsqlite.connect(":memory:") as conn:
        impatient(conn)
        await conn.create_function("f", 0, blocked)
        guest = conn._state.guest
        force_answer = guest._queue.force_answer

        def force_after_the_watchdog(pending: PendingRequest) -> None:
            guest._queue.grace_period_s = LATE_S
            guest._escalation.end_callback(pending)
            force_answer(pending)
            blocked.let_go.set()

        guest._queue.force_answer = force_after_the_watchdog
        await cancelled_while_in(blocked, lambda: conn.fetch_scalar("SELECT f()"))

        assert await conn.fetch_scalar("SELECT 1") == 1


async def test_error_of_a_connection_that_was_given_up_does_not_grow() -> None:
    """Every use raised the same exception, whose traceback kept the frames of all of them."""
    blocked = Blocked(1)
    conn = await rapsqlite.connect(":memory:")
    impatient(conn)
    await conn.create_function("f", 0, blocked)
    await cancelled_while_in(blocked, lambda: conn.fetch_scalar("SELECT f()"))

    lengths = []
    for _ in range(3):
        with pytest.raises(rapsqlite.OperationalError, match="has not returned") as caught:
            await conn.fetch_scalar("SELECT 1")
        lengths.append(len(caught.traceback))
    blocked.let_go.set()
    await conn.close()

    assert len(set(lengths)) == 1


async def test_cancelled_rollback_waits_for_the_callback_of_another_tasks_statement() -> None:
    """Nobody has cancelled that statement, however long the rollback behind it has to wait."""
    blocked = Blocked(1)
    async with rapsqlite.connect(":memory:") as conn, anyio.create_task_group() as tasks:
        impatient(conn)
        await conn.create_function("f", 0, blocked)
        forced = twice_forced(conn)
        results: list[int] = []

        async def select() -> None:
            results.append(await conn.fetch_scalar("SELECT f()"))

        async def roll_back() -> None:
            with scope:
                await conn.rollback()

        scope = anyio.CancelScope()
        tasks.start_soon(select)
        await started(blocked)
        tasks.start_soon(roll_back)
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
        await forced.wait()
        blocked.let_go.set()

    assert results == [1]


async def test_cancelled_rollback_ends_the_callback_of_an_abandoned_statement() -> None:
    """Nothing else would: no task waits for that statement."""
    endless = Endless()
    async with rapsqlite.connect(":memory:") as conn:
        impatient_once(conn)
        await conn.create_function("f", 0, endless)
        guest = conn._state.guest
        abandoned = guest.unsent(Request(abi.OP_FETCH, b"SELECT f()"))
        guest.submit(abandoned)
        await started(endless)
        guest.abandon(abandoned)

        with anyio.CancelScope() as scope:
            scope.cancel()
            await conn.rollback()

        assert await conn.fetch_scalar("SELECT 1") == 1


async def test_time_in_callbacks_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if a callback runs whenever the watchdog looks."""
    clock = play_time_limits(monkeypatch)
    async with rapsqlite.connect(":memory:", limits={"statement_seconds": 0.05}) as conn:
        queue = conn._state.guest._queue
        queue.grace_period_s = LATE_S
        calls, looked, running = 0, threading.Semaphore(0), queue.running

        def look() -> PendingRequest | None:
            try:
                return running()
            finally:
                looked.release()

        def wait_for_a_look(value: int) -> int:
            nonlocal calls
            calls += 1
            assert calls < 1000
            looked.acquire(timeout=30)
            looked.acquire(timeout=30)  # the first one may have begun before this call
            return value

        monkeypatch.setattr(queue, "running", look)
        await conn.create_function("f", 1, wait_for_a_look)

        with clock.running(), pytest.raises(rapsqlite.DataError, match="statement_seconds"):
            await conn.fetch_all(ENDLESS)

        assert await conn.fetch_scalar("SELECT 1") == 1


async def test_callback_beyond_the_time_limit_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = play_time_limits(monkeypatch)
    end_callback = Escalation.end_callback

    def end_patiently(escalation: Escalation, pending: PendingRequest) -> bool:
        escalation._queue.grace_period_s = LATE_S
        return end_callback(escalation, pending)

    monkeypatch.setattr(Escalation, "end_callback", end_patiently)
    async with rapsqlite.connect(":memory:", limits={"statement_seconds": 0.05}) as conn:
        impatient(conn)
        await conn.create_function("f", 0, Endless())

        with clock.running(), pytest.raises(rapsqlite.DataError, match="statement_seconds") as caught:
            await conn.fetch_scalar("SELECT f()")

        assert type(caught.value.__cause__).__name__ == "CallbackInterrupted"
        assert await conn.fetch_scalar("SELECT 1") == 1


async def test_uninterruptible_callback_beyond_the_time_limit_costs_only_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = play_time_limits(monkeypatch)
    blocked = Blocked(1)
    others = set(threading.enumerate())
    conn = await rapsqlite.connect(":memory:", limits={"statement_seconds": 0.05})
    (watchdog,) = (each for each in set(threading.enumerate()) - others if "watchdog" in each.name)
    impatient(conn)
    await conn.create_function("f", 0, blocked)

    with clock.running(), pytest.raises(rapsqlite.OperationalError, match="a callback of its statement"):
        await conn.fetch_scalar("SELECT f()")

    await anyio.to_thread.run_sync(watchdog.join, 30)
    assert not watchdog.is_alive()  # although the callback has not returned
    blocked.let_go.set()
    await conn.close()


@pytest.mark.parametrize("step", ["f(i)", "i"], ids=["callback", "SQL"])
async def test_statement_is_told_that_it_is_overdue_before_it_is_forced(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a pause of the whole process, the watchdog sees the limit and the grace period exceeded at once."""
    clock = play_time_limits(monkeypatch)
    blocked, looks = Blocked(1), 0
    async with rapsqlite.connect(":memory:", limits={"statement_seconds": 0.05}) as conn:
        queue = conn._state.guest._queue
        look = queue.running

        def look_after_a_pause() -> PendingRequest | None:
            nonlocal looks
            running = look()
            if running is not None and (step == "i" or queue.host.callbacks.thread):
                looks += 1
                if looks == 2:
                    clock.leap()
                if looks == 3:
                    blocked.let_go.set()
            return running

        await conn.create_function("f", 1, blocked)
        monkeypatch.setattr(queue, "running", look_after_a_pause)

        with pytest.raises(rapsqlite.DataError, match="statement_seconds") as caught:
            await conn.fetch_all(ENDLESS.replace("f(i)", step))

        assert caught.value.__cause__ is None
        assert await conn.fetch_scalar("SELECT 1") == 1


async def test_time_in_a_busy_handler_does_not_count(monkeypatch: pytest.MonkeyPatch, database: Path) -> None:
    """It waits for a lock."""
    clock = play_time_limits(monkeypatch)
    async with rapsqlite.connect(database, limits={"statement_seconds": 0.05}) as conn:
        looks, looked, running = 0, threading.Event(), conn._state.guest._queue.running

        def look() -> PendingRequest | None:
            nonlocal looks
            looks += 1
            if looks > 20:
                looked.set()
            return running()

        def wait(_attempt: int) -> bool:
            nonlocal looks
            looks = 0
            looked.wait(30)
            native.rollback()
            return True

        await conn.execute("CREATE TABLE t (a)")
        await conn.commit()
        await conn.set_busy_handler(wait)
        with closing(sqlite3.connect(database, check_same_thread=False)) as native:
            native.execute("BEGIN EXCLUSIVE")
            monkeypatch.setattr(conn._state.guest._queue, "running", look)
            with clock.running():
                assert await conn.fetch_all("SELECT * FROM t") == []


async def test_stop_does_not_wait_for_an_endless_callback() -> None:
    conn = await rapsqlite.connect(":memory:")
    impatient_once(conn)
    endless = Endless()
    await conn.create_function("f", 0, endless)
    guest = conn._state.guest
    async with anyio.create_task_group() as tasks:

        async def ask() -> None:
            with pytest.raises(rapsqlite.Error):
                await conn.fetch_scalar("SELECT f()")

        tasks.start_soon(ask)
        await started(endless)
        ending = conn.stop()
        assert ending is not None
        await ending
    await anyio.to_thread.run_sync(guest.join, 30)
    assert not guest.is_running()


BLOCKS = {"sleep": "time.sleep(3600)", "loop": "\n        while True: pass", "lock": "threading.Event().wait()"}


@pytest.mark.parametrize("block", sorted(BLOCKS))
@pytest.mark.parametrize("closes", [False, True], ids=["open", "cancelled"])
def test_interpreter_exits_while_a_callback_runs(block: str, closes: bool) -> None:
    program = f"""
    import asyncio, threading, time, warnings
    import rapsqlite, rapsqlite._guest.registry
    warnings.simplefilter("ignore")
    rapsqlite._guest.registry._JOIN_S = 0.5
    begun = threading.Event()
    def block():
        begun.set()
        {BLOCKS[block]}
    async def main():
        conn = await rapsqlite.connect(":memory:")
        conn._state.guest._queue.grace_period_s = 0.1
        await conn.create_function("f", 0, block)
        task = asyncio.ensure_future(conn.fetch_scalar("SELECT f()"))
        while not begun.is_set():
            await asyncio.sleep(0.01)
        if {closes}:
            task.cancel()
            await asyncio.wait([task])
            await conn.close()
            print("closed")
            return
        print("leaving")
        raise SystemExit(0)
    try:
        asyncio.run(main())  # wait_for would tell of the SystemExit that it swallows
    except SystemExit:
        pass
    """
    done = run_python("-c", textwrap.dedent(program), cwd=ROOT)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout in ("closed\n", "leaving\n")


TRACED = """
import asyncio, sys, threading
import rapsqlite
from tests.callbacks.lingering import Endless, impatient_once

async def main():
    async with rapsqlite.connect(":memory:") as conn:
        impatient_once(conn)
        endless = Endless()
        await conn.create_function("f", 0, endless)
        task = asyncio.create_task(conn.fetch_scalar("SELECT f()"))
        await asyncio.to_thread(endless.started.wait)
        task.cancel()
        await asyncio.wait([task])

asyncio.run(main())
calls = []
sys.settrace(lambda frame, event, _: calls.append(event))
print(threading.current_thread().name)
sys.settrace(None)
assert calls
"""


def test_programs_can_be_traced_after_an_interrupted_callback() -> None:
    """The interrupt left a mark behind, with which CPython 3.11 entered a traced function again and again, for ever."""
    done = run_python("-W", "error", "-c", TRACED, cwd=ROOT)

    assert (done.returncode, done.stdout, done.stderr) == (0, "MainThread\n", "")
