"""A ``transaction()`` or ``savepoint()`` block: entered, kept and undone by one request each.

While it is open the guest watches its transaction. Once SQLite has rolled that back by itself, statements that change
data fail until the block ends, and so does keeping it (OperationalError, SQLITE_ABORT_ROLLBACK).

A KeyboardInterrupt at the entry of ``__aexit__`` means that the block's end never runs. The block is then abandoned as
soon as the interrupt has ended its task, at the latest when it is collected.

https://sqlite.org/lang_transaction.html, https://sqlite.org/lang_savepoint.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rapsqlite import _constants as abi
from rapsqlite._loops import current_loop
from rapsqlite._wasm.rings import Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite._client.state import ConnectionState
    from rapsqlite._loops.asyncio_loop import InterruptedEnd


class Block:
    """One block, with the statements that begin, keep and undo it."""

    __slots__ = (
        "__weakref__", "_enter", "_is_open", "_keep", "_number", "_state", "_undo", "_watch", "when_abandoned"
    )  # fmt: skip

    def __init__(self, state: ConnectionState, enter: bytes, keep: bytes, undo: bytes) -> None:
        self._is_open = False  # True also while it begins and ends
        self._watch: InterruptedEnd | None = None
        self.when_abandoned: Callable[[], None] | None = None
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
            self._is_open = True
            self._watch = current_loop().abandon_when_interrupted(self)
            await state.guest.call(Request(abi.OP_BLOCK_ENTER, self._enter, target=self._number))
        except BaseException as exc:
            self._end(exc)
            raise

    async def leave(self, exc_type: object) -> None:
        """Keep it, or undo it because of an exception."""
        try:
            if exc_type is None:
                await self._keep_or_undo()
            elif exc_type is GeneratorExit:
                self.abandon()  # nothing runs the task any more, so it cannot wait
            else:
                await self._roll_back()
        except BaseException as exc:
            self._end(exc)
            raise
        self._end()

    def abandon(self) -> None:
        """Undo it without waiting, if it is open. Any thread, including from a finalizer."""
        if self._is_open:
            self._state.guest.post(Request(abi.OP_BLOCK_UNDO, target=self._number, sql=self._undo))
            if self.when_abandoned is not None:
                self.when_abandoned()
            self._end()

    def __del__(self) -> None:
        self.abandon()

    def _end(self, exc: BaseException | None = None) -> None:
        if isinstance(exc, (KeyboardInterrupt, SystemExit, GeneratorExit)):
            self.abandon()  # nothing waits for the reply any more, and it may have begun, or be open, anyway
        self._is_open = False
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()

    async def _keep_or_undo(self) -> None:
        state = self._state
        try:
            await state.apply_pending_setting()
            await state.guest.call(Request(abi.OP_BLOCK_KEEP, self._keep, target=self._number))
        except GeneratorExit:
            raise
        except BaseException:
            await self._roll_back()
            raise

    async def _roll_back(self) -> None:
        state = self._state
        await state.apply_or_drop_pending_setting()
        await state.guest.call(Request(abi.OP_BLOCK_UNDO, self._undo, target=self._number))
