"""The queue of ``transaction()`` blocks of one connection: first come, first served."""

from __future__ import annotations

import sys
from contextvars import ContextVar

from rapsqlite import _constants as abi
from rapsqlite._client.fair_lock import FairLock
from rapsqlite.errors import OperationalError, ProgrammingError

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

    async def enter(self, timeout_s: float | None) -> None:
        """Wait for this task's turn, at most ``timeout_s`` seconds."""
        task = _current_task()
        if self.owner is task:
            raise OperationalError("this task is already inside a transaction() block: use savepoint() to nest")
        if self.block in _blocks.get():
            raise ProgrammingError(
                "this task was started inside the open transaction() block, so it is already part of that transaction:"
                " use savepoint(), or start the task after the block"
            )
        if timeout_s is None:
            await self._lock.acquire()
        else:
            await self._acquire_within(timeout_s)
        self.owner = task
        self.block = object()
        _blocks.set((*_blocks.get(), self.block))

    async def _acquire_within(self, timeout_s: float) -> None:
        # anyio takes a while to import; programs that set no time limit do without.
        from anyio import move_on_after

        acquired = False
        with move_on_after(timeout_s):
            await self._lock.acquire()
            acquired = True
        if not acquired:
            error = OperationalError(
                f"database is locked: other tasks' transactions on this connection took longer than {timeout_s} s"
            )
            error.sqlite_errorcode = abi.SQLITE_BUSY
            error.sqlite_errorname = "SQLITE_BUSY"
            raise error

    def leave(self) -> None:
        """Let the next task enter its block."""
        block, self.owner, self.block = self.block, None, None
        _blocks.set(tuple(other for other in _blocks.get() if other is not block))
        self._lock.release()


def _current_task() -> object:
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        return trio.lowlevel.current_task()
    return sys.modules["asyncio"].current_task()
