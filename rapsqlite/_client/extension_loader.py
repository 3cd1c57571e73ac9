"""The host side of the guest's ``xDlOpen``: finds the file for a name and reads its side module.

The guest calls ``open``, ``link``, ``symbol`` and ``close`` on its thread, with untrusted names and numbers. Through
the SQL function load_extension() anyone who can write SQL can choose a name, so such a name must lie in a directory
granted to the connection, like any other file. Names that the program passes to `Connection.load_extension` may lie
anywhere.

https://sqlite.org/loadext.html
"""

from __future__ import annotations

import os
import struct
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rapsqlite import _constants as abi
from rapsqlite._files.file_error import FileError
from rapsqlite._files.opening import read_whole
from rapsqlite._values.bounds import MOST_LIBRARIES
from rapsqlite.errors import Error, InternalError, NotSupportedError, OperationalError, OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rapsqlite._guest.guest import Guest
    from rapsqlite._wasm.linking import Library

# Names of extensions that every connection has built in.
BUILT_IN = frozenset(
    {"fts3", "fts4", "fts5", "rtree", "geopoly", "json", "json1", "math", "dbstat", "bytecode", "session"}
)
# The bundled extensions, each a side module.
SHIPPED = frozenset({"csv", "decimal", "regexp", "series", "sha3", "spellfix", "uuid"})
DIRECTORY = Path(__file__).parent.with_name("extension_modules")

_MOST_BYTES = 64 << 20
_NATIVE_SUFFIXES = (".so", ".dylib", ".dll")
_NATIVE_BEGINNINGS = (b"\x7fELF", b"MZ", b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe", b"\xca\xfe\xba\xbe")
_words = struct.Struct("<4I")
_starts = struct.Struct("<3I")


class _Opened:
    __slots__ = ("library", "path", "users")

    def __init__(self, path: Path, library: Library) -> None:
        self.path = path
        self.library = library
        self.users = 1  # number of opens minus closes


class Loader:
    """The extensions of one guest."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._announced: set[str] = set()
        self._opened: dict[int, _Opened] = {}
        self._linked: dict[Path, int] = {}
        self._last = 0

    def announce(self, name: str) -> None:
        """Note that the program itself requested this extension, which may lie anywhere."""
        self._announced.add(name)

    @property
    def methods(self) -> dict[int, Callable[..., object]]:
        """The methods the guest may call, by kind of callback."""
        return {
            abi.CALLBACK_EXTENSION_OPEN: self.open,
            abi.CALLBACK_EXTENSION_LINK: self.link,
            abi.CALLBACK_EXTENSION_SYMBOL: self.symbol,
            abi.CALLBACK_EXTENSION_CLOSE: self.close,
        }

    # -- called by the guest -----------------------------------------------------------------------

    def open(self, name: bytes) -> bytes:
        """Return the words of `Opened` in wasm/src/callbacks/extensions.rs: number, bytes, alignment, is it linked."""
        asked = os.fsdecode(name)
        if asked.lower() in BUILT_IN:
            return _words.pack(abi.EXTENSION_BUILT_IN, 0, 1, 1)
        if len(self._opened) >= MOST_LIBRARIES:
            raise OperationalError("too many extensions are open")
        path, content = self._find(asked)
        known = self._linked.get(path)
        if known is not None:
            self._opened[known].users += 1
            return _words.pack(known, 0, 1, 1)
        with _about(path):
            library = self._guest.open_library(content)
        self._last += 1
        self._opened[self._last] = _Opened(path, library)
        return _words.pack(self._last, library.needs.data_bytes, library.needs.data_alignment, 0)

    def link(self, number: int, memory_base: int) -> bytes:
        """Link it; return the table indexes of the functions to call before its entry point. Base 0: no memory."""
        opened = self._known(number)
        try:
            with _about(opened.path):
                if memory_base == 0:
                    needed = opened.library.needs.data_bytes
                    raise OutOfMemoryError(f"it needs {needed} bytes of memory, more than the engine has left")
                starts = _starts.pack(*opened.library.link(memory_base))
        except BaseException:
            del self._opened[number]  # SQLite does not close what it could not open
            raise
        self._linked[opened.path] = number
        return starts

    def symbol(self, number: int, name: bytes) -> int:
        """Return the table index of the entry point, 0 if the module has none of this name."""
        opened = self._known(number)
        with _about(opened.path):
            return opened.library.entry_point(name.decode("utf-8", "replace"))

    def close(self, number: int) -> None:
        """SQLite no longer uses it. Its code and data stay; after the last close it would be linked again."""
        opened = self._known(number)
        opened.users -= 1
        if opened.users == 0:
            del self._opened[number]
            if self._linked.get(opened.path) == number:
                del self._linked[opened.path]

    def _known(self, number: int) -> _Opened:
        opened = self._opened.get(number)
        if opened is None:
            raise InternalError("the guest named an extension that is not open")
        return opened

    # -- names -------------------------------------------------------------------------------------

    def _find(self, name: str) -> tuple[Path, bytes]:
        """Return the file for ``name`` and its module; raise an error that says why there is none."""
        if name.lower() in SHIPPED:
            path = DIRECTORY / f"{name.lower()}.wasm"
            if not path.is_file():
                raise NotSupportedError(
                    f"the extension {name} is not in this build of rapsqlite, because its source was not available; "
                    "install a wheel that has it, or build with scripts/build_extensions.sh"
                )
            return path, path.read_bytes()
        for candidate in (name, f"{name}.wasm"):
            path, content = self._read(candidate, name)
            if content is not None:
                return path, _checked(path, content)
        if any(self._read(name + suffix, name)[1] is not None for suffix in _NATIVE_SUFFIXES):
            raise _native(name)
        known = ", ".join(sorted(BUILT_IN | SHIPPED))
        raise OperationalError(
            f"there is no extension {name!r}: it is neither a file nor one of the bundled extensions ({known})"
        )

    def _read(self, candidate: str, name: str) -> tuple[Path, bytes | None]:
        """Return the real name of a file and its content, None if it does not exist."""
        encoded = os.fsencode(candidate)
        try:
            if name in self._announced:
                real = os.path.realpath(encoded)
                content = read_whole(real, None, real, _MOST_BYTES + 1)
            else:
                real, content = self._guest.files.read_whole(encoded, _MOST_BYTES + 1)
        except FileError as error:
            raise OperationalError(f"extension {name!r}: {error}") from None
        return Path(os.fsdecode(real)), content


def _checked(path: Path, content: bytes) -> bytes:
    """Return the bytes of a module; NotSupportedError for a native library, OperationalError if it is too large."""
    if content.startswith(_NATIVE_BEGINNINGS):
        raise _native(str(path))
    if len(content) > _MOST_BYTES:
        raise OperationalError(f"extension {str(path)!r}: it is larger than {_MOST_BYTES} bytes")
    return content


def _native(name: str) -> NotSupportedError:
    return NotSupportedError(
        f"{name} is a native library, which SQLite cannot load from inside its sandbox: build its source as a"
        " WebAssembly extension (docs/extensions.md), write the functions in Python with create_function(), or open the"
        " database with sqlite3"
    )


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """Prefix the module's name to error messages."""
    try:
        yield
    except Error as error:
        if isinstance(error, NotSupportedError) and str(path) in str(error):
            raise
        raise type(error)(f"extension {str(path)!r}: {error}") from None
