"""Waiting for a guest on an asyncio loop, including uvloop.

Guests outlive loops, so nothing that a guest reaches may keep a loop, a task or a task's objects alive: a loop that was
closed with requests in flight is collected with them and their connections. A waiting task is kept alive by its own
loop.

https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.call_soon_threadsafe
"""

from __future__ import annotations

import sys
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary, ref

from rapsqlite._loops.ticket import wait_shielded

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    import anyio

    from rapsqlite._loops.ticket import Ticket


class AsyncioLoop:
    """One running asyncio event loop."""

    __slots__ = ("_asyncio", "_loop", "key")
    allows_polling = True  # a coroutine need not suspend each time it is awaited

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # A program that runs in an asyncio loop has imported asyncio; at exit the module is gone before the last tasks
        # are.
        self._asyncio: Any = sys.modules["asyncio"]
        self._loop = ref(loop)
        self.key = self._loop  # there is one such reference per loop

    def post(self, callback: Callable[..., object], *args: object) -> bool:
        """Run ``callback`` in the loop's thread soon; False if the loop is closed. Any thread.

        A KeyboardInterrupt in the loop's thread can lose a callback that the loop is about to run, or end it. Therefore
        it is posted twice; the second one does nothing unless that happened.
        """
        loop = self._loop()
        if loop is None:
            return False
        once = _Once(callback, args)
        try:
            loop.call_soon_threadsafe(once)
            loop.call_soon_threadsafe(once)
        except RuntimeError:
            return False
        return True

    def watch(self, descriptor: int, callback: Callable[..., object], *args: object) -> bool:
        """Run ``callback`` whenever the descriptor is readable; False if not supported. The loop's own thread."""
        try:
            # The loop would keep a copy of this task's context for as long as it watches.
            Context().run(self._running().add_reader, descriptor, callback, *args)
        except (NotImplementedError, OSError):
            return False
        return True

    def unwatch(self, descriptor: int) -> None:
        """Undo ``watch``. The loop's own thread."""
        self._running().remove_reader(descriptor)

    def is_closed(self) -> bool:
        """Return True if nothing runs in this loop any more."""
        loop = self._loop()
        return loop is None or loop.is_closed()

    def _running(self) -> asyncio.AbstractEventLoop:
        loop = self._loop()
        assert loop is not None, "this is its thread"
        return loop

    def keep(self, value: Any) -> Callable[[], Any]:
        """Return a reference to ``value``: the loop keeps it alive, as long as the reference is. The loop's thread."""
        loop: Any = self._running()
        try:
            kept = loop._rapsqlite_kept
        except AttributeError:
            kept = loop._rapsqlite_kept = WeakKeyDictionary()
        reference = _Reference(value)
        kept[reference] = value
        return reference

    async def wait(self, ticket: Ticket) -> None:
        """Suspend until the ticket is woken; once its task is cancelled, until it is ready."""
        if ticket.cancellation is None:
            loop = self._running()
            waiter = loop.create_future()
            ticket.waiter = ref(waiter)
            kept = _kept_by(loop)
            count = _cancellation_count(self._asyncio.current_task(loop))
            try:
                kept.add(waiter)
                await waiter
            except self._asyncio.CancelledError as exc:
                self._hold_back(ticket, exc, count)
                ticket.on_cancel()
            else:
                return
            finally:
                kept.discard(waiter)
        await wait_shielded(self, ticket)

    async def wait_shielded(self, ticket: Ticket, timeout_s: float) -> None:
        """Wait until the ticket is ready, but at most this long, whatever cancels the task."""
        # The shield keeps anyio's level cancellation from waking the task repeatedly meanwhile. Only a cancelled task
        # gets here, so programs that never cancel do not pay for importing anyio.
        from anyio import move_on_after

        count = _cancellation_count(self.current_task())
        try:
            with move_on_after(timeout_s, shield=True) as scope:
                await self._wait_until_cancelled_by(scope, ticket)
        except self._asyncio.CancelledError:
            # If something else has cancelled the task too, before or together with the end of the time, anyio passes
            # the scope's own cancellation on.
            if ticket.cancellation is None or _is_anyio_cancellation(ticket.cancellation):
                self._hold_back(ticket, self._asyncio.CancelledError(), count)

    async def _wait_until_cancelled_by(self, scope: anyio.CancelScope, ticket: Ticket) -> None:
        loop = self._running()
        kept = _kept_by(loop)
        while not ticket.is_ready():
            waiter = loop.create_future()
            ticket.waiter = ref(waiter)
            count = _cancellation_count(self.current_task())
            try:
                kept.add(waiter)
                await waiter
            except self._asyncio.CancelledError as exc:
                if scope.cancel_called:
                    raise
                self._hold_back(ticket, exc, count)
            finally:
                kept.discard(waiter)

    def wake(self, ticket: Ticket) -> None:
        """Resume the ticket's task. The loop's own thread."""
        waiter = ticket.waiter and ticket.waiter()
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def checkpoint(self, ticket: Ticket) -> None:
        """Let other tasks run while the ticket is in progress."""
        count = _cancellation_count(self.current_task())
        try:
            await self._asyncio.sleep(0)
        except self._asyncio.CancelledError as exc:
            self._hold_back(ticket, exc, count)
            ticket.on_cancel()

    def _hold_back(self, ticket: Ticket, cancellation: BaseException, count: int) -> None:
        """Store a cancellation of a task that had ``count`` requests to cancel it when it last continued."""
        now = _cancellation_count(self.current_task())
        if now > count + 1 and _is_anyio_cancellation(cancellation):
            cancellation = self._asyncio.CancelledError()  # asyncio has raised several in one turn as the first one
        if ticket.cancellation is None:
            # The task may have been cancelled before it waited, and only learn of it now.
            ticket.cancellation_count = min(count, now - 1)
        elif _is_anyio_cancellation(cancellation):
            return
        ticket.cancellation = cancellation.with_traceback(None)  # a traceback would hold the waiting frame

    def redeliver(self, ticket: Ticket) -> None:
        """Deliver a cancellation that was held back at the task's next checkpoint."""
        cancellation = ticket.cancellation
        if cancellation is not None and not _is_anyio_cancellation(cancellation):
            self._running().call_soon(_redeliver, self.current_task(), ticket.cancellation_count, cancellation)

    async def deliver(self) -> None:
        """Be cancelled now if a cancellation is due, otherwise let other tasks run.

        Callbacks posted by ``redeliver`` and anyio's scopes run first.
        """
        await self._asyncio.sleep(0)

    def watch_owner(self, block: Owned) -> OwnersEnd:
        """Call ``block.abandon`` if a KeyboardInterrupt ends the running task, ``block.disown`` if something else does.

        Until this is cancelled.
        """
        return OwnersEnd(self.current_task(), block)

    def current_task(self) -> Any:
        """Return the running task."""
        return self._asyncio.current_task()

    def runs(self, task: Any) -> bool:
        """Return True if it is a task that has not ended."""
        return task is not None and not task.done()


class _Once:
    """A posted callback, until it has run to its end."""

    __slots__ = ("_args", "_callback", "_is_due")

    def __init__(self, callback: Callable[..., object], args: tuple[object, ...]) -> None:
        self._callback = callback
        self._args = args
        self._is_due = True

    def __call__(self) -> None:
        if self._is_due:
            self._callback(*self._args)
            self._is_due = False


class _Reference:
    """Returned by ``keep``."""

    __slots__ = ("__weakref__", "_value")

    def __init__(self, value: Any) -> None:
        self._value = ref(value)

    def __call__(self) -> Any:
        return self._value()


class Owned(Protocol):
    """Something that its task must end."""

    def abandon(self) -> None:
        """End it for the task."""

    def disown(self) -> None:
        """Note that the task has ended and something else keeps the block open."""


class OwnersEnd:
    """A done callback of a task that has entered a block."""

    __slots__ = ("_block", "_task")

    def __init__(self, task: Any, block: Owned) -> None:
        self._task = task
        self._block = ref(block)
        if task is not None:
            task.add_done_callback(self)

    def __call__(self, task: Any) -> None:
        """The task has ended."""
        block = self._block()
        if block is None:
            return
        if not task.cancelled() and isinstance(task.exception(), (KeyboardInterrupt, SystemExit)):
            block.abandon()
        else:
            block.disown()

    def cancel(self) -> None:
        """Remove the callback."""
        if self._task is not None:
            self._task.remove_done_callback(self)


def _kept_by(loop: Any) -> set[Any]:
    """Return the futures that a loop keeps alive, and with them the tasks waiting for them."""
    try:
        kept: set[Any] = loop._rapsqlite_waiters
    except AttributeError:
        kept = loop._rapsqlite_waiters = set()
    return kept


def _is_anyio_cancellation(exc: BaseException) -> bool:
    """Return True if an anyio cancel scope cancelled the task: it will do so again by itself."""
    return bool(exc.args) and str(exc.args[0]).startswith("Cancelled via cancel scope")


def _redeliver(task: Any, count: int, cancellation: BaseException) -> None:
    """Cancel a task again whose cancellation was held back because its request had finished.

    Unless all requests to cancel it but ``count``, which are older than the wait, are withdrawn: this happens one turn
    of the loop later, so that blocks such as ``asyncio.timeout``, whose time was over and which the task has left by
    then, have withdrawn theirs. The number of requests is unchanged.
    """
    now = _cancellation_count(task)
    if task.done() or now <= count:
        return
    if now:
        if getattr(task, "_must_cancel", False):
            return  # it is cancelled in this turn anyway; its scope would not know this cancellation for its own
        task.uncancel()
    task.cancel(*cancellation.args)


def _cancellation_count(task: Any) -> int:
    """Return how many requests to cancel the task are not withdrawn; 0 before Python 3.11, without a count."""
    return task.cancelling() if hasattr(task, "cancelling") else 0
