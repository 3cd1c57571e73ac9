"""Waits for a reply by spinning and napping in the task itself, instead of in the event loop.

A guest that is awake answers a small request within a few microseconds, sooner than an event loop could go to sleep for
it; waking the loop's thread alone takes five times as long. So a request that is alone in flight is polled for: by
spinning, or without the GIL, by watching, if the guest needs it to call the host, sleeps, takes turns with others, or
took longer than a spin last time; then in a short sleep (nap). Polling backs off where it does not help, and never
keeps other tasks waiting for long.
docs/decisions/0001-how-a-lone-task-waits.md has the figures.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from rapsqlite._platform import system
from rapsqlite.runtime import watcher_here

if TYPE_CHECKING:
    from rapsqlite._guest.bell import Bell
    from rapsqlite._guest.host_functions import HostFunctions
    from rapsqlite._wasm.reply_watcher import Unpublished
    from rapsqlite._wasm.rings import Request, Rings

_SPINS = 400  # about 15 µs
_CHECKS = 200_000  # about 100 µs, without the GIL
_CHECKS_LIKE_SPINS = 30_000  # about 15 µs
_NAP_S = 0.0002
_IN_ROW = 32  # then other tasks run
_IN_ROW_S = 0.0005  # the same, in seconds, with what the task does between its requests
_TOO_MANY_MISSES = 2  # in a row: then some requests are not polled for
_MOST_MISSES = 6  # in a row: then one request in 64 is polled for
_YIELDS = 40
_MOST_STATEMENTS = 256
_DEAR_S = 0.0003  # a reply that took this long to poll for should have been awaited in the loop


class Polling:
    """Decides whether to poll one guest, from past results. Call with the guest's lock held, except for ``nap``."""

    __slots__ = (
        "_calls",
        "_ended",
        "_host",
        "_in_row",
        "_misses",
        "_row_began",
        "_slow",
        "_started",
        "_statement",
        "_to_skip",
        "_woken",
        "naps",
    )

    def __init__(self, host: HostFunctions) -> None:
        self._host = host
        self._in_row = 0
        self._row_began = 0.0
        self._calls = 0
        self._misses = 0
        self._to_skip = 0
        self._statement = 0  # whose reply is polled for
        self._slow: set[int] = set()  # statements that took longer than a spin last time, or called the host; by hash
        self._started = self._ended = 0.0
        self._woken = threading.Lock()
        self._woken.acquire()
        self.naps = False  # the next bell is for ``nap``

    def may_start(self, rings: Rings) -> bool:
        """Return True if the next request's reply should be polled for; called before the request is written."""
        self._started = time.perf_counter()
        if rings.has_replies():
            return False
        if self._to_skip:
            self._to_skip -= 1
            return False
        return True

    def spin(self, rings: Rings) -> bool:
        """Spin for the reply a bounded number of times; True if it arrived."""
        self._started = time.perf_counter()
        for _ in range(_YIELDS):
            if not self._host.ringing:
                break
            system.yield_processor()  # the guest needs the GIL to return from ringing for the previous reply
        found = rings.poll(_SPINS)
        self._note_pace(is_slow=not found)
        if found:
            self._account(found=True)
        return found

    def should_watch(self, request: Request) -> bool:
        """Return True if the reply to this request should be watched for instead of spinning.

        The same statement took longer than a spin last time, or the guest called the host for it, and probably will
        again.
        """
        self._statement = hash(request.sql or (request.op, request.target))
        self._calls = self._calls_of_guest()
        return self._statement in self._slow

    def _calls_of_guest(self) -> int:
        counts = self._host.counts
        return counts.get("file_lock", 0) + counts.get("shm_lock", 0) + counts.get("file_write", 0)

    def _note_pace(self, *, is_slow: bool) -> None:
        if is_slow or self._calls_of_guest() != self._calls:
            if len(self._slow) >= _MOST_STATEMENTS:
                self._slow.clear()
            self._slow.add(self._statement)
        else:
            self._slow.discard(self._statement)

    @staticmethod
    def can_watch(rings: Rings) -> bool:
        """Prepare to watch for replies without the GIL; False if that is not possible."""
        page, watcher = rings.page, watcher_here()
        return page is not None and watcher is not None and watcher.show(page)

    def watch(self, rings: Rings, request: Unpublished) -> bool:
        """Publish a request and watch for its reply; True if it arrived. Call without the lock."""
        page, watcher = rings.page, watcher_here()
        left = watcher.watch(page, request, _CHECKS) if page is not None and watcher is not None else 0
        self._note_pace(is_slow=left < _CHECKS - _CHECKS_LIKE_SPINS)
        return left > 0

    def nap(self, bell: Bell | None) -> None:
        """Sleep until the bell rings, but not for long. Call without the lock, with ``naps`` set.

        If the running loop does not watch the guest's ``bell``, the guest calls ``wake`` instead.
        """
        if bell is not None and bell.is_heard:
            bell.wait(_NAP_S)
        else:
            self._woken.acquire(timeout=_NAP_S)

    def end_nap(self, rings: Rings | None) -> None:
        """After ``nap``: the next bell is for the event loop again."""
        self.naps = False
        self._woken.acquire(blocking=False)  # it may have been rung after the nap timed out
        self._account(found=rings is not None and rings.has_replies())

    def wake(self) -> None:
        """End ``nap``. The guest's thread."""
        self.naps = False
        if self._woken.locked():  # otherwise an exception came between a wake-up and ``end_nap``
            self._woken.release()

    def _account(self, *, found: bool) -> None:
        self._ended = time.perf_counter()
        took_s = self._ended - self._started
        # On a machine whose processors are all busy, yielding one can cost milliseconds.
        paid = found and took_s < _DEAR_S
        self._misses = 0 if paid else min(self._misses + 1, _MOST_MISSES)
        self._to_skip = 0 if self._misses < _TOO_MANY_MISSES else 1 << self._misses

    def should_yield(self, *, answered: bool) -> bool:
        """Return True if a task has kept others waiting long enough; without a reply it waits in the loop anyway."""
        if not answered:
            self._in_row = 0
            return False
        if self._in_row == 0:
            self._row_began = self._started
        self._in_row += 1
        if self._in_row < _IN_ROW and self._ended - self._row_began < _IN_ROW_S:
            return False
        self._in_row = 0
        return True
