"""Which files a connection may reach, and how a name from SQL becomes one of them.

Every connection may reach its own database, with SQLite's journal, WAL and index next to it. Beyond that a grant is a
directory tree; without limits it is the whole file system, as with SQLite itself. A name is resolved as SQLite's own
VFS does, including ``..`` and symbolic links, but links are read only inside a grant, and the resulting name must lie
inside one. The file is then opened relative to a descriptor of its directory, without following links, so that changes
in the tree meanwhile cannot lead out.
"""

from __future__ import annotations

import errno
import os
import posixpath
import re
import threading
from typing import TYPE_CHECKING

from rapsqlite import _constants as sqlite
from rapsqlite._files.directories import Directories
from rapsqlite._files.file_error import FileError
from rapsqlite._platform import system

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

EVERYWHERE = (b"/",)
"""The grant of a connection without limits."""

_MAX_LINKS = 200  # SQLITE_MAX_SYMLINK
# SQLite's files next to a database; a super-journal is named after the main database of its transaction.
_JOURNAL = rb"-(?:journal|wal|mj[0-9A-F]{6}9[0-9A-F]{2})"
_COMPANION = re.compile(_JOURNAL + rb"|-shm")
_NAMED_AS_JOURNAL = re.compile(rb".+" + _JOURNAL, re.DOTALL)
_NOT_GRANTED = "it is not granted to this connection: name its directory in limits={'directories': [...]}"


class Grants:
    """What one connection may reach."""

    def __init__(self, database: bytes | None, directories: Iterable[bytes], is_used: Callable[[int], bool]) -> None:
        """Grant ``directories`` and everything below them, and ``database``, which is None if it is not a file.

        ``is_used`` tells whether an open file still needs the descriptor of its directory.

        The names are resolved when first needed, on the guest's thread, because the file system may take its time.
        """
        self._as_given: tuple[bytes | None, Iterable[bytes]] | None = (database, directories)
        self._database: bytes | None = None  # its real name
        self._real: dict[bytes, bytes] = {}  # the real name of a name as the user wrote it, made absolute
        # Replaced, never changed: the guest's thread iterates over them while another one grants a directory.
        self._roots: list[bytes] = []
        self._lent: list[bytes] = []
        self._changing = threading.Lock()
        self._directories = Directories(is_used)

    def _find_given(self) -> None:
        """Resolve the names that were given. Raises FileError if that fails."""
        if self._as_given is None:
            return
        database, directories = self._as_given
        for directory in directories:
            if directory not in EVERYWHERE and not os.path.isdir(directory):
                reason = "limits={'directories': [...]} names it, but it does not exist"
                raise FileError(sqlite.SQLITE_CANTOPEN, "grant", directory, reason)
            self._add_root(_real(directory), spelled=directory)
        if database is not None:
            spelled = _absolute(database)
            self._database = self._real[spelled] = _real(database)
        self._as_given = None

    def _add_root(self, real: bytes, spelled: bytes) -> None:
        self._real.setdefault(_absolute(spelled), real)
        with self._changing:
            if real not in self._roots:
                self._roots = [*self._roots, real]

    def grant(self, directory: bytes) -> None:
        """Grant one more directory, by its real name, until `revoke`. Any thread."""
        self._add_root(directory, spelled=directory)
        with self._changing:
            self._lent = [*self._lent, directory]

    def revoke(self, directory: bytes) -> None:
        """Undo `grant`. Any thread."""
        with self._changing:
            self._lent = [each for each in self._lent if each != directory]
            self._roots = [each for each in self._roots if each != directory]
        self._real.pop(_absolute(directory), None)
        self._directories.forget(directory)

    def is_lent(self, name: bytes) -> bool:
        """Return whether the host itself wants this file written, in a private directory."""
        return posixpath.dirname(name) in self._lent

    def resolve(self, name: bytes) -> tuple[bytes, bool]:
        """Return the real, absolute name, and whether links had to be followed.

        Raises FileError if it lies outside the granted directories.
        """
        self._find_given()
        spelled = _absolute(name)
        start = self._begin(spelled)
        named, followed = self._walk(start, name)
        real = system.canonical(named)
        if not self._is_granted(posixpath.dirname(real)) and not self._is_own(real):
            # Its real name would tell SQL which files exist outside, and where links lead there.
            raise FileError(sqlite.SQLITE_CANTOPEN, "open", named, _NOT_GRANTED)
        return real, followed or start != spelled

    def _is_own(self, real: bytes) -> bool:
        """Return whether this is the connection's own database, or one of SQLite's files next to it."""
        own = self._database
        if own is None or not real.startswith(own):
            return False
        return real == own or _COMPANION.fullmatch(real, len(own)) is not None

    def refuse_as_database(self, name: bytes) -> None:
        """Raise FileError if ``name``, resolved, is reachable only as a companion: SQL must not attach a journal."""
        if name != self._database and not self._is_granted(posixpath.dirname(name)):
            raise FileError(sqlite.SQLITE_CANTOPEN, "open", name, _NOT_GRANTED)

    def _begin(self, spelled: bytes) -> bytes:
        """Replace the longest prefix of ``spelled`` whose real name is known."""
        head, tail = spelled, b""
        while True:
            real = self._real.get(head)
            if real is not None:
                return posixpath.join(real, tail) if tail else real
            parent, last = posixpath.split(head)
            if parent == head:
                return spelled
            head, tail = parent, posixpath.join(last, tail) if tail else last

    def _walk(self, absolute: bytes, name: bytes) -> tuple[bytes, bool]:
        parts = absolute.split(b"/")[::-1]
        real, links = b"/", 0
        while parts:
            part = parts.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                real = posixpath.dirname(real)
                continue
            target = self._link_target(real, part)
            if target is None:
                real = posixpath.join(real, part)
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
        path = posixpath.join(directory, part)
        try:
            return system.link_target(path)
        except OSError as error:
            raise FileError(sqlite.SQLITE_CANTOPEN, "open", path, error) from None

    def _is_granted(self, directory: bytes) -> bool:
        return any(directory == root or directory.startswith(root.rstrip(b"/") + b"/") for root in self._roots)

    def locate(self, name: bytes) -> tuple[int, bytes]:
        """Return a descriptor of the directory of ``name``, and the last part of the name.

        Raises FileError if the directory does not exist or is not granted.
        """
        self._find_given()
        directory, last = posixpath.split(name)
        descriptor = self._directories.known(directory)
        if descriptor is not None and last not in (b"", b".", b".."):
            # It has been resolved before, so only granted directories and the database's own directory are opened.
            if not self._is_granted(directory) and not self._is_own(name):
                raise FileError(sqlite.SQLITE_CANTOPEN, "open", name, _NOT_GRANTED)
            return descriptor, last
        directory, last = posixpath.split(self.resolve(name)[0])
        return self._directories.open(directory, self._ways_in()), last

    def _ways_in(self) -> list[bytes]:
        """Return the directories that the user named; SQL need not know how they are reached."""
        return self._roots if self._database is None else [*self._roots, posixpath.dirname(self._database)]

    def close(self) -> None:
        self._directories.close()


def is_journal(name: bytes) -> bool:
    """Return True if SQLite names a journal or a WAL like this; no library locks these."""
    return _NAMED_AS_JOURNAL.fullmatch(name) is not None


def database_path(name: bytes, *, uri: bool) -> bytes | None:
    """Return the file that ``name`` means to SQLite, None for an in-memory or temporary database.

    With ``uri``, names that begin with ``file:`` follow SQLite's rules: <https://sqlite.org/uri.html>.
    """
    if uri and name.startswith(b"file:"):
        name, parameters = read_uri(name)
        if parameters.get(b"mode") == b"memory" or parameters.get(b"vfs") == b"memdb":
            return None
    return None if name in (b"", b":memory:") else name


def read_uri(uri: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """Return the path and the parameters of a name that begins with ``file:``; the last of equal parameters wins."""
    path, _, query = uri[5:].partition(b"#")[0].partition(b"?")
    if path.startswith(b"//"):
        path = b"/" + path[2:].partition(b"/")[2]
    pairs = (each.partition(b"=") for each in query.split(b"&"))
    return _decoded(path), {_decoded(key): _decoded(value) for key, _, value in pairs}


def _decoded(text: bytes) -> bytes:
    decoded = re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes((int(match[1], 16),)), text)
    return decoded.partition(b"\0")[0]


def _absolute(name: bytes) -> bytes:
    """Make ``name`` absolute without accessing the disk.

    Raises FileError if that needs a working directory and there is none.
    """
    return _named(name, system.absolute)


def _real(name: bytes) -> bytes:
    return _named(name, system.real)


def _named(name: bytes, find: Callable[[bytes], bytes]) -> bytes:
    try:
        return find(name)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise FileError(sqlite.SQLITE_CANTOPEN, "open", name, error) from None
        reason = "its name is relative, and the working directory of the process no longer exists"
        raise FileError(sqlite.SQLITE_CANTOPEN, "open", name, reason) from None
