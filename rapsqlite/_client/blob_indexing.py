"""Keys, positions and values of a blob, with the checks and messages of `sqlite3.Blob`.

https://docs.python.org/3/library/sqlite3.html#sqlite3.Blob
"""

from __future__ import annotations

import operator
import os
import sys
from typing import Any

LARGEST = (1 << 31) - 1
"""The last position that SQLite can address."""

_BYTES = range(256)


def index_of(key: Any, length: int) -> int:
    """Return the position of one byte, counted from the end if negative; TypeError, IndexError."""
    if not hasattr(key, "__index__"):
        raise TypeError("Blob indices must be integers")
    index = operator.index(key)
    if not -sys.maxsize <= index <= sys.maxsize:
        raise IndexError("cannot fit 'int' into an index-sized integer")
    if index < 0:
        index += length
    if not 0 <= index < length:
        raise IndexError("Blob index out of range")
    return index


def position_of(offset: int, origin: int, position: int, length: int) -> int:
    """Return the result of a seek from ``position``; ValueError outside the blob, OverflowError far outside."""
    starts = {os.SEEK_SET: 0, os.SEEK_CUR: position, os.SEEK_END: length}
    if origin not in starts:
        raise ValueError("'origin' should be os.SEEK_SET, os.SEEK_CUR, or os.SEEK_END")
    start = starts[origin]
    if start and offset > LARGEST - start:
        raise OverflowError("seek offset results in overflow")
    if not 0 <= start + offset <= length:
        raise ValueError("offset out of blob range")
    return start + offset


def byte_of(value: Any) -> int:
    """Return the value for one byte; TypeError, ValueError."""
    byte = operator.index(value)
    if byte not in _BYTES:
        raise ValueError("byte must be in range(0, 256)")
    return byte


def bytes_of(value: Any) -> memoryview:
    """Return the bytes of a buffer; TypeError, BufferError if it is not contiguous."""
    view = memoryview(value)
    if not view.c_contiguous:
        raise BufferError("memoryview: underlying buffer is not C-contiguous")
    return view.cast("B")


def extent_of(positions: range) -> tuple[int, int]:
    """Return the first position, counted from the start, and the number of bytes from there to the last one."""
    low, high = min(positions[0], positions[-1]), max(positions[0], positions[-1])
    return low, high + 1 - low
