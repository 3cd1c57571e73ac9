"""The queue of ``transaction()`` blocks of one connection: first come, first served."""

from __future__ import annotations

import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING

from rapsqlite import _constants as abi
from rapsqlite._client.fair_lock import FairLock
from rapsqlite.errors import OperationalError, ProgrammingError

if TYPE_CHECKING:
    from rapsqlite._client.fair_lock import Turn

_blocks: ContextVar[tuple[object, ...]] = ContextVar("rapsqlite_blocks", default=())
"""The blocks, of any connection, that contain the running task or in which it was started: tasks inherit the context.
"""


class TransactionQueue:
    """Lets one ``transaction()`` block of a connection run at a time."""

    __slots__ = ("_lock", "block", "owner")

    def __init__(self) -> None:
        self._lock = FairLock()
        self.owner: object = None  # the task inside its block
        self.block: object = None  # represents that block in ``_blocks``

    async def enter(self, timeout_s: float | None) -> Turn:
        """Wait for this task's turn, at most ``timeout_s`` seconds."""
        task = _current_task()
        if self.owner is task:
            raise OperationalError("this task is already inside a transaction() block: use savepoint() to nest")
        if self.block in _blocks.get():
            raise ProgrammingError(
                "this task was started inside the open transaction() block, so it is already part of that transaction:"
                " use savepoint(), or start the task after the block"
            )
        turn = await (self._lock.acquire() if timeout_s is None else self._acquire_within(timeout_s))
        try:
            self.block = object()
            self.owner = task
            _blocks.set((*_blocks.get(), self.block))
        except BaseException:
            self.leave(turn)
            raise
        return turn

    async def _acquire_within(self, timeout_s: float) -> Turn:
        # anyio takes a while to import; programs that set no time limit do without.
        from anyio import move_on_after

        turn = None
        try:
            with move_on_after(timeout_s):
                turn = await self._lock.acquire()
        except BaseException:
            if turn is not None:
                self._lock.release(turn)
            raise
        if turn is None:
            error = OperationalError(
                f"database is locked: other tasks' transactions on this connection took longer than {timeout_s} s"
            )
            error.sqlite_errorcode = abi.SQLITE_BUSY
            error.sqlite_errorname = "SQLITE_BUSY"
            raise error
        return turn

    def leave(self, turn: Turn) -> None:
        """Let the next task enter its block; idempotent."""
        if not turn.is_over:
            block, self.owner, self.block = self.block, None, None
            _blocks.set(tuple(other for other in _blocks.get() if other is not block))
        self._lock.release(turn)

    def abandon(self, turn: Turn) -> None:
        """Same as ``leave``, from any thread; later, because a finalizer may run while this thread holds the lock."""
        if not turn.is_over:
            self.owner = self.block = None
            turn.is_over = True
            if not turn.loop.post(self._lock.release, turn):
                self._lock.release(turn)


def _current_task() -> object:
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        return trio.lowlevel.current_task()
    return sys.modules["asyncio"].current_task()
