"""Holds back full garbage collections while a large result arrives.

A row that is a list stays tracked by Python's collector for as long as it lives, and a full collection walks every one
of them: over a million rows the later collections stop the event loop for a tenth of a second each and take most of the
fetch's time, to find nothing, for rows that are still arriving are no garbage. Young collections go on as ever, and so
does a full one at the next occasion after the fetch. docs/decisions/0008-garbage-collection.md has the figures.

The threshold is one setting of the whole process. A count of fetches guards it; a value that someone else sets
meanwhile is left alone.
"""

from __future__ import annotations

import gc
import os
import threading

# Middle collections that would have to pass before a full one: more than any result that fits in memory causes.
_HELD_BACK = 2_000_000_000


class FullCollectionsHeldBack:
    """A context in which the collector starts no full collection by itself; any number may be open at once."""

    __slots__ = ()

    def __enter__(self) -> None:
        _state.enter()

    def __exit__(self, *exc_info: object) -> None:
        _state.leave()


class _State:
    """How many fetches are open, and the threshold to go back to once none is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._previous = 0

    def enter(self) -> None:
        with self._lock:
            if self._open == 0:
                young, middle, self._previous = gc.get_threshold()
                gc.set_threshold(young, middle, _HELD_BACK)
            self._open += 1

    def leave(self) -> None:
        with self._lock:
            self._open -= 1
            if self._open == 0:
                self._restore()

    def _restore(self) -> None:
        young, middle, full = gc.get_threshold()
        if full == _HELD_BACK:
            gc.set_threshold(young, middle, self._previous)

    def forget_after_fork(self) -> None:
        """In a forked child: the fetches are the parent's, and so is a thread that may hold the lock."""
        self._lock = threading.Lock()
        self._open = 0
        self._restore()


_state = _State()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_state.forget_after_fork)
