"""A ``transaction()`` or ``savepoint()`` block: entered, kept and undone by one request each.

It belongs to the task that entered it; other tasks' requests wait until it ends (``_guest/task_blocks``).

While it is open the guest watches its transaction. Once SQLite has rolled that back by itself, statements that change
data fail until the block ends, and so does keeping it (OperationalError, SQLITE_ABORT_ROLLBACK).

A KeyboardInterrupt at the entry of ``__aexit__`` means that the block's end never runs. The block is then abandoned as
soon as the interrupt has ended its task, at the latest when it is collected.

https://sqlite.org/lang_transaction.html, https://sqlite.org/lang_savepoint.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rapsqlite import _constants as abi
from rapsqlite._guest.task_blocks import TaskBlock
from rapsqlite._loops import current_loop
from rapsqlite._wasm.rings import Request
from rapsqlite.errors import busy

if TYPE_CHECKING:
    from rapsqlite._client.state import ConnectionState
    from rapsqlite._guest.guest import Guest
    from rapsqlite._guest.task_blocks import BlockRequest
    from rapsqlite._loops.asyncio_loop import OwnersEnd
    from rapsqlite._loops.trio_loop import OwnersEnd as TrioOwnersEnd


class Block:
    """One block, with the statements that begin, keep and undo it."""

    __slots__ = (
        "__weakref__", "_begun", "_enter", "_guest", "_is_open", "_is_transaction", "_keep", "_number", "_scope",
        "_state", "_undo", "_watch",
    )  # fmt: skip

    def __init__(
        self,
        state: ConnectionState,
        statements: tuple[bytes, bytes, bytes],
        scope: str | None,
        *,
        is_transaction: bool = False,
    ) -> None:
        self._is_open = False  # True also while it begins and ends
        self._watch: OwnersEnd | TrioOwnersEnd | None = None
        self._guest: Guest | None = None
        self._begun: BlockRequest | None = None
        self._state = state
        self._enter, self._keep, self._undo = statements
        self._number = state.next_block()
        self._scope = scope
        self._is_transaction = is_transaction

    async def enter(self, timeout_s: float | None) -> None:
        """Begin it, once the blocks of other tasks have ended. If cancelled or rejected, it has not begun.

        After ``timeout_s`` seconds it raises OperationalError (SQLITE_BUSY).
        """
        if timeout_s is None:
            await self._begin()
            return
        # anyio is slow to import; programs without a time limit do not need it.
        from anyio import move_on_after

        entered = False
        with move_on_after(timeout_s):
            await self._begin()
            entered = True
        if not entered:
            raise busy(
                f"database is locked: other tasks' transactions on this connection took longer than {timeout_s} s"
            )

    async def _begin(self) -> None:
        state = self._state
        loop, guest = current_loop(), state.guest
        await guest.checkpoint()
        while state.has_pending_setting:  # another task may set one meanwhile, which would commit the block
            await state.apply_pending_setting()
        block = TaskBlock(loop.current_task(), self._number, self._scope, is_transaction=self._is_transaction)
        begun = guest.enter_block(Request(abi.OP_BLOCK_ENTER, self._enter, target=self._number), block)
        try:
            self._guest, self._begun, self._is_open = guest, begun, True
            self._watch = loop.watch_owner(self)
            guest.submit(begun)
            await guest.result(begun)
            block.note_entered()
        except BaseException as exc:
            guest.abandon(begun)
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
        if self._is_open and self._guest is not None:
            self._guest.post(Request(abi.OP_BLOCK_UNDO, target=self._number, sql=self._undo))
            self._end()

    def disown(self) -> None:
        """Give the block to every task: its own task ended without leaving it, as a fixture's does."""
        if self._guest is not None and self._begun is not None:
            self._guest.let_into_block(self._begun)

    def __del__(self) -> None:
        self.abandon()

    def _end(self, exc: BaseException | None = None) -> None:
        if isinstance(exc, (KeyboardInterrupt, SystemExit, GeneratorExit)):
            self.abandon()  # nothing waits for the reply any more, and it may have begun, or be open, anyway
        if self._guest is not None and self._begun is not None:
            self._guest.end_block(self._begun)
            self._begun.block.note_left()
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
