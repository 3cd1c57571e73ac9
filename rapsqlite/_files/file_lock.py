"""SQLite's lock levels, as byte-range locks that are compatible with SQLite's own VFS for this system.

Two connections of one process exclude each other, and closing other descriptors in the process drops no lock. The bytes
and the order in which they are locked follow SQLite's "File Locking And Concurrency"
(https://sqlite.org/lockingv3.html).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rapsqlite import _constants as sqlite
from rapsqlite._files.file_error import FileError, code_of_lock
from rapsqlite._platform import system

if TYPE_CHECKING:
    from rapsqlite._files.waiters import Contention


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
        """Take SHARED, if nothing is held and no other lock is in the way."""
        if self.level != sqlite.SQLITE_LOCK_NONE:
            return False
        try:
            system.take_shared(self._fd)
        except OSError:
            return False
        self.level = sqlite.SQLITE_LOCK_SHARED
        return True

    def _raise_to(self, level: int) -> None:
        if level != sqlite.SQLITE_LOCK_SHARED and self.level < sqlite.SQLITE_LOCK_SHARED:
            raise FileError(sqlite.SQLITE_MISUSE, "lock", self._path, "it is not locked for reading")
        try:
            if level == sqlite.SQLITE_LOCK_SHARED:
                system.take_shared(self._fd)
            elif level == sqlite.SQLITE_LOCK_RESERVED:
                system.take_reserved(self._fd)
            else:
                if self.level == sqlite.SQLITE_LOCK_RESERVED:
                    system.take_pending(self._fd)
                    self.level = sqlite.SQLITE_LOCK_PENDING
                system.take_exclusive(self._fd, self.level)
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
                system.fall_to_shared(self._fd, self.level)
            else:
                system.fall_to_none(self._fd, self.level)
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
            return system.is_reserved(self._fd)
        except OSError as error:
            raise FileError(sqlite.SQLITE_IOERR_CHECKRESERVEDLOCK, "test the lock of", self._path, error) from None
