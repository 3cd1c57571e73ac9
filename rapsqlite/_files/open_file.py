"""One file that a guest has open: descriptor, locks, WAL index and windows."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from rapsqlite import _constants as sqlite
from rapsqlite._files import descriptors, mapping
from rapsqlite._files.facts import Facts
from rapsqlite._files.file_error import FileError
from rapsqlite._files.file_lock import FileLock
from rapsqlite._files.waiters import Contention
from rapsqlite._files.wal_index import WalIndex
from rapsqlite._files.windows import Windows
from rapsqlite._platform import system

if TYPE_CHECKING:
    from rapsqlite._files.waiters import Waiter


def _is_local(fd: int) -> bool:
    try:
        return mapping.is_shared_by_all(fd)
    except OSError:
        return False


# Of the locks on a WAL index (https://sqlite.org/walformat.html#wal_locks), the ones before the readers' marks.
_WRITE_LOCK = 0
_LAST_EXCLUSIVE_LOCK = 2
_EXCLUSIVE_LOCKS = 0b111
_FIRST_MARK = 3  # while a reader holds it, no checkpoint changes the database


class OpenFile:
    """One file that the guest has open."""

    __slots__ = (
        "_facts",
        "contention",
        "directory",
        "fd",
        "index",
        "is_database",
        "is_local",
        "lock",
        "name",
        "path",
        "protected",
        "reads_index",
        "windows",
        "writable",
    )

    def __init__(
        self,
        waiter: Waiter,
        fd: int,
        path: bytes,
        directory: int,
        name: bytes,
        writable: bool,
        *,
        reads_index: bool = False,
        protected: bool = False,
        is_database: bool = True,
    ) -> None:
        self.fd = fd
        self.path = path
        self.directory = directory
        self.name = name
        self.writable = writable
        self.reads_index = reads_index or protected  # and never writes it
        self.protected = protected  # including SQLite's files next to it
        self.is_database = is_database  # or a journal, which is never locked
        self.is_local = is_database and _is_local(fd)  # so that calls for its locks do not block
        self.contention = Contention(waiter, fd)
        if is_database:
            self.contention.prepare()
        self.lock = FileLock(fd, path, self.contention)
        self.index: WalIndex | None = None
        self.windows = Windows(fd, path)
        self._facts: Facts | None = None  # for a database that has been locked

    @property
    def is_temporary(self) -> bool:
        """Whether it has no name."""
        return self.directory < 0

    def is_database_of_wal(self, name: bytes) -> bool:
        """Return True if this is a database in WAL mode whose WAL has this name."""
        return self.path + b"-wal" == name and self._is_in_wal_mode()

    def _is_in_wal_mode(self) -> bool:
        # https://sqlite.org/fileformat2.html#file_format_version_numbers
        with contextlib.suppress(OSError):
            header = bytearray(20)
            size_bytes = system.read_at(self.fd, memoryview(header), 0)
            return size_bytes == len(header) and header.startswith(b"SQLite format 3\0") and header[19] == 2
        return False

    @property
    def mapping_count(self) -> int:
        """Number of mapped parts of it and of its WAL index."""
        return len(self.windows) + (self.index.region_count if self.index is not None else 0)

    def take_lock(self, level: int) -> None:
        """Raise the lock, unless the WAL index shows that another library uses the database without one."""
        if level == sqlite.SQLITE_LOCK_EXCLUSIVE and self.index and self.index.is_used_by_others():
            # A library that lost its lock on the database because of a stray close.
            raise FileError(sqlite.SQLITE_BUSY, "lock", self.path, "its WAL index is in use")
        self.lock.lock(level)

    def facts(self) -> tuple[int, int]:
        """Return the size of the file and its companions, as `Facts` does."""
        return self._found().size(), self._found().companions()

    def _found(self) -> Facts:
        if self._facts is None:
            self._facts = Facts(self.fd, self.path, self.directory, self.name, is_local=self.is_local)
        return self._facts

    def prelockable(self, locks: int) -> int:
        """Return which of these locks (``LOCKS_*``) `prelock` may take: while SQLite holds none of the kind."""
        if self.contention.anyone_waits():
            return 0
        if self.lock.level != sqlite.SQLITE_LOCK_NONE or not self.is_local:
            locks &= ~sqlite.LOCKS_FILE
        return locks if self.index is not None and not self.index.held else locks & sqlite.LOCKS_FILE

    def prelock(self, locks: int) -> tuple[int, int, int]:
        """Take the prelockable locks that are free; return them, and `facts` under the file's lock.

        Under a shared lock on the first mark alone, return the size of the file.

        Raises FileError if the facts cannot be read. Only on local file systems.
        """
        taken, facts = 0, (0, 0)
        if locks & sqlite.LOCKS_FILE and self.lock.try_share():
            try:
                facts = self.facts()
            except FileError:
                self.lock.unlock(sqlite.SQLITE_LOCK_NONE)
                raise
            taken = sqlite.LOCKS_FILE
        if self.index is not None:
            taken |= self.index.try_lock(locks)
            if taken & 1 << _FIRST_MARK and not taken & sqlite.LOCKS_FILE:
                facts = self._size_or_drop(), 0
            if taken & sqlite.LOCKS_EXCLUSIVE << _WRITE_LOCK:
                self.contention.granted()
        return taken, *facts

    def _size_or_drop(self) -> int:
        try:
            return self._found().size()
        except FileError:
            self.drop(self.held_locks() & ~sqlite.LOCKS_FILE)  # of the index nothing was held before
            raise

    def held_locks(self) -> int:
        """Return the locks that are held: ``LOCKS_FILE``, and either kind on the index as bits 0 to 7."""
        on_file = sqlite.LOCKS_FILE if self.lock.level != sqlite.SQLITE_LOCK_NONE else 0
        return on_file | (self.index.held if self.index is not None else 0)

    def note_prelock(self, locks: int) -> None:
        """Count locks that `prelock` was asked for as held: an exception may have come after each system call."""
        if locks & sqlite.LOCKS_FILE:
            self.lock.level = sqlite.SQLITE_LOCK_SHARED
        if self.index is not None:
            self.index.held |= locks & 0xFF

    def drop(self, locks: int) -> None:
        """Release the given locks that are held: SHARED on the file, and either kind on the index as bits 0 to 7."""
        if locks & sqlite.LOCKS_FILE and self.lock.level == sqlite.SQLITE_LOCK_SHARED:
            self.lock.unlock(sqlite.SQLITE_LOCK_NONE)
        if self.index is not None and locks & self.index.held:
            self.unlock_index(locks & self.index.held)

    def map_index(self, region: int, view: memoryview, *, extend: bool) -> int:
        """Map a region of the WAL index over ``view``; the first call opens the index."""
        if self.index is None:
            if not self.is_database:
                raise FileError(sqlite.SQLITE_IOERR_SHMMAP, "map", self.path, "only a database has a WAL index")
            self.index = WalIndex(
                self.path,
                self.fd,
                self.directory,
                self.name,
                read_only=self.reads_index,
                create=not self.reads_index or (self.protected and self._is_in_wal_mode()),
            )
        if not self.index.map_region(region, view, extend=extend):
            return sqlite.SQLITE_NOTFOUND
        return sqlite.SQLITE_OK if self.index.writable else sqlite.SQLITE_READONLY

    def lock_index(self, first: int, count: int, flags: int) -> int | None:
        """Take locks of the WAL index; return the size of the database under a shared lock on the first mark."""
        if first == _WRITE_LOCK:
            self.contention.rest()
        try:
            self._open_index().lock(first, count, flags)
        except FileError as error:
            if error.code == sqlite.SQLITE_BUSY:
                self.contention.refused(needs_all=first > _LAST_EXCLUSIVE_LOCK)
            raise
        if first == _WRITE_LOCK:
            self.contention.granted()
        if first == _FIRST_MARK and flags & sqlite.SQLITE_SHM_SHARED:
            with contextlib.suppress(FileError):  # the guest asks for it, and gets the error
                return self._found().size()
        return None

    def unlock_index(self, locks: int) -> None:
        """Release locks of the WAL index, one bit each."""
        self._open_index().unlock(locks)
        self.contention.released(by_writer=bool(locks & _EXCLUSIVE_LOCKS))

    def _open_index(self) -> WalIndex:
        if self.index is None:
            raise FileError(sqlite.SQLITE_IOERR_SHMLOCK, "lock", self.path, "its WAL index is not open")
        return self.index

    def unmap_index(self, *, delete: bool) -> None:
        """Release the WAL index."""
        index, self.index = self.index, None
        if index is not None:
            index.close(delete=delete)

    def close(self) -> None:
        """Unmap, unlock and close, each even if another fails. Unlock first: a forked child may hold the file too."""
        try:
            self.windows.close()
        finally:
            try:
                self.unmap_index(delete=False)
            finally:
                try:
                    self.lock.unlock(sqlite.SQLITE_LOCK_NONE)
                finally:
                    self._release()

    def _release(self) -> None:
        if self.is_temporary:
            with contextlib.suppress(OSError):  # it will not be read again
                os.close(self.fd)
        elif not self.windows:
            descriptors.release(self.fd, writable=self.writable, lockable=self.is_database)
        # Otherwise something could not be unmapped and keeps the open file alive: a lock taken to close it would stay.
