"""Callbacks that do not return, connections with a short grace period, and closing during a callback."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

import rapsqlite

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rapsqlite._guest.request import PendingRequest


class Endless:
    """A callback that runs forever in Python code."""

    def __init__(self) -> None:
        self.started = threading.Event()

    def __call__(self, *_: object) -> Any:
        self.started.set()
        while True:
            pass


class Blocked:
    """A callback that waits outside Python code, where no exception reaches it, until it is released."""

    def __init__(self, answer: int) -> None:
        self.started = threading.Event()
        self.let_go = threading.Event()
        self.answer = answer

    def __call__(self, *_: object) -> int:
        self.started.set()
        self.let_go.wait()
        return self.answer


def impatient(conn: rapsqlite.Connection) -> None:
    """Give up on a callback that cannot be interrupted soon after its task is cancelled."""
    conn._state.guest._queue.grace_period_s = 0.05


def impatient_once(conn: rapsqlite.Connection) -> None:
    """Interrupt a callback soon after its task is cancelled; then wait as long as the machine needs to end it."""
    queue = conn._state.guest._queue
    queue.grace_period_s = 0.05
    force_answer = queue.force_answer

    def force_patiently(pending: PendingRequest) -> None:
        queue.grace_period_s = 10
        force_answer(pending)

    queue.force_answer = force_patiently


async def cancelled_too_late(conn: rapsqlite.Connection, close: Callable[[], Awaitable[object]]) -> None:
    """A task calls ``close`` as it leaves a statement that had finished when the task was cancelled."""
    callback = Blocked(1)

    async def use_it() -> None:
        try:
            await conn.fetch_scalar("SELECT blocked()")
        finally:
            await close()

    await conn.create_function("blocked", 0, callback)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(use_it)
        await started(callback)
        tasks.cancel_scope.cancel()
        callback.let_go.set()


async def refused_in_a_callback(conn: rapsqlite.Connection, close: Callable[[], Awaitable[object]]) -> None:
    """SQL calls a function that calls ``close``, which is rejected: the connection is busy calling it."""
    refused: list[BaseException] = []

    def use_it() -> None:
        try:
            anyio.run(close)
        except rapsqlite.ProgrammingError as error:
            refused.append(error)

    await conn.create_function("f", 0, use_it)
    await conn.fetch_scalar("SELECT f()")

    assert "callback" in str(refused[0])


async def started(callback: Endless | Blocked) -> None:
    await anyio.to_thread.run_sync(callback.started.wait, 30)
