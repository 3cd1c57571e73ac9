"""A value that the guest has open for `blob.Blob`: reading, writing and closing it, each in one request.

A request of one task is not mixed with those of others, so what is read is of one moment, whatever its size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from rapsqlite import _constants as abi
from rapsqlite._session import CLOSED
from rapsqlite._wire import decoder_of
from rapsqlite.errors import InternalError, ProgrammingError

if TYPE_CHECKING:
    from rapsqlite._guest import Guest

_encode = msgspec.msgpack.Encoder().encode
_bytes_of = decoder_of(bytes)


class OpenValue:
    """The guest's handle of one value; 0 once it is closed."""

    __slots__ = ("_guest", "_handle")

    def __init__(self, guest: Guest, handle: int) -> None:
        self._guest = guest
        self._handle = handle

    def require(self) -> int:
        """Return the handle; ProgrammingError if the value, or its connection, is closed."""
        guest = CLOSED if self._guest.state == "closed" else self._guest
        guest.in_transaction  # noqa: B018 - raises if the connection is closed
        if not self._handle:
            raise ProgrammingError("Cannot operate on a closed blob.")
        return self._handle

    async def read(self, start: int, length: int) -> bytes:
        """Return that many bytes from ``start`` on; it is for the caller to know that there are so many."""
        if length == 0:
            return b""
        pieces, last = await self._guest.collect(
            abi.OP_BLOB_READ, _piece_of, params=_encode([start]), a=self.require(), b=length
        )
        data = b"".join((*pieces, _bytes_of(last.rows)))
        if len(data) != length:
            raise InternalError(f"the engine's answer is malformed: {len(data)} bytes instead of {length}")
        return data

    async def write(self, start: int, data: bytes | bytearray | memoryview, step: int = 1) -> None:
        """Write bytes ``step`` apart, the first at ``start``: all of them, or none."""
        await self._guest.call(abi.OP_BLOB_WRITE, params=_encode([data, step]), a=self.require(), b=start)

    async def close(self) -> None:
        """Close it, which may commit; idempotent, and no cancellation keeps it from being closed."""
        if self._handle and self._guest.state == "ok":
            dropped = self._guest.submit(abi.OP_DROP, a=self._handle)  # raises in a callback: then it stays open
            self._handle = 0
            await self._guest.result(dropped)
        self._handle = 0

    def forget(self) -> None:
        """Close it without waiting. Any thread, also from a finalizer."""
        handle, self._handle = self._handle, 0
        if handle and self._guest.state == "ok":
            self._guest.post(abi.OP_DROP, a=handle)


def _piece_of(body: bytes) -> list[bytes]:
    return [_bytes_of(body)]
