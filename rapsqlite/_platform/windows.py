"""Windows 10 (version 1803) and later, after SQLite's own VFS for it.

There is no openat: a directory is a number that stands for its path. Locks belong to the handle, are never converted,
and are released exactly as they were taken. An open file can be neither deleted nor renamed.
https://sqlite.org/src/file/src/os_win.c
"""

from __future__ import annotations

import sys

assert sys.platform == "win32"  # so that type checkers for other systems skip the rest

import contextlib
import ctypes
import errno
import itertools
import msvcrt
import ntpath
import os
import posixpath
import time
from ctypes import wintypes
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rapsqlite import _constants as sqlite
from rapsqlite._platform import placeholders
from rapsqlite._platform.interface import (
    DEAD_MAN_SWITCH,
    FIRST_INDEX_LOCK,
    PENDING_BYTE,
    RESERVED_BYTE,
    SHARED_FIRST,
    SHARED_SIZE,
    ReadOnlyIndexError,
    System,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Container

_Result = TypeVar("_Result")
_FAIL_IMMEDIATELY, _EXCLUSIVE = 1, 2
_HANDLE_EOF, _HANDLE_DISK_FULL, _LOCK_VIOLATION, _USER_MAPPED_FILE = 38, 39, 33, 1224
_NOT_LOCKED = (158, 33)  # the second by Wine
_NOT_FOUND = (2, 3)  # the file, or its directory
_BUSY = (_LOCK_VIOLATION, 995, 997)  # the others: aborted, pending
_END_OF_FILE_INFO = 6
_NO_ATTRIBUTES = 0xFFFF_FFFF
_NEVER_WRITABLE = 0x11  # files with the attribute "read-only", and directories
_LOCAL_DRIVES = (2, 3, 5, 6)
_TRIES, _DELAY_S = 10, 0.025  # SQLite's own for files that others have open
_PENDING_TRIES = 5
_INDEX_HEADERS_BYTES = 96
_LONGEST_PLAIN_PATH = 240
_UNC, _DEVICE = b"/?UNC", b"/?DEVICE"  # no name on Windows contains a question mark
_BINARY = os.O_BINARY | os.O_NOINHERIT

_waiting = ctypes.WinDLL("kernel32", use_last_error=True)
# On local drives these calls never wait, so they keep the GIL: getting it back can take far longer. On 64-bit
# processors there is one calling convention.
_quick = ctypes.PyDLL("kernel32", use_last_error=True)


class _Overlapped(ctypes.Structure):
    _fields_ = (
        ("internal", ctypes.c_void_p),
        ("internal_high", ctypes.c_void_p),
        ("offset", wintypes.DWORD),
        ("offset_high", wintypes.DWORD),
        ("event", wintypes.HANDLE),
    )


def _bind(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(library, name)
    function.restype, function.argtypes = result, arguments
    return function


_DWORD, _HANDLE, _POINTER = wintypes.DWORD, wintypes.HANDLE, ctypes.c_void_p


class _LockCalls:
    """The calls for locks, with the GIL or without it."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.lock = _bind(library, "LockFileEx", wintypes.BOOL, _HANDLE, _DWORD, _DWORD, _DWORD, _DWORD, _POINTER)
        self.unlock = _bind(library, "UnlockFileEx", wintypes.BOOL, _HANDLE, _DWORD, _DWORD, _DWORD, _POINTER)


_local, _remote = _LockCalls(_quick), _LockCalls(_waiting)
_on_network_drives: set[int] = set()  # databases' descriptors
_get_size = _bind(_quick, "GetFileSizeEx", wintypes.BOOL, _HANDLE, ctypes.POINTER(ctypes.c_int64))
_get_local_attributes = _bind(_quick, "GetFileAttributesW", _DWORD, wintypes.LPCWSTR)
_get_attributes = _bind(_waiting, "GetFileAttributesW", _DWORD, wintypes.LPCWSTR)
_read_file = _bind(_waiting, "ReadFile", wintypes.BOOL, _HANDLE, _POINTER, _DWORD, ctypes.POINTER(_DWORD), _POINTER)
_write_file = _bind(_waiting, "WriteFile", wintypes.BOOL, _HANDLE, _POINTER, _DWORD, ctypes.POINTER(_DWORD), _POINTER)
_set_information = _bind(_waiting, "SetFileInformationByHandle", wintypes.BOOL, _HANDLE, ctypes.c_int, _POINTER, _DWORD)
_get_final_path = _bind(_waiting, "GetFinalPathNameByHandleW", _DWORD, _HANDLE, wintypes.LPWSTR, _DWORD, _DWORD)
_get_drive_type = _bind(_waiting, "GetDriveTypeW", wintypes.UINT, wintypes.LPCWSTR)


def _at(offset: int) -> Any:
    return ctypes.byref(_Overlapped(None, None, offset & 0xFFFF_FFFF, offset >> 32, None))


def _last_error() -> OSError:
    return ctypes.WinError(ctypes.get_last_error())


def _address(data: memoryview | bytes) -> int | None:
    if isinstance(data, bytes):
        return ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value
    return ctypes.addressof(ctypes.c_char.from_buffer(data)) if len(data) else None


def _lock_calls(fd: int) -> _LockCalls:
    return _remote if fd in _on_network_drives else _local


def _lock(fd: int, flags: int, start: int, length: int) -> None:
    if not _lock_calls(fd).lock(msvcrt.get_osfhandle(fd), flags | _FAIL_IMMEDIATELY, 0, length, 0, _at(start)):
        number = ctypes.get_last_error()
        if number in _BUSY:
            raise BlockingIOError(errno.EAGAIN, "another connection has locked it")
        raise ctypes.WinError(number)


def _unlock(fd: int, start: int, length: int) -> None:
    """Release a lock, if it is held."""
    if not _lock_calls(fd).unlock(msvcrt.get_osfhandle(fd), 0, length, 0, _at(start)):
        number = ctypes.get_last_error()
        if number not in _NOT_LOCKED:
            raise ctypes.WinError(number)


class Windows(System):
    """Windows."""

    name = "Windows"
    READ, WRITE, NONE = 0, _EXCLUSIVE, -1
    can_delete_open_files = False
    maps_reads = False
    has_bells = False
    has_parking = False
    yield_processor = staticmethod(lambda: time.sleep(0))

    def __init__(self) -> None:
        self.lacks = {
            "mapped reads": "files are read by calls, since Windows cannot truncate a file that is mapped",
            "bell": "guests wake event loops by a call of Python",
            "sleep without the GIL": "guests sleep in Python",
            "fork": "there is none",
        }
        self._directories: dict[int, str] = {}
        self._above_directories: dict[int, bytes] = {}  # "/", whose entries are drives, and servers, by internal name
        self._numbers = itertools.count(1 << 24)

    # Files

    def _path(self, name: bytes, directory: int | None) -> str:
        if directory is None:
            path = _text(self.external(name) if name.startswith(b"/") else name)
        else:
            last = _text(name)
            if ":" in last:
                raise FileNotFoundError(errno.ENOENT, "it names a stream of a file")
            if "\\" in last or "/" in last:  # not absent: what it names may exist
                raise OSError(errno.EINVAL, "it names no file of this directory")
            if directory in self._above_directories:
                raise FileNotFoundError(errno.ENOENT, "it names no drive")
            path = ntpath.join(self._directories[directory], last)
        if name.startswith(_DEVICE):
            raise FileNotFoundError(errno.ENOENT, "it names a device")
        return _whole(path)

    def open_at(self, name: bytes, flags: int, mode: int, directory: int | None) -> int:
        path = self._path(name, directory)
        if directory is not None and ntpath.abspath(path) != path:
            raise FileNotFoundError(errno.ENOENT, "it names a device, or another file")
        # Always writable: a file with the attribute "read-only" could not be deleted.
        fd = _persist(lambda: os.open(path, flags | _BINARY, 0o666 if mode else 0o777), path)
        if directory is not None:
            found = _final_path(fd)
            if found is not None and ntpath.normcase(found) != ntpath.normcase(_plain(path)):
                os.close(fd)
                raise OSError(errno.ELOOP, "its directory has become a link")
        return fd

    def open_temporary(self, directory: bytes) -> int:
        path = ntpath.join(os.fsdecode(directory), f"etilqs_{os.urandom(16).hex()}")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_TEMPORARY | os.O_SHORT_LIVED | _BINARY
        return os.open(path, flags, 0o600)

    def open_shrinking_file(self) -> int:
        raise NotImplementedError

    def temporary_directories(self) -> tuple[bytes | None, ...]:
        names = (os.environ.get(name) for name in ("SQLITE_TMPDIR", "TMP", "TEMP", "USERPROFILE"))
        return (*(os.fsencode(name) if name else None for name in names), b".")

    def delete_once_closed(self, name: bytes, directory: int) -> None:
        # SQLite gives names only to files that it deletes itself; one that is left behind does no harm.
        with contextlib.suppress(PermissionError):
            os.unlink(self._path(name, directory))

    def stat_at(self, name: bytes, directory: int | None) -> os.stat_result:
        return os.stat(self._path(name, directory), follow_symlinks=False)

    def access_at(self, name: bytes, mode: int, directory: int) -> bool:
        return os.access(self._path(name, directory), mode)

    def delete_at(self, name: bytes, directory: int) -> None:
        path = self._path(name, directory)
        _persist(lambda: os.unlink(path), path)

    def read_at(self, fd: int, target: memoryview, offset: int) -> int:
        count = _DWORD()
        handle = msvcrt.get_osfhandle(fd)
        if not _read_file(handle, _address(target), len(target), ctypes.byref(count), _at(offset)):
            if ctypes.get_last_error() == _HANDLE_EOF:
                return 0
            raise _last_error()
        return count.value

    def write_at(self, fd: int, data: memoryview | bytes, offset: int) -> int:
        count = _DWORD()
        handle = msvcrt.get_osfhandle(fd)
        if not _write_file(handle, _address(data), len(data), ctypes.byref(count), _at(offset)):
            if ctypes.get_last_error() == _HANDLE_DISK_FULL:  # Python knows only the other number for it
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise _last_error()
        return count.value

    def truncate(self, fd: int, size_bytes: int) -> None:
        end = ctypes.c_int64(size_bytes)
        done = _set_information(msvcrt.get_osfhandle(fd), _END_OF_FILE_INFO, ctypes.byref(end), ctypes.sizeof(end))
        # As SQLite does for mapped files: a database larger than its header says is still correct. A journal that is
        # cut off to end a transaction is not.
        if not done and (ctypes.get_last_error() != _USER_MAPPED_FILE or not size_bytes):
            raise _last_error()

    def sync(self, fd: int, *, full: bool) -> None:  # noqa: ARG002
        os.fsync(fd)

    def sync_directory(self, directory: int) -> None:
        """Do nothing: NTFS logs names itself."""

    def allocate(self, fd: int, start: int, end: int) -> None:
        if start < end:
            self.truncate(fd, end)

    def open_directory(self, name: bytes, parent: int | None) -> int:
        above = None if parent is None else self._above_directories.get(parent)
        if above is not None:
            name, parent = posixpath.join(above, name), None
        number = next(self._numbers)
        if parent is None and (name in (b"/", _UNC) or posixpath.dirname(name) == _UNC):
            self._above_directories[number] = name
            return number
        path = self._path(name, parent)
        if not os.path.isdir(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        self._directories[number] = path
        return number

    def close_directory(self, directory: int) -> None:
        self._directories.pop(directory, None)
        self._above_directories.pop(directory, None)

    def above_standard_streams(self, fd: int) -> int:
        low = []
        while fd <= 2:
            low.append(fd)
            fd = os.dup(fd)
        if low:
            null = os.open(os.devnull, os.O_RDWR)
            for each in low:
                os.dup2(null, each, inheritable=False)
            os.close(null)
        return fd

    def give(self, fd: int, mode: int, model: os.stat_result | None) -> None:
        """Do nothing: access control lists are inherited from the directory."""

    def closing_unlocks_others(self, fd: int, ours: Container[int]) -> bool:  # noqa: ARG002
        return False

    def is_private(self, status: os.stat_result) -> bool:  # noqa: ARG002
        return True  # an access control list protects the user's profile

    def cache_home(self) -> Path:
        return Path(os.environ.get("LOCALAPPDATA") or "~/AppData/Local").expanduser()

    def lock_whole_file(self, fd: int) -> None:
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)

    def size_at_once(self, fd: int) -> int:
        size = ctypes.c_int64()
        if not _get_size(msvcrt.get_osfhandle(fd), ctypes.byref(size)):
            raise _last_error()
        return size.value

    def may_exist_at_once(self, directory: int, name: bytes) -> bool:
        found = _get_local_attributes(self._path(name, directory))
        return bool(found != _NO_ATTRIBUTES or ctypes.get_last_error() not in _NOT_FOUND)

    # Names

    def internal(self, name: bytes) -> bytes:
        if name.startswith(b"/") or not name:
            return name
        name = name.replace(b"\\", b"/")
        if name.startswith(b"//?/"):
            if name[4:8].upper() == b"UNC/":
                name = b"//" + name[8:]
            else:  # without a drive letter, it names a volume or an object of the kernel
                name = name[4:] if name[5:6] == b":" else b"//./" + name[4:]
        if name.startswith(b"//./"):
            return _DEVICE + name[3:]
        if name.startswith(b"//"):
            return _UNC + name[1:]
        return b"/" + name.rstrip(b"/")

    def external(self, name: bytes) -> bytes:
        if name.startswith(_UNC):
            return b"\\" + name[len(_UNC) :].replace(b"/", b"\\")
        if name.startswith(_DEVICE):
            return b"\\\\." + name[len(_DEVICE) :].replace(b"/", b"\\")
        name = name[1:].replace(b"/", b"\\")
        return name + b"\\" if name.endswith(b":") else name

    def absolute(self, name: bytes) -> bytes:
        return name if self._is_internal(name) else self.internal(os.fsencode(ntpath.abspath(_decoded(name))))

    @staticmethod
    def _is_internal(name: bytes) -> bool:
        return name == b"/" or name.startswith((_UNC, _DEVICE))

    def real(self, name: bytes) -> bytes:
        if name == b"/" or name.startswith(_DEVICE):
            return name
        text = _decoded(self.external(name) if name.startswith(_UNC) else name)
        path = _whole(ntpath.abspath(text))
        with contextlib.suppress(OSError):  # a device, or a drive that cannot tell
            path = ntpath.realpath(path)
        return self.internal(os.fsencode(path))

    def link_target(self, name: bytes) -> bytes | None:  # noqa: ARG002
        return None  # ``canonical`` follows links

    def canonical(self, name: bytes) -> bytes:
        return self.real(name)

    # Locks

    def set_lock(self, fd: int, kind: int, start: int, length: int) -> None:
        """As in `System`. Each byte is locked separately, so that the locks can be released one by one."""
        if kind == self.NONE:
            for byte in range(start, start + length):
                _unlock(fd, byte, 1)
            return
        for byte in range(start, start + length):
            try:
                _lock(fd, kind, byte, 1)
            except OSError:
                for taken in range(start, byte):
                    _unlock(fd, taken, 1)
                raise

    def convert_lock(self, fd: int, kind: int, byte: int) -> None:
        if kind == self.READ:
            # A range that is locked both ways is unlocked twice, and exclusively first.
            _lock(fd, 0, byte, 1)
            _unlock(fd, byte, 1)
            return
        # Its own lock is in the way, and without it for a moment, it might not get it back.
        raise BlockingIOError(errno.EAGAIN, "it is locked, and no lock is converted")

    def take_shared(self, fd: int) -> None:
        # Other readers hold the pending byte for a moment, in SQLite exclusively.
        _lock_soon(fd, 0, PENDING_BYTE)
        try:
            _lock(fd, 0, SHARED_FIRST, SHARED_SIZE)
        finally:
            _unlock(fd, PENDING_BYTE, 1)

    def take_reserved(self, fd: int) -> None:
        _lock(fd, _EXCLUSIVE, RESERVED_BYTE, 1)

    def take_pending(self, fd: int) -> None:
        _lock_soon(fd, _EXCLUSIVE, PENDING_BYTE)

    def take_exclusive(self, fd: int, level: int) -> None:
        if level == sqlite.SQLITE_LOCK_SHARED:
            self.take_pending(fd)
        try:
            _unlock(fd, SHARED_FIRST, SHARED_SIZE)
            try:
                _lock(fd, _EXCLUSIVE, SHARED_FIRST, SHARED_SIZE)
            except OSError:
                _lock(fd, 0, SHARED_FIRST, SHARED_SIZE)  # no new lock can conflict
                raise
        except OSError:
            if level == sqlite.SQLITE_LOCK_SHARED:
                _unlock(fd, PENDING_BYTE, 1)
            raise

    def fall_to_shared(self, fd: int, level: int) -> None:
        if level == sqlite.SQLITE_LOCK_EXCLUSIVE:
            _unlock(fd, SHARED_FIRST, SHARED_SIZE)
            _lock(fd, 0, SHARED_FIRST, SHARED_SIZE)
        _unlock(fd, RESERVED_BYTE, 1)
        _unlock(fd, PENDING_BYTE, 1)

    def fall_to_none(self, fd: int, level: int) -> None:  # noqa: ARG002
        # Release every lock that may be held: an interrupt can come between two calls.
        _unlock(fd, SHARED_FIRST, SHARED_SIZE)
        _unlock(fd, RESERVED_BYTE, 1)
        _unlock(fd, PENDING_BYTE, 1)

    def is_reserved(self, fd: int) -> bool:
        """As in `System`. No call queries a lock, so it is taken for a moment."""
        try:
            _lock(fd, 0, RESERVED_BYTE, 1)
        except BlockingIOError:
            return True
        _unlock(fd, RESERVED_BYTE, 1)
        return False

    def enter_index(self, fd: int, *, writable: bool) -> None:
        with contextlib.suppress(BlockingIOError):  # it is in use
            _lock(fd, _EXCLUSIVE, DEAD_MAN_SWITCH, 1)
            try:
                if not writable:
                    raise ReadOnlyIndexError
                try:
                    self.truncate(fd, 0)
                except OSError:  # other code has mapped it: invalid headers have the same effect
                    self.write_at(fd, bytes(_INDEX_HEADERS_BYTES), 0)
            finally:
                _unlock(fd, DEAD_MAN_SWITCH, 1)
        _lock(fd, 0, DEAD_MAN_SWITCH, 1)

    def is_index_used_by_others(self, fd: int) -> bool:  # noqa: ARG002
        return False  # cannot be known; and no one loses a lock by closing another handle here

    def leave_index(self, fd: int, held: int, *, entered: bool) -> None:
        for number in range(held.bit_length()):
            if held >> number & 1:
                _unlock(fd, FIRST_INDEX_LOCK + number, 1)
        if entered:
            _unlock(fd, DEAD_MAN_SWITCH, 1)

    # Memory

    def library_of_wasmtime(self) -> tuple[str, str]:
        machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(self.machine(), self.machine())
        return f"win32-{machine}", "_wasmtime.dll"

    def configure(self, config: Any, functions: Any) -> None:
        placeholders.install(config, functions)

    def map_file(self, address: int, fd: int, offset: int, length: int, *, writable: bool) -> None:
        placeholders.map_file(address, msvcrt.get_osfhandle(fd), offset, length, writable=writable)

    def unmap_file(self, address: int, length: int) -> None:  # noqa: ARG002
        placeholders.unmap_file(address)

    def make_readable(self, address: int) -> None:
        placeholders.make_readable(address)

    def make_inaccessible(self, address: int) -> None:
        placeholders.make_inaccessible(address)

    def drop_pages(self, address: int, length: int) -> None:
        """Do nothing: no call gives pages back and leaves zeros."""

    def is_local(self, fd: int) -> bool:
        """As in `System`. From then on, locks on a network drive are waited for without the GIL."""
        path = _final_path(fd)
        is_local = path is None or (not path.startswith("\\\\") and _is_local_drive(path[:3]))
        (_on_network_drives.discard if is_local else _on_network_drives.add)(fd)
        return is_local

    def note_fault_handlers(self) -> None:
        """Do nothing: wasmtime's vectored exception handler comes before all others."""

    def unblock_faults(self) -> None:
        """Do nothing: faults are no signals."""

    def mend_fault_handlers(self) -> bool:
        return True

    def handle_faults_of_mapped_files(self) -> bool:
        return True  # there are none: a file that is mapped cannot be truncated

    # The process

    def machine(self) -> str:
        # The interpreter's own, also where the processor emulates another one. As ``sysconfig`` does.
        version = sys.version.lower()
        return next((each for each in ("amd64", "arm64") if each in version), "x86")

    def at_fork(
        self,
        *,
        before: Callable[[], object] | None = None,
        in_parent: Callable[[], object] | None = None,
        in_child: Callable[[], object] | None = None,
    ) -> None:
        """Do nothing: no process forks."""

    def involuntary_switches(self) -> int:
        return 0


def _persist(action: Callable[[], _Result], path: str) -> _Result:
    """Do something with a file. Virus scanners and indexers may keep others from it for a moment; SQLite waits, too."""
    for attempt in range(1, _TRIES):
        try:
            return action()
        except PermissionError:  # the C library does not say why
            attributes = _get_attributes(path)
            # A file that others have open and that is deleted has no attributes any more, but exists.
            is_gone = attributes == _NO_ATTRIBUTES and ctypes.get_last_error() in _NOT_FOUND
            if is_gone or (attributes != _NO_ATTRIBUTES and attributes & _NEVER_WRITABLE):
                raise
        time.sleep(_DELAY_S * attempt)
    return action()


def _lock_soon(fd: int, flags: int, byte: int) -> None:
    """Lock a byte that others only ever lock for a moment."""
    for _ in range(_PENDING_TRIES):
        with contextlib.suppress(BlockingIOError):
            return _lock(fd, flags, byte, 1)
        time.sleep(0.001)
    return _lock(fd, flags, byte, 1)


def _text(name: bytes) -> str:
    try:
        return os.fsdecode(name)
    except UnicodeDecodeError:
        raise OSError(errno.EILSEQ, "file names on Windows must be valid Unicode") from None


def _decoded(name: bytes) -> str:
    r"""Return a name as text; SQLite drops the slash of ``/C:/file``, which a URI leaves."""
    text = _text(name)
    return text[1:] if text[:1] in "/\\" and text[2:3] == ":" else text


def _whole(path: str) -> str:
    """Return a path with the prefix that lifts the length limit."""
    if len(path) < _LONGEST_PLAIN_PATH or path.startswith("\\\\?\\"):
        return path
    path = ntpath.abspath(path)
    return "\\\\?\\UNC" + path[1:] if path.startswith("\\\\") else "\\\\?\\" + path


def _plain(path: str) -> str:
    """Return a path without the long-path prefix."""
    if path.startswith("\\\\?\\UNC\\"):
        return "\\" + path[7:]
    return path.removeprefix("\\\\?\\")


def _final_path(fd: int) -> str | None:
    """Return where an open file is, without links; None if its file system cannot tell."""
    buffer = ctypes.create_unicode_buffer(1 << 15)
    length = _get_final_path(msvcrt.get_osfhandle(fd), buffer, len(buffer), 0)
    return _plain(buffer.value) if 0 < length < len(buffer) else None


def _is_local_drive(root: str) -> bool:
    return _get_drive_type(root) in _LOCAL_DRIVES
