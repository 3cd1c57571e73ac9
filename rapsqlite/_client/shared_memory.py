"""Databases in memory that the connections of this process share by name.

An engine has its own memory, so a database that connections share cannot lie in it. A shared one is a file in a
directory of its own that nobody else knows of, on a file system in memory where there is one: it is gone with the last
connection that uses it, and nothing is synced. Connections lock it against each other as they do any file.
"""

from __future__ import annotations

import os
import threading
import weakref

from rapsqlite._files.grants import read_uri

PRAGMAS = {"journal_mode": "MEMORY", "synchronous": "OFF"}
"""What makes a file of it that lives in memory."""

_MEMORY_FILE_SYSTEM = "/dev/shm"  # noqa: S108 - a directory with a random name, open to this user alone, is made in it
_FILE = "memory.db"

_lock = threading.Lock()  # guards the table; held for a few calls of the operating system
_shared: dict[str, _Directory] = {}


class _Directory:
    """One name's directory and how many connections use it."""

    __slots__ = ("path", "users")

    def __init__(self) -> None:
        # Few programs share databases in memory: the others do not load this.
        import tempfile

        usable = os.access(_MEMORY_FILE_SYSTEM, os.W_OK | os.X_OK)
        self.path = tempfile.mkdtemp(prefix="rapsqlite-", dir=_MEMORY_FILE_SYSTEM if usable else None)
        self.users = 0

    def remove(self) -> None:
        """Delete the database and what SQLite keeps beside it."""
        with os.scandir(self.path) as entries:
            for entry in entries:
                os.unlink(entry.path)  # noqa: PTH108 - no path object needed for a name just listed
        os.rmdir(self.path)  # noqa: PTH106


class SharedMemory:
    """One connection's use of the database of a name: from its making until ``release``, or until it is deleted."""

    __slots__ = ("__weakref__", "path", "release")

    def __init__(self, name: str) -> None:
        self.path = _acquire(name)
        self.release = weakref.finalize(self, _release, name, os.getpid())

    def __fspath__(self) -> str:
        return self.path


def shared_name(uri: bytes) -> str | None:
    """Return the name of the database in memory that a URI asks to share, None if it asks for something else.

    https://sqlite.org/inmemorydb.html#sharedmemdb
    """
    path, parameters = read_uri(uri)
    vfs = parameters.get(b"vfs")
    if vfs == b"memdb" and path.startswith(b"/"):
        return f"memdb:{os.fsdecode(path)}"
    is_memory = path == b":memory:" or parameters.get(b"mode") == b"memory"
    if path and is_memory and vfs is None and parameters.get(b"cache") == b"shared":
        return os.fsdecode(path)
    return None


def _acquire(name: str) -> str:
    """Return the path of the database of this name, which the caller releases."""
    with _lock:
        directory = _shared.get(name)
        if directory is None:
            directory = _shared[name] = _Directory()
        directory.users += 1
        return f"{directory.path}/{_FILE}"


def _release(name: str, process: int) -> None:
    if os.getpid() != process:
        return  # a forked child: the database is the parent's
    with _lock:
        directory = _shared[name]
        directory.users -= 1
        if directory.users == 0:
            del _shared[name]
            directory.remove()
