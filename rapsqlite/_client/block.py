"""A ``transaction()`` or ``savepoint()`` block: entered, kept and undone by one request each.

While it is open the guest watches its transaction. Once SQLite has rolled that back by itself, statements that change
data fail until the block ends, and so does keeping it (OperationalError, SQLITE_ABORT_ROLLBACK).

https://sqlite.org/lang_transaction.html, https://sqlite.org/lang_savepoint.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rapsqlite import _constants as abi
from rapsqlite._wasm.rings import Request

if TYPE_CHECKING:
    from rapsqlite._client.state import ConnectionState


class Block:
    """One block, with the statements that begin, keep and undo it."""

    __slots__ = ("_enter", "_keep", "_number", "_state", "_undo")

    def __init__(self, state: ConnectionState, enter: bytes, keep: bytes, undo: bytes) -> None:
        self._state = state
        self._enter = enter
        self._keep = keep
        self._undo = undo
        self._number = state.next_block()

    async def enter(self) -> None:
        """Begin it. If cancelled or rejected, it has not begun."""
        state = self._state
        await state.apply_pending_setting()
        try:
            await state.guest.call(Request(abi.OP_BLOCK_ENTER, self._enter, target=self._number))
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            self._post_undo()  # nothing waits for the reply any more, and it may have begun anyway
            raise

    async def leave(self, exc_type: object) -> None:
        """Keep it, or undo it because of an exception."""
        if exc_type is None:
            await self._keep_or_undo()
        elif exc_type is GeneratorExit:
            self._post_undo()  # nothing runs the task any more, so it cannot wait
        else:
            await self._roll_back()

    async def _keep_or_undo(self) -> None:
        state = self._state
        try:
            await state.apply_pending_setting()
            await state.guest.call(Request(abi.OP_BLOCK_KEEP, self._keep, target=self._number))
        except GeneratorExit:
            self._post_undo()
            raise
        except BaseException:
            await self._roll_back()
            raise

    async def _roll_back(self) -> None:
        state = self._state
        await state.apply_or_drop_pending_setting()
        await state.guest.call(Request(abi.OP_BLOCK_UNDO, self._undo, target=self._number))

    def _post_undo(self) -> None:
        self._state.guest.post(Request(abi.OP_BLOCK_UNDO, target=self._number, sql=self._undo))
