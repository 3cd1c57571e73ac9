"""SQLite's lock levels, as byte-range locks that are compatible with SQLite's own VFS for Unix.

The locks belong to the open file description (``F_OFD_SETLK``): two connections of one process exclude each other, and
closing other descriptors in the process does not drop them, as it would drop POSIX locks. To other SQLite libraries'
POSIX locks they behave like another process's. The bytes and the order in which they are locked follow SQLite's "File
Locking And Concurrency" (https://sqlite.org/lockingv3.html).
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import struct
import sys
from typing import TYPE_CHECKING

from rapsqlite import _constants as sqlite
from rapsqlite._files.file_error import FileError, code_of_lock

if TYPE_CHECKING:
    from rapsqlite._files.waiters import Contention

READ = fcntl.F_RDLCK
WRITE = fcntl.F_WRLCK
NONE = fcntl.F_UNLCK

PENDING_BYTE = 0x4000_0000
_RESERVED_BYTE = PENDING_BYTE + 1
_SHARED_FIRST = PENDING_BYTE + 2
_SHARED_SIZE = 510

if sys.platform == "darwin":
    # struct flock: start, length, pid, type, whence. The numbers are those of the XNU headers.
    _FLOCK = struct.Struct("@qqihh")
    _SET, _GET = 90, 92

    def _pack(kind: int, start: int, length: int) -> bytes:
        return _FLOCK.pack(start, length, 0, kind, os.SEEK_SET)

    def _unpack(answer: bytes) -> tuple[int, int]:
        _, _, pid, kind, _ = _FLOCK.unpack(answer)
        return kind, pid

    def _set(fd: int, lock: bytes) -> None:
        fcntl.fcntl(fd, _SET, lock)

    def _get(fd: int, lock: bytes) -> bytes:
        return fcntl.fcntl(fd, _GET, lock)

else:
    # struct flock: type, whence, start, length, pid.
    _FLOCK = struct.Struct("@hhqqi0q")
    _SET, _GET = fcntl.F_OFD_SETLK, fcntl.F_OFD_GETLK

    # The calls never wait, and `fcntl.fcntl` would release the GIL for each: getting it back takes 5 ms if another
    # thread runs pure Python, three times for one shared lock.
    # Without argument types: ctypes passes integers and bytes faster where it is not told to.
    _fcntl = ctypes.PyDLL(None, use_errno=True).fcntl

    def _pack(kind: int, start: int, length: int) -> bytes:
        return _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)

    def _unpack(answer: bytes) -> tuple[int, int]:
        kind, _, _, _, pid = _FLOCK.unpack(answer)
        return kind, pid

    def _set(fd: int, lock: bytes) -> None:
        if _fcntl(fd, _SET, lock) < 0:
            raise _last_error()

    def _get(fd: int, lock: bytes) -> bytes:
        buffer = ctypes.create_string_buffer(lock, _FLOCK.size)
        if _fcntl(fd, _GET, buffer) < 0:
            raise _last_error()
        return buffer.raw

    def _last_error() -> OSError:
        number = ctypes.get_errno()
        return OSError(number, os.strerror(number))


# There are a few dozen different ones.
_packed = functools.cache(_pack)


def set_lock(fd: int, kind: int, start: int, length: int) -> None:
    """Take, change or release (``NONE``) the lock on a byte range; a length of 0 means to infinity.

    Raises OSError, with EAGAIN or EACCES if another lock is in the way. Never waits.
    """
    _set(fd, _packed(kind, start, length))


def conflicting_lock(fd: int, kind: int, start: int, length: int) -> tuple[int, int] | None:
    """Return kind and process of a lock that conflicts with this one, or None (process -1: an open file's)."""
    found, pid = _unpack(_get(fd, _packed(kind, start, length)))
    return None if found == NONE else (found, pid)


class FileLock:
    """The lock of one connection on one database file."""

    __slots__ = ("_contention", "_fd", "_path", "level")

    def __init__(self, fd: int, path: bytes, contention: Contention) -> None:
        self._fd = fd
        self._path = path
        self._contention = contention
        self.level = sqlite.SQLITE_LOCK_NONE

    def lock(self, level: int) -> None:
        """Raise the lock to ``level``. Raises FileError: SQLITE_BUSY if another lock is in the way.

        After a failed EXCLUSIVE the lock may stay at PENDING: no new readers get in, and SQLite tries again.
        """
        if self.level >= level:
            return
        if level == sqlite.SQLITE_LOCK_RESERVED:
            self._contention.rest()
        try:
            self._raise_to(level)
        except FileError as error:
            if error.code == sqlite.SQLITE_BUSY:
                self._contention.refused(needs_all=level == sqlite.SQLITE_LOCK_EXCLUSIVE)
            raise
        self.level = level
        if level > sqlite.SQLITE_LOCK_SHARED:
            self._contention.granted()

    def try_share(self) -> bool:
        """Take SHARED, if nothing is held and nobody is in the way."""
        if self.level != sqlite.SQLITE_LOCK_NONE:
            return False
        try:
            self._lock_shared()
        except FileError:
            return False
        self.level = sqlite.SQLITE_LOCK_SHARED
        return True

    def _raise_to(self, level: int) -> None:
        if level == sqlite.SQLITE_LOCK_SHARED:
            self._lock_shared()
        elif self.level < sqlite.SQLITE_LOCK_SHARED:
            raise FileError(sqlite.SQLITE_MISUSE, "lock", self._path, "it is not locked for reading")
        elif level == sqlite.SQLITE_LOCK_RESERVED:
            self._set(_RESERVED_BYTE, 1)
        else:
            self._lock_exclusive()

    def _lock_shared(self) -> None:
        fd = self._fd
        try:
            # Readers pass through the pending byte, so a writer that holds it keeps new ones out.
            set_lock(fd, READ, PENDING_BYTE, 1)
            try:
                set_lock(fd, READ, _SHARED_FIRST, _SHARED_SIZE)
            finally:
                set_lock(fd, NONE, PENDING_BYTE, 1)
        except OSError as error:
            raise self._refusal(error) from None

    def _lock_exclusive(self) -> None:
        if self.level == sqlite.SQLITE_LOCK_RESERVED:
            self._set(PENDING_BYTE, 1)
            self.level = sqlite.SQLITE_LOCK_PENDING
        self._set(_SHARED_FIRST, _SHARED_SIZE)

    def _set(self, start: int, length: int) -> None:
        try:
            set_lock(self._fd, WRITE, start, length)
        except OSError as error:
            raise self._refusal(error) from None

    def _refusal(self, error: OSError) -> FileError:
        return FileError(code_of_lock(error, sqlite.SQLITE_IOERR_LOCK), "lock", self._path, error)

    def unlock(self, level: int) -> None:
        """Lower the lock to ``level``, shared or none."""
        if self.level <= level:
            return
        try:
            if level == sqlite.SQLITE_LOCK_SHARED:
                set_lock(self._fd, READ, _SHARED_FIRST, _SHARED_SIZE)
                set_lock(self._fd, NONE, PENDING_BYTE, 2)
            else:
                set_lock(self._fd, NONE, 0, 0)
        except OSError as error:
            # Never BUSY: a weaker lock cannot conflict.
            raise FileError(sqlite.SQLITE_IOERR_UNLOCK, "unlock", self._path, error) from None
        wrote, self.level = self.level > sqlite.SQLITE_LOCK_SHARED, level
        self._contention.released(by_writer=wrote)

    def is_reserved(self) -> bool:
        """Return whether any connection, including this one, holds RESERVED or more."""
        if self.level > sqlite.SQLITE_LOCK_SHARED:
            return True
        try:
            return conflicting_lock(self._fd, WRITE, _RESERVED_BYTE, 1) is not None
        except OSError as error:
            raise FileError(sqlite.SQLITE_IOERR_CHECKRESERVEDLOCK, "test the lock of", self._path, error) from None
