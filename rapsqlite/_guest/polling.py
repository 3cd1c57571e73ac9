"""Waiting for an answer right where it was asked for, instead of in the event loop.

A guest that is awake answers a small request within a few microseconds, sooner than an event loop could go to sleep for
it: waking the loop's thread alone costs five times as much. So a request that is alone in flight is waited for here:
first by looking for its reply, then, for a guest that needs the host meanwhile and so the GIL, in a nap that lets go of
it. Seldom where it did not help, and never for long in a row without letting other tasks run.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite._guest.bell import Bell
    from rapsqlite._guest.host_functions import HostFunctions
    from rapsqlite._wasm.rings import Rings

_LOOKS = 400  # about 15 µs
_NAP_S = 0.0002
_IN_ROW = 32  # then other tasks get to run
_IN_ROW_S = 0.0004  # the same for answers that had to be napped for
_TOO_MANY_MISSES = 2  # in a row: then some requests are not waited for here
_MOST_MISSES = 6  # in a row: then one request in 64 is tried
_YIELDS = 40
_DEAR_S = 0.0003  # an answer that took this long here had better been waited for in the loop
# Both let go of the GIL; on Linux sleep(0) takes 60 µs, for timers have slack there.
_yield_gil: Callable[[], object] = getattr(os, "sched_yield", lambda: time.sleep(0))


class Polling:
    """Whether to poll one guest, from how it went so far. The guest's lock is held, except in ``nap``."""

    __slots__ = ("_host", "_in_row", "_in_row_s", "_locks", "_misses", "_started", "_to_skip", "_woken", "naps")

    def __init__(self, host: HostFunctions) -> None:
        self._host = host
        self._in_row = 0
        self._in_row_s = 0.0
        self._locks = 0
        self._misses = 0
        self._to_skip = 0
        self._started = 0.0
        self._woken = threading.Lock()
        self._woken.acquire()
        self.naps = False  # the next bell is for ``nap``

    def may_start(self, rings: Rings) -> bool:
        """Tell whether to wait for the next request's answer here; asked before the request is written."""
        return not self._host.is_asleep() and self.may_nap(rings)

    def may_nap(self, rings: Rings) -> bool:
        """Tell the same of a request whose answer is not looked for, so that its guest may as well be asleep."""
        self._started = time.perf_counter()
        if rings.has_replies():
            return False
        if self._to_skip:
            self._to_skip -= 1
            return False
        return True

    def look(self, rings: Rings) -> bool:
        """Look for the reply a bounded number of times; True if it is there."""
        self._started = time.perf_counter()
        for _ in range(_YIELDS):
            if not self._host.ringing:
                break
            _yield_gil()  # the guest waits for it, to return from ringing for the answer before this
        if self._asks_for_locks():
            return False  # it waits for the GIL, which is let go of in ``nap``
        found = rings.poll(_LOOKS)
        if found:
            self._account(found=True)
        return found

    def _asks_for_locks(self) -> bool:
        """Tell whether the guest has called the host for a lock since the last look, as it probably will again."""
        counts = self._host.counts
        locks = counts.get("file_lock", 0) + counts.get("shm_lock", 0)
        asked, self._locks = locks != self._locks, locks
        return asked

    def nap(self, bell: Bell | None) -> None:
        """Sleep until the bell is rung, but not for long. The lock is not held, and ``naps`` is set.

        A guest whose ``bell`` is not heard by the running loop calls ``wake`` instead.
        """
        if bell is not None and bell.is_heard:
            bell.wait(_NAP_S)
        else:
            self._woken.acquire(timeout=_NAP_S)

    def end_nap(self, rings: Rings | None) -> None:
        """After ``nap``: the next bell is the event loop's again."""
        self.naps = False
        self._woken.acquire(blocking=False)  # it may have been rung after the nap's time was over
        self._account(found=rings is not None and rings.has_replies())

    def wake(self) -> None:
        """Ring the bell of ``nap``. The guest's thread."""
        self.naps = False
        self._woken.release()

    def _account(self, *, found: bool) -> None:
        took_s = time.perf_counter() - self._started
        self._in_row_s += took_s
        # On a machine whose processors are all taken, letting go of one can cost milliseconds.
        paid = found and took_s < _DEAR_S
        self._misses = 0 if paid else min(self._misses + 1, _MOST_MISSES)
        self._to_skip = 0 if self._misses < _TOO_MANY_MISSES else 1 << self._misses

    def should_yield(self, *, answered: bool) -> bool:
        """Tell whether a task has kept others from running for long enough; without an answer it waits in the loop."""
        self._in_row += 1
        if answered and self._in_row < _IN_ROW and self._in_row_s < _IN_ROW_S:
            return False
        self._in_row = 0
        self._in_row_s = 0.0
        return answered
