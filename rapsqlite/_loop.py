"""Waiting for a guest on whichever event loop runs: asyncio (uvloop included) or Trio.

A ``Ticket`` is one thing a task waits for. ``Loop.wait`` suspends the task until ``Loop.wake`` is called for the ticket
in the loop's own thread; ``Loop.post`` gets a callback there from any thread, through the loop's public interface.

Cancellation never abandons a ticket: it is remembered on the ticket, ``ticket.on_cancel`` asks the guest to stop, and
the wait goes on until the guest has answered. What the guest did then decides (``Loop.settle``): a request that
finished is returned although its task was cancelled, and the cancellation arrives at the task's next checkpoint;
a request that failed raises the cancellation. So nothing done is reported as undone, nor the reverse.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    import trio


class Ticket(Protocol):
    """What ``wait`` needs to know of the thing that is waited for."""

    waiter: Any  # the future or the Trio task to wake; None while nobody waits
    cancellation: Any  # how the cancellation is raised later; None while there was none

    def is_ready(self) -> bool:
        """Tell whether there is something to take, so that waiting is over."""
        ...

    def on_cancel(self) -> None:
        """Ask the guest to stop working on this."""
        ...


class AsyncioLoop:
    """One running asyncio event loop."""

    __slots__ = ("_loop", "key")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.key: object = loop

    def post(self, callback: Callable[..., object], *args: object) -> bool:
        """Run ``callback`` in the loop's thread soon; False if the loop is closed. Any thread."""
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            return False
        return True

    async def wait(self, ticket: Ticket) -> None:
        """Suspend until the ticket is woken; once its task was cancelled, until it is ready."""
        if ticket.cancellation is None:
            waiter = ticket.waiter = self._loop.create_future()
            try:
                await waiter
            except _asyncio().CancelledError as exc:
                ticket.cancellation = exc
                ticket.on_cancel()
            else:
                return
        await self._wait_shielded(ticket)

    async def _wait_shielded(self, ticket: Ticket) -> None:
        # The shield keeps anyio's level cancellation from waking the task over and over meanwhile. Only a cancelled
        # task comes here, so anyio's import time is not paid by programs that never cancel.
        from anyio import CancelScope

        with CancelScope(shield=True):
            while not ticket.is_ready():
                waiter = ticket.waiter = self._loop.create_future()
                try:
                    await waiter
                except _asyncio().CancelledError as exc:
                    ticket.cancellation = exc

    def wake(self, ticket: Ticket) -> None:
        """Let the ticket's task go on. The loop's own thread."""
        waiter = ticket.waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def checkpoint(self, ticket: Ticket) -> None:
        """Let other tasks run, in the middle of what the ticket stands for."""
        try:
            await _asyncio().sleep(0)
        except _asyncio().CancelledError as exc:
            ticket.cancellation = exc
            ticket.on_cancel()

    def settle(self, ticket: Ticket, finished: bool) -> None:
        """Account for a cancellation that came while the ticket was waited for."""
        cancellation = ticket.cancellation
        if cancellation is None:
            return
        if not finished:
            raise cancellation
        if not _is_anyio_cancellation(cancellation):
            task = _asyncio().current_task()
            self._loop.call_soon(_redeliver, task)


def _asyncio() -> Any:
    """Return asyncio, which a program that runs in an asyncio loop has imported."""
    return sys.modules["asyncio"]


def _is_anyio_cancellation(exc: BaseException) -> bool:
    """Tell whether an anyio cancel scope cancelled the task: it will do so again by itself."""
    return bool(exc.args) and str(exc.args[0]).startswith("Cancelled via cancel scope")


def _redeliver(task: Any) -> None:
    """Cancel again a task whose cancellation was held back because its request had finished.

    One turn of the loop later, so that an ``asyncio.timeout`` block which the task has left by now, and which took
    its own cancellation back, is not held against it. The count of cancellation requests stays as it is.
    """
    if task.done():
        return
    if hasattr(task, "uncancel"):  # Python 3.11
        if not task.cancelling():
            return
        task.uncancel()
    task.cancel()


class TrioLoop:
    """One running Trio scheduler."""

    __slots__ = ("_lowlevel", "_token", "key")

    def __init__(self, lowlevel: Any, token: trio.lowlevel.TrioToken) -> None:
        self._lowlevel = lowlevel
        self._token = token
        self.key: object = token

    def post(self, callback: Callable[..., object], *args: object) -> bool:
        """Run ``callback`` in Trio's thread soon; False if the run is over. Any thread."""
        try:
            self._token.run_sync_soon(callback, *args)
        except sys.modules["trio"].RunFinishedError:
            return False
        return True

    async def wait(self, ticket: Ticket) -> None:
        """Suspend until the ticket is woken; once its task was cancelled, until it is ready."""
        lowlevel = self._lowlevel

        def abort(raise_cancel: Callable[[], None]) -> Any:
            if ticket.cancellation is None:
                ticket.cancellation = raise_cancel
                ticket.on_cancel()
            return lowlevel.Abort.FAILED

        ticket.waiter = lowlevel.current_task()
        await lowlevel.wait_task_rescheduled(abort)
        while ticket.cancellation is not None and not ticket.is_ready():
            ticket.waiter = lowlevel.current_task()
            await lowlevel.wait_task_rescheduled(abort)

    def wake(self, ticket: Ticket) -> None:
        """Let the ticket's task go on. Trio's own thread."""
        waiter, ticket.waiter = ticket.waiter, None
        if waiter is not None:
            self._lowlevel.reschedule(waiter)

    async def checkpoint(self, _ticket: Ticket) -> None:
        """Let other tasks run, in the middle of what the ticket stands for; cancellation waits for ``wait``."""
        await self._lowlevel.cancel_shielded_checkpoint()

    def settle(self, ticket: Ticket, finished: bool) -> None:
        """Account for a cancellation that came while the ticket was waited for: Trio repeats it by itself."""
        if ticket.cancellation is not None and not finished:
            ticket.cancellation()


if TYPE_CHECKING:
    Loop = AsyncioLoop | TrioLoop


def current_loop(last: Loop | None = None) -> Loop:
    """Return the event loop that runs in this thread now, as ``last`` if it is still that one.

    Raises RuntimeError outside of an event loop.
    """
    trio_module = sys.modules.get("trio")
    if trio_module is not None and trio_module.lowlevel.in_trio_task():
        token = trio_module.lowlevel.current_trio_token()
        if last is not None and last.key is token:
            return last
        return TrioLoop(trio_module.lowlevel, token)
    asyncio_module = sys.modules.get("asyncio")
    loop = asyncio_module._get_running_loop() if asyncio_module is not None else None
    if loop is None:
        raise RuntimeError("no asyncio or Trio event loop runs in this thread: rapsqlite is awaited from coroutines")
    if last is not None and last.key is loop:
        return last
    return AsyncioLoop(loop)
