"""Whole results in one request: shared by the ``fetch_*`` methods of connections and prepared statements.

A statement is given as text, or as the handle of a prepared one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec

from rapsqlite import _constants as abi
from rapsqlite._client.named_placeholders import accept_positions
from rapsqlite._values.row_plan import row_decoder
from rapsqlite._values.typed_rows import typed_rows
from rapsqlite._values.wire import decode_columns
from rapsqlite._wasm.rings import Request
from rapsqlite.cursor import Cursor
from rapsqlite.errors import DatabaseError, PositionsRefusedError, ProgrammingError
from rapsqlite.rows import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from rapsqlite._client.state import ConnectionState, RowDecoder
    from rapsqlite._values.row_plan import RowFunction
    from rapsqlite._wasm.rings import Reply
    from rapsqlite.connection import Connection
    from rapsqlite.types import CursorLike, Description, Parameters, SQLiteValue


_encode = msgspec.msgpack.Encoder().encode


class TypedRowDecoder:
    """Decoder of one result whose rows become objects of a user's type."""

    __slots__ = ("decode", "format", "needs_columns")

    def __init__(self, kind: type[Any]) -> None:
        typed = typed_rows(cast("Hashable", kind))
        self.format = typed.format
        self.decode: Callable[[bytes], list[Any]] = typed.decoder()
        self.needs_columns = False

    def names(self, columns: bytes) -> tuple[str, ...]:
        """Return the names of the columns."""
        return decode_columns(columns)

    def row_function(self, columns: bytes, cursor: CursorLike) -> RowFunction | None:  # noqa: ARG002
        """Return None: decoding makes the objects."""
        return None


def decoder_into(state: ConnectionState, into: type[Any] | None) -> RowDecoder:
    """Return the decoder for a whole result: lists unless a row factory or ``into`` is set."""
    return state.list_decoder if into is None else TypedRowDecoder(into)


async def fetch_rows(
    connection: Connection, sql: bytes, handle: int, parameters: Parameters | None, decoder: RowDecoder
) -> list[Any]:
    """Return all rows. The event loop runs every few milliseconds while they are decoded."""
    state = connection._state
    params = await state.encode(sql, parameters)
    if decoder.needs_columns:
        # Python code runs for each row, so rows are decoded batch by batch and other tasks run in between.
        cursor = Cursor(connection)
        await cursor._run(sql, handle, params, decoder, 0)
        return await cursor.fetchall()
    rows, _ = await _collect(state, sql, handle, params, decoder, 0)
    return rows


async def fetch_result(
    connection: Connection, sql: bytes, parameters: Parameters | None
) -> tuple[list[Any], Description | None, int, int | None]:
    """Run one statement; return its rows as a cursor makes them, their description, ``rowcount`` and ``lastrowid``."""
    state = connection._state
    params = await state.encode(sql, parameters)
    decoder = state.tuple_decoder
    if decoder.needs_columns:  # as in `fetch_rows`
        cursor = Cursor(connection)
        await cursor._run(sql, 0, params, decoder, 0)
        return await cursor.fetchall(), cursor.description, cursor.rowcount, cursor.lastrowid
    rows, reply = await _collect(state, sql, 0, params, decoder, 0, abi.FORMAT_COLUMNS)
    description = describe(decoder.names(reply.columns)) if reply.columns else None
    return rows, description, reply.changes, reply.last_insert_rowid


async def _collect(
    state: ConnectionState, sql: bytes, handle: int, params: bytes, decoder: RowDecoder, most: int, extra_bits: int = 0
) -> tuple[list[Any], Reply]:
    """Return the rows, at most so many unless that is 0, and the last reply."""
    bits = state.statement_bits | extra_bits
    while True:
        try:
            return await state.guest.collect(
                Request(
                    abi.OP_FETCH_PREPARED if handle else abi.OP_FETCH,
                    b"" if handle else sql,
                    params,
                    format=decoder.format | bits,
                    target=handle,
                    argument=most,
                ),
                decoder.decode,
            )
        except PositionsRefusedError:  # noqa: PERF203 - twice at most
            bits = await accept_positions(state, sql, bits)


async def fetch_first(
    connection: Connection, sql: bytes, handle: int, parameters: Parameters | None, decoder: RowDecoder
) -> tuple[list[Any], int]:
    """Return a list with the first row or an empty list, and the number of columns. SQLite computes no further rows."""
    state = connection._state
    params = await state.encode(sql, parameters)
    rows, reply = await _collect(state, sql, handle, params, decoder, 1)
    if rows and decoder.needs_columns:
        cursor = Cursor(connection)
        cursor._describe(reply.columns, decoder)
        function = decoder.row_function(reply.columns, cursor)
        if function is not None:
            rows = [function(rows[0])]
    return rows, reply.column_count


async def fetch_one(
    connection: Connection, sql: bytes, handle: int, parameters: Parameters | None, decoder: RowDecoder
) -> Any:
    """Return the first row; raises DatabaseError if there is none."""
    rows, _ = await fetch_first(connection, sql, handle, parameters, decoder)
    if rows:
        return rows[0]
    error = DatabaseError("no rows: fetch_one expects at least one, fetch_optional does not")
    error.sqlite_errorcode = abi.SQLITE_DONE
    error.sqlite_errorname = "SQLITE_DONE"
    raise error


async def fetch_scalar(connection: Connection, sql: bytes, handle: int, parameters: Parameters | None) -> Any:
    """Return the only column of the first row, None without rows."""
    state = connection._state
    rows, column_count = await fetch_first(connection, sql, handle, parameters, state.scalar_decoder)
    if column_count > 1:
        raise ProgrammingError(f"fetch_scalar expects one column, but the statement returns {column_count}")
    return rows[0][0] if rows else None


async def fetch_blob(connection: Connection, sql: bytes, handle: int, parameters: Parameters | None) -> bytes | None:
    """Return the only column of the first row, which must be a BLOB or NULL."""
    value = await fetch_scalar(connection, sql, handle, parameters)
    if value is None or isinstance(value, bytes):
        return value
    raise TypeError(f"fetch_blob expects a BLOB or NULL, but the statement returns {type(value).__name__}")


def rowid_row(connection: Connection, rowid: int) -> Any:
    """Return a row id as the row that ``SELECT last_insert_rowid()`` would return."""
    decoder = connection._state.tuple_decoder
    name = "last_insert_rowid()"
    is_map = decoder.format & abi.FORMAT_SHAPE_MASK == abi.FORMAT_MAPS
    row = decoder.decode(_encode([{name: rowid} if is_map else [rowid]]))[0]
    if not decoder.needs_columns:
        return row
    columns = _encode([[name, None] if decoder.format & abi.FORMAT_DECLARED_TYPES else name])
    cursor = Cursor(connection)
    cursor._describe(columns, decoder)
    function = decoder.row_function(columns, cursor)
    return row if function is None else function(row)


def plain_decoder(state: ConnectionState, shape: Literal["list", "dict"]) -> RowDecoder:
    """Return the decoder for the package's own queries, which ignores the user's factories."""
    return row_decoder(shape, default=list, text_factory=str, detect_types=0, converters=state.converters)


async def fetch_own_dicts(
    state: ConnectionState, sql: bytes, parameters: tuple[SQLiteValue, ...]
) -> list[dict[str, Any]]:
    """Return the rows of a query of the package's own; the user's factories and adapters do not apply."""
    decoder = plain_decoder(state, "dict")
    await state.apply_pending_setting()
    rows, _ = await _collect(state, sql, 0, _encode(parameters), decoder, 0)
    return rows


async def run_by_itself(
    connection: Connection, sql: bytes, parameters: tuple[SQLiteValue, ...]
) -> tuple[list[Any], Reply]:
    """Run a statement of the package's own without beginning a transaction; return lists and the last reply.

    It commits by itself, unless a transaction is open. The user's adapters do not apply to the parameters.
    """
    state = connection._state
    decoder = plain_decoder(state, "list")
    await state.apply_pending_setting()
    request = Request(abi.OP_FETCH, sql, _encode(parameters), format=decoder.format)
    return await state.guest.collect(request, decoder.decode)
