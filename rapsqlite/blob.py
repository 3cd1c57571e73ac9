"""Incremental input and output of one BLOB or TEXT value: `Blob`, made by ``blobopen()``.

The value is read and written in place, without being in memory as a whole; its length cannot change.
https://docs.python.org/3/library/sqlite3.html#sqlite3.Blob
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec

from rapsqlite import _constants as abi
from rapsqlite._indexing import LARGEST, byte_of, bytes_of, extent_of, index_of, position_of
from rapsqlite._operation import Operation
from rapsqlite._session import CLOSED
from rapsqlite._wire import decoder_of
from rapsqlite.errors import InternalError, ProgrammingError

if TYPE_CHECKING:
    from types import TracebackType

    from rapsqlite._guest import Guest
    from rapsqlite._session import Session
    from rapsqlite.connection import Connection

B = TypeVar("B", bound="Blob")

_PIECE_BYTES = 1 << 20  # of one request: what a read adds to the guest's memory
_BITS = 64

_encode = msgspec.msgpack.Encoder().encode
_integer_of = decoder_of(int)
_bytes_of = decoder_of(bytes)


class Blob:
    """One open value. All methods raise ProgrammingError once it is closed.

    After its row was changed by other means the handle has expired: reading and writing raise OperationalError
    (SQLITE_ABORT). Close it, or use it in ``async with``: until then its transaction stays open.
    """

    __slots__ = ("_guest", "_handle", "_length", "_position")

    def __init__(self, connection: Connection, handle: int, length: int) -> None:
        self._guest: Guest = connection._session.guest
        self._handle = handle  # 0: closed
        self._length = length
        self._position = 0

    # -- as a file ---------------------------------------------------------------------------------

    async def read(self, length: int = -1, /) -> bytes:
        """Return ``length`` bytes from the position on, fewer at the end; all that are left if it is negative."""
        self._open_handle()
        left = self._length - self._position
        data = await self._read(self._position, left if length < 0 else min(length, left))
        self._position += len(data)
        return data

    async def write(self, data: bytes | bytearray | memoryview, /) -> None:
        """Write at the position; ValueError if the value is too short for it: its length cannot change."""
        size = memoryview(data).nbytes
        await self._write(self._position, data)
        self._position += size

    async def seek(self, offset: int, origin: int = os.SEEK_SET, /) -> None:
        """Move the position, counted from the start, from itself, or from the end (os.SEEK_*); ValueError outside."""
        self._open_handle()
        self._position = position_of(offset, origin, self._position, self._length)

    async def tell(self) -> int:
        """Return the position."""
        self._open_handle()
        return self._position

    @property
    def length(self) -> int:
        """How many bytes the value has."""
        self._open_handle()
        return self._length

    def __len__(self) -> int:
        return self.length

    # -- as a sequence, by methods: what indexing does cannot be awaited -----------------------------

    async def get(self, key: int | slice, /) -> int | bytes:
        """Return what ``blob[key]`` is in sqlite3: the byte at an index, the bytes of a slice. No position moves."""
        self._open_handle()
        if not isinstance(key, slice):
            return (await self._read(index_of(key, self._length), 1))[0]
        wanted = range(self._length)[key]
        if not wanted:
            return b""
        low, length = extent_of(wanted)
        data = await self._read(low, length)
        return data if wanted.step == 1 else bytes(data[position - low] for position in wanted)

    async def set(self, key: int | slice, value: Any, /) -> None:
        """Do what ``blob[key] = value`` does in sqlite3; a slice takes as many bytes as it has."""
        self._open_handle()
        if not isinstance(key, slice):
            await self._write(index_of(key, self._length), bytes((byte_of(value),)))
            return
        data = bytes_of(value)
        wanted = range(self._length)[key]
        if len(wanted) != len(data):
            raise IndexError("Blob slice assignment is wrong size")
        if not wanted or wanted.step == 1:
            await self._write(wanted.start, data)
            return
        low, length = extent_of(wanted)
        around = bytearray(await self._read(low, length))
        for position, byte in zip(wanted, data, strict=True):
            around[position - low] = byte
        await self._write(low, around)

    # -- the guest's side --------------------------------------------------------------------------

    def _open_handle(self) -> int:
        guest = CLOSED if self._guest.state == "closed" else self._guest
        guest.in_transaction  # noqa: B018 - raises if the connection is closed
        if not self._handle:
            raise ProgrammingError("Cannot operate on a closed blob.")
        return self._handle

    async def _read(self, start: int, length: int) -> bytes:
        pieces = []
        for offset in range(start, start + length, _PIECE_BYTES):
            size = min(_PIECE_BYTES, start + length - offset)
            reply = await self._guest.call(abi.OP_BLOB_READ, params=_encode([offset]), a=self._open_handle(), b=size)
            piece = _bytes_of(reply.rows)
            if len(piece) != size:
                raise InternalError(f"the engine's answer is malformed: {len(piece)} bytes instead of {size}")
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _write(self, start: int, data: bytes | bytearray | memoryview) -> None:
        handle = self._open_handle()
        if memoryview(data).nbytes > self._length - start:
            raise ValueError("data longer than blob length")
        # One request, whatever the size: all of it is written or nothing.
        await self._guest.call(abi.OP_BLOB_WRITE, params=_encode([data]), a=handle, b=start)

    async def close(self) -> None:
        """Close it; idempotent."""
        handle, self._handle = self._handle, 0
        if handle and self._guest.state == "ok":
            await self._guest.call(abi.OP_DROP, a=handle)

    async def __aenter__(self: B) -> B:
        self._open_handle()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open_handle()
        await self.close()

    def __del__(self) -> None:
        handle, self._handle = self._handle, 0
        if handle and self._guest.state == "ok":
            self._guest.post(abi.OP_DROP, a=handle)


class Blobs:
    """What of `Connection` opens values for incremental input and output."""

    _session: Session

    def blobopen(
        self, table: str, column: str, row: int, /, *, readonly: bool = False, name: str = "main"
    ) -> Operation[Blob]:
        """Open the BLOB or TEXT value in ``column`` of the row with row id ``row``: await it, or use ``async with``.

        ``name`` is the database: "main", "temp", or an attached one. OperationalError if there is no such table, column
        or row, if the value is of another type, or if it is written and the column is part of an index.
        """
        return Operation(self._blobopen(table, column, row, readonly, name))

    async def _blobopen(self, table: str, column: str, row: int, readonly: bool, name: str) -> Blob:
        if not -(1 << _BITS - 1) <= row < 1 << _BITS - 1:
            raise OverflowError("Python int too large to convert to SQLite INTEGER")
        await self._session.settle()
        what = _encode([name, table, column, row, int(not readonly)])
        reply = await self._session.guest.call(abi.OP_BLOB_OPEN, params=what)
        length = _integer_of(reply.rows)
        if not reply.handle or not 0 <= length <= LARGEST:
            raise InternalError(f"the engine's answer is malformed: a blob of {length} bytes")
        return Blob(cast("Connection", self), reply.handle, length)
