"""In-memory databases that connections of this process share by name.

Each engine has its own memory, so a database shared by connections cannot be in it. It is a file in a private
directory, on an in-memory file system if there is one; it is removed with the last connection, and nothing is synced.
Connections lock it against each other as they do any file.
"""

from __future__ import annotations

import os
import threading
import weakref

from rapsqlite._client.private_directory import PrivateDirectory, reclaim_later
from rapsqlite._files.grants import read_uri
from rapsqlite._platform import system

PRAGMAS = {"journal_mode": "MEMORY", "synchronous": "OFF"}
"""Settings for a file that lives in memory."""

_MEMORY_FILE_SYSTEM = "/dev/shm"  # noqa: S108 - a private directory with a random name is created in it
_FILE = "memory.db"

# Guards the table; held while a directory is created, not while one is removed. A finalizer may run meanwhile.
_lock = threading.RLock()
_shared: dict[str, _Directory] = {}


def _forget_after_fork() -> None:
    """The directories are the parent's, and the lock may be held by a thread of it."""
    global _lock
    _lock = threading.RLock()
    directories = list(_shared.values())
    _shared.clear()
    for directory in directories:
        directory.abandon_after_fork()


system.at_fork(in_child=_forget_after_fork)


class _Directory:
    """One name's directory and the number of connections that use it."""

    __slots__ = ("_directory", "path", "users")

    def __init__(self) -> None:
        # Few programs share in-memory databases; others do not import this.
        import tempfile

        usable = os.access(_MEMORY_FILE_SYSTEM, os.W_OK | os.X_OK)
        shared = _MEMORY_FILE_SYSTEM if usable else tempfile.gettempdir()
        self._directory = PrivateDirectory(shared)
        self.path = self._directory.path
        self.users = 0
        reclaim_later(shared)  # freeing large databases takes time

    def remove(self) -> None:
        """Delete the database and SQLite's files next to it."""
        self._directory.remove()  # a guest that was given up may still write there

    def abandon_after_fork(self) -> None:
        """In a forked child: the database is the parent's."""
        self._directory.abandon_after_fork()


class SharedMemory:
    """One connection's use of a named database, from creation until ``release`` or deletion."""

    __slots__ = ("__weakref__", "_finalizer", "path")

    def __init__(self, name: str) -> None:
        self.path = _acquire(name)
        self._finalizer = weakref.finalize(self, _release, name, os.getpid())

    def release(self) -> None:
        """End the use; idempotent. Not for an event loop's thread: freeing a large database takes time."""
        self._finalizer()

    def __fspath__(self) -> str:
        return self.path


def shared_name(uri: bytes) -> str | None:
    """Return the name of the in-memory database that a URI asks to share, None for other URIs.

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
    """Return the path of the database of this name; the caller releases it."""
    with _lock:
        directory = _shared.get(name)
        if directory is None:
            directory = _shared[name] = _Directory()
        directory.users += 1
        return f"{directory.path}/{_FILE}"


def _release(name: str, process: int) -> None:
    if os.getpid() != process:
        return  # a forked child: the database belongs to the parent
    with _lock:
        directory = _shared[name]
        directory.users -= 1
        is_last = directory.users == 0
        if is_last:
            del _shared[name]
    if is_last:
        directory.remove()
