"""A first-come, first-served lock for tasks of any event loop in any thread.

asyncio's and Trio's locks belong to one event loop; a connection may be used from several. Releasing passes the lock to
the task that has waited longest, so a task that releases and immediately acquires again queues behind the others.
"""

from __future__ import annotations

import threading
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any

from rapsqlite._loops import current_loop
from rapsqlite._loops.cancellation import raise_or_hold_back

if TYPE_CHECKING:
    from rapsqlite._loops import Loop


class _Turn:
    """One waiting task (a ``Ticket`` of ``_loops``)."""

    __slots__ = ("cancellation", "granted", "lock", "loop", "waiter", "withdrawn")

    def __init__(self, lock: FairLock, loop: Loop) -> None:
        self.lock: FairLock = lock
        self.loop: Loop = loop
        self.granted: bool = False
        self.withdrawn: bool = False
        self.waiter: Any = None
        self.cancellation: BaseException | None = None

    @property
    def grace_period_s(self) -> float:
        """Return no limit: a cancelled wait ends immediately."""
        return inf

    def is_ready(self) -> bool:
        """Return True if the wait is over, with or without the lock."""
        return self.granted or self.withdrawn

    def on_cancel(self) -> None:
        """Leave the queue, unless the lock is being passed on at this moment."""
        self.lock.withdraw(self)

    def on_timeout(self) -> None:
        """Nothing to do: no guest is involved."""


class FairLock:
    """A fair lock. ``acquire`` waits for it, ``release`` passes it on; another task may release it."""

    __slots__ = ("_guard", "_taken", "_waiting")

    def __init__(self) -> None:
        self._guard = threading.Lock()  # held for a few instructions, never across a wait
        self._taken = False
        self._waiting: deque[_Turn] = deque()

    async def acquire(self) -> None:
        """Wait for the lock. If cancelled while waiting, the task leaves the queue and does not hold it.

        If cancelled while the lock is being passed on, the task holds the lock, and the cancellation is raised at its
        next checkpoint: release in a ``finally``.
        """
        loop = current_loop()
        with self._guard:
            if not self._taken:
                self._taken = True
                return
            turn = _Turn(self, loop)
            self._waiting.append(turn)
        while not turn.is_ready():
            await loop.wait(turn)
        raise_or_hold_back(loop, turn, finished=turn.granted)

    def release(self) -> None:
        """Pass the lock to the task that has waited longest. Any thread; raises RuntimeError if it is not held."""
        with self._guard:
            if not self._taken:
                raise RuntimeError("the lock was released by a task that does not hold it")
            while self._waiting:
                turn = self._waiting.popleft()
                turn.granted = True
                if turn.loop.post(turn.loop.wake, turn):
                    return
                # That task's event loop is closed: try the next one.
            self._taken = False

    def withdraw(self, turn: _Turn) -> None:
        """Remove a waiting task from the queue and wake it."""
        with self._guard:
            if turn.granted:
                return
            self._waiting.remove(turn)
            turn.withdrawn = True
        turn.loop.post(turn.loop.wake, turn)
