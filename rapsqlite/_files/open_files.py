"""The open files of one connection, by handle: locks and mapped memory shared with other connections.

https://sqlite.org/c3ref/io_methods.html
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rapsqlite import _constants as sqlite
from rapsqlite._files import mapping
from rapsqlite._files.file_error import FileError
from rapsqlite._files.prelocks import Prelocks
from rapsqlite._values.bounds import MOST_MAPPINGS

if TYPE_CHECKING:
    from rapsqlite._files.open_file import OpenFile

_CHECKPOINT_OR_RECOVERY = 0b110  # the locks on the WAL index for these
_RECOVERY_LOCK = 2


class OpenFiles:
    """Files by the small integers that the guest uses; `FileTable` opens, reads and writes them."""

    def __init__(self, *, maps_reads: bool) -> None:
        self._maps_reads = maps_reads
        self._files: dict[int, OpenFile] = {}
        self.prelocks = Prelocks(self._files)

    def _file(self, handle: int) -> OpenFile:
        try:
            return self._files[handle]
        except KeyError:
            raise FileError(sqlite.SQLITE_IOERR, "use", b"", "the guest used a file that is not open") from None

    def _uses_directory(self, descriptor: int) -> bool:
        return any(file.directory == descriptor for file in self._files.values())

    def lock(self, handle: int, level: int) -> tuple[int, int] | None:
        """Raise the lock; with SHARED, return the size of the file and its companions (``FACT_*``)."""
        file = self._file(handle)
        file.take_lock(level)
        if level != sqlite.SQLITE_LOCK_SHARED:
            return None
        self.prelocks.note(handle, sqlite.LOCKS_FILE)
        try:
            return file.facts()
        except FileError:
            file.lock.unlock(sqlite.SQLITE_LOCK_NONE)
            raise

    def size(self, handle: int) -> int:
        """Return the size of the file in bytes."""
        file = self._file(handle)
        try:
            size_bytes = os.fstat(file.fd).st_size
        except OSError as error:
            raise FileError(sqlite.SQLITE_IOERR_FSTAT, "get the size of", file.path, error) from None
        # SQLite on Unix treats a single byte as an empty database.
        return 0 if size_bytes == 1 else size_bytes

    def unlock(self, handle: int, level: int) -> None:
        self._file(handle).lock.unlock(level)

    def is_reserved(self, handle: int) -> bool:
        return self._file(handle).lock.is_reserved()

    def map_index(self, handle: int, region: int, view: memoryview, *, extend: bool) -> int:
        """Map a region of the WAL index over the guest's bytes: SQLITE_OK, READONLY, or NOTFOUND without one."""
        file = self._file(handle)
        self._refuse_more_mappings(file, sqlite.SQLITE_IOERR_SHMMAP)
        return file.map_index(region, view, extend=extend)

    def lock_index(self, handle: int, first: int, count: int, flags: int) -> int | None:
        """Take locks of the WAL index; return the size of the database under a shared lock on the first mark."""
        file = self._file(handle)
        size_bytes = file.lock_index(first, count, flags)
        # Recovery begins with the writer's lock, and a checkpoint locks marks of other readers. Taken for a whole
        # statement, they would keep others out.
        if first <= _RECOVERY_LOCK < first + count:
            self.prelocks.disregard()
        elif count == 1 and file.index is not None and not file.index.held & _CHECKPOINT_OR_RECOVERY:
            kind = 1 if flags & sqlite.SQLITE_SHM_SHARED else sqlite.LOCKS_EXCLUSIVE
            self.prelocks.note(handle, kind << first)
        return size_bytes

    def unlock_index(self, handle: int, locks: int) -> None:
        """Release locks of the WAL index, one bit each."""
        self._file(handle).unlock_index(locks)

    def unmap_index(self, handle: int, *, delete: bool) -> None:
        """Release the WAL index."""
        file = self._file(handle)
        with self.prelocks.guard:
            file.unmap_index(delete=delete)

    def map_window(self, handle: int, view: memoryview, offset: int) -> None:
        """Map a part of the file over the guest's bytes, read-only; less than requested at the end of the file."""
        file = self._file(handle)
        if not self._maps_reads:
            raise FileError(sqlite.SQLITE_IOERR_MMAP, "map", file.path, "mapped reads are turned off")
        self._refuse_more_mappings(file, sqlite.SQLITE_IOERR_MMAP)
        file.windows.open(view, offset)

    def _refuse_more_mappings(self, file: OpenFile, code: int) -> None:
        if sum(each.mapping_count for each in self._files.values()) >= MOST_MAPPINGS:
            raise FileError(code, "map", file.path, "this connection has mapped too many file ranges")

    def drop_pages(self, unused: memoryview) -> None:
        """Give memory used for a large value back to the system, with the pages of files through which it was read."""
        mapping.drop_pages(unused)
        for file in self._files.values():
            file.windows.drop_pages()

    def unmap_window(self, view: memoryview) -> None:
        """Unmap the window that starts there."""
        if not any(file.windows.close_at(view) for file in self._files.values()):
            raise FileError(sqlite.SQLITE_IOERR_MMAP, "unmap", b"", "the guest unmapped a window that is not mapped")
