"""Descriptors of directories, by real name: files are opened relative to them, without following links."""

from __future__ import annotations

import contextlib
import os

from rapsqlite import _constants as sqlite
from rapsqlite._files.file_error import FileError

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_ONLY_SEARCH: int = getattr(os, "O_PATH", 0)


class Directories:
    """The directories that one connection has open. Only ``forget`` may be called from any thread."""

    def __init__(self) -> None:
        self._descriptors: dict[bytes, int] = {}
        self._unwanted: list[bytes] = []

    def known(self, directory: bytes) -> int | None:
        """Return the descriptor of an open directory."""
        while self._unwanted:
            descriptor = self._descriptors.pop(self._unwanted.pop(), None)
            if descriptor is not None:
                _close(descriptor)
        return self._descriptors.get(directory)

    def open(self, directory: bytes, roots: list[bytes]) -> int:
        """Return a descriptor of the directory. Roots are opened by name, directories below them step by step.

        Raises FileError if the directory does not exist.
        """
        known = self._descriptors.get(directory)
        if known is not None:
            return known
        try:
            descriptor = self._descend(directory, roots)
        except OSError as error:
            raise FileError(sqlite.SQLITE_CANTOPEN, "open directory", directory, error) from None
        self._descriptors[directory] = descriptor
        return descriptor

    def _descend(self, directory: bytes, roots: list[bytes]) -> int:
        top, below = directory, []
        while top not in roots and top not in self._descriptors:
            above, name = os.path.split(top)
            if above == top:
                raise FileError(sqlite.SQLITE_CANTOPEN, "open directory", directory, "its root was revoked")
            top = above
            below.append(name)
        kept = self._descriptors.get(top)
        descriptor = _open(top, None) if kept is None else kept
        for name in reversed(below):
            above_it = descriptor
            try:
                descriptor = _open(name, above_it)
            finally:
                if above_it != kept:
                    _close(above_it)
        return descriptor

    def forget(self, directory: bytes) -> None:
        """Let the thread that uses a directory close its descriptor."""
        self._unwanted.append(directory)

    def close(self) -> None:
        """Close all descriptors."""
        for descriptor in self._descriptors.values():
            _close(descriptor)
        self._descriptors.clear()


def _close(descriptor: int) -> None:
    # Nothing was written through it, and it is closed whatever close(2) reports.
    with contextlib.suppress(OSError):
        os.close(descriptor)


def _open(path: bytes, parent: int | None) -> int:
    flags = _FLAGS if parent is None else _FLAGS | os.O_NOFOLLOW
    try:
        return os.open(path, flags, dir_fd=parent)
    except PermissionError:
        if not _ONLY_SEARCH:
            raise
        # A directory that may be searched but not listed: files in it can be opened, but it cannot be synced.
        return os.open(path, flags | _ONLY_SEARCH, dir_fd=parent)
