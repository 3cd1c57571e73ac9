"""Names to directories: which files a connection may reach, and how a name from SQL becomes one of them.

A grant is a directory tree. A name is walked as SQLite's own VFS walks it, ``..`` and symbolic links
included, but a link is only looked at inside a grant, and the name that comes out must lie inside one. The
file is then opened relative to a descriptor of its directory, without following links: what changes in the
tree meanwhile cannot lead out.
"""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING

from rapsqlite import _constants as sqlite
from rapsqlite._fileerror import FileError

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAX_LINKS = 200  # SQLITE_MAX_SYMLINK
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_ONLY_SEARCH: int = getattr(os, "O_PATH", 0)


class Grants:
    """The directories of one connection."""

    def __init__(self, database: bytes | None, directories: Iterable[bytes]) -> None:
        """Grant ``directories``, and the one that ``database`` really is in."""
        self._real: dict[bytes, bytes] = {}  # a name as the user wrote it, made absolute: what it really is
        self._roots: list[bytes] = []
        self._descriptors: dict[bytes, int] = {}
        self._revoked: list[bytes] = []
        for directory in directories:
            self._add_root(os.path.realpath(directory), spelled=directory)
        if database is not None:
            real = os.path.realpath(database)
            self._real[_absolute(database)] = real
            self._add_root(os.path.dirname(real), spelled=os.path.dirname(database))

    def _add_root(self, real: bytes, spelled: bytes) -> None:
        self._real.setdefault(_absolute(spelled), os.path.realpath(spelled))
        if real not in self._roots:
            self._roots.append(real)

    def grant(self, directory: bytes) -> None:
        """Grant one more directory, until `revoke`. Any thread."""
        self._add_root(directory, spelled=directory)

    def revoke(self, directory: bytes) -> None:
        """Take back what `grant` gave. Any thread: a descriptor of it is closed by the thread that uses it."""
        self._roots.remove(directory)
        self._real.pop(_absolute(directory), None)
        self._revoked.append(directory)

    def _forget_revoked(self) -> None:
        while self._revoked:
            descriptor = self._descriptors.pop(self._revoked.pop(), None)
            if descriptor is not None:
                os.close(descriptor)

    def resolve(self, name: bytes) -> tuple[bytes, bool]:
        """Return the real, absolute name, and whether links had to be followed to it.

        Raises FileError if it lies outside of the granted directories.
        """
        spelled = _absolute(name)
        start = self._begin(spelled)
        real, followed = self._walk(start, name)
        if not self._is_granted(os.path.dirname(real)):
            raise FileError(sqlite.SQLITE_CANTOPEN, "open", real, "its directory is not granted to this connection")
        return real, followed or start != spelled

    def _begin(self, spelled: bytes) -> bytes:
        """Replace the longest beginning of ``spelled`` whose real name is known."""
        head, tail = spelled, b""
        while True:
            real = self._real.get(head)
            if real is not None:
                return os.path.join(real, tail) if tail else real
            parent, last = os.path.split(head)
            if parent == head:
                return spelled
            head, tail = parent, os.path.join(last, tail) if tail else last

    def _walk(self, absolute: bytes, name: bytes) -> tuple[bytes, bool]:
        parts = absolute.split(b"/")[::-1]
        real, links = b"/", 0
        while parts:
            part = parts.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                real = os.path.dirname(real)
                continue
            target = self._link_target(real, part)
            if target is None:
                real = os.path.join(real, part)
                continue
            links += 1
            if links > _MAX_LINKS:
                raise FileError(sqlite.SQLITE_CANTOPEN, "open", name, "too many symbolic links")
            parts.extend(target.split(b"/")[::-1])
            if target.startswith(b"/"):
                real = b"/"
        return real, links > 0

    def _link_target(self, directory: bytes, part: bytes) -> bytes | None:
        if not self._is_granted(directory):
            return None
        path = os.path.join(directory, part)
        try:
            return os.readlink(path)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):  # not a link, or nothing yet
                return None
            raise FileError(sqlite.SQLITE_CANTOPEN, "open", path, error) from None

    def _is_granted(self, directory: bytes) -> bool:
        return any(directory == root or directory.startswith(root.rstrip(b"/") + b"/") for root in self._roots)

    def locate(self, name: bytes) -> tuple[int, bytes]:
        """Return a descriptor of the directory of ``name``, and the last part of the name.

        Raises FileError if there is no such directory or it is not granted.
        """
        if self._revoked:
            self._forget_revoked()
        directory, last = os.path.split(name)
        descriptor = self._descriptors.get(directory)
        if descriptor is not None and last not in (b"", b".", b".."):
            return descriptor, last
        directory, last = os.path.split(self.resolve(name)[0])
        return self._open_directory(directory), last

    def _open_directory(self, directory: bytes) -> int:
        known = self._descriptors.get(directory)
        if known is not None:
            return known
        try:
            if directory in self._roots:
                descriptor = _open_directory(directory, None)
            else:
                parent, last = os.path.split(directory)
                descriptor = _open_directory(last, self._open_directory(parent))
        except OSError as error:
            raise FileError(sqlite.SQLITE_CANTOPEN, "open directory", directory, error) from None
        self._descriptors[directory] = descriptor
        return descriptor

    def close(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()


def database_path(name: bytes, *, uri: bool) -> bytes | None:
    """Return the file that ``name`` means to SQLite, None for a database in memory or a temporary one.

    With ``uri``, names that begin with ``file:`` are read by SQLite's rules: <https://sqlite.org/uri.html>.
    """
    if uri and name.startswith(b"file:"):
        name, _, query = name[5:].partition(b"#")[0].partition(b"?")
        if re.search(rb"(?:^|&)(?:mode=memory|vfs=memdb)(?:&|$)", query):
            return None
        if name.startswith(b"//"):
            name = b"/" + name[2:].partition(b"/")[2]
        name = re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes((int(match[1], 16),)), name)
        name = name.partition(b"\0")[0]
    return None if name in (b"", b":memory:") else name


def _absolute(name: bytes) -> bytes:
    """Make ``name`` absolute without a look at the disk; ``..`` stays, as what it means depends on links."""
    parts = os.path.join(os.getcwdb(), name).split(b"/")
    return b"/" + b"/".join(part for part in parts if part not in (b"", b"."))


def _open_directory(path: bytes, parent: int | None) -> int:
    flags = _OPEN_DIRECTORY if parent is None else _OPEN_DIRECTORY | os.O_NOFOLLOW
    try:
        return os.open(path, flags, dir_fd=parent)
    except PermissionError:
        if not _ONLY_SEARCH:
            raise
        # A directory that may be searched but not listed: files in it open, only it cannot be synced itself.
        return os.open(path, flags | _ONLY_SEARCH, dir_fd=parent)
