"""Opens one file as SQLite's own VFS for Unix does: access, permission bits, owner, temporary files.

https://sqlite.org/tempfiles.html
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from rapsqlite import _constants as sqlite
from rapsqlite._files import descriptors
from rapsqlite._files.file_error import FileError
from rapsqlite._platform import system

_JOURNALS = sqlite.SQLITE_OPEN_MAIN_JOURNAL | sqlite.SQLITE_OPEN_SUPER_JOURNAL | sqlite.SQLITE_OPEN_WAL
_LIKE_ITS_DATABASE = sqlite.SQLITE_OPEN_MAIN_JOURNAL | sqlite.SQLITE_OPEN_WAL
_TEMPORARY_MODE = 0o600
_DATABASE_MODE = 0o644
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


def open_named(path: bytes, directory: int, last: bytes, flags: int, mode: int = 0) -> tuple[int, int]:
    """Open ``last`` in ``directory``; return the descriptor and the granted flags.

    ``path`` is for messages, ``mode`` the permission bits of a new file (0: the usual ones). If the file is readable
    but not writable, it is opened read-only.
    """
    model = _model(path, directory, last, flags)
    mode = mode or _mode(model, flags)
    try:
        fd = _open(last, directory, flags, mode)
    except OSError as error:
        if _is_new_journal(flags) and error.errno == errno.EACCES and not _exists(last, directory):
            raise FileError(sqlite.SQLITE_READONLY_DIRECTORY, "create", path, error) from None
        if error.errno not in descriptors.NOT_WRITABLE or not flags & sqlite.SQLITE_OPEN_READWRITE:
            raise FileError(sqlite.SQLITE_CANTOPEN, "open", path, error) from None
        flags &= ~(sqlite.SQLITE_OPEN_READWRITE | sqlite.SQLITE_OPEN_CREATE | sqlite.SQLITE_OPEN_EXCLUSIVE)
        flags |= sqlite.SQLITE_OPEN_READONLY
        with contextlib.suppress(OSError):
            return _open(last, directory, flags, mode), flags
        raise FileError(sqlite.SQLITE_CANTOPEN, "open", path, error) from None
    system.give(fd, mode, model)
    return fd, flags


def _open(last: bytes, directory: int, flags: int, mode: int) -> int:
    how = os.O_RDWR if flags & sqlite.SQLITE_OPEN_READWRITE else os.O_RDONLY
    how |= os.O_CREAT if flags & sqlite.SQLITE_OPEN_CREATE else 0
    how |= os.O_EXCL if flags & sqlite.SQLITE_OPEN_EXCLUSIVE else 0
    return descriptors.open_file(last, how, mode or _DATABASE_MODE, directory)


def read_whole(path: bytes, directory: int | None, last: bytes, most_bytes: int) -> bytes | None:
    """Return the content of ``last`` in ``directory``, up to ``most_bytes``; None for links and non-regular files.

    ``path`` is for messages. Raises FileError if it cannot be read.
    """
    try:
        fd = descriptors.open_file(last, os.O_RDONLY, 0, directory)
    except descriptors.NotAFileError:
        return None
    except OSError as error:
        if error.errno in _NOT_THERE:
            return None
        raise FileError(sqlite.SQLITE_CANTOPEN, "open", path, error) from None
    try:
        status = os.fstat(fd)
        # A parked descriptor has been read before, so its position is arbitrary.
        if not stat.S_ISREG(status.st_mode):
            return None
        content = bytearray(min(status.st_size, most_bytes))
        return bytes(content[: system.read_at(fd, memoryview(content), 0)])
    except OSError as error:
        raise FileError(sqlite.SQLITE_IOERR_READ, "read", path, error) from None
    finally:
        descriptors.release(fd, writable=False)


def _is_new_journal(flags: int) -> bool:
    return bool(flags & sqlite.SQLITE_OPEN_CREATE and flags & _JOURNALS)


def _exists(last: bytes, directory: int) -> bool:
    return system.access_at(last, os.F_OK, directory)


def _model(path: bytes, directory: int, last: bytes, flags: int) -> os.stat_result | None:
    """Return the status of the database of a journal or WAL, which gets the same permission bits and owner."""
    if not flags & _LIKE_ITS_DATABASE:
        return None
    database, _, suffix = last.rpartition(b"-")
    if not database or b"." in suffix:
        return None  # some other name, from a super-journal
    return _examine("examine the database of", path, directory, database)


def bits_of(path: bytes, directory: int, last: bytes) -> int:
    """Return the permission bits of ``last`` in ``directory``; ``path`` is for messages."""
    return _examine("examine", path, directory, last).st_mode & descriptors.PERMISSION_BITS


def _examine(task: str, path: bytes, directory: int, last: bytes) -> os.stat_result:
    """Return the status of ``last`` in ``directory``, which is no link: names are resolved before."""
    try:
        status = system.stat_at(last, directory)
    except OSError as error:
        raise FileError(sqlite.SQLITE_IOERR_FSTAT, task, path, error) from None
    if stat.S_ISLNK(status.st_mode):
        raise FileError(sqlite.SQLITE_IOERR_FSTAT, task, path, "it is a symbolic link")
    return status


def _mode(model: os.stat_result | None, flags: int) -> int:
    """Return the exact permission bits for a new file, or 0 for the usual ones and the user's mask."""
    if model is not None:
        return model.st_mode & descriptors.PERMISSION_BITS
    return _TEMPORARY_MODE if flags & sqlite.SQLITE_OPEN_DELETEONCLOSE else 0


def open_temporary() -> int:
    """Return a descriptor of a new file without a name, in the first usable temporary directory."""
    directory = _temporary_directory()
    try:
        return system.open_temporary(directory)
    except OSError as error:
        raise FileError(sqlite.SQLITE_CANTOPEN, "create a temporary file in", directory, error) from None


def _temporary_directory() -> bytes:
    for directory in system.temporary_directories():
        if directory and os.path.isdir(directory) and os.access(directory, os.W_OK | os.X_OK):
            return directory
    reason = "no temporary directory is writable"
    raise FileError(sqlite.SQLITE_IOERR_GETTEMPPATH, "create temporary files", b"", reason)
