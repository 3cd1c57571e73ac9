"""Waiting for a guest on whichever event loop runs: asyncio (uvloop included) or Trio.

A ``Ticket`` is one thing a task waits for. ``Loop.wait`` suspends the task until ``Loop.wake`` is called for the ticket
in the loop's own thread; ``Loop.post`` gets a callback there from any thread, through the loop's public interface.

Cancellation never abandons a ticket: it is remembered on the ticket, ``ticket.on_cancel`` asks the guest to stop, and
the wait goes on until the guest has answered. What the guest did then decides what becomes of it (``_cancellation``).
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
    cancellation: BaseException | None  # that of the task, held back until the guest has answered

    @property
    def patience_s(self) -> float:
        """How long a cancelled task waits for the answer before it says that there is none."""
        ...

    def is_ready(self) -> bool:
        """Tell whether there is something to take, so that waiting is over."""
        ...

    def on_cancel(self) -> None:
        """Ask the guest to stop working on this."""
        ...

    def on_silence(self) -> None:
        """Make the guest answer, or end it; called again after as long if it still does not."""
        ...


class AsyncioLoop:
    """One running asyncio event loop."""

    __slots__ = ("_loop", "key")
    allows_polling = True  # a coroutine need not suspend each time it is awaited

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
        await outlast(self, ticket)

    async def wait_shielded(self, ticket: Ticket, timeout_s: float) -> None:
        """Wait so long until the ticket is ready, whatever cancels the task."""
        # The shield keeps anyio's level cancellation from waking the task over and over meanwhile. Only a cancelled
        # task comes here, so anyio's import time is not paid by programs that never cancel.
        from anyio import move_on_after

        with move_on_after(timeout_s, shield=True) as scope:
            while not ticket.is_ready():
                waiter = ticket.waiter = self._loop.create_future()
                try:
                    await waiter
                except _asyncio().CancelledError as exc:
                    if scope.cancel_called:
                        raise
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

    def redeliver(self, cancellation: BaseException) -> None:
        """See to it that a cancellation which was held back arrives at the task's next checkpoint."""
        if not _is_anyio_cancellation(cancellation):
            task = self.current_task()
            self._loop.call_soon(_redeliver, task, _cancellation_count(task), cancellation)

    async def deliver(self) -> None:
        """Be cancelled now if that is due: what ``redeliver`` and anyio's scopes have posted comes before the task."""
        await _asyncio().sleep(0)

    def current_task(self) -> Any:
        """Return the running task."""
        return _asyncio().current_task()


def _asyncio() -> Any:
    """Return asyncio, which a program that runs in an asyncio loop has imported."""
    return sys.modules["asyncio"]


def _is_anyio_cancellation(exc: BaseException) -> bool:
    """Tell whether an anyio cancel scope cancelled the task: it will do so again by itself."""
    return bool(exc.args) and str(exc.args[0]).startswith("Cancelled via cancel scope")


def _redeliver(task: Any, count: int, cancellation: BaseException) -> None:
    """Cancel again a task whose cancellation was held back because its request had finished.

    One turn of the loop later, so that an ``asyncio.timeout`` block which the task has left by now, and which took
    its own cancellation back, is not held against it. The count of cancellation requests stays as it is.
    """
    if task.done() or _cancellation_count(task) < count:
        return
    if count:
        task.uncancel()
    task.cancel(*cancellation.args)


def _cancellation_count(task: Any) -> int:
    """Return how many requests to cancel the task are not taken back; 0 before Python 3.11, which does not count."""
    return task.cancelling() if hasattr(task, "cancelling") else 0


class TrioLoop:
    """One running Trio scheduler."""

    __slots__ = ("_token", "_trio", "key")
    allows_polling = False  # Trio's rule is that every call is a checkpoint

    def __init__(self, trio_module: Any, token: trio.lowlevel.TrioToken) -> None:
        self._trio = trio_module
        self._token = token
        self.key: object = token

    def post(self, callback: Callable[..., object], *args: object) -> bool:
        """Run ``callback`` in Trio's thread soon; False if the run is over. Any thread."""
        try:
            self._token.run_sync_soon(callback, *args)
        except self._trio.RunFinishedError:
            return False
        return True

    async def wait(self, ticket: Ticket) -> None:
        """Suspend until the ticket is woken; once its task was cancelled, until it is ready."""
        if ticket.cancellation is None:
            try:
                await self._sleep(ticket)
            except self._trio.Cancelled as exc:
                ticket.cancellation = exc
                ticket.on_cancel()
            else:
                return
        await outlast(self, ticket)

    async def wait_shielded(self, ticket: Ticket, timeout_s: float) -> None:
        """Wait so long until the ticket is ready, whatever cancels the task."""
        with self._trio.move_on_after(timeout_s, shield=True):
            while not ticket.is_ready():
                await self._sleep(ticket)

    async def _sleep(self, ticket: Ticket) -> None:
        lowlevel = self._trio.lowlevel

        def abort(_raise_cancel: Callable[[], None]) -> Any:
            ticket.waiter = None
            return lowlevel.Abort.SUCCEEDED

        ticket.waiter = lowlevel.current_task()
        await lowlevel.wait_task_rescheduled(abort)

    def wake(self, ticket: Ticket) -> None:
        """Let the ticket's task go on. Trio's own thread."""
        waiter, ticket.waiter = ticket.waiter, None
        if waiter is not None:
            self._trio.lowlevel.reschedule(waiter)

    async def checkpoint(self, _ticket: Ticket) -> None:
        """Let other tasks run, in the middle of what the ticket stands for; cancellation waits for ``wait``."""
        await self._trio.lowlevel.cancel_shielded_checkpoint()

    def redeliver(self, _cancellation: BaseException) -> None:
        """Nothing: Trio delivers a cancellation at every checkpoint until its scope is left."""

    async def deliver(self) -> None:
        """Be cancelled now if that is due."""
        await self._trio.lowlevel.checkpoint_if_cancelled()

    def current_task(self) -> Any:
        """Return the running task."""
        return self._trio.lowlevel.current_task()


async def outlast(loop: Loop, ticket: Ticket) -> None:
    """Wait until the ticket is ready, shielded from cancellation; say so as long as the guest is silent."""
    await loop.wait_shielded(ticket, ticket.patience_s)
    while not ticket.is_ready():
        ticket.on_silence()
        await loop.wait_shielded(ticket, ticket.patience_s)


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
        return TrioLoop(trio_module, token)
    asyncio_module = sys.modules.get("asyncio")
    loop = asyncio_module._get_running_loop() if asyncio_module is not None else None
    if loop is None:
        raise RuntimeError("no asyncio or Trio event loop runs in this thread: rapsqlite is awaited from coroutines")
    if last is not None and last.key is loop:
        return last
    return AsyncioLoop(loop)
