"""Databases in memory, private or shared by name.

An engine has its own memory, so a database that connections share cannot lie in it. A shared one is a file in a
directory of its own that nobody else knows of, on a file system in memory where there is one: it is gone with the last
connection that uses it, and nothing is synced. Connections lock it against each other as they do any file.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Any

from rapsqlite.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Awaitable

_MEMORY_FILE_SYSTEM = "/dev/shm"  # noqa: S108 - a directory with a random name, open to this user alone, is made in it
_FILE = "memory.db"

_lock = threading.Lock()  # guards the table; held for a few calls of the operating system
_shared: dict[str, _SharedMemory] = {}


class _SharedMemory:
    """One name's directory and how many connections use it."""

    __slots__ = ("directory", "users")

    def __init__(self) -> None:
        # Few programs share databases in memory: the others do not load this.
        import tempfile

        usable = os.access(_MEMORY_FILE_SYSTEM, os.W_OK | os.X_OK)
        self.directory = tempfile.mkdtemp(prefix="rapsqlite-", dir=_MEMORY_FILE_SYSTEM if usable else None)
        self.users = 0

    def remove(self) -> None:
        """Delete the database and what SQLite keeps beside it."""
        with os.scandir(self.directory) as entries:
            for entry in entries:
                os.unlink(entry.path)  # noqa: PTH108 - no path object needed for a name just listed
        os.rmdir(self.directory)  # noqa: PTH106


def _acquire(name: str) -> str:
    """Return the path of the database of this name, which the caller releases."""
    with _lock:
        memory = _shared.get(name)
        if memory is None:
            memory = _shared[name] = _SharedMemory()
        memory.users += 1
        return f"{memory.directory}/{_FILE}"


def _release(name: str, process: int) -> None:
    if os.getpid() != process:
        return  # a forked child: the database is the parent's
    with _lock:
        memory = _shared[name]
        memory.users -= 1
        if memory.users == 0:
            del _shared[name]
            memory.remove()


class MemoryConnection(Connection):
    """A connection to a database in memory that others share by name; made by `connect_memory`."""

    def __init__(self, name: str, **options: Any) -> None:
        """Take the options of `connect`; the database exists from now on, until the last such object is closed."""
        path = _acquire(name)
        self._release_name = weakref.finalize(self, _release, name, os.getpid())
        pragmas = {"journal_mode": "MEMORY", "synchronous": "OFF", **(options.pop("pragmas", None) or {})}
        super().__init__(path, pragmas=pragmas, **options)
        self.name: str = name
        """What the connections that share the database call it."""

    async def close(self) -> None:
        """Close as `Connection.close`; the last connection takes the database with it."""
        try:
            await super().close()
        finally:
            self._release_name()

    def stop(self) -> Awaitable[None] | None:
        """Close without waiting, as `Connection.stop`."""
        ending = super().stop()
        self._release_name()
        return ending


def connect_memory(*, name: str | None = None, **options: Any) -> Connection:
    """Return a connection to a database in memory, to be awaited or used in ``async with``.

    Without ``name`` the database is private, as that of ``connect(":memory:")``. Connections of one process with the
    same ``name`` share one, which lives until the last of them is closed. ``options`` are those of `connect`.
    """
    if name is None:
        return Connection(":memory:", **options)
    return MemoryConnection(name, **options)
