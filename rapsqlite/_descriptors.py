"""Descriptors of files that other SQLite libraries in this process may have locked.

Closing **any** descriptor of a file drops the POSIX locks that this process holds on it: a database of ours,
closed, would silently unlock the same database in the standard library's ``sqlite3``. So a descriptor is
closed only under a lock of our own over the whole file, which proves that nobody holds another and keeps
others out until it is closed. Otherwise it is parked, by device and inode, and the next connection to the
file takes it over.

A forked child shares our open files, and with them our locks. It closes its copies at once; that drops
nothing of the parent's, as the parent's descriptors are still open.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading

try:
    import fcntl
except ImportError as missing:
    raise ImportError("rapsqlite does not run on Windows yet: see docs/durability.md, Platforms") from missing

from rapsqlite import _filelock

PERMISSION_BITS = 0o777
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY)
"""Why a file that cannot be opened for writing may still be worth opening for reading; SQLite itself tries always."""

_UNKNOWN = -1  # no device
_parked: dict[tuple[int, int, bool], list[int]] = {}  # device, inode, writable
_open: set[int] = set()
_guard = threading.Lock()


def open_file(name: bytes, flags: int, mode: int, directory: int | None) -> int:
    """Open a file beside others in ``directory``, None for a path; take a parked descriptor of it, if there is one."""
    writable = flags & os.O_ACCMODE != os.O_RDONLY
    with _guard:
        fd = _take_parked(name, directory, writable) if _parked and not flags & os.O_EXCL else None
        if fd is None:
            fd = _above_standard_streams(os.open(name, flags, mode, dir_fd=directory))
        _open.add(fd)
    return fd


def _take_parked(name: bytes, directory: int | None, writable: bool) -> int | None:
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    same = _parked.get((found.st_dev, found.st_ino, writable))
    if not same:
        return None
    fd = same.pop()
    if not same:
        del _parked[found.st_dev, found.st_ino, writable]
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


def release(fd: int, *, writable: bool) -> None:
    """Close ``fd``, or park it while another library in this process may have locked its file.

    The caller has dropped all its locks and mappings of it.
    """
    with _guard:
        try:
            status = os.fstat(fd)
            key = (status.st_dev, status.st_ino, writable)
        except OSError:
            key = (_UNKNOWN, fd, writable)  # whose it is cannot be told: nobody takes it over, but it is closed in time
        waiting = [fd, *_parked.pop(key, [])]
        still_waiting = [each for each in waiting if not _close_if_unlocked(each, writable)]
        if still_waiting:
            _parked[key] = still_waiting


def sweep() -> None:
    """Close what has been parked and is no longer locked by anyone."""
    with _guard:
        for key, waiting in list(_parked.items()):
            still_waiting = [each for each in waiting if not _close_if_unlocked(each, key[2])]
            if still_waiting:
                _parked[key] = still_waiting
            else:
                del _parked[key]


def _close_if_unlocked(fd: int, writable: bool) -> bool:
    try:
        if writable:
            _filelock.set_lock(fd, _filelock.WRITE, 0, 0)
        elif _filelock.conflicting_lock(fd, _filelock.WRITE, 0, 0) is not None:
            return False
    except OSError:
        return False
    _open.discard(fd)
    # What close(2) complains of, writes that failed, has been told by the last sync; and the descriptor is gone.
    with contextlib.suppress(OSError):
        os.close(fd)
    return True


def parked_count() -> int:
    with _guard:
        return sum(map(len, _parked.values()))


def _close_all_in_child() -> None:
    global _guard
    _guard = threading.Lock()
    for fd in _open:
        os.close(fd)
    _open.clear()
    _parked.clear()


def _acquire_guard() -> None:
    _guard.acquire()


def _release_guard() -> None:
    _guard.release()


# No fork between opening a file and noting it, nor between locking all of a file and closing it: a child that
# knew nothing of the descriptor would keep it, and with it the lock, for as long as it lives.
os.register_at_fork(
    before=_acquire_guard,
    after_in_parent=_release_guard,
    after_in_child=_close_all_in_child,
)
