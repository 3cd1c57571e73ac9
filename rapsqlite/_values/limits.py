"""What a connection may use and reach: the ``limits`` of `connect`, as given and as checked."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from rapsqlite._values.options import checked_mapping

if TYPE_CHECKING:
    from collections.abc import Mapping


_ENDLESS = 1 << 63  # more than anything that can be counted
LEAST_MEMORY_BYTES = 3 << 20
"""What the engine itself takes, to open a database and answer."""


class Limits(TypedDict, total=False):
    """What a connection may use and reach, for programs that run untrusted SQL; docs/sandbox.md has examples.

    ``max_rows``           rows of one result
    ``max_bytes``          bytes of one result as MessagePack, with the names of its columns
    ``statement_seconds``  seconds of one request: a statement, or fetching its next rows; lock waits do not count
    ``statement_steps``    instructions of SQLite's virtual machine, over the same period
    ``memory_bytes``       bytes of the whole sandbox: the engine, which takes 3 MiB, its caches, values and results
    ``file_bytes``         bytes of each file: databases, journals, temporary files
    ``directories``        what SQL may reach: these directories and everything below them
    ``read_only``          whether every database, including attached ones, is only read, and none is created

    A number that is missing or 0 sets no limit. ``directories`` is different: a connection with limits reaches only its
    own database and what is listed; without any ``limits`` it reaches everything the process can, as in sqlite3. A
    statement that exceeds one of the first four raises DataError; exceeding ``memory_bytes`` raises OutOfMemoryError,
    and ``file_bytes`` OperationalError (SQLITE_FULL).
    """

    max_rows: int
    max_bytes: int
    statement_steps: int
    statement_seconds: float
    memory_bytes: int
    file_bytes: int
    directories: Iterable[str | bytes | os.PathLike[str]]
    read_only: bool


class CheckedLimits(NamedTuple):
    """Limits of the right types; 0 means none. ``directories`` is None if every directory is granted."""

    max_rows: int = 0
    max_bytes: int = 0
    statement_steps: int = 0
    statement_seconds: float = 0.0
    memory_bytes: int = 0
    file_bytes: int = 0
    directories: tuple[bytes, ...] | None = None
    read_only: bool = False


def checked_limits(limits: Mapping[str, Any] | None) -> CheckedLimits:
    """Return checked limits; raises TypeError or ValueError for invalid ones."""
    if limits is None:
        return CheckedLimits()
    checked: dict[str, Any] = {"directories": ()}
    for name, value in checked_mapping("limits", limits).items():
        if name not in CheckedLimits._fields:
            raise TypeError(f"unknown limit {name!r}: the limits are {', '.join(sorted(CheckedLimits._fields))}")
        if name == "directories":
            checked[name] = _checked_directories(value)
        elif name == "read_only":
            if not isinstance(value, bool):
                raise TypeError(f"the limit read_only must be bool, not {type(value).__name__}")
            checked[name] = value
        else:
            checked[name] = _checked_number(name, value)
    return CheckedLimits(**checked)


def _checked_number(name: str, value: object) -> int | float:
    kinds = (int, float) if name == "statement_seconds" else (int,)
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise TypeError(f"the limit {name} must be {'number' if len(kinds) > 1 else 'int'}, not {type(value).__name__}")
    if not 0 <= value < _ENDLESS:
        raise ValueError(f"the limit {name} must be finite and not negative")
    if name == "memory_bytes" and 0 < value < LEAST_MEMORY_BYTES:
        raise ValueError(f"the limit memory_bytes must be at least {LEAST_MEMORY_BYTES}, which the engine itself takes")
    return value


def _checked_directories(value: object) -> tuple[bytes, ...]:
    # A single path would be split into its letters.
    if isinstance(value, (str, bytes, os.PathLike)) or not isinstance(value, Iterable):
        raise TypeError("the limit directories must be a list of paths")
    # Whether they exist is checked when the connection opens: the file system may take its time.
    try:
        return tuple(os.path.abspath(os.fsencode(directory)) for directory in value)
    except FileNotFoundError:
        reason = "the working directory of the process no longer exists"
        raise ValueError(f"the limit directories contains a relative path, and {reason}") from None
