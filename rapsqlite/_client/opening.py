"""The database and options of a connection, and opening it.

https://sqlite.org/c3ref/open.html
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import msgspec

from rapsqlite import _constants as abi
from rapsqlite._client.shared_memory import PRAGMAS, SharedMemory, shared_name
from rapsqlite._files.file_table import FileTable
from rapsqlite._files.grants import EVERYWHERE
from rapsqlite._guest.guest import Guest
from rapsqlite._loops import current_loop
from rapsqlite._values.limits import checked_limits
from rapsqlite._values.options import checked_cache_size, checked_seconds
from rapsqlite._wasm import requirements
from rapsqlite._wasm.rings import Request

if TYPE_CHECKING:
    from collections.abc import Mapping

_MEMORY = b":memory:"


def file_name(database: object) -> bytes:
    """Return a database name as bytes, from str, bytes, a path, or any object with a str()."""
    if isinstance(database, (str, bytes, os.PathLike)):
        name = os.fsencode(database)
    elif database is None or isinstance(database, int):
        raise TypeError(f"database must be str, bytes or a path, not {type(database).__name__}")
    else:
        name = os.fsencode(str(database))
    _check_not_a_url(name)
    if b"\0" in name:
        raise ValueError("a database name cannot contain a null character")
    return name


def _check_not_a_url(name: bytes) -> None:
    """Raise ValueError for a URL, which SQLite would treat as a file path."""
    scheme, separator, rest = name.partition(b"://")
    if not separator or not re.fullmatch(rb"[A-Za-z][A-Za-z0-9+.-]+", scheme) or scheme.lower() == b"file":
        return
    kind = scheme.decode().lower()
    if kind.partition("+")[0] in {"sqlite", "sqlite3"}:
        path = rest.lstrip(b"/") if not rest.startswith(b"//") else rest[1:]
        written = os.fsdecode(path.partition(b"?")[0]) or ":memory:"
        raise ValueError(f"{kind}:// is an SQLAlchemy URL: write connect({written!r})")
    raise ValueError(f"{kind}:// names a server, but SQLite opens local files: write connect(path)")


class OpenOptions:
    """A database and the options it is opened with."""

    __slots__ = ("_limits", "_options", "_timeout_s", "_uri", "memory", "name", "path")

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
        self.path: str = os.fsdecode(self.name)
        self.memory = database if isinstance(database, SharedMemory) else None
        if self.memory is None and uri and self.name.startswith(b"file:"):
            shared = shared_name(self.name)
            if shared is not None:
                self.memory = SharedMemory(shared)
                self.name = os.fsencode(self.memory.path)
        self._timeout_s = checked_seconds(timeout_s)
        self._uri = uri
        self._limits = checked_limits(limits)
        read_only = read_only or self._limits.read_only
        access = abi.SQLITE_OPEN_READONLY if read_only else abi.SQLITE_OPEN_READWRITE | abi.SQLITE_OPEN_CREATE
        self._options: dict[str, Any] = {
            "flags": access | (abi.SQLITE_OPEN_URI if uri else 0),
            "cached_statements": checked_cache_size(cached_statements),
            "max_rows": self._limits.max_rows,
            "max_bytes": self._limits.max_bytes,
            "statement_steps": self._limits.statement_steps,
            "file_bytes": self._limits.file_bytes,
        }

    @property
    def pragmas(self) -> dict[str, str]:
        """Pragmas to set before the user's."""
        return {} if self.memory is None else {**PRAGMAS}

    def release(self) -> None:
        """Release the use of a shared database that was never opened; otherwise the guest does. Idempotent."""
        if self.memory is not None:
            self.memory.release()

    async def open(self) -> Guest:
        """Start a guest with this database open; raises OperationalError if the file cannot be opened."""
        directories = self._limits.directories
        files = FileTable(
            self.name,
            uri=self._uri,
            directories=EVERYWHERE if directories is None else directories,
            read_only=self._limits.read_only,
            file_bytes=self._limits.file_bytes,
            on_close=None if self.memory is None else self.memory.release,
        )
        return await self._start(self.name, files, self._options)

    async def open_scratch(self) -> Guest:
        """Start a guest with an empty in-memory database and the same limits, without access to files."""
        files = FileTable(_MEMORY, directories=(), maps_reads=False)
        access = abi.SQLITE_OPEN_READWRITE | abi.SQLITE_OPEN_CREATE
        return await self._start(_MEMORY, files, {**self._options, "flags": access})

    async def _start(self, name: bytes, files: FileTable, options: dict[str, Any]) -> Guest:
        requirements.check()
        await current_loop().deliver()  # a task that is already cancelled opens nothing
        guest = Guest(
            os.fsdecode(name),
            files,
            self._timeout_s,
            memory_limit_bytes=self._limits.memory_bytes or -1,
            result_limit_bytes=self._limits.max_bytes,
            statement_limit_s=self._limits.statement_seconds,
        )
        try:
            guest.start()
            await guest.call(Request(abi.OP_OPEN, name, msgspec.msgpack.encode(options)))
        except Exception:
            await guest.close()
            raise
        except BaseException:  # cancelled: its thread ends by itself, as soon as possible
            guest.stop()
            raise
        return guest
