"""The values that a callback may return, as SQLite's types: one rule for all kinds of callbacks.

https://sqlite.org/c3ref/result_blob.html
"""

from __future__ import annotations

from typing import Any

from rapsqlite._values.pieces import copy_of
from rapsqlite.errors import ProgrammingError

LARGEST = (1 << 31) - 1  # bytes
LEAST, MOST = -1 << 63, (1 << 63) - 1


def storable(value: Any) -> int | float | str | bytes | None:
    """Return a result as None, int, float, str or bytes; subclasses and buffers become these.

    Raises ProgrammingError for a type that SQLite cannot store; OverflowError, with sqlite3's message, for a value that
    is too large; UnicodeEncodeError for text with lone surrogates; BufferError for a buffer that is not contiguous.
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
    """Return the size of a text or blob in bytes, 0 for other values; raises UnicodeEncodeError as `storable`."""
    if isinstance(answer, str):
        return len(answer) if answer.isascii() else len(answer.encode())
    return len(answer) if isinstance(answer, bytes) else 0


def _check_length(length: int) -> None:
    """Raise OverflowError for a length that SQLite can never store: as in sqlite3, the error of a large value."""
    if length > LARGEST:
        raise OverflowError("a text or blob is longer than INT_MAX bytes")
