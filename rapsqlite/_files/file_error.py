"""A failed file operation: SQLite's result code, and the file and reason for people.

The guest gets the code that SQLite's own VFS for Unix would return. The rest stays on the host, because a guest has no
place for it, and is added to the statement's exception. https://sqlite.org/rescode.html
"""

from __future__ import annotations

import errno
import os

from rapsqlite import _constants as sqlite
from rapsqlite._platform import system

# Errors of lock calls if another lock is in the way, or the lock service fails temporarily.
_IN_THE_WAY = frozenset((errno.EACCES, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ENOLCK, errno.ETIMEDOUT))
_NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT))
# If reading fails with these, the file system itself is broken; SQLite then reports a corrupt database.
_BROKEN_DEVICE = frozenset((errno.ERANGE, errno.EIO, errno.ENXIO))

_WHAT_TO_DO = dict.fromkeys(
    (errno.EMFILE, errno.ENFILE), ": raise the limit of the process (ulimit -n), or close connections and files"
)

_CUT_OFF = "an interrupted transaction must be rolled back or completed first"
EXPLANATIONS = {
    sqlite.SQLITE_READONLY_ROLLBACK: f"{_CUT_OFF}: open the database once with write access to it and its directory",
    sqlite.SQLITE_READONLY_RECOVERY: f"{_CUT_OFF}: open the database once with write access to it and its directory",
    sqlite.SQLITE_READONLY_DBMOVED: "the file was renamed, replaced or deleted since it was opened: open it again",
    sqlite.SQLITE_BUSY_SNAPSHOT: (
        "another connection has written since this transaction first read, so its snapshot is old and it cannot write:"
        " roll it back and run it again, and begin transactions that will write with transaction('IMMEDIATE')"
    ),
    sqlite.SQLITE_READONLY_CANTLOCK: "the WAL index is not writable, so this reader cannot register in it",
}
"""Explanations, by result code, of errors that SQLite decides by itself without a failed operation."""


class FileError(Exception):
    """A file operation failed with the SQLite result code ``code``."""

    def __init__(self, code: int, task: str, path: bytes, reason: OSError | str) -> None:
        super().__init__(code, task, path, reason)
        self.code = code
        self.task = task
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        reason = self.reason
        if isinstance(reason, OSError):
            number = reason.errno
            reason = os.strerror(number) + _WHAT_TO_DO.get(number, "") if number else str(reason)
        path = system.external(self.path) if self.path.startswith(b"/") else self.path
        where = f" {_shown(path)!r}" if path else ""
        return f"cannot {self.task}{where}: {reason}"


def _shown(path: bytes) -> str:
    try:
        return os.fsdecode(path)
    except UnicodeDecodeError:  # no name of a file on Windows
        return path.decode("utf-8", "replace")


def code_of_lock(error: OSError, otherwise: int) -> int:
    """Return the result code of a refused lock: busy, not permitted, or ``otherwise``."""
    if error.errno in _IN_THE_WAY:
        return sqlite.SQLITE_BUSY
    return sqlite.SQLITE_PERM if error.errno == errno.EPERM else otherwise


def code_of_read(error: OSError) -> int:
    return sqlite.SQLITE_IOERR_CORRUPTFS if error.errno in _BROKEN_DEVICE else sqlite.SQLITE_IOERR_READ


def code_of_write(error: OSError) -> int:
    return sqlite.SQLITE_FULL if error.errno in _NO_ROOM else sqlite.SQLITE_IOERR_WRITE
