"""A task, or the task that started it, has what it waits for: an error says so, and closing never waits for oneself."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import sys
import threading
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import rapsqlite
from rapsqlite import Pool, PoolTimeout, create_pool
from rapsqlite import pool as pool_module

if TYPE_CHECKING:
    from pathlib import Path


# -- waiting for the writer in a child task ----------------------------------------------------------


@pytest.mark.parametrize("read_only", [False, True], ids=["writer", "readers"])
async def test_timeout_in_a_child_task_says_that_its_parent_has_the_connection(wal: Path, read_only: bool) -> None:
    """Whether the parent waits for its child cannot be known, so this is no error before the time is over."""

    async def child(pool: Pool) -> None:
        with pytest.raises(
            PoolTimeout,
            match=r"a task that started this one has .* acquired at .*test_waiting_for_oneself\.py:\d+\. If it wai",
        ):
            await pool.acquire(read_only=read_only, timeout=0.01)

    async with (
        create_pool(wal, max_size=2) as pool,
        pool.acquire(read_only=read_only),
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(child, pool)


async def test_child_task_whose_parent_goes_on_gets_the_writer(pool: Pool) -> None:
    async def child() -> None:
        await pool.execute("INSERT INTO t VALUES ('of the child')")

    async with anyio.create_task_group() as tasks, pool.transaction() as conn:
        tasks.start_soon(child)
        await anyio.wait_all_tasks_blocked()
        await conn.execute("INSERT INTO t VALUES ('of the parent')")

    assert await pool.fetch_all("SELECT a FROM t") == [["of the parent"], ["of the child"]]


async def test_timeout_in_a_task_that_nobodys_connection_was_inherited_by_blames_no_parent(pool: Pool) -> None:
    """Also a task that was started while its parent had a connection which it has returned since."""
    returned = anyio.Event()

    async def child() -> None:
        await returned.wait()
        with pytest.raises(PoolTimeout, match="timed out") as caught:
            await pool.acquire(timeout=0.01)
        assert "started this one" not in str(caught.value)
        done.set()

    async def hold() -> None:
        async with pool.acquire():
            returned.set()
            await done.wait()

    done = anyio.Event()
    async with anyio.create_task_group() as tasks:
        async with pool.acquire():
            tasks.start_soon(child)
            await anyio.wait_all_tasks_blocked()
        tasks.start_soon(hold)


async def test_reset_hook_that_needs_the_connection_that_it_resets_is_refused(wal: Path) -> None:
    async def reset(conn: rapsqlite.Connection) -> None:
        with pytest.raises(rapsqlite.ProgrammingError, match="would wait for itself"):
            await pools[0].execute("INSERT INTO t VALUES (1)")

    pools: list[Pool] = []
    async with create_pool(wal, reset=reset, max_size=1) as pool:
        pools.append(pool)
        await pool.execute("INSERT INTO t VALUES (2)")
        assert await pool.fetch_all("SELECT a FROM t") == [[2]]


@pytest.mark.parametrize("read_only", [False, True], ids=["writer", "readers"])
async def test_check_hook_that_needs_the_connection_that_it_checks_is_refused(wal: Path, read_only: bool) -> None:
    """The task has it already, although it is not lent yet."""

    async def check(conn: rapsqlite.Connection) -> None:
        async with pools[0].acquire(read_only=read_only):
            pass

    pools: list[Pool] = []
    async with create_pool(wal, check=check, max_size=2, acquire_timeout=None) as pool:
        pools.append(pool)
        with anyio.fail_after(50), pytest.raises(rapsqlite.ProgrammingError, match="would wait for itself"):
            await pool.acquire(read_only=read_only)


@pytest.mark.parametrize("number", [1, 2], ids=["first", "later"])
@pytest.mark.parametrize("opens", ["wait_ready", "acquire"])
async def test_init_hook_that_needs_the_connection_that_it_prepares_is_refused(
    wal: Path, number: int, opens: str
) -> None:
    """The pool's first connection must be open before it can lend any."""

    async def hook(conn: rapsqlite.Connection) -> None:
        prepared.append(conn)
        if len(prepared) == number:
            await pools[0].fetch_scalar("SELECT 1")

    prepared: list[rapsqlite.Connection] = []
    pools = [create_pool(wal, init_hook=hook, min_size=2, max_size=2, acquire_timeout=None)]
    with anyio.fail_after(50), pytest.raises(rapsqlite.ProgrammingError, match="would wait for itself"):
        await (pools[0].wait_ready() if opens == "wait_ready" else pools[0].acquire(read_only=True))
    await pools[0].aclose()


# -- closing while a connection is out ---------------------------------------------------------------


async def test_closing_in_a_task_that_has_a_connection_is_refused_immediately(pool: Pool) -> None:
    async with pool.acquire() as conn:
        await conn.execute("INSERT INTO t VALUES ('kept')")
        with pytest.raises(
            rapsqlite.ProgrammingError, match=r"would wait for itself.* acquired at .*test_waiting_for_oneself\.py:\d+"
        ):
            await pool.aclose()

    assert await pool.fetch_all("SELECT a FROM t") == [["kept"]]


async def leave_acquired(pool: Pool) -> object:
    return await pool.acquire()


async def leave_a_stream(pool: Pool) -> object:
    rows = pool.stream("SELECT 1 UNION ALL SELECT 2")
    await anext(aiter(rows))
    return rows


@pytest.mark.parametrize("leave", [leave_acquired, leave_a_stream])
async def test_failed_pool_block_raises_its_error_although_its_task_left_a_connection_out(
    wal: Path, leave: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody will return it, so nothing is waited for."""
    monkeypatch.setattr(pool_module, "_CLOSING_S", 3600)
    kept = []

    async def fail() -> None:
        async with create_pool(wal) as pool:
            kept.append(await leave(pool))
            raise KeyError

    with (
        anyio.fail_after(50),
        pytest.raises(KeyError),
        pytest.warns(ResourceWarning, match=r"acquired at .*test_waiting_for_oneself\.py:\d+"),
    ):
        await fail()
    with pytest.raises(rapsqlite.Error):
        await (kept[0].fetch_all("SELECT 1") if leave is leave_acquired else anext(kept[0]))


async def test_pool_block_whose_task_left_a_connection_out_ends(wal: Path) -> None:
    with anyio.fail_after(50), pytest.warns(ResourceWarning, match="connections still out"):
        async with create_pool(wal) as pool:
            conn = await pool.acquire()
    assert not conn.is_alive()


async def in_a_task_that_ends(pool: Pool, start: Any) -> Any:
    """Return what ``start(pool)`` returned in another task, like `asyncio.wait_for` of Python 3.11."""
    results = []

    async def run() -> None:
        results.append(await awaitable)

    awaitable = start(pool)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
    return results[0]


async def acquire_in_a_task_that_ends(pool: Pool) -> object:
    return await in_a_task_that_ends(pool, Pool.acquire)


@pytest.mark.parametrize("leave", [acquire_in_a_task_that_ends, leave_a_stream])
async def test_closing_in_a_task_that_has_a_stream_or_what_an_ended_task_acquired_for_it_is_refused(
    pool: Pool, leave: Any
) -> None:
    kept = await leave(pool)
    match = r"would wait for itself.*test_waiting_for_oneself\.py:\d+"
    with anyio.fail_after(50), pytest.raises(rapsqlite.ProgrammingError, match=match):
        await pool.aclose()
    await (pool.release(kept) if leave is acquire_in_a_task_that_ends else kept.aclose())
    await pool.aclose()


async def test_closing_by_wait_for_in_a_task_that_has_a_connection_ends(pool: Pool, anyio_backend_name: str) -> None:
    """Before Python 3.12 `asyncio.wait_for` closes it in a task of its own, which cannot know that its caller waits."""
    if anyio_backend_name == "trio":
        pytest.skip("a function of asyncio")
    conn = await pool.acquire()
    if sys.version_info >= (3, 12):
        with pytest.raises(rapsqlite.ProgrammingError, match="would wait for itself"):
            await asyncio.wait_for(pool.aclose(), 50)
        await pool.release(conn)
        return
    with (
        pytest.warns(ResourceWarning, match=r"still out, acquired at .*test_waiting_for_oneself\.py:\d+"),
        pytest.raises(asyncio.TimeoutError),
    ):
        await asyncio.wait_for(pool.aclose(), 0.01)
    with pytest.raises(rapsqlite.PoolClosed):
        await pool.acquire()
    assert not conn.is_alive()


@pytest.mark.parametrize("starts_in", ["this task", "the ended task"])
@pytest.mark.parametrize("leave", [acquire_in_a_task_that_ends, leave_a_stream])
async def test_pool_block_whose_connection_nobody_else_has_ends(
    wal: Path, leave: Any, starts_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another task might still return it, but only if it was passed on."""
    monkeypatch.setattr(pool_module, "_CLOSING_S", 0.01)
    with anyio.fail_after(50), pytest.warns(ResourceWarning, match="connections still out"):
        async with create_pool(wal) as pool:
            kept = await (leave(pool) if starts_in == "this task" else in_a_task_that_ends(pool, leave))
    with pytest.raises(rapsqlite.Error):
        await (anext(kept) if leave is leave_a_stream else kept.fetch_all("SELECT 1"))


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of Trio, for an async generator that is dropped
async def test_pool_closes_after_a_stream_that_was_left_early(wal: Path) -> None:
    """It ends by itself soon, in another task on some event loops."""
    pool = await create_pool(wal)
    async for _ in pool.stream("SELECT 1 UNION ALL SELECT 2"):
        break
    with anyio.fail_after(50):
        await pool.aclose()


@pytest.mark.parametrize("returns", [True, False], ids=["returned in time", "kept"])
async def test_failed_pool_block_waits_for_other_tasks_for_a_limited_time(
    wal: Path, returns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_CLOSING_S", 3600 if returns else 0.01)
    has_failed = anyio.Event()

    async def other(pool: Pool, *, task_status: Any) -> None:
        conn = await pool.acquire()
        task_status.started()
        await has_failed.wait()
        if returns:
            await conn.execute("INSERT INTO t VALUES ('kept')")
            await conn.commit()
            await pool.release(conn)

    async def fail(tasks: Any) -> None:
        async with create_pool(wal) as pool:
            await tasks.start(other, pool)
            if returns:
                has_failed.set()
            raise KeyError

    async with anyio.create_task_group() as tasks:
        warning = nullcontext() if returns else pytest.warns(ResourceWarning, match="connections still out")
        with anyio.fail_after(50), pytest.raises(KeyError), warning:
            await fail(tasks)
        has_failed.set()

    with closing(sqlite3.connect(wal)) as stock:
        assert stock.execute("SELECT a FROM t").fetchall() == ([("kept",)] if returns else [])


async def test_cancelled_pool_block_with_a_connection_out_ends(wal: Path) -> None:
    kept = []

    async def be_cancelled() -> None:
        with anyio.CancelScope() as scope:
            async with create_pool(wal) as pool:
                kept.append(await pool.acquire())
                scope.cancel()
                await anyio.sleep_forever()

    with anyio.fail_after(50), pytest.warns(ResourceWarning, match="connections still out"):
        await be_cancelled()
    assert not kept[0].is_alive()


# -- other loops and threads -------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["asyncio", "trio"])
async def test_returning_and_closing_in_another_event_loop_is_refused(pool: Pool, inside: str) -> None:
    """Waiting tasks would have to be woken in a thread that is not theirs."""
    conn = await pool.acquire()
    errors: list[BaseException] = []

    async def use() -> None:
        for act in (lambda: pool.release(conn), pool.aclose, lambda: pool.fetch_all("SELECT 1")):
            with pytest.raises(rapsqlite.ProgrammingError, match="another event loop") as caught:
                await act()
            errors.append(caught.value)

    thread = threading.Thread(target=lambda: anyio.run(use, backend=inside))
    thread.start()
    await anyio.to_thread.run_sync(thread.join)

    assert len(errors) == 3
    assert await conn.fetch_scalar("SELECT 1") == 1
    await pool.release(conn)
    assert pool.statistics()["idle"] == 1


async def test_pool_block_that_the_collector_ends_in_another_thread_closes_the_pool_in_its_loop(
    wal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting tasks can be woken there only."""
    pool = await create_pool(wal)
    abandon = pool._abandon
    threads = []
    is_closed = anyio.Event()

    def note_thread() -> None:
        threads.append(threading.get_ident())
        if threads[-1] == here:
            abandon()
            is_closed.set()

    def end_block() -> None:
        with pytest.raises(StopIteration):
            pool.__aexit__(GeneratorExit, None, None).send(None)

    here = threading.get_ident()
    monkeypatch.setattr(pool, "_abandon", note_thread)
    thread = threading.Thread(target=end_block)
    thread.start()
    await anyio.to_thread.run_sync(thread.join)
    with anyio.fail_after(50):
        await is_closed.wait()

    assert set(threads) == {here}
    with pytest.raises(rapsqlite.PoolClosed):
        await pool.acquire()


@pytest.mark.parametrize("value", [None, "a connection", 5])
async def test_returning_something_else_is_refused(pool: Pool, value: Any) -> None:
    """A clear error rather than an AttributeError from within the pool."""
    with pytest.raises(rapsqlite.ProgrammingError, match="belongs to another pool"):
        await pool.release(value)


# -- hooks that never end ----------------------------------------------------------------------------


async def hang(_: rapsqlite.Connection) -> None:
    await anyio.sleep_forever()


@pytest.mark.parametrize("hook", ["init_hook", "check"])
async def test_hook_that_hangs_ends_with_the_time_limit_of_the_task_that_waits(wal: Path, hook: str) -> None:
    async with create_pool(wal, acquire_timeout=50) as pool:
        pool._options["init_hook"] = hang if hook == "init_hook" else None
        pool._check = hang if hook == "check" else None
        await pool.drain()
        for _ in range(3):
            with pytest.raises(PoolTimeout):
                await pool.acquire(timeout=0.01)
        pool._options["init_hook"] = pool._check = None

        assert await pool.fetch_all("SELECT 1") == [[1]]
        assert pool.statistics()["size"] == 1


async def test_reset_hook_that_hangs_ends_and_its_connection_is_replaced(
    wal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Returning is shielded from cancellation, so nothing else would end it."""
    monkeypatch.setattr(pool_module, "_RESETTING_S", 0.01)
    async with create_pool(wal, reset=hang, max_size=1) as pool:
        with anyio.fail_after(50):
            assert await pool.fetch_all("SELECT 1") == [[1]]
        assert pool.statistics()["replaced"] == 1
        assert pool.statistics()["size"] == 0


@pytest.mark.parametrize("closes", [False, True], ids=["check raises", "init_hook closes"])
async def test_new_connection_that_is_never_usable_is_an_error_not_an_endless_attempt(wal: Path, closes: bool) -> None:
    async def refuse(conn: rapsqlite.Connection) -> None:
        if closes:
            conn.stop()
        else:
            raise KeyError("never good")

    hook = {"init_hook" if closes else "check": refuse}
    pool = create_pool(wal, acquire_timeout=None, **hook)
    with anyio.fail_after(50), pytest.raises((KeyError, rapsqlite.Error)):
        async with pool.acquire():
            pass
    assert pool.statistics()["size"] == 0
    await pool.aclose()
    gc.collect()
