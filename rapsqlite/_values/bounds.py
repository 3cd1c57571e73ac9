"""Bounds on what a guest may request: every count and length from it is compared with one of these first.

The engine stays below them. A guest that exceeds one gets an error, as from a limit of the system, if SQL alone could
request as much; otherwise it is ended.
"""

from __future__ import annotations

from rapsqlite._constants import BATCH_BYTES, REPLY_INLINE_BYTES
from rapsqlite.errors import InternalError

MOST_BODY_BYTES = 1 << 30
"""Of a reply's body, and of a callback's arguments: a SQLite value, like a table row, has at most 1 000 000 000 bytes
(https://sqlite.org/limits.html).
"""

MOST_COLUMNS = 32_767
"""Of a result, SQLite's own maximum."""

MOST_VALUES = 5 * MOST_COLUMNS + 16
"""In a body larger than `LARGE_BYTES`: that is one row, with the names and declared types of its columns."""

LARGE_BYTES = 1 << 20
"""Up to this size, a body with few lists decodes to little memory: a single list to at most about 20 MiB."""

SMALL_BYTES = REPLY_INLINE_BYTES
"""Up to this size, any body decodes to little memory: nested empty maps to 8 MiB."""

MOST_LISTS = BATCH_BYTES // 2 + 16
"""In a body: a row takes at least two bytes, and a batch ends at `BATCH_BYTES`."""

MOST_NAME_BYTES = 2 * 4096 + 1
"""Of a file's name and the name of the file whose permission bits it gets, each at most PATH_MAX."""

MOST_IO_BYTES = 16 << 20
"""Of a single read or write of a file: the engine reads pages, and writes at most 256 KiB."""

MOST_OPEN_FILES = 256
"""Of one connection: a database has up to four, and SQLite attaches ten; the rest is for temporary files."""

MOST_MAPPINGS = 1_024
"""Of one connection: 48 windows, the ends of logs, and 32 KiB of WAL index per 4096 frames."""

MOST_HANDLES = 1 << 16
"""Of callbacks and live instances of aggregates; a statement needs one for each of its aggregates."""

MOST_IDLE_BELLS = 256
"""Rings that nobody asked for, of which an honest guest makes none: each makes an event loop run for nothing."""

MOST_LIBRARIES = 128
"""Of open extensions."""


# First bytes of arrays and maps: https://github.com/msgpack/msgpack/blob/master/spec.md
_LISTS = bytes((*range(0x80, 0xA0), *range(0xDC, 0xE0)))


def check_values(body: bytes | memoryview) -> None:
    """Raise InternalError if a MessagePack body has too many values or too many lists.

    Decoded, an empty list of one byte takes 64: a gigabyte of these would exhaust memory. Bytes that are not
    MessagePack are left to the decoder.
    """
    if len(body) <= SMALL_BYTES or (len(body) <= LARGE_BYTES and _may_be_lists(body) <= MOST_LISTS):
        return
    position, count = 0, 0
    while position < len(body):
        count += 1
        if count > MOST_VALUES:
            raise InternalError("the guest sent more values than a row can have")
        position = _end_of_head(body, position)


def _may_be_lists(body: bytes | memoryview) -> int:
    """Return how many bytes could begin a list or a map: an upper bound of their number."""
    return len(body) - len(bytes(body).translate(None, _LISTS))


def _end_of_head(body: bytes | memoryview, position: int) -> int:
    """Return where the next value begins; for an array or a map that is its first item."""
    first = body[position]
    position += 1
    if 0xA0 <= first <= 0xBF:
        return position + (first & 0x1F)
    if not 0xC4 <= first <= 0xDF:
        return position  # a small integer, nil, a boolean, the head of a small array or map
    if first in _SIZES:
        return position + _SIZES[first]
    digits, more, has_content = _LENGTHS[first]
    length = int.from_bytes(body[position : position + digits], "big")
    return position + digits + (more + length if has_content else 0)


# Bytes after the first one: floats and integers, and fixed-size extensions with their type.
_SIZES = {0xCA: 4, 0xCB: 8}
for _power in range(4):
    _SIZES[0xCC + _power] = _SIZES[0xD0 + _power] = 1 << _power
for _power in range(5):
    _SIZES[0xD4 + _power] = 1 + (1 << _power)
# Bytes of the length, bytes before the content, and whether there is content: bin, extensions, str, array, map.
_LENGTHS = {
    **{0xC4 + power: (1 << power, 0, True) for power in range(3)},
    **{0xC7 + power: (1 << power, 1, True) for power in range(3)},
    **{0xD9 + power: (1 << power, 0, True) for power in range(3)},
    **{0xDC + power: (2 << power, 0, False) for power in range(2)},
    **{0xDE + power: (2 << power, 0, False) for power in range(2)},
}
