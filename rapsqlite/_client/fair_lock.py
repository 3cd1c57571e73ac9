"""A first-come, first-served lock for tasks of any event loop in any thread.

asyncio's and Trio's locks belong to one event loop; a connection may be used from several. Releasing passes the lock to
the task that has waited longest, so a task that releases and immediately acquires again queues behind the others.

A KeyboardInterrupt may come anywhere, even at the entry of ``release``. A turn therefore knows that it is over,
releasing it is idempotent, and callers release again after an exception.
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


class Turn:
    """One task's turn to hold the lock, now or later (a ``Ticket`` of ``_loops``)."""

    __slots__ = ("cancellation", "cancellation_count", "granted", "is_over", "is_woken", "lock", "loop", "waiter")

    def __init__(self, lock: FairLock, loop: Loop) -> None:
        self.lock: FairLock = lock
        self.loop: Loop = loop
        self.granted: bool = False
        self.is_woken: bool = False
        self.is_over: bool = False  # released or given up
        self.waiter: Any = None
        self.cancellation: BaseException | None = None
        self.cancellation_count: int = 0

    @property
    def grace_period_s(self) -> float:
        """Return no limit: a cancelled wait ends immediately."""
        return inf

    def is_ready(self) -> bool:
        """Return True if the wait is over, with or without the lock."""
        return self.granted or self.is_over

    def on_cancel(self) -> None:
        """Leave the queue, unless the lock is being passed on at this moment."""
        self.lock.withdraw(self)

    def on_timeout(self) -> None:
        """Nothing to do: no guest is involved."""


class FairLock:
    """A fair lock. ``acquire`` waits for it, ``release`` passes it on; another task may release it."""

    __slots__ = ("_guard", "_turns")

    def __init__(self) -> None:
        # Held for a few instructions, never across a wait. A finalizer may run meanwhile and release another turn.
        self._guard = threading.RLock()
        self._turns: deque[Turn] = deque()  # the first one holds the lock

    async def acquire(self) -> Turn:
        """Wait for the lock. If cancelled while waiting, the task leaves the queue and does not hold it.

        If cancelled while the lock is being passed on, the task holds the lock, and the cancellation is raised at its
        next checkpoint: release in a ``finally``.
        """
        loop = current_loop()
        turn = Turn(self, loop)
        try:
            with self._guard:
                turn.is_woken = not self._turns  # it is awake
                self._turns.append(turn)
                self._pass_on()
            while not turn.is_ready():
                await loop.wait(turn)
            raise_or_hold_back(loop, turn, finished=turn.granted)
        except BaseException:
            self.release(turn)
            raise
        return turn

    def is_free(self) -> bool:
        """Return True if no task holds the lock at this moment."""
        return not self._turns

    def release(self, turn: Turn) -> None:
        """Pass the lock to the task that has waited longest; idempotent. Any thread."""
        turn.is_over = True
        with self._guard:
            self._pass_on()

    def withdraw(self, turn: Turn) -> None:
        """Remove a waiting task from the queue, in that task, unless it holds the lock by now."""
        with self._guard:
            if not turn.granted:
                turn.is_over = True
                self._turns.remove(turn)

    def _pass_on(self) -> None:
        """Grant the first turn that is not over and wake its task. Call with the guard held."""
        while self._turns:
            turn = self._turns[0]
            if not turn.is_over:
                turn.granted = True
                if turn.is_woken or turn.loop.post(turn.loop.wake, turn):
                    turn.is_woken = True
                    return
                turn.is_over = True  # that task's event loop is closed
            del self._turns[0]
