"""Statements that stay prepared until they are closed.

https://sqlite.org/c3ref/prepare.html
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any, TypeVar, overload

from rapsqlite import _constants as abi
from rapsqlite import _fetching as fetching
from rapsqlite._client.fair_lock import FairLock
from rapsqlite._client.operation import Operation
from rapsqlite._client.state import encode_sql
from rapsqlite._guest.request import undoes
from rapsqlite._values.uncopied import Uncopied
from rapsqlite._wasm.rings import Request
from rapsqlite.cursor import Cursor
from rapsqlite.errors import ProgrammingError
from rapsqlite.stream import RowStream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rapsqlite._client.state import RowDecoder
    from rapsqlite._guest.guest import Guest
    from rapsqlite.connection import Connection
    from rapsqlite.types import Parameters

R = TypeVar("R")
T = TypeVar("T")


class PreparedStatement(Uncopied):
    """One statement, prepared on first use and kept prepared; made by `Connection.prepare`.

    The first use raises any error in the SQL. The methods are the connection's methods of the same names without the
    SQL argument. Closing it, leaving ``async with``, dropping it, or closing the connection releases the statement.
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_connection",
        "_encoded",
        "_fetching",
        "_guard",
        "_guest",
        "_handle",
        "_is_starting",
        "_lock",
        "_running",
        "_runs_text",
        "sql",
    )

    def __init__(self, connection: Connection, sql: str) -> None:
        self._encoded = encode_sql(sql, "prepare")
        self.sql: str = sql
        """The SQL text."""
        self._connection = connection
        self._guest: Guest = connection._state.guest
        self._guest.state  # noqa: B018 - raises if the connection is closed
        self._handle = 0  # not prepared yet
        self._lock = FairLock()  # for tasks that want to prepare it
        self._closed = False
        self._runs_text = undoes(self._encoded)  # one request that always completes, instead of two
        # Guards what follows. An execution under the handle ends the one before it, so a cursor has it to itself from
        # its request to its last row. A whole result is one request; any number of tasks may have sent one. A
        # collection may run while it is held, and end a fetch of a task that is garbage.
        self._guard = threading.RLock()
        self._fetching = 0  # requests for whole results
        self._is_starting = False  # a cursor's first request is under way
        self._running: weakref.ref[Cursor] | None = None  # the cursor whose rows the statement may still be producing

    @property
    def query(self) -> str:
        """The SQL text; another name for `sql`."""
        return self.sql

    async def _prepare(self) -> int:
        turn = await self._lock.acquire()
        try:
            if self._handle == 0 and not self._closed:
                timed = self._connection._state.guest  # slow-statement reports may have been enabled meanwhile
                self._handle = (await timed.call(Request(abi.OP_PREPARE, self._encoded))).handle
                self._guest.prepared[self._handle] = self._encoded
        finally:
            try:
                self._lock.release(turn)
            except BaseException:
                self._lock.release(turn)
                raise
        return self._handle

    async def _take(self, *, by_cursor: bool) -> int:
        """Return the handle to use, or 0 to run the text, because other rows would be lost. Ends with `_put`."""
        if self._closed:
            raise ProgrammingError("Cannot operate on a closed statement.")
        if self._runs_text:
            return 0
        is_waiting = not self._lock.is_free() and self._guest.is_inside_block()
        if not self._handle and not is_waiting:
            await self._prepare()
        with self._guard:
            cursor = self._running() if self._running is not None else None
            is_in_use = self._is_starting or (cursor is not None and cursor._is_running)
            if not self._handle or is_in_use or (by_cursor and self._fetching):
                return 0
            self._is_starting = by_cursor
            self._fetching += not by_cursor
            return self._handle

    def _put(self, handle: int, cursor: Cursor | None = None) -> None:
        """Note that a whole result has arrived, or the first rows of a cursor."""
        if not handle:
            return
        with self._guard:
            if cursor is None:
                self._fetching -= 1
            else:
                self._running = weakref.ref(cursor)
                self._is_starting = False

    async def _run(self, parameters: Parameters | None, decoder: RowDecoder, row_count: int = 1) -> Cursor:
        cursor = Cursor(self._connection)
        handle = await self._take(by_cursor=True)
        try:
            params = await self._connection._state.encode(self._encoded, parameters)
            await cursor._run(self._encoded, handle, params, decoder, row_count)
        except (GeneratorExit, KeyboardInterrupt, SystemExit):
            handle = 0  # it may still begin, and end what has begun since: the handle is not used again
            raise
        finally:
            self._put(handle, cursor)
        return cursor

    async def _fetch(self, fetch: Callable[..., Awaitable[R]], *arguments: Any) -> R:
        handle = await self._take(by_cursor=False)
        try:
            return await fetch(self._connection, self._encoded, handle, *arguments)
        finally:
            self._put(handle)

    def execute(self, parameters: Parameters | None = None) -> Operation[Cursor]:
        """Execute it; await the result or use it in ``async with`` to get the cursor."""
        return Operation(self._execute(parameters))

    async def _execute(self, parameters: Parameters | None) -> Cursor:
        return await self._run(parameters, self._connection._state.tuple_decoder)

    @overload
    async def fetch_all(self, parameters: Parameters | None = None) -> list[Any]: ...
    @overload
    async def fetch_all(self, parameters: Parameters | None = None, *, into: type[T]) -> list[T]: ...
    async def fetch_all(self, parameters: Parameters | None = None, *, into: type[Any] | None = None) -> list[Any]:
        """Return all rows, as lists unless ``row_factory`` or ``into`` is set."""
        decoder = fetching.decoder_into(self._connection._state, into)
        if decoder.needs_columns:  # as in `fetch_rows`
            return await (await self._run(parameters, decoder, 0)).fetchall()
        return await self._fetch(fetching.fetch_rows, parameters, decoder)

    @overload
    async def fetch_one(self, parameters: Parameters | None = None) -> Any: ...
    @overload
    async def fetch_one(self, parameters: Parameters | None = None, *, into: type[T]) -> T: ...
    async def fetch_one(self, parameters: Parameters | None = None, *, into: type[Any] | None = None) -> Any:
        """Return the first row; DatabaseError if there is none."""
        decoder = fetching.decoder_into(self._connection._state, into)
        return await self._fetch(fetching.fetch_one, parameters, decoder)

    @overload
    async def fetch_optional(self, parameters: Parameters | None = None) -> Any: ...
    @overload
    async def fetch_optional(self, parameters: Parameters | None = None, *, into: type[T]) -> T | None: ...
    async def fetch_optional(self, parameters: Parameters | None = None, *, into: type[Any] | None = None) -> Any:
        """Return the first row, or None if there is none."""
        decoder = fetching.decoder_into(self._connection._state, into)
        rows, _ = await self._fetch(fetching.fetch_first, parameters, decoder)
        return rows[0] if rows else None

    async def fetch_scalar(self, parameters: Parameters | None = None) -> Any:
        """Return the only column of the first row, None without rows; ProgrammingError for several columns."""
        return await self._fetch(fetching.fetch_scalar, parameters)

    async def fetch_blob(self, parameters: Parameters | None = None) -> bytes | None:
        """Return the only column of the first row, a BLOB or NULL; raises TypeError for another type."""
        return await self._fetch(fetching.fetch_blob, parameters)

    def stream(self, parameters: Parameters | None = None, *, into: type[Any] | None = None) -> RowStream:
        """Return an async iterator over the rows.

        It runs the text through the statement cache, so several streams may be active at once.
        """
        if self._closed:
            raise ProgrammingError("Cannot operate on a closed statement.")
        decoder = fetching.decoder_into(self._connection._state, into)
        return RowStream(self._connection, self._encoded, parameters, decoder)

    async def close(self) -> None:
        """Release the statement; idempotent. It does not wait, and so cannot be cancelled."""
        self._release()

    def _release(self) -> None:
        self._closed = True
        handle, self._handle = self._handle, 0
        if handle:
            self._guest.prepared.pop(handle, None)
            self._guest.post(Request(abi.OP_RELEASE, target=handle))

    def __del__(self) -> None:
        if getattr(self, "_handle", 0):
            self._release()

    async def __aenter__(self) -> PreparedStatement:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._release()
