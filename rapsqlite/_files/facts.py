"""What SQLite checks as soon as it has locked a database: the file's size, and whether it has a journal or WAL.

On a local file system these calls keep the GIL: they take a microsecond each, while getting the GIL back takes 5 ms if
another thread runs pure Python. `prelocks` makes them on the event loop's thread: the answers are in the kernel's cache
since the same statement ran last, unless memory was so short that it dropped them; then one directory block is read.

https://sqlite.org/lockingv3.html#hot_journals
"""

from __future__ import annotations

import errno
import os

from rapsqlite import _constants as sqlite
from rapsqlite._files.file_error import FileError
from rapsqlite._platform import system


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
            size_bytes = system.size_at_once(self._fd) if self._is_local else os.fstat(self._fd).st_size
        except OSError as error:
            raise FileError(sqlite.SQLITE_IOERR_FSTAT, "get the size of", self._path, error) from None
        # SQLite on Unix treats a single byte as an empty database.
        return 0 if size_bytes == 1 else size_bytes

    def companions(self) -> int:
        """Return which companion files may exist (``FACT_*``)."""
        may_exist = system.may_exist_at_once if self._is_local else _may_exist
        journal = sqlite.FACT_JOURNAL if may_exist(self._directory, self._journal) else 0
        return journal | (sqlite.FACT_WAL if may_exist(self._directory, self._wal) else 0)


def _may_exist(directory: int, name: bytes) -> bool:
    """Report that the file is absent or present; if unknown, SQLite opens the file itself and gets the reason."""
    try:
        system.stat_at(name, directory)
    except OSError as error:
        return error.errno != errno.ENOENT
    return True
