"""Private directories for copies and in-memory databases.

A killed process leaves its directories behind. So each has a lock file next to it, locked for the lifetime of the
process, and a process removes those whose locks are free, once in each place where it makes its own.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from rapsqlite._loops.worker import start
from rapsqlite._platform import system

_PREFIX = "rapsqlite_"
_SUFFIX = ".lock"
_reclaimed: set[str] = set()  # directories that this process has cleaned up


class PrivateDirectory:
    """A new directory in ``shared`` that only this user may enter, until ``remove``."""

    __slots__ = ("_lock", "_remove_tree", "path")

    def __init__(self, shared: str) -> None:
        from shutil import rmtree  # as `tempfile` below; not when it is removed, which may be as the interpreter ends

        self._remove_tree = rmtree
        self._lock = DirectoryLock()
        self.path: str = self._lock.acquire_new(shared, _PREFIX)
        try:
            Path(self.path).mkdir(0o700)
        except BaseException:
            self._lock.release()
            raise

    def remove(self) -> None:
        """Delete it and what is in it, as far as that is possible."""
        self._remove_tree(self.path, ignore_errors=True)
        self._lock.release()

    def abandon_after_fork(self) -> None:
        """In a forked child: it is the parent's, whose lock must not last as long as the child."""
        self._lock.close()


class DirectoryLock:
    """A lock file named after a directory, locked during the lifetime of its process."""

    __slots__ = ("_fd", "_path")

    def __init__(self) -> None:
        self._fd = -1
        self._path = ""

    def acquire_new(self, shared: str, prefix: str) -> str:
        """Create a lock file with a new name and lock it; return the path of its directory."""
        import tempfile  # not by programs that neither copy nor share in-memory databases

        while True:
            self._fd, self._path = tempfile.mkstemp(_SUFFIX, prefix, shared)
            if self._lock(if_impossible=True) and os.fstat(self._fd).st_nlink:
                return self._path.removesuffix(_SUFFIX)
            os.close(self._fd)  # another process took it for a leftover before it was locked

    def acquire(self, path: str) -> bool:
        """Lock an existing lock file; False if a living process holds it, or it belongs to another user."""
        try:
            self._fd, self._path = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)), path
        except OSError:
            return False
        if self._is_mine() and self._lock():
            return True
        os.close(self._fd)
        return False

    def release(self) -> None:
        """Remove the lock file, unless another process has removed it, or has it open; never raises OSError."""
        if system.can_delete_open_files:
            self._unlink()
        os.close(self._fd)
        if not system.can_delete_open_files:
            self._unlink()

    def _unlink(self) -> None:
        with contextlib.suppress(OSError):
            Path(self._path).unlink()

    def close(self) -> None:
        """Close the lock file: it stays locked while another process of the same fork has it open."""
        os.close(self._fd)

    def _is_mine(self) -> bool:
        return system.is_private(os.fstat(self._fd))

    def _lock(self, *, if_impossible: bool = False) -> bool:
        """Lock the file; False if another process has, ``if_impossible`` where files cannot be locked."""
        try:
            system.lock_whole_file(self._fd)
        except (BlockingIOError, PermissionError):  # the latter on Windows
            return False
        except OSError:
            return if_impossible
        return True


def reclaim(shared: str) -> None:
    """Remove what killed processes of this user left in ``shared``, the first time. Not in a loop's thread."""
    if shared not in _reclaimed:
        _reclaimed.add(shared)
        with contextlib.suppress(OSError):  # files may be made in a directory that cannot be listed
            _reclaim(shared)


def reclaim_later(shared: str) -> None:
    """The same in a thread, without waiting for it."""
    if shared not in _reclaimed:
        start(lambda: reclaim(shared))


def _reclaim(shared: str) -> None:
    """Remove the directories in ``shared`` that killed processes of this user left behind."""
    for entry in os.scandir(shared):
        if entry.name.startswith(_PREFIX) and entry.name.endswith(_SUFFIX):
            lock = DirectoryLock()
            if lock.acquire(entry.path):
                import shutil  # as `tempfile`

                shutil.rmtree(entry.path.removesuffix(_SUFFIX), ignore_errors=True)
                lock.release()
