"""Descriptors of files that other SQLite libraries in this process may have locked.

Closing **any** descriptor of a file drops the POSIX locks that this process holds on it: a database of ours,
closed, would silently unlock the same database in the standard library's ``sqlite3``. So a descriptor is
closed only if no other code in this process has the file open, without a lock that others could meet. Otherwise
it is parked, by device and inode, and the next connection to the file takes it over.

A forked child shares our open files, and with them our locks. It closes its copies at once; that drops
nothing of the parent's, as the parent's descriptors are still open.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
from pathlib import Path

from rapsqlite import _constants as sqlite
from rapsqlite._files import file_lock
from rapsqlite._files.file_error import FileError

PERMISSION_BITS = 0o777
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY)
"""Why a file that cannot be opened for writing may still be worth opening for reading; SQLite itself tries always."""

_UNKNOWN = -1  # no device
_DESCRIPTORS = "/proc/self/fd"
_parked: dict[tuple[int, int, bool], list[int]] = {}  # device, inode, writable
_open: dict[int, tuple[int, int]] = {}  # device and inode of each, by which a forked child knows its copy
_forks = 0
# Held for a moment only, never across a system call: some wait as long as the file system likes, and every thread that
# opens, closes or forks comes by here.
_guard = threading.Lock()


class NotAFileError(OSError):
    """The name leads to a directory, a pipe or a socket."""


def open_file(name: bytes, flags: int, mode: int, directory: int | None) -> int:
    """Open a file beside others in ``directory``, None for a path; take a parked descriptor of it, if there is one.

    Raises OSError, NotAFileError among them, and FileError if it is open but cannot be looked at. Nobody is waited for
    at the other end of a pipe.
    """
    writable = flags & os.O_ACCMODE != os.O_RDONLY
    if _parked and not flags & os.O_EXCL:
        parked = _take_parked(name, directory, writable)
        if parked is not None:
            return parked
    while True:
        forks = _forks
        fd, status = _open_new(name, flags, mode, directory)
        with _guard:
            if forks == _forks:
                _open[fd] = (status.st_dev, status.st_ino)
                return fd
        # A child may have a copy of it that it does not know of: no lock is taken through this one.
        _close_or_park((_UNKNOWN, fd, False), [fd])
        flags &= ~os.O_EXCL  # the file is there now


def _open_new(name: bytes, flags: int, mode: int, directory: int | None) -> tuple[int, os.stat_result]:
    try:
        fd = os.open(name, flags | os.O_NONBLOCK, mode, dir_fd=directory)
    except BlockingIOError:
        # No pipe, but a file that somebody has leased, who gives it back for one who waits.
        fd = os.open(name, flags, mode, dir_fd=directory)
    try:
        status = os.fstat(fd)
    except OSError as error:
        _close_or_park((_UNKNOWN, fd, False), [fd])
        raise FileError(sqlite.SQLITE_IOERR_FSTAT, "look at", name, error) from None
    if stat.S_ISDIR(status.st_mode) or stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode):
        os.close(fd)
        raise NotAFileError("it is a directory, a pipe or a socket")
    return _above_standard_streams(fd), status


def _take_parked(name: bytes, directory: int | None, writable: bool) -> int | None:
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return None  # opening it tells what is wrong
    key = (found.st_dev, found.st_ino, writable)
    with _guard:
        same = _parked.get(key)
        if not same:
            return None
        fd = same.pop()
        if not same:
            del _parked[key]
    return fd


def _above_standard_streams(fd: int) -> int:
    """Move ``fd`` where nobody prints to it: a closed stdout's number must not become a database's."""
    if fd > 2:
        return fd
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    null = os.open(os.devnull, os.O_RDWR)
    if null != fd:
        os.dup2(null, fd, inheritable=False)
        if null > 2:
            os.close(null)
    return moved


def give(fd: int, mode: int, model: os.stat_result | None) -> None:
    """Give a file that is new the exact permission bits ``mode`` (0: it keeps its own) and the owner of ``model``."""
    # Failures are tolerable: another user may then be unable to roll back, as with SQLite itself.
    if mode:
        with contextlib.suppress(OSError):
            status = os.fstat(fd)
            if status.st_size == 0 and status.st_mode & PERMISSION_BITS != mode:
                os.fchmod(fd, mode)
    if model is not None and os.geteuid() == 0:
        with contextlib.suppress(OSError):
            os.fchown(fd, model.st_uid, model.st_gid)


def release(fd: int, *, writable: bool, lockable: bool = True) -> None:
    """Close ``fd``, or park it while another library in this process may lock its file.

    The caller has dropped all its locks and mappings of it. A file that is not ``lockable`` is no database and no WAL
    index: nobody locks it.
    """
    if not lockable:
        _close(fd)
        return
    try:
        status = os.fstat(fd)
        key = (status.st_dev, status.st_ino, writable)
    except OSError:
        key = (_UNKNOWN, fd, writable)  # whose it is cannot be told: nobody takes it over, but it is closed in time
    _close_or_park(key, [fd])


def sweep() -> None:
    """Close what has been parked and is no longer locked by anyone."""
    for key in list(_parked):
        _close_or_park(key, [])


def _close_or_park(key: tuple[int, int, bool], unwanted: list[int]) -> None:
    """Close these descriptors of one file and the parked ones of it, or park them (again)."""
    with _guard:
        unwanted += _parked.pop(key, [])
    still_waiting = [fd for fd in unwanted if not _close_if_alone(fd)]
    if still_waiting:
        with _guard:
            _parked.setdefault(key, []).extend(still_waiting)


def _close_if_alone(fd: int) -> bool:
    # Code that has opened the file since the first look has not come to lock it, or is seen by the second.
    try:
        if _is_open_elsewhere(fd) or _is_locked_by_this_process(fd):
            return False
    except OSError:
        return False
    _close(fd)
    return True


def _is_open_elsewhere(fd: int) -> bool:
    """Whether other code in this process has the file open, by its name: asking the files themselves may block.

    Where that is not listed, it is held to have it open only while somebody has locked the file.
    """
    if not Path(_DESCRIPTORS).is_dir():
        return file_lock.conflicting_lock(fd, file_lock.WRITE, 0, 0) is not None
    name = _name_of(str(fd))
    numbers = os.listdir(_DESCRIPTORS)  # noqa: PTH208 - there may be thousands
    return not name or any(_name_of(number) == name for number in numbers if int(number) not in _open)


def _name_of(number: str) -> str:
    try:
        return os.readlink(f"{_DESCRIPTORS}/{number}")  # noqa: PTH115 - there may be thousands
    except OSError:
        return ""  # closed by now


def _is_locked_by_this_process(fd: int) -> bool:
    found = file_lock.conflicting_lock(fd, file_lock.WRITE, 0, 0)
    return found is not None and found[1] == os.getpid()


def _close(fd: int) -> None:
    noted = _open.get(fd)
    # What close(2) complains of, writes that failed, has been told by the last sync; and the descriptor is gone.
    with contextlib.suppress(OSError):
        os.close(fd)
    with _guard:
        # Another thread may have opened another file under its number by now.
        if noted is not None and _open.get(fd) is noted:
            del _open[fd]


def parked_count() -> int:
    with _guard:
        return sum(map(len, _parked.values()))


def _close_all_in_child() -> None:
    global _guard
    _guard = threading.Lock()
    for fd, identity in _open.items():
        with contextlib.suppress(OSError):
            status = os.fstat(fd)
            if identity == (status.st_dev, status.st_ino):  # else the parent was about to forget the number
                os.close(fd)
    _open.clear()
    _parked.clear()


def _begin_fork() -> None:
    _guard.acquire()


def _end_fork_in_parent() -> None:
    global _forks
    _forks += 1
    _guard.release()


# A child that knew nothing of a descriptor would keep it, and with it the lock, for as long as it lives. So the tables
# stand still during a fork, and what is open is in them, from before its first lock until after it is closed.
os.register_at_fork(
    before=_begin_fork,
    after_in_parent=_end_fork_in_parent,
    after_in_child=_close_all_in_child,
)
