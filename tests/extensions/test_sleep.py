"""Whatever ends a statement wakes its sleeping guest: nothing waits for an extension that sleeps for hours."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

import rapsqlite
from tests.played_time import let_killed_guests_end_late, play_time_limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

# SQLite checks for interrupts now and then, so one that arrives while a short statement sleeps may not prevent its
# result.
HOURS = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 10000) SELECT sum(doze(3600000)) FROM n
"""


@pytest.fixture(scope="module")
def dozer(build: Callable[..., Path]) -> Path:
    """The extension that sleeps."""
    return build("dozer", Path(__file__).with_name("dozer.c").read_text(encoding="utf-8"))


@asynccontextmanager
async def connected(dozer: Path, **options: Any) -> AsyncIterator[rapsqlite.Connection]:
    """Open a connection with the extension."""
    async with rapsqlite.connect(":memory:", isolation_level=None, **options) as connection:
        await connection.enable_load_extension(True)
        await connection.load_extension(dozer)
        yield connection


@pytest.fixture
async def conn(dozer: Path) -> AsyncIterator[rapsqlite.Connection]:
    """A connection with the extension."""
    async with connected(dozer) as connection:
        yield connection


async def asleep(conn: rapsqlite.Connection) -> None:
    """Wait until the guest sleeps for its statement."""
    while not conn._state.guest.host.sleeps:
        await anyio.lowlevel.checkpoint()


async def test_sleep_lasts_as_long_as_requested(conn: rapsqlite.Connection) -> None:
    """Requests that arrive meanwhile wake the thread, but do not end the sleep."""
    slept: list[float] = []

    async def sleep() -> None:
        began = anyio.current_time()
        assert await conn.fetch_scalar("SELECT doze(200)") == 200
        slept.append(anyio.current_time() - began)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sleep)
        await asleep(conn)
        for _ in range(20):
            tasks.start_soon(conn.fetch_scalar, "SELECT 1")

    assert slept[0] >= 0.19


async def test_cancellation_ends_a_sleep(conn: rapsqlite.Connection) -> None:
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(conn.fetch_scalar, HOURS)
            await asleep(conn)
            tasks.cancel_scope.cancel()

        assert await conn.fetch_scalar("SELECT 1") == 1


async def test_interrupt_ends_a_sleep(conn: rapsqlite.Connection) -> None:
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:

            async def sleep() -> None:
                with pytest.raises(rapsqlite.OperationalError, match="interrupted"):
                    await conn.fetch_scalar(HOURS)

            tasks.start_soon(sleep)
            await asleep(conn)
            await conn.interrupt()

        assert await conn.fetch_scalar("SELECT 1") == 1


async def test_sleep_counts_towards_the_time_limit(dozer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for locks do not count, because the statement did not choose them."""
    clock = play_time_limits(monkeypatch)
    with anyio.fail_after(30):
        async with connected(dozer, limits={"statement_seconds": 0.1}) as conn:
            with clock.running(), pytest.raises(rapsqlite.DataError, match="statement_seconds"):
                await conn.fetch_scalar(HOURS)

            assert await conn.fetch_scalar("SELECT 1") == 1


async def test_stopping_a_guest_ends_its_sleep(conn: rapsqlite.Connection) -> None:
    """A connection's finalizer requests this."""
    guest = conn._state.guest
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:

            async def sleep() -> None:
                with pytest.raises(rapsqlite.Error):
                    await conn.fetch_scalar(HOURS)

            tasks.start_soon(sleep)
            await asleep(conn)
            guest.stop()
        await conn.close()

    assert not guest.is_running()


async def test_endless_sleep_breaks_only_its_connection(dozer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sleep ends immediately, but the loop around it does not."""
    let_killed_guests_end_late(monkeypatch)
    conn = await rapsqlite.connect(":memory:")
    await conn.enable_load_extension(True)
    await conn.load_extension(dozer)
    conn._state.guest._queue.grace_period_s = 0.1

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(conn.fetch_scalar, "SELECT doze_on()")
            await asleep(conn)
            tasks.cancel_scope.cancel()
        with pytest.raises(rapsqlite.OperationalError, match="has failed and is closed"):
            await conn.fetch_scalar("SELECT 1")
        await conn.close()
