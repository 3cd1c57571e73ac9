"""Holds back full garbage collections while a large result arrives.

Rows that are lists stay tracked by Python's collector, and a full collection walks all of them. Over a million rows,
each of the later collections stops the event loop for a tenth of a second. Together they take most of the fetch's time,
and find nothing, because rows that are still arriving are not garbage. Young collections continue, and a full one runs
at the next occasion after the fetch. docs/decisions/0008-garbage-collection.md has the figures.

The threshold is a setting of the whole process. A count of fetches guards it; a value set by other code meanwhile is
left alone.

https://docs.python.org/3/library/gc.html#gc.set_threshold
"""

from __future__ import annotations

import gc
import threading

from rapsqlite._platform import system

# Middle collections before a full one: more than any result that fits in memory causes.
_HELD_BACK = 2_000_000_000


class FullCollectionsHeldBack:
    """A context in which the collector starts no full collection by itself; any number may be open at once."""

    __slots__ = ()

    def __enter__(self) -> None:
        _state.enter(self)

    def __exit__(self, *exc_info: object) -> None:
        self.end()

    def end(self) -> None:
        """Leave the context; idempotent. Call after an exception: a KeyboardInterrupt may have replaced the exit."""
        _state.leave(self)


class _State:
    """The open fetches, and the threshold to restore when there are none."""

    def __init__(self) -> None:
        # A collection may run meanwhile in the same thread, and end the fetch of a task that is garbage.
        self._lock = threading.RLock()
        self._open: set[FullCollectionsHeldBack] = set()
        self._previous = 0

    def enter(self, fetch: FullCollectionsHeldBack) -> None:
        with self._lock:
            if not self._open:
                young, middle, full = gc.get_threshold()
                self._previous = full
                gc.set_threshold(young, middle, _HELD_BACK)
            self._open.add(fetch)

    def leave(self, fetch: FullCollectionsHeldBack) -> None:
        with self._lock:
            self._open.discard(fetch)
            if not self._open:
                self._restore()

    def _restore(self) -> None:
        young, middle, full = gc.get_threshold()
        if full == _HELD_BACK:
            gc.set_threshold(young, middle, self._previous)

    def forget_after_fork(self) -> None:
        """In a forked child: reset, because the fetches and any thread that holds the lock belong to the parent."""
        self._lock = threading.RLock()
        self._open.clear()
        self._restore()


_state = _State()
system.at_fork(in_child=_state.forget_after_fork)
