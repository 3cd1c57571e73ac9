"""Transactions as ``async with`` blocks.

https://sqlite.org/lang_transaction.html

Blocks of one connection run one at a time, in the order in which their tasks requested them
(``_client/transaction_queue``). An exit always completes, even if its task is cancelled meanwhile; the cancellation is
raised afterwards.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from rapsqlite._client.block import Block
from rapsqlite._values.uncopied import Uncopied
from rapsqlite.errors import ProgrammingError

if TYPE_CHECKING:
    from rapsqlite._client.fair_lock import Turn
    from rapsqlite.connection import Connection

ConnectionT = TypeVar("ConnectionT", bound="Connection")

_BEGIN = {
    None: b"BEGIN",
    "DEFERRED": b"BEGIN DEFERRED",
    "IMMEDIATE": b"BEGIN IMMEDIATE",
    "EXCLUSIVE": b"BEGIN EXCLUSIVE",
}


def begin_statement(mode: str | None) -> bytes:
    """Return the BEGIN for this mode; None and "" use SQLite's default, DEFERRED. Raises ValueError for other modes."""
    statement = _BEGIN.get(mode.upper() or None if isinstance(mode, str) else mode)
    if statement is None:
        raise ValueError(f"the mode of a transaction must be 'DEFERRED', 'IMMEDIATE' or 'EXCLUSIVE', not {mode!r}")
    return statement


class Transaction(Uncopied, Generic[ConnectionT]):
    """One transaction: begun on entry, committed on a clean exit, rolled back if an exception leaves the block.

    Entering waits for blocks that other tasks of this connection entered or requested earlier; after ``timeout``
    seconds it raises OperationalError (SQLITE_BUSY). Statements that other tasks run on the connection outside such
    blocks are not held back: they become part of the transaction.

    A block cancelled while it waits has not begun. A block cancelled at its commit is committed or rolled back, and
    reports what SQLite did. If the commit fails, the transaction is rolled back and the error raised.
    """

    __slots__ = ("_block", "_connection", "_entered", "_queue", "_timeout_s", "_turn")

    def __init__(self, connection: ConnectionT, mode: str | None, timeout_s: float | None) -> None:
        self._turn: Turn | None = None
        self._connection = connection
        state = connection._state
        self._queue = state.transactions
        self._block = Block(state, begin_statement(mode), b"COMMIT", b"ROLLBACK")
        self._timeout_s = timeout_s
        self._entered = False

    async def __aenter__(self) -> ConnectionT:
        if self._entered:
            raise ProgrammingError("this transaction() object was already used: call transaction() again")
        turn = self._turn = await self._queue.enter(self._timeout_s)
        try:
            self._block.when_abandoned = partial(self._queue.abandon, turn)
            await self._block.enter()
        except BaseException:
            self._queue.leave(turn)
            raise
        self._entered = True
        return self._connection

    async def __aexit__(self, *exc_info: object) -> None:
        turn = self._turn
        assert turn is not None, "it was entered"
        try:
            await self._block.leave(exc_info[0])
            self._queue.leave(turn)
        except BaseException:
            self._block.abandon()
            self._queue.leave(turn)
            raise
