"""The windows of one file: parts of it mapped into the guest's address space.

https://sqlite.org/mmap.html
"""

from __future__ import annotations

import os

from rapsqlite import _constants as sqlite
from rapsqlite._files import mapping, sigbus
from rapsqlite._files.file_error import FileError
from rapsqlite._platform import system


class Windows:
    """The mapped parts of one open file, by address. The guest chooses them; this checks that it may."""

    __slots__ = ("_addresses", "_fd", "_path")

    def __init__(self, fd: int, path: bytes) -> None:
        self._fd = fd
        self._path = path
        self._addresses: set[int] = set()

    def __len__(self) -> int:
        """Number of mapped parts."""
        return len(self._addresses)

    def open(self, view: memoryview, offset: int) -> None:
        """Map the file from ``offset`` over ``view``, up to the file's last page and never beyond.

        Raises FileError (SQLITE_IOERR_MMAP) if mapped reads are not safe here; the guest then reads by calls.
        """
        if not system.maps_reads:
            raise self._refusal("this system has no mapped reads")
        if not sigbus.turns_into_trap():
            raise self._refusal("a truncated file would end the process")
        address = mapping.address_of(view)
        try:
            if not mapping.is_shared_by_all(self._fd):
                raise self._refusal("its file system may be shared with other machines")
            end = mapping.whole_pages(os.fstat(self._fd).st_size)
            length = min(len(view), end - offset)
            mapping.map_at(address, self._fd, offset, length, writable=False)
        except OSError as error:
            raise self._refusal(error) from None
        except ValueError as error:
            raise self._refusal(str(error)) from None
        self._addresses.add(address)

    def _refusal(self, reason: OSError | str) -> FileError:
        return FileError(sqlite.SQLITE_IOERR_MMAP, "map", self._path, reason)

    def drop_pages(self) -> None:
        """Drop this process's pages of the file until they are read again."""
        for address in self._addresses:
            mapping.drop_mapped_pages(address)

    def close_at(self, view: memoryview) -> bool:
        """Unmap the window at this address; False if it is not one of this file's."""
        address = mapping.address_of(view)
        if address not in self._addresses:
            return False
        try:
            mapping.clear(address)
        except OSError as error:
            raise FileError(sqlite.SQLITE_IOERR_MMAP, "unmap", self._path, error) from None
        self._addresses.remove(address)
        return True

    def close(self) -> None:
        """Unmap all windows: a mapping keeps the file open, and with it its locks."""
        while self._addresses:
            address = next(iter(self._addresses))
            mapping.clear(address)
            self._addresses.remove(address)
