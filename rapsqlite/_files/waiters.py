"""Queues of this process's connections that wait for locks, by file: the next one is woken when it can get the lock.

First come, first served, as far as possible: a woken waiter tries again, and if another connection was faster, it
sleeps again in its old position. Holders in other processes wake no one, so each waiter also retries from time to time:
the first in the queue as often as if it were alone, the others less often the more of them wait.

A process that waits with SQLite's own library tries ten times a second in the end, and would rarely find a lock free
that goes from hand to hand here. So after a turn of a second this process pauses: for as long as such a process may
sleep, none of its connections begins to write.
docs/decisions/0005-waiting-for-locks.md has the figures.
https://sqlite.org/c3ref/busy_timeout.html
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING

from rapsqlite._platform import system

if TYPE_CHECKING:
    from collections.abc import Callable

_NAP_PER_WAITER_S = 0.005
_TURN_S = 1.0
_PAUSE_S = 0.12  # more than the longest sleep of sqlite3_busy_timeout's handler
_now = time.monotonic

_guard = threading.Lock()  # of queues, turns and the waiters' fields; held for a moment, by any guest's thread
_queues: dict[tuple[int, int], list[Waiter]] = {}  # by device and inode, in the order of arrival
_turns: dict[tuple[int, int], _Turn] = {}  # of the files whose lock was handed on, until it was free for a while


class _Turn:
    """A time in which this process's writers followed each other too closely for other processes."""

    __slots__ = ("began", "paused_until", "released")

    def __init__(self, now: float) -> None:
        self.began = now
        self.released = now
        self.paused_until = now


class Waiter:
    """One connection; waits for one lock at a time. Its guest's thread calls everything but ``_wake``."""

    __slots__ = ("_is_asleep", "_key", "_refused_at", "_wake", "is_woken", "needs_all", "rest", "was_refused")

    def __init__(self) -> None:
        self._key: tuple[int, int] | None = None  # of the queue that it is in
        self._refused_at: tuple[int, int] | None = None
        self._is_asleep = False
        self._wake: Callable[[], object] = bool
        self.rest: Callable[[float], object] = float  # sleeps that long in the guest's thread
        self.is_woken = False  # a lock was released since it last tried
        self.was_refused = False  # since it last began to try
        self.needs_all = False  # a lock that conflicts with readers, too

    def sleep_by(self, rest: Callable[[float], object], wake: Callable[[], object]) -> None:
        """Set how the guest's thread sleeps, and what ends its sleep between two tries.

        Any thread calls ``wake``, even before or after the sleep.
        """
        self.rest = rest
        self._wake = wake

    def refuse(self, key: tuple[int, int] | None, *, needs_all: bool) -> None:
        """Record that a lock on this file was refused."""
        self._refused_at = key
        self.was_refused = True
        self.needs_all = needs_all

    def may_sleep(self) -> bool:
        """Enter the queue; False if the lock should be tried again first.

        A newcomer tries again, because it may have missed a release.
        """
        key = self._refused_at
        if key != self._key:
            self.leave()
        if key is None:
            return True
        with _guard:
            if self._key is None:
                self._key = key
                _queues.setdefault(key, []).append(self)
                self._begin_try()
                return False
            if self.is_woken:
                self._begin_try()
                return False
            self._is_asleep = True
            return True

    def nap_s(self, alone_s: float) -> float:
        """Return how long to sleep before the next try, in seconds; ``alone_s`` for a waiter that is alone."""
        queue = _queues.get(self._key) if self._key is not None else None
        if not queue or queue[0] is self:
            return alone_s
        return max(alone_s, len(queue) * _NAP_PER_WAITER_S)

    def is_called(self) -> bool:
        """Return True if the lock was released meanwhile."""
        return self.is_woken

    def rise(self) -> None:
        """Note that the sleep is over and the lock is tried again, after this process's pause."""
        if self._key in _turns:
            self._rest_until_resumed(self._key)
        with _guard:
            self._begin_try()

    def _rest_until_resumed(self, key: tuple[int, int]) -> None:
        turn = _turns.get(key)
        if turn is not None and (left_s := turn.paused_until - _now()) > 0:
            self.rest(left_s)

    def _begin_try(self) -> None:
        self._is_asleep = self.is_woken = self.was_refused = False

    def leave(self) -> None:
        """Leave the queue: the lock is held, or no longer wanted."""
        if self._key is not None:
            self._leave()

    def _leave(self) -> tuple[int, int] | None:
        """Leave the queue and return it. The thread that releases the lock and the guest's may do so simultaneously."""
        with _guard:
            key = self._key
            if key is not None:
                queue = _queues.get(key, [])
                if self in queue:
                    queue.remove(self)
                if not queue:
                    _queues.pop(key, None)
                self._begin_try()
                self._key = None  # last: after an interrupt above, all is done again
        return key

    def give_up(self) -> None:
        """Leave the queue without having got the lock, and let the next waiter try."""
        key = self._leave() if self._key is not None else None
        if key is not None:
            wake_next(key)

    def _take_wake(self, *, writer_left: bool) -> bool:
        """Return whether to wake this waiter: not if it is about to try anyway. Call with the guard held."""
        if not writer_left and not self.needs_all:
            return False
        self.is_woken = True
        was_asleep, self._is_asleep = self._is_asleep, False
        return was_asleep


def wake_next(key: tuple[int, int], *, writer_left: bool = True) -> None:
    """Wake the first waiter for this file; if only a reader has left, the first one that conflicts with readers."""
    with _guard:
        queue = _queues.get(key, ())
        woken = next((waiter for waiter in queue if waiter._take_wake(writer_left=writer_left)), None)
        if writer_left:
            _note_release(key, _now(), is_handed_on=bool(queue))
    if woken is not None:
        woken._wake()


def _note_release(key: tuple[int, int], now: float, *, is_handed_on: bool) -> None:
    """Begin a turn when the lock is handed on, and pause when it was long enough. Call with the guard held."""
    turn = _turns.get(key)
    if turn is not None:
        turn.released = now
        if is_handed_on and now - turn.began > _TURN_S:
            turn.began = turn.paused_until = now + _PAUSE_S
    elif is_handed_on:
        for other in [other for other, turn in _turns.items() if now - turn.released > _TURN_S]:
            del _turns[other]
        _turns[key] = _Turn(now)


def _note_grant(key: tuple[int, int]) -> None:
    """End the turn if the lock was free for so long that other processes could take it."""
    with _guard:
        turn = _turns.get(key)
        if turn is not None and _now() - turn.released > _PAUSE_S:
            del _turns[key]


class Contention:
    """One connection's locks on one file as they affect waiters; its guest's thread records each change."""

    __slots__ = ("_fd", "_key", "_waiter")

    def __init__(self, waiter: Waiter, fd: int) -> None:
        self._waiter = waiter
        self._fd = fd
        self._key: tuple[int, int] | None = None

    def prepare(self) -> None:
        """Look at the file now, in the guest's thread: locks may be released in another one."""
        self._find_key()

    def _find_key(self) -> tuple[int, int] | None:
        if self._key is None:
            with contextlib.suppress(OSError):  # then no waiter is woken
                status = os.fstat(self._fd)
                self._key = (status.st_dev, status.st_ino)
        return self._key

    @staticmethod
    def anyone_waits() -> bool:
        """Tell whether any connection of this process waits for any file."""
        return bool(_queues)

    def refused(self, *, needs_all: bool) -> None:
        """A lock was refused; ``needs_all``: one that conflicts with readers."""
        self._waiter.refuse(self._find_key(), needs_all=needs_all)

    def rest(self) -> None:
        """Wait, before the lock that lets one connection write is taken, until this process's pause is over."""
        if _turns:
            key = self._find_key()
            if key is not None:
                self._waiter._rest_until_resumed(key)

    def granted(self) -> None:
        """The lock that lets one connection write was granted: the wait is over."""
        self._waiter.leave()
        if _turns:
            key = self._find_key()
            if key is not None:
                _note_grant(key)

    def released(self, *, by_writer: bool) -> None:
        """A lock was released, either the writer's or a reader's."""
        if not _queues and not _turns:
            return
        waiter = self._waiter
        if waiter._key is not None and not waiter.was_refused:
            waiter.give_up()  # it has waited, and read: let the next one do so too
        key = self._find_key()
        if key is not None:
            wake_next(key, writer_left=by_writer)


def _forget_after_fork() -> None:
    global _guard
    _guard = threading.Lock()
    _queues.clear()
    _turns.clear()


system.at_fork(in_child=_forget_after_fork)
