"""Descriptors of files that other SQLite libraries in this process may have locked.

Closing **any** descriptor of a file drops the POSIX locks that this process holds on it: closing our database would
silently unlock the same database in the standard library's ``sqlite3``. So a descriptor is closed only if no other code
in this process has the file open. Otherwise it is parked, by device and inode, and reused by the next connection to the
file. No lock that others could meet is taken for this.
https://sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_

A forked child shares our open files, and with them our locks. It closes its copies at once; that drops none of the
parent's locks, because the parent's descriptors are still open.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading

from rapsqlite import _constants as sqlite
from rapsqlite._files.file_error import FileError
from rapsqlite._platform import system

PERMISSION_BITS = 0o777
_ACCESS_MODES = os.O_RDONLY | os.O_WRONLY | os.O_RDWR
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, getattr(errno, "ETXTBSY", errno.EACCES))
"""Errors of opening for writing after which opening for reading is worth a try; SQLite itself always tries."""

_UNKNOWN = -1  # no device
_parked: dict[tuple[int, int, bool], list[int]] = {}  # device, inode, writable
_open: dict[int, tuple[int, int]] = {}  # device and inode of each, by which a forked child recognises its copy
_since_fork: list[object] = []  # what it contains was put there since the last fork
# Held for a moment only, never across a system call: some system calls wait for the file system, and every thread that
# opens, closes or forks takes this lock.
_guard = threading.Lock()


class NotAFileError(OSError):
    """The name is a directory, a pipe or a socket."""


def open_file(name: bytes, flags: int, mode: int, directory: int | None) -> int:
    """Open a file in ``directory``, or by path if that is None; reuse a parked descriptor of it, if there is one.

    Raises OSError, including NotAFileError, and FileError if the open file cannot be examined. Opening a pipe does not
    wait for its other end.
    """
    writable = flags & _ACCESS_MODES != os.O_RDONLY
    if _parked and not flags & os.O_EXCL:
        parked = _take_parked(name, directory, writable)
        if parked is not None:
            return parked
    while True:
        with _guard:
            if not _since_fork:
                _since_fork.append(object())
            mark = _since_fork[0]
        fd, status = _open_new(name, flags, mode, directory)
        with _guard:
            if mark in _since_fork:
                _open[fd] = (status.st_dev, status.st_ino)
                return fd
        # A child may have a copy that it does not know of, but no lock is taken through this one.
        _discard(fd)
        flags &= ~os.O_EXCL  # the file exists now


def _open_new(name: bytes, flags: int, mode: int, directory: int | None) -> tuple[int, os.stat_result]:
    fd = system.open_at(name, flags, mode, directory)
    try:
        status = os.fstat(fd)
    except OSError as error:
        _discard(fd)
        raise FileError(sqlite.SQLITE_IOERR_FSTAT, "examine", name, error) from None
    if stat.S_ISDIR(status.st_mode) or stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode):
        os.close(fd)
        raise NotAFileError("it is a directory, a pipe or a socket")
    return system.above_standard_streams(fd), status


def _take_parked(name: bytes, directory: int | None, writable: bool) -> int | None:
    try:
        found = system.stat_at(name, directory)
    except OSError:
        return None  # opening it reports what is wrong
    key = (found.st_dev, found.st_ino, writable)
    with _guard:
        same = _parked.get(key)
        if not same:
            return None
        fd = same.pop()
        if not same:
            del _parked[key]
    return fd


def release(fd: int, *, writable: bool, lockable: bool = True) -> None:
    """Close ``fd``, or park it while another library in this process may lock its file.

    The caller has released all its locks and mappings of the file. A file that is not ``lockable`` is neither a
    database nor a WAL index, and is never locked.
    """
    if not lockable:
        _close(fd)
        return
    try:
        status = os.fstat(fd)
        key = (status.st_dev, status.st_ino, writable)
    except OSError:
        key = (_UNKNOWN, fd, writable)  # its file is unknown: it is never reused, but closed in time
    _close_or_park(key, [fd])


def sweep() -> None:
    """Close parked descriptors whose files are no longer locked by other code."""
    for key in list(_parked):
        _close_or_park(key, [])


def _discard(fd: int) -> None:
    """Close a new descriptor that is not used after all, or park it, so that it is closed in time."""
    with _guard:
        _open[fd] = (_UNKNOWN, fd)  # otherwise it would count as another library's, and never be closed
    _close_or_park((_UNKNOWN, fd, False), [fd])


def _close_or_park(key: tuple[int, int, bool], unwanted: list[int]) -> None:
    """Close these and the parked descriptors of one file, or park them (again)."""
    with _guard:
        unwanted += _parked.pop(key, [])
    still_waiting = [fd for fd in unwanted if not _close_if_alone(fd)]
    if still_waiting:
        with _guard:
            _parked.setdefault(key, []).extend(still_waiting)


def _close_if_alone(fd: int) -> bool:
    try:
        if system.closing_unlocks_others(fd, _open):
            return False
    except OSError:
        return False
    _close(fd)
    return True


def _close(fd: int) -> None:
    noted = _open.get(fd)
    # The last sync has already reported failed writes, which is all that close(2) could report; the descriptor is gone.
    with contextlib.suppress(OSError):
        os.close(fd)
    with _guard:
        # Another thread may meanwhile have opened another file with the same number.
        if noted is not None and _open.get(fd) is noted:
            del _open[fd]


def parked_count() -> int:
    with _guard:
        return sum(map(len, _parked.values()))


def _close_all_in_child() -> None:
    for fd, identity in _open.items():
        with contextlib.suppress(OSError):
            status = os.fstat(fd)
            if identity == (status.st_dev, status.st_ino):  # otherwise the parent was about to forget the number
                os.close(fd)
    _open.clear()
    _parked.clear()


# A child that did not know of a descriptor would keep it, and its lock, for its whole lifetime. So the tables do not
# change during a fork, and an open descriptor is in them from before its first lock until after it is closed.
# These are functions of C, in this order: an interrupt would end one of Python as it is entered, and the guard would
# never be released.
system.at_fork(in_parent=_since_fork.clear)
system.at_fork(
    before=_guard.acquire,
    in_parent=_guard.release,
    in_child=getattr(_guard, "_at_fork_reinit", None),  # as the standard library does; absent where no process forks
)
system.at_fork(in_child=_close_all_in_child)
