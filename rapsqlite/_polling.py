"""Waiting for an answer right where it was asked for, instead of in the event loop.

A guest that is awake answers a small request within a few microseconds, sooner than an event loop could go to sleep for
it: waking the loop's thread alone costs five times as much. So a request that is alone in flight waits here for a
moment. Never many times in a row, so that other tasks get to run, and seldom where it did not help.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite._host import HostFunctions
    from rapsqlite._rings import Rings

_LOOKS = 400  # about 15 µs
_IN_ROW = 32  # then the task is suspended for once
_FEW_MISSES = 3
_MOST_MISSES = 6  # in a row: then one request in 64 is tried
_YIELDS = 40
_DEAR_S = 0.0002  # an answer that took this long here had better been waited for in the loop
# Both let go of the GIL; on Linux sleep(0) takes 60 µs, for timers have slack there.
_yield_gil: Callable[[], object] = getattr(os, "sched_yield", lambda: time.sleep(0))


class Polling:
    """Whether to poll one guest, from how it went so far. The guest's lock is held throughout."""

    __slots__ = ("_host", "_in_row", "_misses", "_to_skip")

    def __init__(self, host: HostFunctions) -> None:
        self._host = host
        self._in_row = 0
        self._misses = 0
        self._to_skip = 0

    def may_start(self, rings: Rings) -> bool:
        """Tell whether to wait for the next request's answer here; asked before the request is written."""
        if self._host.is_asleep() or rings.has_replies():
            return False
        if self._to_skip:
            self._to_skip -= 1
            return False
        self._in_row += 1
        if self._in_row > _IN_ROW:
            self._in_row = 0
            return False
        return True

    def wait(self, rings: Rings) -> bool:
        """Look for the reply a bounded number of times; True if it is there."""
        started = time.perf_counter()
        for _ in range(_YIELDS):
            if not self._host.ringing:
                break
            _yield_gil()  # the guest waits for it, to return from ringing for the answer before this
        found = rings.poll(_LOOKS)
        # On a machine whose processors are all taken, letting go of one can cost milliseconds.
        paid = found and time.perf_counter() - started < _DEAR_S
        self._misses = 0 if paid else min(self._misses + 1, _MOST_MISSES)
        self._to_skip = 0 if paid else 1 << self._misses
        self._host.polling_pays = self._misses < _FEW_MISSES
        return found
