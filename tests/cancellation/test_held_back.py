"""A task is cancelled, a block's time is over, or both, while the task waits for a reply that always arrives.

The cancellation is held back until then. The block withdraws its own request to cancel the task, never another one.
"""

from __future__ import annotations

import asyncio
import math
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import rapsqlite
from rapsqlite import connect
from tests.callbacks.lingering import Blocked, started

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

HAS_COUNT = sys.version_info >= (3, 11)
LOOPS = [
    pytest.param({}, id="asyncio"),
    pytest.param(
        {"use_uvloop": True},
        id="uvloop",
        marks=pytest.mark.skipif(sys.platform == "win32", reason="uvloop is not for Windows"),
    ),
]
needs_timeout = pytest.mark.skipif(not HAS_COUNT, reason="asyncio.timeout is new in 3.11")


class Timeout:
    """An ``asyncio.timeout`` block whose time is over when the test says so."""

    async def __aenter__(self) -> None:
        self._block: Any = asyncio.timeout(None)  # type: ignore[attr-defined, unused-ignore]
        await self._block.__aenter__()

    async def __aexit__(self, *exc_info: object) -> object:
        return await self._block.__aexit__(*exc_info)

    def end(self) -> None:
        self._block.reschedule(0)  # in the loop's next turn


class MoveOnAfter:
    """The same as an ``anyio.move_on_after`` block."""

    async def __aenter__(self) -> None:
        self._scope = anyio.move_on_after(math.inf).__enter__()

    async def __aexit__(self, *exc_info: Any) -> object:
        return self._scope.__exit__(*exc_info)

    def end(self) -> None:
        asyncio.get_running_loop().call_soon(setattr, self._scope, "deadline", -math.inf)


opened = partial(connect, ":memory:", isolation_level=None)
BLOCKS = [pytest.param(Timeout, marks=needs_timeout), MoveOnAfter]


class Waiting:
    """A task inside ``work``, whose first request waits behind another task's, which is blocked in a callback."""

    def __init__(self, conn: rapsqlite.Connection, work: Coroutine[Any, Any, str], grace_period_s: float) -> None:
        self._is_late = asyncio.Event()
        self._conn = conn
        self._work = work
        self._callback = Blocked(1)
        self._queue = conn._state.guest._queue
        self._grace_period_s = grace_period_s

    async def __aenter__(self) -> Waiting:
        await self._conn.create_function("f", 0, self._callback)
        await self._conn.execute("BEGIN")
        self._queue.grace_period_s = self._grace_period_s
        self._queue.force_answer = lambda _pending: self._is_late.set()
        self._running = asyncio.create_task(self._conn.fetch_scalar("SELECT f()"))
        await started(self._callback)
        self._task = asyncio.create_task(self._work)
        await anyio.wait_all_tasks_blocked()
        return self

    def cancel(self) -> None:
        asyncio.get_running_loop().call_soon(self._task.cancel, "enough")

    async def noticed(self) -> None:
        """Wait until the task waits again, or, if the period is short, until it has waited for longer."""
        if self._grace_period_s < 1:
            self._is_late.clear()
            await self._is_late.wait()
        await anyio.wait_all_tasks_blocked()

    async def outcome(self) -> str:
        """Let the reply arrive, and return the task's result."""
        self._callback.let_go.set()
        await self._running
        await asyncio.wait([self._task])
        assert not self._conn.in_transaction
        return "cancelled" if self._task.cancelled() else self._task.result()

    async def __aexit__(self, *exc_info: object) -> None:
        self._callback.let_go.set()


async def go_on(conn: rapsqlite.Connection) -> str:
    for _ in range(5):
        await asyncio.sleep(0)
    await conn.fetch_all("SELECT 1")
    task: Any = asyncio.current_task()
    return "went on" if not HAS_COUNT or task.cancelling() == 0 else "still to be cancelled"


def run(main: Callable[[], Coroutine[Any, Any, None]], options: dict[str, Any]) -> None:
    anyio.run(main, backend="asyncio", backend_options=options)


@pytest.mark.parametrize("options", LOOPS)
@pytest.mark.parametrize("grace_period_s", [30, 0.01], ids=["in time", "late"])
@pytest.mark.parametrize("turns", ["apart", "together"])
@pytest.mark.parametrize("order", [["end"], ["cancel"], ["end", "cancel"], ["cancel", "end"]], ids=" then ".join)
@pytest.mark.parametrize("kind", BLOCKS)
def test_task_ends_if_and_only_if_something_but_the_block_has_cancelled_it(
    kind: Callable[[], Any], order: list[str], turns: str, grace_period_s: float, options: dict[str, Any]
) -> None:
    if not HAS_COUNT and turns == "together" and order == ["end", "cancel"]:
        pytest.skip("without a count, the second cancellation cannot be noticed")

    async def main() -> None:
        block = kind()

        async def work() -> str:
            async with block:
                await conn.rollback()
            return await go_on(conn)

        async with opened() as conn, Waiting(conn, work(), grace_period_s) as waiting:
            for act in order:
                (block.end if act == "end" else waiting.cancel)()
                if turns == "apart":
                    await waiting.noticed()
            await waiting.noticed()
            outcome = await waiting.outcome()
        assert outcome == ("cancelled" if "cancel" in order else "went on")

    run(main, options)


@needs_timeout
@pytest.mark.parametrize("options", LOOPS)
@pytest.mark.parametrize("turns", ["apart", "together"])
@pytest.mark.parametrize("is_inner_first", [True, False])
def test_outer_timeout_is_raised_although_an_inner_one_has_ended_too(
    is_inner_first: bool, turns: str, options: dict[str, Any]
) -> None:
    async def main() -> None:
        outer, inner = Timeout(), Timeout()

        async def work() -> str:
            try:
                async with outer:
                    async with inner:
                        await conn.rollback()
                    return await go_on(conn)
            except asyncio.TimeoutError:
                return "timed out, " + await go_on(conn)

        async with opened() as conn, Waiting(conn, work(), 30) as waiting:
            for block in (inner, outer) if is_inner_first else (outer, inner):
                block.end()
                if turns == "apart":
                    await waiting.noticed()
            await waiting.noticed()
            outcome = await waiting.outcome()
        assert outcome == "timed out, went on"

    run(main, options)


@pytest.mark.skipif(not HAS_COUNT, reason="without a count, older requests cannot be told from new ones")
@pytest.mark.parametrize("options", LOOPS)
@pytest.mark.parametrize("order", [["end"], ["cancel"], ["end", "cancel"], ["cancel", "end"]], ids=" then ".join)
@pytest.mark.parametrize("kind", BLOCKS)
def test_older_cancellation_that_the_task_has_swallowed_makes_no_difference(
    kind: Callable[[], Any], order: list[str], options: dict[str, Any]
) -> None:
    async def main() -> None:
        block = kind()

        async def work() -> str:
            task: Any = asyncio.current_task()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.sleep(0)
            async with block:
                await conn.rollback()
            await go_on(conn)
            return f"went on, {task.cancelling()} left"

        async with opened() as conn, Waiting(conn, work(), 30) as waiting:
            for act in order:
                (block.end if act == "end" else waiting.cancel)()
                await waiting.noticed()
            outcome = await waiting.outcome()
        assert outcome == ("cancelled" if "cancel" in order else "went on, 1 left")

    run(main, options)


@pytest.mark.parametrize("options", LOOPS)
@pytest.mark.parametrize("kind", BLOCKS)
def test_task_that_was_cancelled_before_it_waited_ends(kind: Callable[[], Any], options: dict[str, Any]) -> None:
    async def main() -> None:
        block = kind()

        async def work() -> str:
            async with block:
                task: Any = asyncio.current_task()
                task.cancel()
                await conn.rollback()
            return await go_on(conn)

        async with opened() as conn, Waiting(conn, work(), 30) as waiting:
            block.end()
            await waiting.noticed()
            outcome = await waiting.outcome()
        assert outcome == "cancelled"

    run(main, options)


@needs_timeout
@pytest.mark.parametrize("options", LOOPS)
@pytest.mark.parametrize("turns", ["apart", "together"])
@pytest.mark.parametrize("is_inner_first", [True, False])
def test_cancelled_scope_around_an_ended_timeout_cancels_nothing_after_it(
    is_inner_first: bool, turns: str, options: dict[str, Any]
) -> None:
    """The scope cancels the task again by itself; asyncio raises the later request if the task waits for nothing."""

    async def main() -> None:
        outer, inner = MoveOnAfter(), Timeout()
        reached: list[object] = []

        async def work() -> str:
            async with outer:
                async with inner:
                    await conn.rollback()
                await asyncio.sleep(0)
                reached.append("after the checkpoint")
            return await go_on(conn)

        async with opened() as conn, Waiting(conn, work(), 30) as waiting:
            for block in (inner, outer) if is_inner_first else (outer, inner):
                block.end()
                if turns == "apart":
                    await waiting.noticed()
            await waiting.noticed()
            outcome = await waiting.outcome()
        assert outcome == "went on"
        assert not reached

    run(main, options)
