"""Copies of large bodies in pieces: a single copy of 100 MB keeps the GIL from every other thread for 50 ms."""

from __future__ import annotations

from io import BytesIO

_PIECE_BYTES = 1 << 20


def copy_of(source: memoryview) -> bytes:
    """Return a copy of the bytes; other threads run meanwhile if there are many. Raises MemoryError."""
    if len(source) <= _PIECE_BYTES:
        return bytes(source)
    copy = BytesIO(bytes(len(source)))  # zeros that the system provides when they are written to; they are not copied
    for start in range(0, len(source), _PIECE_BYTES):
        copy.write(source[start : start + _PIECE_BYTES])
    return copy.getvalue()


def fill(target: memoryview, data: bytes) -> None:
    """Copy ``data`` to ``target``, which has the same length; other threads run meanwhile if it is long."""
    source = memoryview(data)
    for start in range(0, len(source), _PIECE_BYTES):
        target[start : start + _PIECE_BYTES] = source[start : start + _PIECE_BYTES]
