"""Rows of one running statement as async iterators: one by one, or in lists of a fixed size.

The statement starts with the first item requested and ends with the last, or when the iterator is closed or dropped.
Memory is bounded as for a cursor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from rapsqlite._client.batches import MOST_ROWS, is_interrupt, rows_lost
from rapsqlite._client.fair_lock import FairLock
from rapsqlite._guest.task_blocks import Caller
from rapsqlite._loops import current_loop
from rapsqlite._values.async_only import AsyncRows
from rapsqlite._values.uncopied import Uncopied
from rapsqlite.cursor import Cursor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rapsqlite._client.state import RowDecoder
    from rapsqlite.connection import Connection
    from rapsqlite.types import Parameters

S = TypeVar("S", bound="RowStream")


class RowStream(AsyncRows, Uncopied):
    """The rows of one statement, one by one; made by ``stream()``.

    Dropping the iterator after leaving the loop early ends the statement; ``async with`` or ``aclose()`` ends it
    immediately.
    """

    __slots__ = (
        "_begun", "_connection", "_cursor", "_decoder", "_first_rows", "_is_lost", "_lock", "_parameters", "_rows",
        "_sql", "_user",
    )  # fmt: skip

    def __init__(self, connection: Connection, sql: bytes, parameters: Parameters | None, decoder: RowDecoder) -> None:
        self._connection = connection
        self._sql = sql
        self._parameters = parameters
        self._decoder = decoder
        self._lock = FairLock()  # for tasks that want to start it
        self._user: Caller | None = None  # the last of them
        self._cursor: Cursor | None = None  # None until started
        self._begun: Cursor | None = None  # the same once its first rows have arrived
        self._rows: Iterator[Any] = iter(())
        self._first_rows = 1  # in the first reply
        self._is_lost = False  # interrupted before its first row

    def __aiter__(self: S) -> S:
        return self

    async def __anext__(self) -> Any:
        for row in self._rows:  # as in Cursor.__anext__
            return row
        cursor = self._begun or await self._start()
        row = await cursor.__anext__()
        self._rows = cursor._rows
        return row

    async def _start(self) -> Cursor:
        if not self._lock.is_free() and self._user is not None:
            self._connection._state.guest.refuse_wait_for(self._user)
        turn = await self._lock.acquire()
        self._user = Caller(current_loop())
        try:
            return self._begun or await self._begin()
        finally:
            try:
                self._lock.release(turn)
            except BaseException:
                self._lock.release(turn)
                raise

    async def _begin(self) -> Cursor:
        if self._is_lost:
            raise rows_lost()
        params = await self._connection._state.encode(self._sql, self._parameters)
        cursor = self._cursor = self._cursor or Cursor(self._connection)
        try:
            await cursor._run(self._sql, 0, params, self._decoder, self._first_rows)
        except BaseException as exc:
            if is_interrupt(exc):
                self._is_lost = not cursor._closed  # it is not the end of the result
            else:
                self._begun = cursor
            raise
        self._begun = cursor
        return cursor

    async def aclose(self) -> None:
        """End the statement; idempotent. Cancellation does not stop it."""
        self._rows = iter(())
        self._is_lost = False
        if self._cursor is None:
            self._cursor = Cursor(self._connection)
        await self._cursor.close()

    async def __aenter__(self: S) -> S:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()


class ChunkStream(RowStream):
    """The rows of one statement in lists of ``chunk_size``, the last one shorter; made by ``execute_iter()``."""

    __slots__ = ("_chunk_size", "_error")

    def __init__(
        self,
        connection: Connection,
        sql: bytes,
        parameters: Parameters | None,
        decoder: RowDecoder,
        chunk_size: int,
    ) -> None:
        super().__init__(connection, sql, parameters, decoder)
        if chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, not {chunk_size}")
        self._chunk_size = self._first_rows = min(chunk_size, MOST_ROWS)
        self._error: Exception | None = None

    async def __anext__(self) -> list[Any]:
        error, self._error = self._error, None
        if error is not None:
            raise error
        cursor = self._begun or await self._start()
        cursor._check()
        rows: list[Any] = []
        try:
            await cursor._extend(rows, self._chunk_size)
        except Exception as exc:
            if not rows:
                raise
            self._error = exc  # raised after the rows before it
        if not rows:
            raise StopAsyncIteration
        return rows
