"""What the keys of a blob mean, in the words of `sqlite3.Blob`."""

from __future__ import annotations

import operator
from typing import Any

_BYTES = range(256)


def index_of(key: Any, length: int) -> int:
    """Return the position of one byte, counted from the end if negative; TypeError, IndexError."""
    if not hasattr(key, "__index__"):
        raise TypeError("Blob indices must be integers")
    index = operator.index(key)
    if index < 0:
        index += length
    if not 0 <= index < length:
        raise IndexError("Blob index out of range")
    return index


def byte_of(value: Any) -> int:
    """Return what one byte is set to; TypeError, ValueError."""
    byte = operator.index(value)
    if byte not in _BYTES:
        raise ValueError("byte must be in range(0, 256)")
    return byte


def extent_of(positions: range) -> tuple[int, int]:
    """Return the first position, counted from the start, and how many bytes lie from there to the last one."""
    low, high = min(positions[0], positions[-1]), max(positions[0], positions[-1])
    return low, high + 1 - low
