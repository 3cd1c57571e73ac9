"""A KeyboardInterrupt anywhere in the pool's own code loses no connection, no place for one and no waiting task."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trio
from trio._core._ki import ki_protection_enabled

import rapsqlite
from rapsqlite import Pool, create_pool
from tests.cancellation.interrupting import PACKAGE, Interrupter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Scenario = Callable[[Pool], Awaitable[object]]

POOL = os.path.join(PACKAGE, "pool.py")
SKIPPED = 23  # of so many places one is tried; with RAPSQLITE_LONG=1 all


async def idle_connection(pool: Pool) -> None:
    async with pool.acquire(read_only=True) as conn:
        await conn.fetch_scalar("SELECT 1")


async def new_connection(pool: Pool) -> None:
    await pool.drain()
    await idle_connection(pool)


async def wait(pool: Pool) -> None:
    """Two tasks want the writer, and this one waits for it."""

    async def other() -> None:
        async with pool.acquire() as conn:
            begun.set()
            await conn.execute("INSERT INTO t VALUES (1)")

    begun = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        await begun.wait()
        async with pool.acquire() as conn:
            await conn.execute("INSERT INTO t VALUES (2)")


async def hand_over(pool: Pool) -> None:
    """This task has the writer, and another one waits for it."""

    async def other() -> None:
        async with pool.acquire() as conn:
            await conn.execute("INSERT INTO t VALUES (1)")

    async with anyio.create_task_group() as tasks, pool.acquire() as conn:
        tasks.start_soon(other)
        await anyio.wait_all_tasks_blocked()
        await conn.execute("INSERT INTO t VALUES (2)")


async def broken_connection(pool: Pool) -> None:
    async with pool.acquire() as conn:
        conn.stop()
    await pool.fetch_all("SELECT 1")


async def timeout(pool: Pool) -> None:
    async with pool.acquire(read_only=True), pool.acquire(read_only=True):
        with pytest.raises(rapsqlite.ProgrammingError):
            await pool.acquire(read_only=True, timeout=1)


async def resize(pool: Pool) -> None:
    await pool.resize(max_size=1)
    await pool.fetch_all("SELECT 1")
    await pool.resize(max_size=3)
    await pool.fetch_all("SELECT 1")


async def transaction(pool: Pool) -> None:
    async with pool.transaction() as conn:
        await conn.execute("INSERT INTO t VALUES (1)")


SCENARIOS: dict[str, Scenario] = {
    scenario.__name__: scenario
    for scenario in (idle_connection, new_connection, wait, hand_over, broken_connection, timeout, resize, transaction)
}


async def opened(database: Path) -> Pool:
    return await create_pool(database, max_size=3, acquire_timeout=50)


async def check(pool: Pool) -> None:
    """Every connection can be acquired at the same time, and the pool can be closed."""
    with anyio.fail_after(50):
        await pool.resize(max_size=3)
        for _ in range(2):
            async with pool.acquire() as writer, pool.acquire(read_only=True), pool.acquire(read_only=True) as reader:
                await writer.execute("INSERT INTO t VALUES (3)")
                await reader.fetch_scalar("SELECT count(*) FROM t")
                assert pool.statistics()["size"] == 3
        assert pool.statistics()["out"] == pool.statistics()["waiting"] == 0
        await pool.aclose()


def is_interrupt(error: BaseException) -> bool:
    """Return whether it is a KeyboardInterrupt, or a group of nothing else."""
    within = getattr(error, "exceptions", None)
    return isinstance(error, KeyboardInterrupt) if within is None else all(map(is_interrupt, within))


def on_asyncio(database: Path, scenario: Scenario, place: int) -> str:
    loop = asyncio.new_event_loop()
    pool = loop.run_until_complete(opened(database))
    main: Any = loop.create_task(anyio_task(scenario, pool))
    interrupter = Interrupter(place, within=POOL)
    try:
        with interrupter:
            loop.run_until_complete(main)
    except BaseException as error:
        if not is_interrupt(error):
            raise
    for _ in range(3):
        try:
            loop.run_until_complete(asyncio.wait_for(asyncio.wait([main]), 50))
        except RuntimeError:  # asyncio: what was to stop the loop does so now
            continue
        break
    ended_by = main.exception()
    assert ended_by is None or is_interrupt(ended_by), ended_by
    del main, ended_by
    gc.collect()
    loop.run_until_complete(check(pool))
    loop.close()
    return interrupter.where


async def anyio_task(scenario: Scenario, pool: Pool) -> None:
    await scenario(pool)


def on_trio(database: Path, scenario: Scenario, place: int) -> str:
    interrupter = Interrupter(place, ki_protection_enabled, within=POOL)

    async def main() -> None:
        pool = await opened(database)
        try:
            with interrupter:
                await scenario(pool)
        except BaseException as error:
            if not is_interrupt(error):
                raise
        gc.collect()
        await check(pool)

    trio.run(main)
    return interrupter.where


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("name", sorted(SCENARIOS))
@pytest.mark.parametrize(
    "step", [pytest.param(1, marks=pytest.mark.slow, id="every place"), pytest.param(SKIPPED, id="some places")]
)
@pytest.mark.filterwarnings("ignore")
def test_interrupt_anywhere_loses_no_place(
    wal: Path, backend: str, name: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool that had lost one would in the end make every task wait."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # what is dropped says so
    warnings.simplefilter("ignore")
    run = on_trio if backend == "trio" else on_asyncio
    place, seen, where = 0, 0, "the first"
    while where:
        try:
            where = run(wal, SCENARIOS[name], place)
        except BaseException as error:
            raise AssertionError(f"at place {place}") from error
        seen += bool(where)
        place += step
    assert seen > 2


def test_statement_whose_task_was_interrupted_does_not_reach_the_next_borrower(wal: Path) -> None:
    """It may finish after its connection was returned, and leave its transaction open."""
    begun, finish = threading.Event(), threading.Event()

    def wait() -> int:
        begun.set()
        return finish.wait(50)

    async def prepare(conn: rapsqlite.Connection) -> None:
        await conn.create_function("wait", 0, wait)

    async def interrupt() -> None:
        while not begun.is_set():
            await trio.lowlevel.checkpoint()
        signal.raise_signal(signal.SIGINT)

    async def insert(pool: Pool) -> None:
        async with pool.acquire() as conn:
            trio.lowlevel.spawn_system_task(interrupt)
            await conn.execute("INSERT INTO t VALUES (wait())")

    async def main() -> None:
        async with create_pool(wal, init_hook=prepare) as pool:
            with pytest.raises(KeyboardInterrupt):
                await insert(pool)
            finish.set()

            async with pool.acquire() as conn:
                assert not await conn.in_transaction_async()
                assert await conn.fetch_scalar("SELECT count(*) FROM t") == 0

    trio.run(main)
