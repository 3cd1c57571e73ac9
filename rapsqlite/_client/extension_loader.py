"""What the guest's ``xDlOpen`` asks: which file a name stands for, and the side module that it holds.

``open``, ``link``, ``symbol`` and ``close`` are called by the guest, on its thread, with names and numbers that are not
trusted. Through the SQL function load_extension() a name may come from anybody who may write SQL: such a name must lie
in a directory that is granted to the connection, as that of any other file. Names that the program itself has given to
`Connection.load_extension` may lie anywhere.
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

# Names by which programs ask for what every connection here has from the start.
BUILT_IN = frozenset({"fts5", "rtree", "geopoly", "json", "json1", "math", "dbstat", "bytecode", "session"})
# Those that come with the package, each as a side module.
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
        self.users = 1  # how often it was opened, less how often it was closed


class Loader:
    """The extensions of one guest."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._announced: set[str] = set()
        self._opened: dict[int, _Opened] = {}
        self._linked: dict[Path, int] = {}
        self._last = 0

    def announce(self, name: str) -> None:
        """The program itself wants this extension, wherever it lies."""
        self._announced.add(name)

    @property
    def methods(self) -> dict[int, Callable[..., object]]:
        """What the guest may ask, by kind of callback."""
        return {
            abi.CALLBACK_EXTENSION_OPEN: self.open,
            abi.CALLBACK_EXTENSION_LINK: self.link,
            abi.CALLBACK_EXTENSION_SYMBOL: self.symbol,
            abi.CALLBACK_EXTENSION_CLOSE: self.close,
        }

    # -- the guest's questions ---------------------------------------------------------------------

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
        """Link it; return where the functions are that come before its entry point. Base 0: there was no memory."""
        opened = self._known(number)
        with _about(opened.path):
            if memory_base == 0:
                needed = opened.library.needs.data_bytes
                raise OutOfMemoryError(f"it needs {needed} bytes of memory, more than the engine has left")
            starts = _starts.pack(*opened.library.link(memory_base))
        self._linked[opened.path] = number
        return starts

    def symbol(self, number: int, name: bytes) -> int:
        """Return where the entry point is, 0 if the module has none of this name."""
        opened = self._known(number)
        with _about(opened.path):
            return opened.library.entry_point(name.decode("utf-8", "replace"))

    def close(self, number: int) -> None:
        """SQLite does not use it any more. Its code and data stay, but once nobody does it would be linked anew."""
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
        """Return the file that ``name`` stands for and the module that it holds; raise what says why there is none."""
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
        """Return the real name of a file and what it holds, None if there is no such file."""
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
    """Return the bytes of a module; NotSupportedError for a native library, OperationalError if they are too many."""
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
    """Put the module's name in front of what is wrong with it."""
    try:
        yield
    except Error as error:
        if isinstance(error, NotSupportedError) and str(path) in str(error):
            raise
        raise type(error)(f"extension {str(path)!r}: {error}") from None
