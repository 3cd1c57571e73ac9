"""Methods of a connection that run a statement: cursors, whole results, streams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from rapsqlite import _constants as abi
from rapsqlite import _fetching as fetching
from rapsqlite._client.operation import Operation
from rapsqlite._client.state import encode_sql
from rapsqlite._values.wire import decode_integer
from rapsqlite.cursor import Cursor
from rapsqlite.prepared import PreparedStatement
from rapsqlite.stream import ChunkStream, RowStream

if TYPE_CHECKING:
    from rapsqlite._client.state import ConnectionState
    from rapsqlite.connection import Connection
    from rapsqlite.types import Parameters, ParameterSets

T = TypeVar("T")


class Queries:
    """Runs SQL: methods of `Connection`.

    All raise SQLite's errors as exceptions of `rapsqlite.errors`, and ClosedError once the connection is closed.
    Statements run in the order in which they were awaited, by any task. Cancellation interrupts the statement and
    leaves the connection usable; a statement that has already finished returns its result, and the cancellation is
    raised at the task's next checkpoint.
    """

    _state: ConnectionState

    @property
    def _itself(self) -> Connection:
        return cast("Connection", self)

    # -- cursors -----------------------------------------------------------------------------------

    def cursor(self) -> Operation[Cursor]:
        """Return a new cursor; await it, or use it in ``async with``, which closes it."""
        return Operation(self._cursor())

    async def _cursor(self) -> Cursor:
        self._state.guest.state  # noqa: B018 - raises if the connection is closed
        return Cursor(self._itself)

    def execute(self, sql: str, parameters: Parameters | None = None) -> Operation[Cursor]:
        """Execute one statement on a new cursor; await it, or use it in ``async with``, which closes it.

        Raises ProgrammingError for several statements in one string. A statement that changes data begins a transaction
        unless one is open, according to `isolation_level` and `autocommit`.
        """
        return Operation(Cursor(self._itself).execute(sql, parameters))

    def executemany(self, sql: str, parameters: ParameterSets) -> Operation[Cursor]:
        """Execute one data-changing statement for each parameter set; see `Cursor.executemany`."""
        return Operation(Cursor(self._itself).executemany(sql, parameters))

    def execute_many(self, sql: str, parameters: ParameterSets) -> Operation[Cursor]:
        """Same as `executemany`."""
        return self.executemany(sql, parameters)

    def executescript(self, sql_script: str) -> Operation[Cursor]:
        """Execute any number of statements; see `Cursor.executescript`."""
        return Operation(Cursor(self._itself).executescript(sql_script))

    def execute_insert(self, sql: str, parameters: Parameters | None = None) -> Operation[Any]:
        """Execute one statement and return a row with the row id of the last inserted row: ``(42,)``.

        https://sqlite.org/c3ref/last_insert_rowid.html
        """
        return Operation(self._inserted(sql, parameters))

    async def _inserted(self, sql: str, parameters: Parameters | None) -> Any:
        cursor = await Cursor(self._itself).execute(sql, parameters)
        await cursor._end()
        rowid = cursor.lastrowid
        if rowid is None:  # the SQL contained no statement
            rowid = self._state.guest.last_insert_rowid
        return fetching.rowid_row(self._itself, rowid)

    def execute_fetchall(self, sql: str, parameters: Parameters | None = None) -> Operation[list[Any]]:
        """Execute one statement and return all its rows, as tuples unless `row_factory` is set."""
        sql_bytes = encode_sql(sql, "execute_fetchall")
        return Operation(fetching.fetch_rows(self._itself, sql_bytes, 0, parameters, self._state.tuple_decoder))

    # -- whole results -----------------------------------------------------------------------------
    # Rows are lists unless `row_factory` is set. ``into``: a msgspec.Struct, dataclass, NamedTuple, TypedDict, attrs
    # class or pydantic model whose fields are filled by column name; DataError for a value that does not match its
    # field.

    @overload
    async def fetch_all(self, sql: str, parameters: Parameters | None = None) -> list[Any]: ...
    @overload
    async def fetch_all(self, sql: str, parameters: Parameters | None = None, *, into: type[T]) -> list[T]: ...
    async def fetch_all(
        self, sql: str, parameters: Parameters | None = None, *, into: type[Any] | None = None
    ) -> list[Any]:
        """Return all rows, as lists unless `row_factory` or ``into`` is set.

        ``into`` is a msgspec.Struct, dataclass, NamedTuple, TypedDict, attrs class or pydantic model. Its fields are
        filled by column name; a value that does not match its field raises DataError. The event loop runs every few
        milliseconds meanwhile.
        """
        decoder = fetching.decoder_into(self._state, into)
        return await fetching.fetch_rows(self._itself, encode_sql(sql, "fetch_all"), 0, parameters, decoder)

    @overload
    async def fetch_one(self, sql: str, parameters: Parameters | None = None) -> Any: ...
    @overload
    async def fetch_one(self, sql: str, parameters: Parameters | None = None, *, into: type[T]) -> T: ...
    async def fetch_one(self, sql: str, parameters: Parameters | None = None, *, into: type[Any] | None = None) -> Any:
        """Return the first row, made as in `fetch_all`; raises DatabaseError if there is none.

        SQLite computes no further rows.
        """
        decoder = fetching.decoder_into(self._state, into)
        return await fetching.fetch_one(self._itself, encode_sql(sql, "fetch_one"), 0, parameters, decoder)

    @overload
    async def fetch_optional(self, sql: str, parameters: Parameters | None = None) -> Any: ...
    @overload
    async def fetch_optional(self, sql: str, parameters: Parameters | None = None, *, into: type[T]) -> T | None: ...
    async def fetch_optional(
        self, sql: str, parameters: Parameters | None = None, *, into: type[Any] | None = None
    ) -> Any:
        """Return the first row, made as in `fetch_all`, or None if there is none."""
        decoder = fetching.decoder_into(self._state, into)
        sql_bytes = encode_sql(sql, "fetch_optional")
        rows, _ = await fetching.fetch_first(self._itself, sql_bytes, 0, parameters, decoder)
        return rows[0] if rows else None

    async def fetch_scalar(self, sql: str, parameters: Parameters | None = None) -> Any:
        """Return the only column of the first row, None without rows; ProgrammingError for several columns."""
        return await fetching.fetch_scalar(self._itself, encode_sql(sql, "fetch_scalar"), 0, parameters)

    async def fetch_blob(self, sql: str, parameters: Parameters | None = None) -> bytes | None:
        """Return the only column of the first row, a BLOB or NULL; TypeError for another type, None without rows."""
        return await fetching.fetch_blob(self._itself, encode_sql(sql, "fetch_blob"), 0, parameters)

    # -- streams -----------------------------------------------------------------------------------

    def execute_iter(
        self, sql: str, parameters: Parameters | None = None, chunk_size: int | None = None
    ) -> ChunkStream:
        """Return an async iterator over the rows of one statement, in lists of ``chunk_size`` rows.

        ``chunk_size`` defaults to the connection's ``iter_chunk_size``. Rows are made as in `fetch_all`.
        """
        size = self._state.iter_chunk_size if chunk_size is None else chunk_size
        sql_bytes = encode_sql(sql, "execute_iter")
        return ChunkStream(self._itself, sql_bytes, parameters, self._state.list_decoder, size)

    def stream(self, sql: str, parameters: Parameters | None = None, *, into: type[Any] | None = None) -> RowStream:
        """Return an async iterator over the rows of one statement; rows are made as in `fetch_all`."""
        decoder = fetching.decoder_into(self._state, into)
        return RowStream(self._itself, encode_sql(sql, "stream"), parameters, decoder)

    def prepare(self, sql: str) -> PreparedStatement:
        """Return a statement that stays prepared until it is closed or garbage-collected."""
        return PreparedStatement(self._itself, sql)

    # -- counters ----------------------------------------------------------------------------------

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open: SQLite's own state as of the latest reply."""
        return self._state.guest.in_transaction

    @property
    def total_changes(self) -> int:
        """Rows inserted, updated or deleted since the connection was opened, as of the latest reply."""
        return self._state.guest.total_changes

    async def in_transaction_async(self) -> bool:
        """Return `in_transaction` once all statements sent before have finished."""
        return bool((await self._state.count()).flags & abi.REPLY_IN_TRANSACTION)

    async def total_changes_async(self) -> int:
        """Return `total_changes` once all statements sent before have finished."""
        return (await self._state.count()).total_changes

    async def changes(self) -> int:
        """Return how many rows the last INSERT, UPDATE or DELETE changed, not counting triggers."""
        return decode_integer((await self._state.count()).rows)

    async def last_insert_rowid(self) -> int:
        """Return the row id of the last inserted row, 0 if there was none."""
        return (await self._state.count()).last_insert_rowid
