"""Transactions as ``async with`` blocks.

Transactions of one connection take turns in the order in which their tasks asked (``_turns``). What is decided is
sent once: an exit is carried through although its task is cancelled meanwhile, and the cancellation is raised after it.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Generic, TypeVar

from rapsqlite import _constants as abi
from rapsqlite._block import Block
from rapsqlite._turns import Turns
from rapsqlite._uncopied import Uncopied
from rapsqlite.errors import OperationalError, ProgrammingError

if TYPE_CHECKING:
    from types import TracebackType

    from rapsqlite.connection import Connection

ConnectionT = TypeVar("ConnectionT", bound="Connection")

_BEGIN = {
    None: b"BEGIN",
    "DEFERRED": b"BEGIN DEFERRED",
    "IMMEDIATE": b"BEGIN IMMEDIATE",
    "EXCLUSIVE": b"BEGIN EXCLUSIVE",
}


def begin_statement(mode: str | None) -> bytes:
    """Return the BEGIN of this mode; None and "" leave it to SQLite, which is DEFERRED. ValueError for another mode."""
    statement = _BEGIN.get(mode.upper() or None if isinstance(mode, str) else mode)
    if statement is None:
        raise ValueError(f"the mode of a transaction is 'DEFERRED', 'IMMEDIATE' or 'EXCLUSIVE', not {mode!r}")
    return statement


_blocks: ContextVar[tuple[object, ...]] = ContextVar("rapsqlite_blocks", default=())
"""The blocks, of whatever connection, that the running task is in or was started in: tasks inherit the context."""


class TransactionQueue:
    """Whose ``transaction()`` block it is, for one connection."""

    __slots__ = ("_turns", "block", "owner")

    def __init__(self) -> None:
        self._turns = Turns()
        self.owner: object = None  # the task inside its block
        self.block: object = None  # stands for that block in ``_blocks``

    async def enter(self, timeout_s: float | None) -> None:
        """Wait for this task's turn, at most ``timeout_s`` seconds."""
        task = _current_task()
        if self.owner is task:
            raise OperationalError("this task is inside a transaction() block already: use savepoint() to nest")
        if self.block in _blocks.get():
            raise ProgrammingError(
                "this task was started inside the transaction() block that it would wait for: what it does is part of"
                " that transaction already; use savepoint() in it, or start it when the block is over"
            )
        if timeout_s is None:
            await self._turns.acquire()
        else:
            await self._acquire_within(timeout_s)
        self.owner = task
        self.block = object()
        _blocks.set((*_blocks.get(), self.block))

    async def _acquire_within(self, timeout_s: float) -> None:
        # anyio takes a while to import; a program that sets no time limit does without.
        from anyio import move_on_after

        acquired = False
        with move_on_after(timeout_s):
            await self._turns.acquire()
            acquired = True
        if not acquired:
            error = OperationalError(
                f"database is locked: other tasks' transactions on this connection took longer than {timeout_s} s"
            )
            error.sqlite_errorcode = abi.SQLITE_BUSY
            error.sqlite_errorname = "SQLITE_BUSY"
            raise error

    def leave(self) -> None:
        """Give the turn to the next task."""
        block, self.owner, self.block = self.block, None, None
        _blocks.set(tuple(other for other in _blocks.get() if other is not block))
        self._turns.release()


class Transaction(Uncopied, Generic[ConnectionT]):
    """One transaction: begun on entry, committed on a clean exit, rolled back when an exception leaves the block.

    Entering waits until the blocks that other tasks of this connection entered or asked for earlier are over; after
    ``timeout`` seconds it raises OperationalError (SQLITE_BUSY) instead. Statements that other tasks send to the
    same connection outside of such blocks are not held back: they become part of the transaction.

    A block cancelled while it waits has not begun. Cancelled at its commit, it is committed or rolled back, and what
    is reported is what SQLite did. If the commit fails, the transaction is rolled back and the error raised.
    """

    __slots__ = ("_block", "_connection", "_entered", "_queue", "_timeout_s")

    def __init__(self, connection: ConnectionT, mode: str | None, timeout_s: float | None) -> None:
        self._connection = connection
        session = connection._session
        self._queue = session.transactions
        self._block = Block(session, begin_statement(mode), b"COMMIT", b"ROLLBACK")
        self._timeout_s = timeout_s
        self._entered = False

    async def __aenter__(self) -> ConnectionT:
        if self._entered:
            raise ProgrammingError("one transaction() object is entered once: call transaction() again")
        await self._queue.enter(self._timeout_s)
        try:
            await self._block.enter()
        except BaseException:
            self._queue.leave()
            raise
        self._entered = True
        return self._connection

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._block.leave(exc_type)
        finally:
            self._queue.leave()


def _current_task() -> object:
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        return trio.lowlevel.current_task()
    return sys.modules["asyncio"].current_task()
