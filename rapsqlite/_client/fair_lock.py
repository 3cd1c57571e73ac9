"""Tasks take turns, first come, first served: a lock for tasks of any event loop in any thread.

asyncio's and Trio's own locks belong to one event loop; a connection may be used from several. Whoever releases hands
the turn to the task that has waited longest, so a task that releases and asks again at once stands behind the others.
"""

from __future__ import annotations

import threading
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any

from rapsqlite._loops import current_loop
from rapsqlite._loops.cancellation import settle

if TYPE_CHECKING:
    from rapsqlite._loops import Loop


class _Turn:
    """One waiting task (a ``Ticket`` of ``_loops``)."""

    __slots__ = ("cancellation", "granted", "loop", "turns", "waiter", "withdrawn")

    def __init__(self, turns: FairLock, loop: Loop) -> None:
        self.turns: FairLock = turns
        self.loop: Loop = loop
        self.granted: bool = False
        self.withdrawn: bool = False
        self.waiter: Any = None
        self.cancellation: BaseException | None = None

    @property
    def grace_period_s(self) -> float:
        """Return no limit: a cancelled wait is over at once."""
        return inf

    def is_ready(self) -> bool:
        """Tell whether the wait is over, one way or the other."""
        return self.granted or self.withdrawn

    def on_cancel(self) -> None:
        """Leave the queue, unless the turn was given at this very moment."""
        self.turns.withdraw(self)

    def on_timeout(self) -> None:
        """Nobody is asked for an answer."""


class FairLock:
    """A fair lock. ``acquire`` waits for the turn, ``release`` passes it on; the releaser may be another task."""

    __slots__ = ("_guard", "_taken", "_waiting")

    def __init__(self) -> None:
        self._guard = threading.Lock()  # held for a few instructions, never across a wait
        self._taken = False
        self._waiting: deque[_Turn] = deque()

    async def acquire(self) -> None:
        """Wait for the turn. Cancelled while waiting, the task leaves the queue and holds nothing.

        Cancelled at the moment the turn is given, it holds the turn, and the cancellation comes at the next
        checkpoint: whoever acquires releases in a ``finally``.
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
        settle(loop, turn, finished=turn.granted)

    def release(self) -> None:
        """Give the turn to whoever waited longest. Any thread; raises RuntimeError if nobody holds it."""
        with self._guard:
            if not self._taken:
                raise RuntimeError("the lock was released by a task that does not hold it")
            while self._waiting:
                turn = self._waiting.popleft()
                turn.granted = True
                if turn.loop.post(turn.loop.wake, turn):
                    return
                # That event loop is closed, and its task with it: the next one, then.
            self._taken = False

    def withdraw(self, turn: _Turn) -> None:
        """Take a waiting task out of the queue and wake it."""
        with self._guard:
            if turn.granted:
                return
            self._waiting.remove(turn)
            turn.withdrawn = True
        turn.loop.post(turn.loop.wake, turn)
