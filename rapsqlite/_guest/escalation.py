"""Forces a guest that does not answer a cancelled request, step by step.

A guest that keeps running SQL is killed, with its connection. A user's callback that keeps running is first interrupted
with an exception (`async_exception`); if that does not reach it the connection is given up, and the thread is left to
the callback. A system call that does not return, because a file system hangs, can be neither interrupted nor killed:
its thread is left to it, with the files, which the thread closes when the call returns. A guest that cannot be killed,
because other code has replaced wasmtime's handlers for faults, is left likewise.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from rapsqlite.errors import OperationalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite._guest.request import PendingRequest
    from rapsqlite._guest.request_queue import RequestQueue

# Multiplies the grace period of requests that always complete, such as a rollback of gigabytes: a minute.
_MOST_TIMEOUTS = 12


class Escalation:
    """Forces one guest to answer."""

    __slots__ = ("_abandon_thread", "_give_up", "_kill", "_killed", "_queue", "_runs_on")

    def __init__(
        self,
        queue: RequestQueue,
        kill: Callable[[], bool],
        give_up: Callable[[BaseException], None],
        abandon_thread: Callable[[BaseException], None],
    ) -> None:
        self._queue = queue
        self._kill = kill
        self._give_up = give_up
        self._abandon_thread = abandon_thread
        self._killed = False
        self._runs_on = False  # although it was killed

    def force_answer(self, pending: PendingRequest) -> None:
        """Force the reply to a request after its grace period; called again if it still does not arrive."""
        if pending in self._queue.blocks.held:
            return  # another task's block holds it back: the guest has not seen it
        pending.timeouts += 1
        if not self.end_callback(pending):
            is_over = not pending.is_spared or pending.timeouts >= _MOST_TIMEOUTS
            if not pending.is_uninterruptible or (is_over and self._is_at(pending)):
                self.end_guest()

    def end_callback(self, pending: PendingRequest) -> bool:
        """Interrupt the request's callback, or give up the connection if that did not help; False if none runs.

        The watchdog and cancelled tasks call this independently: a callback that one of them has interrupted keeps its
        grace period.
        """
        callbacks = self._queue.host.callbacks
        if not callbacks.thread:
            return False
        is_interrupted = callbacks.interrupt(lambda: self._is_at(pending))
        if not is_interrupted and callbacks.run_on(self._queue.grace_period_s) and self._is_at(pending):
            self._give_up(
                OperationalError(
                    f"the connection to {self._queue.name} is closed: a callback of its statement has not returned"
                    " and cannot be interrupted; what was committed is safe, an open transaction is rolled back by the"
                    " next connection"
                )
            )
        return True

    def kill(self) -> None:
        """Kill the guest, once. Any thread."""
        if not self._killed:
            self._killed = True
            self._runs_on = not self._kill()

    def end_guest(self) -> None:
        """Kill the guest; the second time, if that has not helped, leave it behind. Any thread."""
        if not self._killed:
            self.kill()
            return
        reason = (
            "its statement has not ended, and other code's handler for a signal keeps it from being killed; its files"
            " stay open and locked"
            if self._runs_on
            else "a system call of its statement has not returned, so the file system does not answer; when it does,"
            " the files are closed and their locks released"
        )
        self._abandon_thread(OperationalError(f"the connection to {self._queue.name} is closed: {reason}"))

    def interrupt_later(self) -> None:
        """Interrupt a callback that is running now if it still runs after the grace period. Any thread.

        Only if its request is cancelled by then.
        """
        if self._queue.host.callbacks.thread:
            timer = threading.Timer(self._queue.grace_period_s, self._interrupt_cancelled)
            timer.daemon = True
            timer.start()

    def _interrupt_cancelled(self) -> None:
        self._queue.host.callbacks.interrupt(lambda: self._is_at(None))

    def _is_at(self, pending: PendingRequest | None) -> bool:
        """Return True if the guest is running this request (None: a cancelled one), or is being stopped.

        A request that nothing awaits any more counts as this one, which waits behind it.
        """
        queue = self._queue
        with queue.afterwards, queue.lock:
            if queue.host.stopping:
                return True
            running = queue.unanswered()
            if running is None or pending is None:
                return running is not None and running.cancelled
            return running is pending or running.discarded
