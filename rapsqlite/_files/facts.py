"""What SQLite checks as soon as it has locked a database: the file's size, and whether it has a journal or WAL.

On a local file system these calls keep the GIL: they take a microsecond each, while getting the GIL back takes 5 ms if
another thread runs pure Python.

https://sqlite.org/lockingv3.html#hot_journals
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys

from rapsqlite import _constants as sqlite
from rapsqlite._files.file_error import FileError

if sys.platform == "linux":
    _libc = ctypes.PyDLL(None, use_errno=True)
    # Without argument types, as in `file_lock`.
    _faccessat = _libc.faccessat
    _lseek = _libc.lseek
    _lseek.restype = ctypes.c_int64
    _lseek.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int)
    _AT_SYMLINK_NOFOLLOW = 0x100


class Facts:
    """Examines one open database and its companion files."""

    __slots__ = ("_directory", "_fd", "_is_local", "_journal", "_path", "_wal")

    def __init__(self, fd: int, path: bytes, directory: int, name: bytes, *, is_local: bool) -> None:
        self._fd = fd
        self._path = path
        self._directory = directory
        self._journal = name + b"-journal"
        self._wal = name + b"-wal"
        self._is_local = is_local

    def size(self) -> int:
        """Return the size of the file in bytes."""
        try:
            size_bytes = self._size_at_once() if self._is_local else os.fstat(self._fd).st_size
        except OSError as error:
            raise FileError(sqlite.SQLITE_IOERR_FSTAT, "get the size of", self._path, error) from None
        # SQLite on Unix treats a single byte as an empty database.
        return 0 if size_bytes == 1 else size_bytes

    def _size_at_once(self) -> int:
        size_bytes: int = _lseek(self._fd, 0, os.SEEK_END)  # the position is unused: reads and writes give theirs
        if size_bytes < 0:
            raise _last_error()
        return size_bytes

    def companions(self) -> int:
        """Return which companion files may exist (``FACT_*``)."""
        journal = sqlite.FACT_JOURNAL if self._may_exist(self._journal) else 0
        return journal | (sqlite.FACT_WAL if self._may_exist(self._wal) else 0)

    def _may_exist(self, name: bytes) -> bool:
        """Tell so. Where it cannot be known, SQLite asks for the file itself, and gets the reason."""
        if self._is_local:
            found: int = _faccessat(self._directory, name, os.F_OK, _AT_SYMLINK_NOFOLLOW)
            return found == 0 or ctypes.get_errno() != errno.ENOENT
        try:
            os.stat(name, dir_fd=self._directory, follow_symlinks=False)
        except OSError as error:
            return error.errno != errno.ENOENT
        return True


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
