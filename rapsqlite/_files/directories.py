"""Descriptors of directories, by real name: files are opened relative to them, without following links."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from rapsqlite import _constants as sqlite
from rapsqlite._files.file_error import FileError
from rapsqlite._platform import system

if TYPE_CHECKING:
    from collections.abc import Callable


class Directories:
    """The directories that one connection has open. Only ``forget`` may be called from any thread."""

    def __init__(self, is_used: Callable[[int], bool]) -> None:
        """``is_used`` tells whether an open file still needs the descriptor of its directory."""
        self._is_used = is_used
        self._descriptors: dict[bytes, int] = {}
        self._unwanted: list[bytes] = []

    def known(self, directory: bytes) -> int | None:
        """Return the descriptor of an open directory."""
        if self._unwanted:
            self._close_unwanted()
        return self._descriptors.get(directory)

    def _close_unwanted(self) -> None:
        for directory in tuple(self._unwanted):
            descriptor = self._descriptors.get(directory)
            if descriptor is not None:
                if self._is_used(descriptor):
                    continue
                del self._descriptors[directory]
                system.close_directory(descriptor)
            self._unwanted.remove(directory)

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
            above, name = posixpath.split(top)
            if above == top:
                raise FileError(sqlite.SQLITE_CANTOPEN, "open directory", directory, "its root was revoked")
            top = above
            below.append(name)
        kept = self._descriptors.get(top)
        descriptor = system.open_directory(top, None) if kept is None else kept
        for name in reversed(below):
            above_it = descriptor
            try:
                descriptor = system.open_directory(name, above_it)
            finally:
                if above_it != kept:
                    system.close_directory(above_it)
        return descriptor

    def forget(self, directory: bytes) -> None:
        """Let the thread that uses a directory close its descriptor, once no open file needs it."""
        self._unwanted.append(directory)

    def close(self) -> None:
        """Close all descriptors."""
        for descriptor in self._descriptors.values():
            system.close_directory(descriptor)
        self._descriptors.clear()
