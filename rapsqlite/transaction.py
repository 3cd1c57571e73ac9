"""Transactions as ``async with`` blocks.

https://sqlite.org/lang_transaction.html

Blocks of one connection run one at a time, in the order in which their tasks requested them, and statements of other
tasks wait for their end (``_guest/task_blocks``). An exit always completes, even if its task is cancelled meanwhile;
the cancellation is raised afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from rapsqlite._client.block import Block
from rapsqlite._guest.task_blocks import SCOPES
from rapsqlite._values.async_only import AsyncBlock
from rapsqlite._values.uncopied import Uncopied
from rapsqlite.errors import ProgrammingError

if TYPE_CHECKING:
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


def checked_scope(scope: str | None) -> str | None:
    """Return the scope of a block, None for the connection's; raises ValueError for others."""
    if scope is not None and scope not in SCOPES:
        raise ValueError(f"the scope of a transaction must be 'task', 'children' or 'connection', not {scope!r}")
    return scope


class Transaction(AsyncBlock, Uncopied, Generic[ConnectionT]):
    """One transaction: begun on entry, committed on a clean exit, rolled back if an exception leaves the block.

    Entering waits for blocks that other tasks of this connection entered or requested earlier; after ``timeout``
    seconds it raises OperationalError (SQLITE_BUSY). Until the end of the block, statements of other tasks on this
    connection wait; ``scope`` lets tasks take part.

    A block cancelled while it waits has not begun. A block cancelled at its commit is committed or rolled back, and
    reports what SQLite did. If the commit fails, the transaction is rolled back and the error raised.
    """

    __slots__ = ("_block", "_connection", "_is_used", "_timeout_s")

    def __init__(
        self, connection: ConnectionT, mode: str | None, timeout_s: float | None, scope: str | None = None
    ) -> None:
        self._connection = connection
        state = connection._state
        begin = begin_statement(state.transaction_mode if mode is None else mode)
        self._block = Block(state, (begin, b"COMMIT", b"ROLLBACK"), checked_scope(scope), is_transaction=True)
        self._timeout_s = timeout_s
        self._is_used = False

    async def __aenter__(self) -> ConnectionT:
        if self._is_used:
            raise ProgrammingError("this transaction() object was already used: call transaction() again")
        self._is_used = True
        try:
            await self._block.enter(self._timeout_s)
        except BaseException:
            self._is_used = False
            raise
        return self._connection

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            await self._block.leave(exc_info[0])
        except BaseException:
            self._block.abandon()
            raise
