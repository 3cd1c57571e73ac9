"""What a connection is opened on, and the opening itself."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypedDict

import msgspec

from rapsqlite import _constants as abi
from rapsqlite._files import FileTable
from rapsqlite._guest import Guest
from rapsqlite._options import checked_cache_size, checked_mapping, checked_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

_NO_LIMIT = 0


class Limits(TypedDict, total=False):
    """What a connection may use, for programs that run SQL they do not trust. A key left out or 0 sets no limit.

    Beyond ``max_rows``, ``max_bytes`` or ``statement_steps`` a statement ends with DataError, beyond ``memory_bytes``
    whatever asked for memory with OutOfMemoryError.
    """

    max_rows: int  # of one result
    max_bytes: int  # of one result, as encoded for the transfer
    statement_steps: int  # instructions of SQLite's virtual machine
    memory_bytes: int  # of the whole guest: SQLite, its caches and the rings


_LIMIT_NAMES = frozenset(Limits.__annotations__)


def file_name(database: object) -> bytes:
    """Return the name of a database as bytes: of str, bytes, a path, or whatever else says its name as str()."""
    if isinstance(database, (str, bytes, os.PathLike)):
        name = os.fsencode(database)
    elif database is None or isinstance(database, int):
        raise TypeError(f"database is a str, bytes or path, not {type(database).__name__}")
    else:
        name = os.fsencode(str(database))
    if b"\0" in name:
        raise ValueError("the name of a database cannot contain a null character")
    return name


def checked_limits(limits: Mapping[str, Any] | None) -> dict[str, int]:
    """Return the limits as plain integers; TypeError or ValueError for what is no limit."""
    checked: dict[str, int] = {}
    for name, value in checked_mapping("limits", limits).items():
        if name not in _LIMIT_NAMES:
            raise TypeError(f"limits has no {name!r}: there are {', '.join(sorted(_LIMIT_NAMES))}")
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"the limit {name} is an int, not {type(value).__name__}")
        if value < 0:
            raise ValueError(f"the limit {name} is not negative")
        checked[name] = value
    return checked


class Target:
    """A database and the options it is opened with."""

    __slots__ = ("_limits", "_options", "_timeout_s", "_uri", "name")

    def __init__(
        self,
        database: object,
        *,
        timeout_s: float,
        uri: bool,
        read_only: bool,
        cached_statements: int,
        limits: Mapping[str, Any] | None,
    ) -> None:
        self.name = file_name(database)
        self._timeout_s = checked_seconds(timeout_s)
        self._uri = uri
        self._limits = checked_limits(limits)
        access = abi.SQLITE_OPEN_READONLY if read_only else abi.SQLITE_OPEN_READWRITE | abi.SQLITE_OPEN_CREATE
        self._options: dict[str, Any] = {
            "flags": access | (abi.SQLITE_OPEN_URI if uri else 0),
            "cached_statements": checked_cache_size(cached_statements),
        }
        self._options.update((name, value) for name, value in self._limits.items() if name != "memory_bytes")

    async def open(self) -> Guest:
        """Start a guest with this database open; raises OperationalError if the file cannot be opened."""
        memory_bytes = self._limits.get("memory_bytes", _NO_LIMIT)
        # Windows are address space of the guest: 16 MiB each would be taken for a use of memory.
        files = FileTable(self.name, uri=self._uri, maps_reads=not memory_bytes)
        guest = Guest(os.fsdecode(self.name), files, self._timeout_s, memory_limit_bytes=memory_bytes or -1)
        guest.start()
        try:
            await guest.call(abi.OP_OPEN, self.name, msgspec.msgpack.encode(self._options))
        except Exception:
            await guest.close()
            raise
        except BaseException:  # cancelled: its thread ends by itself, the sooner the better
            guest.stop()
            raise
        return guest
