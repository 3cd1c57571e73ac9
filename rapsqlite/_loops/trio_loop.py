"""Waiting for a guest on Trio.

https://trio.readthedocs.io/en/stable/reference-lowlevel.html
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import ref

from rapsqlite._loops.ticket import wait_shielded

if TYPE_CHECKING:
    from collections.abc import Callable

    import trio

    from rapsqlite._loops.asyncio_loop import Owned
    from rapsqlite._loops.ticket import Ticket


class TrioLoop:
    """One running Trio scheduler."""

    __slots__ = ("_token", "_trio", "key")
    allows_polling = False  # in Trio every call is a checkpoint

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

    def watch(self, _descriptor: int, _callback: Callable[..., object], *_args: object) -> bool:
        """Return False: in Trio a task waits for a descriptor, and no task could own this one."""
        return False

    def unwatch(self, _descriptor: int) -> None:
        """Do nothing: see ``watch``."""

    def is_closed(self) -> bool:
        """Return True if nothing runs in this loop any more."""
        return not self.post(_do_nothing)

    def keep(self, value: Any) -> Callable[[], Any]:
        """Return a reference to ``value``. It may keep it: no run ends before its tasks and their requests."""
        return lambda: value

    async def wait(self, ticket: Ticket) -> None:
        """Suspend until the ticket is woken; once its task is cancelled, until it is ready."""
        if ticket.cancellation is None:
            try:
                await self._sleep(ticket)
            except self._trio.Cancelled as exc:
                ticket.cancellation = exc.with_traceback(None)  # a traceback would hold this frame
                ticket.on_cancel()
            else:
                return
        await wait_shielded(self, ticket)

    async def wait_shielded(self, ticket: Ticket, timeout_s: float) -> None:
        """Wait until the ticket is ready, but at most this long, whatever cancels the task."""
        with self._trio.move_on_after(timeout_s, shield=True):
            while not ticket.is_ready():
                await self._sleep(ticket)

    async def _sleep(self, ticket: Ticket) -> None:
        lowlevel = self._trio.lowlevel

        def abort(_raise_cancel: Callable[[], None]) -> Any:
            ticket.waiter = None
            return lowlevel.Abort.SUCCEEDED

        try:
            ticket.waiter = ref(lowlevel.current_task())  # Trio keeps its tasks alive
            await lowlevel.wait_task_rescheduled(abort)
        except BaseException:
            ticket.waiter = None  # a KeyboardInterrupt may come before the task sleeps: it must not be rescheduled
            raise

    def wake(self, ticket: Ticket) -> None:
        """Resume the ticket's task. Trio's own thread."""
        lowlevel = self._trio.lowlevel
        if not lowlevel.currently_ki_protected():
            self.post(self.wake, ticket)  # a task must be rescheduled exactly once, so no KeyboardInterrupt may come
            return
        waiter, ticket.waiter = ticket.waiter and ticket.waiter(), None
        if waiter is not None:
            lowlevel.reschedule(waiter)

    async def checkpoint(self, _ticket: Ticket) -> None:
        """Let other tasks run while the ticket is in progress; cancellation waits for ``wait``."""
        await self._trio.lowlevel.cancel_shielded_checkpoint()

    def redeliver(self, _ticket: Ticket) -> None:
        """Do nothing: Trio delivers a cancellation at every checkpoint until its scope is left."""

    async def deliver(self) -> None:
        """Be cancelled now if a cancellation is due, otherwise let other tasks run."""
        await self._trio.lowlevel.checkpoint()

    def watch_owner(self, block: Owned) -> OwnersEnd:
        """Call ``block.disown`` if the running task ends before this is cancelled."""
        return OwnersEnd(self._trio.lowlevel, block)

    def current_task(self) -> Any:
        """Return the running task."""
        return self._trio.lowlevel.current_task()

    def runs(self, task: Any) -> bool:
        """Return True if it is a task that has not ended."""
        return task is not None and getattr(task.coro, "cr_frame", self) is not None


class OwnersEnd:
    """Notices that a task which has entered a block ends: an instrument."""

    __slots__ = ("__weakref__", "_block", "_lowlevel", "_task")

    def __init__(self, lowlevel: Any, block: Owned) -> None:
        self._lowlevel = lowlevel
        self._task = ref(lowlevel.current_task())
        self._block = ref(block)
        lowlevel.add_instrument(self)

    def task_exited(self, task: object) -> None:
        """See `trio.abc.Instrument`."""
        if task is self._task():
            self.cancel()
            block = self._block()
            if block is not None:
                block.disown()

    def cancel(self) -> None:
        """Watch no longer. Outside Trio's thread, or in another run, it goes with its run."""
        with suppress(RuntimeError, KeyError):
            self._lowlevel.remove_instrument(self)


def _do_nothing() -> None:
    """Posted to find out whether posting is possible."""
