"""A database file in a directory of its own, by which a copy travels from one SQLite to another."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from rapsqlite._files import FileTable


class Image:
    """A path for the image, and a private directory around it that goes with the ``with`` block."""

    __slots__ = ("_directory", "path")

    def __init__(self) -> None:
        self._directory = b""
        self.path = b""

    def __enter__(self) -> Image:
        import tempfile  # only who copies pays for the import

        # Where SQLite's own temporary files go: it may be a whole database.
        place = os.environ.get("SQLITE_TMPDIR") or None
        self._directory = os.fsencode(os.path.realpath(tempfile.mkdtemp(prefix="rapsqlite_", dir=place)))
        self.path = self._directory + b"/image"
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A guest that is still about to drop it has it open: its name goes all the same.
        shutil.rmtree(self._directory, ignore_errors=True)

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
        from anyio import to_thread  # as tempfile

        return await to_thread.run_sync(Path(os.fsdecode(self.path)).read_bytes)
