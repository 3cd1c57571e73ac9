"""A database file in a private directory, through which a copy travels from one SQLite to another."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from rapsqlite._client.private_directory import PrivateDirectory, reclaim
from rapsqlite._loops.worker import in_thread, start
from rapsqlite.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rapsqlite._files.file_table import FileTable

_NAME = b"/image"
GRACE_PERIOD_S = 5.0  # how long a cancelled task waits for a file system that does not respond


class Image:
    """A path for the image in a private directory, which is removed at the end of the ``async with`` block.

    The directory is created and removed in a thread: removing a large file takes time, and a file system may hang.
    """

    __slots__ = ("_directory", "_guard", "_is_left", "path")

    def __init__(self) -> None:
        self._directory: PrivateDirectory | None = None
        self._guard = threading.Lock()  # the thread that creates the directory may outlive its task
        self._is_left = False
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
        with self._guard:
            shared = _shared_directory()
            reclaim(shared)
            if not self._is_left:  # its task waits
                self._directory = PrivateDirectory(shared)
                self.path = os.fsencode(self._directory.path) + _NAME

    def _remove(self) -> None:
        self._is_left = True
        with self._guard:
            if self._directory is not None:
                # A guest that is about to drop the image may still have it open; its name is removed anyway.
                self._directory.remove()

    @contextlib.contextmanager
    def granted_to(self, files: FileTable) -> Iterator[None]:
        """Let one connection's guest open the image during the block."""
        directory = self.path.removesuffix(_NAME)
        files.grant(directory)
        try:
            yield
        finally:
            files.revoke(directory)

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
