"""A value that the guest has open for `blob.Blob`: reads and writes, each in one request.

One task's request is never interleaved with another's, so each read sees one state of the value, whatever its size.
https://sqlite.org/c3ref/blob_read.html, https://sqlite.org/c3ref/blob_write.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from rapsqlite import _constants as abi
from rapsqlite._client.open_object import OpenObject
from rapsqlite._values.wire import decoder_of
from rapsqlite._wasm.rings import Request
from rapsqlite.errors import InternalError

if TYPE_CHECKING:
    from rapsqlite._guest.guest import Guest

_encode = msgspec.msgpack.Encoder().encode
_bytes_of = decoder_of(bytes)


class OpenValue(OpenObject):
    """Handle of one open value in the guest."""

    __slots__ = ()

    def __init__(self, guest: Guest, handle: int) -> None:
        super().__init__(guest, handle, "blob")

    async def read(self, start: int, length: int) -> bytes:
        """Return that many bytes from ``start``; the caller ensures that they exist."""
        if length == 0:
            return b""
        pieces, last = await self._guest.collect(
            Request(abi.OP_BLOB_READ, params=_encode([start]), target=self.require(), argument=length), _piece_of
        )
        data = b"".join((*pieces, _bytes_of(last.rows)))
        if len(data) != length:
            raise InternalError(f"the engine's reply is malformed: {len(data)} bytes instead of {length}")
        return data

    async def write(self, start: int, data: bytes | bytearray | memoryview, step: int = 1) -> None:
        """Write bytes ``step`` apart, the first at ``start``: all of them, or none."""
        await self._guest.call(
            Request(abi.OP_BLOB_WRITE, params=_encode([data, step]), target=self.require(), argument=start)
        )


def _piece_of(body: bytes) -> list[bytes]:
    return [_bytes_of(body)]
