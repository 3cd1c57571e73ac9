"""What a callback may return, as SQLite's own types: one rule for all ways in which answers pass."""

from __future__ import annotations

from typing import Any

from rapsqlite._values.pieces import copy_of
from rapsqlite.errors import ProgrammingError

LARGEST = (1 << 31) - 1  # bytes
LEAST, MOST = -1 << 63, (1 << 63) - 1


def storable(value: Any) -> int | float | str | bytes | None:
    """Return an answer as None, int, float, str or bytes; subclasses and buffers become these.

    ProgrammingError for a type that SQLite does not store; OverflowError for what is too large, in sqlite3's words;
    UnicodeEncodeError for text that is no Unicode; BufferError for a buffer that is not contiguous.
    """
    if value is None:
        return None
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, int):
        if not LEAST <= value <= MOST:
            raise OverflowError("Python int too large to convert to SQLite INTEGER") from None
        return int.__int__(value)
    if isinstance(value, str):
        text = str.__str__(value)
        _check_length(length_of(text))
        return text
    try:
        buffer = memoryview(value)
    except TypeError:
        kind = type(value).__name__
        raise ProgrammingError(f"User-defined functions cannot return '{kind}' values to SQLite") from None
    _check_length(buffer.nbytes)  # before the bytes are copied
    if not buffer.c_contiguous:
        raise BufferError("the buffer returned by a user-defined function is not contiguous")  # as in sqlite3
    return value if type(value) is bytes else copy_of(buffer.cast("B"))


def length_of(answer: float | str | bytes | None) -> int:
    """Return how many bytes a text or blob has for SQLite, 0 for anything else; UnicodeEncodeError as `storable`."""
    if isinstance(answer, str):
        return len(answer) if answer.isascii() else len(answer.encode())
    return len(answer) if isinstance(answer, bytes) else 0


def _check_length(length: int) -> None:
    """OverflowError for what no SQLite stores: as in sqlite3, its error is that of a value that is too large."""
    if length > LARGEST:
        raise OverflowError("a text or blob is longer than INT_MAX bytes")
