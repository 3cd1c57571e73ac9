"""`Pool.aclose`'s time limit holds whatever the pool waits for."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import rapsqlite
from rapsqlite import create_pool

if TYPE_CHECKING:
    from pathlib import Path

    from rapsqlite import Pool


class Stuck:
    """An idle connection of a pool, whose statement, begun by what its hook left, waits in a function of SQL."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.released = threading.Event()
        self.guest: Any = None
        self._connection: Any = None

    async def pool(self, database: Path, tasks: Any) -> Pool:
        """Return a pool with this as its only connection."""
        pool = await create_pool(database, max_size=1, init_hook=self._init)
        tasks.start_soon(self._run)
        await anyio.to_thread.run_sync(self.reached.wait)
        return pool

    async def _init(self, conn: rapsqlite.Connection) -> None:
        self._connection, self.guest = conn, conn._state.guest
        await conn.create_function("stuck", 0, self._wait)

    async def _run(self) -> None:
        with suppress(rapsqlite.Error):
            await self._connection.fetch_scalar("SELECT stuck()")

    def _wait(self) -> int:
        self.reached.set()
        self.released.wait()
        return 1


@pytest.fixture
def stuck() -> Any:
    stuck = Stuck()
    yield stuck
    stuck.released.set()


async def test_time_limit_of_closing_holds_although_an_idle_connection_does_not_close(
    database: Path, stuck: Stuck
) -> None:
    """A function, or a slow disk, may keep a connection from closing; it closes by itself later."""
    async with anyio.create_task_group() as tasks:
        pool = await stuck.pool(database, tasks)
        await pool.aclose(timeout=0.01)
        assert stuck.guest.state == "ok"  # neither closed nor given up: its function still runs
        stuck.released.set()
    await anyio.to_thread.run_sync(stuck.guest.thread.join)
    assert stuck.guest.state == "closed"
