"""Cursors: execute a statement, then fetch its rows one by one, several at a time, or all.

A cursor holds one batch of decoded rows and, once more rows are fetched, the batch that the guest prepares ahead
(``batches``): a few hundred KiB for a result of any length. ``async for`` takes rows from the batch and waits only
between batches; if they are always ready, it lets other tasks run after a millisecond, and checks the clock every 64
rows.

https://docs.python.org/3/library/sqlite3.html#cursor-objects, https://peps.python.org/pep-0249/#cursor-objects
"""

from __future__ import annotations

import time
from collections import deque
from functools import partial
from itertools import islice
from operator import length_hint
from typing import TYPE_CHECKING, Any

from rapsqlite import _constants as abi
from rapsqlite._aiosqlite_attributes import CursorAttributes
from rapsqlite._client.batches import Batches
from rapsqlite._client.executemany import execute_many
from rapsqlite._client.named_placeholders import accept_positions
from rapsqlite._client.state import encode_sql
from rapsqlite._values.async_only import AsyncRows
from rapsqlite._values.options import ZERO_ROWS_ARE_NONE, checked_row_count
from rapsqlite._values.uncopied import Uncopied
from rapsqlite._values.wire import RowsOneByOne, count_rows
from rapsqlite._wasm.rings import Request
from rapsqlite.errors import PositionsRefusedError, ProgrammingError
from rapsqlite.rows import describe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rapsqlite._client.state import ConnectionState, RowDecoder
    from rapsqlite._guest.guest import Guest
    from rapsqlite._wasm.rings import Reply
    from rapsqlite.connection import Connection
    from rapsqlite.types import Description, Parameters, ParameterSets, RowFactory

_SLICE_ROWS = 64  # rows between two checks of the clock
_SLICE_S = 0.001  # how long one task takes rows before others run, in seconds
_WIRE_BITS = abi.FORMAT_SHAPE_MASK | abi.FORMAT_TEXT_AS_BYTES | abi.FORMAT_TEXT_AS_EXTENSION | abi.FORMAT_DECLARED_TYPES


class Cursor(AsyncRows, CursorAttributes, Uncopied):
    """One statement at a time and the rows it returns: `sqlite3.Cursor` with ``await``.

    Made by `Connection.cursor` and `Connection.execute`. Executing again, closing, or dropping the cursor ends the
    running statement. Every method raises ProgrammingError on a closed cursor or connection, and SQLite's errors. A
    cancelled fetch ends the statement: later fetches raise OperationalError (SQLITE_INTERRUPT).
    """

    __slots__ = (
        "__weakref__",
        "_arraysize",
        "_base",
        "_batch",
        "_batches",
        "_closed",
        "_columns",
        "_connection",
        "_decoder",
        "_description",
        "_made",
        "_resumed",
        "_row_factory",
        "_rows",
        "_state",
        "_statement",
        "iter_chunk_size",
        "lastrowid",
        "rowcount",
    )

    def __init__(self, connection: Connection) -> None:
        state = connection._state
        self._connection = connection
        self._state: ConnectionState = state
        self._row_factory: RowFactory = state.row_factory
        self._decoder: RowDecoder = state.tuple_decoder
        self._closed = False
        self._batches: Batches | None = None  # None: no rows beyond the current batch
        self._batch = b""  # the current batch, still encoded
        self._base: Iterator[Any] = iter(())  # the current batch, decoded, without the rows already returned
        self._made: Iterator[Any] = self._base  # the same, as returned to the user
        self._rows: Iterator[Any] = self._base  # the next of them, before other tasks may have to run
        self._resumed = 0.0  # when other tasks last ran
        self._statement = object()  # stands for the statement whose rows these are
        self._columns = b""
        self._description: Description | None = None
        self._arraysize = 1
        self.iter_chunk_size: int = state.iter_chunk_size
        """For compatibility with aiosqlite. It does not affect how many rows are read ahead."""
        self.rowcount: int = -1
        """Rows changed by the last INSERT, UPDATE, DELETE or REPLACE; -1 after other statements."""
        self.lastrowid: int | None = None
        """Row id of the connection's last insert, as of the last `execute`; None before the first."""

    # -- executing ---------------------------------------------------------------------------------

    async def execute(self, sql: str, parameters: Parameters | None = None) -> Cursor:
        """Execute one statement, fetch its first rows, and return this cursor.

        Raises ProgrammingError for several statements in one string. Cancellation interrupts the statement: an INSERT,
        UPDATE or DELETE is undone as a whole unless it had finished.
        """
        state = await self._begin()
        encoded = encode_sql(sql, "execute")
        params = await state.encode(encoded, parameters)
        await self._send(encoded, 0, params)
        return self

    async def _run(self, sql: bytes, handle: int, params: bytes, decoder: RowDecoder, row_count: int = 1) -> None:
        """Execute a statement, or the prepared one with this handle; ``decoder`` makes its rows.

        The reply has at most ``row_count`` rows; 0: as many as fit a batch.
        """
        await self._begin()
        self._decoder = decoder
        await self._send(sql, handle, params, row_count)

    async def _send(self, sql: bytes, handle: int, params: bytes, row_count: int = 1) -> None:
        state = self._state
        bits = state.statement_bits
        while True:
            guest = state.guest  # the connection may be closed before the reply arrives
            try:
                reply = await guest.call(
                    Request(
                        abi.OP_EXECUTE_PREPARED if handle else abi.OP_EXECUTE,
                        b"" if handle else sql,
                        params,
                        format=self._decoder.format | abi.FORMAT_COLUMNS | bits,
                        target=handle,
                        argument=row_count,
                    )
                )
            except PositionsRefusedError:
                bits = await accept_positions(state, sql, bits)
            else:
                try:
                    self._start(guest, reply)
                except BaseException:
                    if reply.handle:
                        guest.post(Request(abi.OP_FINISH, target=reply.handle))
                    raise
                return

    def _start(self, guest: Guest, reply: Reply) -> None:
        """Process the reply to EXECUTE or EXECUTE_PREPARED: the first rows, and whether more follow."""
        if reply.handle or reply.error is not None:
            self._batches = Batches(guest, reply)
        self._columns = reply.columns
        if reply.changes >= 0 and not reply.handle:
            self.rowcount = reply.changes
        if not reply.flags & abi.REPLY_NO_STATEMENT:
            self.lastrowid = reply.last_insert_rowid
        if reply.row_count:
            self._take(reply.rows)
        self._resumed = time.perf_counter()

    async def executemany(self, sql: str, parameters: ParameterSets) -> Cursor:
        """Execute one data-changing statement once for each parameter set; return this cursor.

        ``rowcount`` is the total. The sets come from an iterable or async iterable, which is consumed as execution
        proceeds; other tasks run meanwhile, every few milliseconds unless one set takes longer. The first error ends it
        and has the index of its set, counted from 0, in ``parameter_set``. After an error, a cancellation or an
        exception of the iterable, the changes of the preceding sets are part of the open transaction, to be committed
        or rolled back.
        """
        state = await self._begin()
        changes = await execute_many(state, encode_sql(sql, "executemany"), parameters)
        self.rowcount = changes
        return self

    async def executescript(self, sql_script: str) -> Cursor:
        """Execute any number of statements and discard their rows; return this cursor.

        As in sqlite3, commits an open transaction first unless ``autocommit`` is True or False. Raises the error of the
        first statement that fails; the statements before it have been executed. The same holds for cancellation.
        """
        state = await self._begin()
        await state.guest.call(
            Request(abi.OP_SCRIPT, encode_sql(sql_script, "executescript"), format=state.script_format)
        )
        return self

    async def _begin(self) -> ConnectionState:
        """Forget the previous statement."""
        if self._closed:
            raise ProgrammingError("Cannot operate on a closed cursor.")
        state = self._state
        await state.apply_pending_setting()
        self._drop_rows()
        self._decoder = state.decoder(self._row_factory)
        self._columns = b""
        self._description = None
        self.rowcount = -1
        return state

    def _describe(self, columns: bytes, decoder: RowDecoder) -> None:
        """Set the columns of a result whose rows arrive another way, for row factories."""
        self._columns = columns
        self._decoder = decoder

    def _take(self, batch: bytes, already_out: int = 0) -> None:
        """Decode a batch and make it the current one."""
        self._batch = batch
        try:
            self._base = iter(self._decoder.decode(batch))
        except Exception:  # noqa: BLE001 - of a text factory, or a row that does not match its type: raised with that row
            self._base = RowsOneByOne(self._decoder.decode, batch)
        if already_out:
            deque(islice(self._base, already_out), maxlen=0)
        function = self._decoder.row_function(self._columns, self)
        self._made = self._base if function is None else map(function, self._base)
        self._rows = islice(self._made, _SLICE_ROWS)

    async def _next_slice(self) -> bool:
        """Make the next rows of this batch, or else of the next one, the current ones; False if there are none."""
        await self._give_way()
        if not length_hint(self._base):
            return await self._next_batch(1)
        self._rows = islice(self._made, _SLICE_ROWS)
        return True

    async def _give_way(self) -> None:
        """Let other tasks run if this one has taken rows for some time; it need not have waited for a batch."""
        if time.perf_counter() - self._resumed < _SLICE_S:
            return
        batches = self._batches
        try:
            await self._state.guest.give_way()
        except BaseException:
            if batches is not None and batches is self._batches:
                batches.interrupt()
                self._base = self._made = self._rows = iter(())
            raise
        self._resumed = time.perf_counter()

    async def _next_batch(self, wanted: int) -> bool:
        """Make the next batch the current one; False if there is none. ``wanted`` rows will be fetched now; 0: all."""
        batches, statement = self._batches, self._statement
        if batches is None:
            return False
        return await batches.next(
            wanted,
            partial(self._take_reply, statement),
            lambda: statement is self._statement and length_hint(self._base),
        )

    def _take_reply(self, statement: object, reply: Reply) -> bool:
        """Make a further batch the current one; False if the cursor has executed something else meanwhile."""
        if statement is not self._statement:
            return False
        if not reply.handle and reply.error is None:
            self._batches = None
            if reply.changes >= 0:
                self.rowcount = reply.changes
        if reply.row_count:
            self._take(reply.rows)
        return True

    async def _end(self) -> None:
        """End the statement, then close. If it changes data, its end may fail, as its commit may."""
        if self._batches is not None and self._batches.are_of_a_change:
            reply = await self._batches.run_to_end()
            if reply is not None:
                self.rowcount = reply.changes
        await self.close()

    def _drop_rows(self) -> None:
        batches, self._batches = self._batches, None
        if batches is not None:
            batches.close()
        self._batch = b""
        self._base = self._made = self._rows = iter(())
        self._statement = object()

    # -- fetching ----------------------------------------------------------------------------------

    async def fetchone(self) -> Any:
        """Return the next row, or None after the last one."""
        self._check()
        for row in self._rows:
            return row
        while await self._next_slice():
            for row in self._rows:
                return row
        return None

    @property
    def arraysize(self) -> int:
        """Default number of rows for `fetchmany`; settable."""
        return self._arraysize

    @arraysize.setter
    def arraysize(self, value: int) -> None:
        self._arraysize = checked_row_count(value)

    async def fetchmany(self, size: int | None = None) -> list[Any]:
        """Return the next ``size`` rows (by default `arraysize`), fewer at the end.

        0 and negative numbers behave as in the running Python's sqlite3: all rows, or none and a ValueError.
        """
        self._check()
        wanted = self._arraysize if size is None else checked_row_count(size)
        if wanted <= 0 and not ZERO_ROWS_ARE_NONE:
            return await self.fetchall()
        rows: list[Any] = []
        await self._extend(rows, wanted)
        return rows

    async def _extend(self, rows: list[Any], wanted: int) -> None:
        """Append up to so many further rows; if a row fails, append the rows before it, then raise."""
        await self._give_way()
        rows += islice(self._made, wanted)
        while len(rows) < wanted and await self._next_batch(wanted - len(rows)):
            rows += islice(self._made, wanted - len(rows))

    async def fetchall(self) -> list[Any]:
        """Return all remaining rows. Other tasks run between batches."""
        self._check()
        rows = list(self._made)
        while self._batches is not None and await self._next_batch(0):
            rows += self._made
        return rows

    def __aiter__(self) -> Cursor:
        return self

    async def __anext__(self) -> Any:
        # A coroutine whose loop ends at once is the fastest way in Python to return the next item.
        for row in self._rows:
            return row
        self._check()
        while await self._next_slice():
            for row in self._rows:
                return row
        raise StopAsyncIteration

    def _check(self) -> None:
        if self._closed:
            raise ProgrammingError("Cannot operate on a closed cursor.")
        self._state.guest.state  # noqa: B018 - raises if the connection is closed

    # -- the result --------------------------------------------------------------------------------

    @property
    def connection(self) -> Connection:
        """The connection that this cursor belongs to."""
        return self._connection

    @property
    def description(self) -> Description | None:
        """One 7-tuple per column of the last statement, a name and six times None; None if it returns no columns."""
        if self._description is None and self._columns:
            names = self._decoder.names(self._columns)
            self._description = describe(names) if names else None
        return self._description

    @property
    def _is_running(self) -> bool:
        """Whether the statement has rows beyond the current batch."""
        return self._batches is not None

    @property
    def row_factory(self) -> RowFactory:
        """Type or function that makes rows; initially the connection's.

        It can change while rows are left, except from or to ``"dict"``: the guest builds those rows.
        """
        return self._row_factory

    @row_factory.setter
    def row_factory(self, factory: RowFactory) -> None:
        decoder = self._state.decoder(factory)
        rest = length_hint(self._base)
        if rest or self._batches is not None:
            if (decoder.format ^ self._decoder.format) & _WIRE_BITS:
                raise ProgrammingError("row_factory cannot change from or to 'dict' while rows are left: execute again")
            self._decoder = decoder
            if rest:
                self._take(self._batch, count_rows(self._batch) - rest)
        self._row_factory = factory

    def setinputsizes(self, sizes: object, /) -> None:
        """Do nothing, as PEP 249 allows: SQLite needs no sizes."""

    def setoutputsize(self, size: int, column: int | None = None, /) -> None:
        """Do nothing, as PEP 249 allows: SQLite needs no sizes."""

    # -- lifetime ----------------------------------------------------------------------------------

    async def close(self) -> None:
        """End the statement and the cursor; idempotent. Waits until an unfinished statement has released its locks.

        Cancellation does not stop it.
        """
        self._closed = True
        batches = self._batches
        if batches is not None:
            await batches.finish()
        self._drop_rows()

    async def __aenter__(self) -> Cursor:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()
