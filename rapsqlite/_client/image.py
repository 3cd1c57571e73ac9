"""A database file in a private directory, through which a copy travels from one SQLite to another.

A killed process leaves its directory behind. So each directory has a lock file next to it, locked for the lifetime of
the process, and a process's first copy removes the directories next to its own whose locks are free.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from rapsqlite._loops.worker import in_thread, start
from rapsqlite._platform import system
from rapsqlite.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rapsqlite._files.file_table import FileTable

_PREFIX = "rapsqlite_"
_SUFFIX = ".lock"
GRACE_PERIOD_S = 5.0  # how long a cancelled task waits for a file system that does not respond
_reclaimed: set[str] = set()  # directories that this process has cleaned up


class Image:
    """A path for the image in a private directory, which is removed at the end of the ``async with`` block.

    The directory is created and removed in a thread: removing a large file takes time, and a file system may hang.
    """

    __slots__ = ("_directory", "_guard", "_is_left", "_lock", "_remove_tree", "path")

    def __init__(self) -> None:
        self._directory = b""
        self._guard = threading.Lock()  # the thread that creates the directory may outlive its task
        self._is_left = False
        self._lock = _Lock()
        self._remove_tree: Callable[..., object] = bool
        self.path = b""

    async def __aenter__(self) -> Image:
        try:
            await in_thread(self._make, grace_period_s=GRACE_PERIOD_S)
        except BaseException as exc:
            await self.__aexit__(type(exc))
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if exc_info[0] is GeneratorExit:
            start(self._remove)  # nothing runs the task any more, so it cannot wait
        else:
            await in_thread(self._remove, grace_period_s=GRACE_PERIOD_S)

    def _make(self) -> None:
        from shutil import rmtree  # as `tempfile`; not when it is removed, which may be as the interpreter ends

        self._remove_tree = rmtree
        with self._guard:
            shared = _shared_directory()
            if shared not in _reclaimed:
                _reclaimed.add(shared)
                with contextlib.suppress(OSError):  # files may be made in a directory that cannot be listed
                    _reclaim(shared)
            if self._is_left:
                return  # its task did not wait
            directory = self._lock.acquire_new(shared, _PREFIX)
            try:
                directory.mkdir(0o700)
            except BaseException:
                self._lock.release()
                raise
            self._directory = os.fsencode(directory)
            self.path = self._directory + b"/image"

    def _remove(self) -> None:
        self._is_left = True
        with self._guard:
            if self._directory:
                # A guest that is about to drop the image may still have it open; its name is removed anyway.
                self._remove_tree(self._directory, ignore_errors=True)
                self._lock.release()

    @contextlib.contextmanager
    def granted_to(self, files: FileTable) -> Iterator[None]:
        """Let one connection's guest open the image during the block."""
        files.grant(self._directory)
        try:
            yield
        finally:
            files.revoke(self._directory)

    async def read(self) -> bytes:
        """Return the image's bytes."""
        return await in_thread(lambda: self.existing().read_bytes(), grace_period_s=GRACE_PERIOD_S)

    def existing(self) -> Path:
        """Return the image's path; InternalError if it does not exist, as the guest claims. Not in a loop's thread."""
        path = Path(os.fsdecode(self.path))
        if not path.exists():
            raise InternalError("the engine reported a copy that does not exist")
        return path


def _shared_directory() -> str:
    """Return where SQLite's own temporary files go: the image may be a whole database."""
    import tempfile  # imported only by programs that copy

    return os.path.realpath(os.environ.get("SQLITE_TMPDIR") or tempfile.gettempdir())


class _Lock:
    """A lock file named after a directory, locked during the lifetime of its process."""

    __slots__ = ("_fd", "_path")

    def __init__(self) -> None:
        self._fd = -1
        self._path = ""

    def acquire_new(self, shared: str, prefix: str) -> Path:
        """Create a lock file with a new name and lock it; return the path of its directory."""
        import tempfile  # as in _shared_directory

        while True:
            self._fd, self._path = tempfile.mkstemp(_SUFFIX, prefix, shared)
            if self._lock(if_impossible=True) and os.fstat(self._fd).st_nlink:
                return Path(self._path.removesuffix(_SUFFIX))
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
        """Remove the lock file; another process may have removed it just before this one locked it."""
        if system.can_delete_open_files:
            Path(self._path).unlink(missing_ok=True)
            os.close(self._fd)
        else:
            os.close(self._fd)
            Path(self._path).unlink(missing_ok=True)

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


def _reclaim(shared: str) -> None:
    """Remove the directories in ``shared`` that killed processes of this user left behind."""
    for entry in os.scandir(shared):
        if entry.name.startswith(_PREFIX) and entry.name.endswith(_SUFFIX):
            lock = _Lock()
            if lock.acquire(entry.path):
                import shutil  # as `tempfile`

                shutil.rmtree(entry.path.removesuffix(_SUFFIX), ignore_errors=True)
                lock.release()
