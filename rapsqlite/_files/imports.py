"""The host functions for files (docs/abi.md, "Imports"), on top of one connection's file table.

Addresses come from the guest: all bytes go through ``view``, which raises IndexError outside the memory. Files are
mapped over what ``window`` returns, which is not memory. Pages are dropped from what ``unshared`` returns: memory that
the host itself neither reads nor writes. A failed operation returns its result code; any other exception propagates to
the caller, who ends the guest.
"""

from __future__ import annotations

import struct
from functools import partial
from typing import TYPE_CHECKING, Protocol

from rapsqlite import _constants as sqlite
from rapsqlite._files.file_error import FileError
from rapsqlite._values.bounds import MOST_IO_BYTES, MOST_NAME_BYTES
from rapsqlite.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite._files.file_table import FileTable

    class View(Protocol):
        """Some of the guest's bytes, as returned by `runtime.Memory.view` and `runtime.Memory.window`."""

        def __call__(self, address: int, length: int, /) -> memoryview: ...


_ONE_WORD = struct.Struct("<i")
_TWO_WORDS = struct.Struct("<ii")
_LONG = struct.Struct("<q")
_FACTS = struct.Struct("<qq")


def file_imports(files: FileTable, view: View, window: View, unshared: View) -> dict[str, Callable[..., int]]:
    """Return the functions by name of the import; they take and return plain integers."""
    return {
        "path_full": _answering(files, partial(_path_full, files, view)),
        "file_open": _answering(files, partial(_open, files, view)),
        "file_close": _answering(files, files.close_file),
        "file_read": _answering(files, lambda fd, ptr, size, at: files.read_into(fd, view(ptr, _io(size)), at)),
        "file_write": _answering(files, lambda fd, ptr, size, at: files.write(fd, view(ptr, _io(size)), at)),
        "file_truncate": _answering(files, files.truncate),
        "file_sync": _answering(files, files.sync),
        "file_size": _answering(files, lambda fd, out: _LONG.pack_into(view(out, 8), 0, files.size(fd))),
        "file_delete": _answering(files, lambda ptr, size, sync: files.delete(_name(view, ptr, size), sync != 0)),
        "file_access": _answering(
            files,
            lambda ptr, size, flags, out: _put(view, out, files.access(_name(view, ptr, size), flags)),
        ),
        "file_lock": _answering(files, partial(_lock, files, view)),
        "file_unlock": _answering(files, files.unlock),
        "file_reserved": _answering(files, lambda fd, out: _put(view, out, files.is_reserved(fd))),
        "file_moved": _answering(files, lambda fd, out: _put(view, out, files.has_moved(fd))),
        "shm_map": _answering(
            files,
            lambda fd, region, size, extend, ptr: files.map_index(fd, region, window(ptr, size), extend=extend != 0),
        ),
        "shm_lock": _answering(files, partial(_lock_index, files, view)),
        "shm_unlock": _answering(files, files.unlock_index),
        "window_map": _answering(files, lambda fd, ptr, size, at: files.map_window(fd, window(ptr, size), at)),
        "window_unmap": _answering(files, lambda ptr, size: files.unmap_window(window(ptr, size))),
        "memory_unused": _answering(files, lambda ptr, size: files.drop_pages(unshared(ptr, size))),
        "shm_unmap": _answering(files, lambda fd, delete: files.unmap_index(fd, delete=delete != 0)),
    }


def _answering(files: FileTable, call: Callable[..., int | None]) -> Callable[..., int]:
    def answer(*arguments: int) -> int:
        try:
            return call(*arguments) or sqlite.SQLITE_OK
        except FileError as error:
            files.note(error)
            return error.code

    return answer


def _name(view: View, ptr: int, size: int) -> bytes:
    """Return a file name; FileError for one that is too long for any file."""
    if size > MOST_NAME_BYTES:
        raise FileError(sqlite.SQLITE_CANTOPEN, "open", bytes(view(ptr, 64)) + b"...", "the name is too long")
    return bytes(view(ptr, size))


def _io(size: int) -> int:
    if size > MOST_IO_BYTES:
        raise InternalError("the guest requested a larger read or write than it ever makes")
    return size


def _put(view: View, out: int, value: int) -> None:
    _ONE_WORD.pack_into(view(out, 4), 0, value)


def _open(files: FileTable, view: View, ptr: int, size: int, flags: int, out: int) -> None:
    target = view(out, 8)
    _TWO_WORDS.pack_into(target, 0, *files.open(_name(view, ptr, size), flags))


def _lock(files: FileTable, view: View, handle: int, level: int, out: int) -> None:
    facts = files.lock(handle, level)
    if facts is not None:
        _FACTS.pack_into(view(out, _FACTS.size), 0, *facts)


def _lock_index(files: FileTable, view: View, handle: int, first: int, count: int, flags: int, out: int) -> None:
    size_bytes = files.lock_index(handle, first, count, flags)
    if size_bytes is not None:
        _LONG.pack_into(view(out, _LONG.size), 0, size_bytes)


def _path_full(files: FileTable, view: View, ptr: int, size: int, out: int, capacity: int) -> int:
    path, followed = files.full_path(_name(view, ptr, size))
    if len(path) >= capacity:
        raise FileError(sqlite.SQLITE_CANTOPEN, "open", path, "the name is too long")
    view(out, len(path) + 1)[:] = path + b"\0"
    return sqlite.SQLITE_OK_SYMLINK if followed else sqlite.SQLITE_OK
