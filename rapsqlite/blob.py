"""Incremental I/O on one BLOB or TEXT value: `Blob`, made by ``blobopen()``.

The value is read and written in place and never held in memory as a whole; its length cannot change.
https://docs.python.org/3/library/sqlite3.html#sqlite3.Blob, https://sqlite.org/c3ref/blob_open.html
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec

from rapsqlite import _constants as abi
from rapsqlite._client.blob_indexing import LARGEST, byte_of, bytes_of, extent_of, index_of, position_of
from rapsqlite._client.blob_requests import OpenValue
from rapsqlite._client.operation import Operation
from rapsqlite._client.registration import checked_name
from rapsqlite._values.uncopied import Uncopied
from rapsqlite._values.wire import decode_integer
from rapsqlite._wasm.rings import Request
from rapsqlite.errors import InternalError

if TYPE_CHECKING:
    from rapsqlite._client.state import ConnectionState
    from rapsqlite.connection import Connection

B = TypeVar("B", bound="Blob")

_BITS = 64

_encode = msgspec.msgpack.Encoder().encode


class Blob(Uncopied):
    """One open value. All methods raise ProgrammingError once it is closed.

    If its row is changed by other means the handle expires: reading and writing raise OperationalError (SQLITE_ABORT).
    Close it, or use it in ``async with``: until then its transaction stays open.

    Tasks may share a blob: the position moves as soon as a part is requested, and each call is atomic, whatever its
    size.
    """

    __slots__ = ("_length", "_position", "_value")

    def __init__(self, connection: Connection, handle: int, length: int) -> None:
        self._value = OpenValue(connection._state.guest, handle)
        self._length = length
        self._position = 0

    # -- file methods ------------------------------------------------------------------------------

    async def read(self, length: int = -1, /) -> bytes:
        """Return ``length`` bytes from the position, fewer at the end; all remaining bytes if it is negative."""
        self._value.require()
        start = self._position
        left = self._length - start
        end = self._position = start + (left if length < 0 else min(length, left))
        try:
            return await self._value.read(start, end - start)
        except BaseException:
            self._go_back(end, start)
            raise

    async def write(self, data: bytes | bytearray | memoryview, /) -> None:
        """Write at the position; raises ValueError if the data extends beyond the value, whose length cannot change."""
        self._value.require()
        start = self._position
        end = start + memoryview(data).nbytes
        if end > self._length:
            raise ValueError("data longer than blob length")
        self._position = end
        try:
            await self._value.write(start, data)
        except BaseException:
            self._go_back(end, start)
            raise

    def _go_back(self, end: int, start: int) -> None:
        """Move the position back if nothing was read or written, unless another task has moved on from there."""
        if self._position == end:
            self._position = start

    async def seek(self, offset: int, origin: int = os.SEEK_SET, /) -> None:
        """Move the position, relative to the start, itself, or the end (os.SEEK_*); ValueError outside the value."""
        self._value.require()
        self._position = position_of(offset, origin, self._position, self._length)

    async def tell(self) -> int:
        """Return the position, in bytes."""
        self._value.require()
        return self._position

    @property
    def length(self) -> int:
        """Length of the value in bytes."""
        self._value.require()
        return self._length

    def __len__(self) -> int:
        return self.length

    # -- sequence methods, because indexing cannot be awaited ---------------------------------------

    async def get(self, key: int | slice, /) -> int | bytes:
        """Return ``blob[key]`` of sqlite3: the byte at an index, the bytes of a slice. Does not move the position."""
        self._value.require()
        if not isinstance(key, slice):
            return (await self._value.read(index_of(key, self._length), 1))[0]
        wanted = range(self._length)[key]
        if not wanted:
            return b""
        low, length = extent_of(wanted)
        data = await self._value.read(low, length)
        return data if wanted.step == 1 else bytes(data[position - low] for position in wanted)

    async def set(self, key: int | slice, value: Any, /) -> None:
        """Set ``blob[key] = value`` of sqlite3; a slice takes as many bytes as it has. The position stays."""
        self._value.require()
        if not isinstance(key, slice):
            await self._value.write(index_of(key, self._length), bytes((byte_of(value),)))
            return
        data = bytes_of(value)
        wanted = range(self._length)[key]
        if len(wanted) != len(data):
            raise IndexError("Blob slice assignment is wrong size")
        if not wanted or wanted.step == 1:
            await self._value.write(wanted.start, data)
            return
        # The last position of a backward slice comes first in the value.
        forwards = data if wanted.step > 0 else bytes(data[::-1])
        await self._value.write(min(wanted[0], wanted[-1]), forwards, abs(wanted.step))

    async def close(self) -> None:
        """Close it; idempotent.

        Outside a transaction this commits what was written. If the commit fails it raises, and nothing was written.
        Cancellation does not stop it.
        """
        await self._value.close()

    async def __aenter__(self: B) -> B:
        self._value.require()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if exc_info[0] is GeneratorExit:
            self._value.forget()  # nothing runs the task any more, so it cannot wait
            return
        self._value.require()
        await self.close()

    def __del__(self) -> None:
        self._value.forget()


class Blobs:
    """Opens values for incremental I/O: methods of `Connection`."""

    _state: ConnectionState

    def blobopen(
        self, table: str, column: str, row: int, /, *, readonly: bool = False, name: str = "main"
    ) -> Operation[Blob]:
        """Open the BLOB or TEXT value in ``column`` of the row with row id ``row``; await it, or use ``async with``.

        ``name`` is the database: "main", "temp", or an attached one. Raises OperationalError if the table, column or
        row does not exist, the value has another type, or it is opened for writing and the column is part of an index.
        """
        return Operation(self._blobopen(table, column, row, readonly, name))

    async def _blobopen(self, table: str, column: str, row: int, readonly: bool, name: str) -> Blob:
        names = [
            checked_name(each, "blobopen", argument) for each, argument in ((name, "name"), (table, 1), (column, 2))
        ]
        if not isinstance(row, int):
            raise TypeError(f"blobopen() argument 3 must be int, not {type(row).__name__}")
        if not -(1 << _BITS - 1) <= row < 1 << _BITS - 1:
            raise OverflowError("Python int too large to convert to SQLite INTEGER")
        await self._state.apply_pending_setting()
        value = _encode([*names, int(row), int(not readonly)])
        guest = self._state.guest
        reply = await guest.call(Request(abi.OP_BLOB_OPEN, params=value))
        try:
            length = decode_integer(reply.rows)
            if not reply.handle or not 0 <= length <= LARGEST:
                raise InternalError(f"the engine's reply is malformed: a blob of {length} bytes")
            return Blob(cast("Connection", self), reply.handle, length)
        except BaseException:
            guest.post(Request(abi.OP_DROP, target=reply.handle))
            raise
