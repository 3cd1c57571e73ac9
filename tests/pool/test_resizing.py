"""Resizing and closing a pool while tasks wait for connections: no task is forgotten, and no connection is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

import rapsqlite
from rapsqlite import create_pool

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("writer_is", ["idle", "out"])
async def test_task_waiting_for_a_reader_gets_the_writer_once_readers_are_removed(wal: Path, writer_is: str) -> None:
    """It returns the connection to the lane it came from."""
    async with create_pool(wal, max_size=2, acquire_timeout=50) as pool:
        reader = await pool.acquire(read_only=True)
        writer = await pool.acquire() if writer_is == "out" else None

        async def read() -> None:
            async with pool.acquire(read_only=True) as conn:
                await conn.execute("INSERT INTO t VALUES (1)")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            await pool.resize(max_size=1)
            if writer is not None:
                await pool.release(writer)
        await pool.release(reader)

        await pool.execute("INSERT INTO t VALUES (2)")
        assert await pool.fetch_all("SELECT a FROM t") == [[1], [2]]
        assert pool.statistics()["size"] == 1


async def test_reader_that_is_out_while_readers_are_removed_still_counts(wal: Path) -> None:
    """With it there would be one connection more than ``max_size``."""
    async with create_pool(wal, max_size=3) as pool:
        reader = await pool.acquire(read_only=True)
        await pool.resize(max_size=1)
        await pool.resize(max_size=3)

        async with pool.acquire(), pool.acquire(read_only=True):
            assert pool.statistics()["size"] == 3
            with pytest.raises(rapsqlite.ProgrammingError, match="all read-only connections"):
                await pool.acquire(read_only=True)
        await pool.release(reader)
        assert pool.statistics()["idle"] == pool.statistics()["size"] == 3


async def test_cancelled_wait_for_a_reader_loses_no_writer(wal: Path) -> None:
    async with create_pool(wal, max_size=2, acquire_timeout=50) as pool:
        reader, writer = await pool.acquire(read_only=True), await pool.acquire()
        scope = anyio.CancelScope()

        async def read() -> None:
            with scope:
                async with pool.acquire(read_only=True):
                    await anyio.sleep_forever()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            await pool.resize(max_size=1)
            await pool.release(writer)
            scope.cancel()
        await pool.release(reader)

        await pool.execute("INSERT INTO t VALUES (1)")
        assert pool.statistics()["size"] == 1


async def test_reader_that_fails_its_check_is_replaced_even_after_readers_were_removed(wal: Path) -> None:
    checked = anyio.Event()
    go_on = anyio.Event()

    async def check(conn: rapsqlite.Connection) -> None:
        if not checked.is_set():
            checked.set()
            await go_on.wait()
            raise KeyError

    async with (
        create_pool(wal, max_size=2, acquire_timeout=50, check=check) as pool,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(pool.fetch_all, "SELECT 1")
        await checked.wait()
        await pool.resize(max_size=1)
        go_on.set()


@pytest.mark.parametrize("limit_s", [None, 0.01])
@pytest.mark.filterwarnings("ignore:a pool was closed with:ResourceWarning")
async def test_pool_can_be_closed_by_two_tasks_at_once(wal: Path, limit_s: float | None) -> None:
    """Both calls wait for the connections that are out; the second may give up."""
    pool = await create_pool(wal)
    conn = await pool.acquire()
    with anyio.fail_after(50):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pool.aclose)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(pool.aclose, limit_s)
            await anyio.wait_all_tasks_blocked()
            if limit_s is None:
                await pool.release(conn)
    await conn.close()


async def test_connection_opened_while_the_pool_closes_is_closed(wal: Path) -> None:
    begun, go_on = anyio.Event(), anyio.Event()
    opened: list[rapsqlite.Connection] = []

    async def hook(conn: rapsqlite.Connection) -> None:
        opened.append(conn)
        if len(opened) == 2:
            begun.set()
            await go_on.wait()

    pool = create_pool(wal, min_size=2, init_hook=hook)

    async def wait_ready() -> None:
        with pytest.raises(rapsqlite.PoolClosed):
            await pool.wait_ready()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait_ready)
        await begun.wait()
        await pool.aclose()
        go_on.set()

    assert not any(conn.is_alive() for conn in opened)
