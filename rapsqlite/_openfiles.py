"""The open files of one connection, by handle: what is shared with other connections, locks and mapped memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rapsqlite import _constants as sqlite
from rapsqlite._fileerror import FileError

if TYPE_CHECKING:
    from rapsqlite._openfile import OpenFile


class OpenFiles:
    """Files by the small integers that the guest knows them by; `FileTable` opens, reads and writes them."""

    def __init__(self, *, maps_reads: bool, maps_writes: bool) -> None:
        self._maps_reads = maps_reads
        self._maps_writes = maps_writes
        self._files: dict[int, OpenFile] = {}

    def _file(self, handle: int) -> OpenFile:
        try:
            return self._files[handle]
        except KeyError:
            raise FileError(sqlite.SQLITE_IOERR, "use", b"", "the guest has no such file open") from None

    def lock(self, handle: int, level: int) -> None:
        self._file(handle).take_lock(level)

    def unlock(self, handle: int, level: int) -> None:
        self._file(handle).lock.unlock(level)

    def is_reserved(self, handle: int) -> bool:
        return self._file(handle).lock.is_reserved()

    def map_index(self, handle: int, region: int, view: memoryview, *, extend: bool) -> int:
        """Lay a region of the WAL index over the guest's bytes: SQLITE_OK, READONLY, or NOTFOUND if there is none."""
        return self._file(handle).map_index(region, view, extend=extend)

    def lock_index(self, handle: int, first: int, count: int, flags: int) -> None:
        """Take or drop locks of the WAL index."""
        self._file(handle).lock_index(first, count, flags)

    def has_index_alone(self, handle: int) -> int:
        """Return 1 if no other connection, of whatever process, uses the WAL index, else 0."""
        index = self._file(handle).index
        return int(index is not None and not index.is_used_by_others())

    def unmap_index(self, handle: int, *, delete: bool) -> None:
        """Let go of the WAL index."""
        self._file(handle).unmap_index(delete=delete)

    def map_window(self, handle: int, view: memoryview, offset: int) -> None:
        """Lay a part of the file over the guest's bytes, read-only; less than asked for where the file ends."""
        file = self._file(handle)
        if not self._maps_reads:
            raise FileError(sqlite.SQLITE_IOERR_MMAP, "map", file.path, "mapped reads are turned off")
        file.windows.open(view, offset)

    def map_tail(self, handle: int, view: memoryview, offset: int) -> None:
        """Make the file reach to where ``view`` ends and lay that part of it over the guest's bytes, writable.

        Raises FileError: SQLITE_FULL if there is no room for it, SQLITE_IOERR_MMAP if such a file is not mapped.
        """
        file = self._file(handle)
        if not self._maps_writes:
            raise FileError(sqlite.SQLITE_IOERR_MMAP, "map", file.path, "mapped writes are turned off")
        file.windows.open_tail(view, offset, writable=file.writable)

    def unmap_window(self, view: memoryview) -> None:
        """Turn the guest's bytes that a window covered back into plain memory."""
        if not any(file.windows.close_at(view) for file in self._files.values()):
            raise FileError(sqlite.SQLITE_IOERR_MMAP, "unmap", b"", "the guest has no such window")
