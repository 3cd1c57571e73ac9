"""macOS. Written after XNU's headers and Apple's documentation; exercised with a test double of ``fcntl`` and libc.

https://github.com/apple-oss-distributions/xnu/blob/main/bsd/sys/fcntl.h
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import posixpath
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rapsqlite._platform._posix import Posix, last_error

if TYPE_CHECKING:
    from collections.abc import Callable

# sys/fcntl.h of XNU; CPython does not name all of them, and no other system has them.
F_GETPATH = 50
F_FULLFSYNC = 51
F_DUPFD_CLOEXEC = 67
F_BARRIERFSYNC = 85
F_OFD_SETLK = 90
F_OFD_GETLK = 92
_LONGEST_PATH = 1024
# struct flock: start, length, pid, type, whence.
_FLOCK = struct.Struct("@qqihh")
# struct statfs, and its flag for file systems of this machine (sys/mount.h).
_STATFS_BYTES = 4096  # more than it has
_STATFS_FLAGS_AT = 64
_MNT_LOCAL = 0x1000
_VM_INHERIT_NONE = 2
# Errors of file systems that know no barrier, or no full sync (F_BARRIERFSYNC in bsd/kern/kern_descrip.c).
_NO_SUCH_SYNC = (errno.ENOTTY, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


@functools.cache  # there are a few dozen different ones
def _packed(kind: int, start: int, length: int) -> bytes:
    return _FLOCK.pack(start, length, 0, kind, os.SEEK_SET)


class Darwin(Posix):
    """macOS 12 and later."""

    name = "macOS"
    READ, NONE, WRITE = 1, 2, 3
    has_bells = False
    has_parking = False

    def __init__(
        self, control: Callable[[int, int, Any], Any] = fcntl.fcntl, libc: Any = None, preadv: Any = None
    ) -> None:
        """Take stand-ins for fcntl(2), the C library and preadv(2), for tests."""
        self._control = control
        self._libc = ctypes.PyDLL(None, use_errno=True) if libc is None else libc
        # Builds of CPython for macOS older than 11 have none.
        self._preadv = getattr(os, "preadv", None) if preadv is None else preadv
        self.lacks = {
            "bell": "guests wake event loops by a call of Python",
            "sleep without the GIL": "guests sleep in Python",
        }

    # Files

    def read_at(self, fd: int, target: memoryview, offset: int) -> int:
        if self._preadv:
            return int(self._preadv(fd, [target], offset))
        content = os.pread(fd, len(target), offset)
        target[: len(content)] = content
        return len(content)

    def open_shrinking_file(self) -> int:
        directories = self.temporary_directories()
        return self.open_temporary(next(each for each in directories if each and os.path.isdir(each)))

    def sync(self, fd: int, *, full: bool) -> None:
        # fsync only reaches the drive's cache; the barrier keeps order in it, the full sync flushes it.
        try:
            self._control(fd, F_FULLFSYNC if full else F_BARRIERFSYNC, 0)
        except OSError as error:
            if error.errno not in _NO_SUCH_SYNC:  # writes are lost, which another sync would not report again
                raise
            os.fsync(fd)

    def _duplicate_above(self, fd: int, least: int) -> int:
        return int(self._control(fd, F_DUPFD_CLOEXEC, least))

    def cache_home(self) -> Path:
        return Path("~/Library/Caches").expanduser()

    # Names

    def real(self, name: bytes) -> bytes:
        found = super().real(name)
        return self._spelling(found) if os.path.isdir(found) else self.canonical(found)

    def canonical(self, name: bytes) -> bytes:
        """As in `System`: most volumes ignore case. The last part stays: opening a database could drop its locks."""
        directory, last = posixpath.split(name)
        return posixpath.join(self._spelling(directory), last)

    def _spelling(self, directory: bytes) -> bytes:
        with contextlib.suppress(OSError):
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                return bytes(self._control(fd, F_GETPATH, bytes(_LONGEST_PATH))).partition(b"\0")[0]
            finally:
                os.close(fd)
        return directory

    # Locks. Never by ctypes: fcntl(2) is variadic, and arm64 passes such arguments elsewhere.

    def set_lock(self, fd: int, kind: int, start: int, length: int) -> None:
        self._control(fd, F_OFD_SETLK, _packed(kind, start, length))

    def conflicting_lock(self, fd: int, kind: int, start: int, length: int) -> tuple[int, int] | None:
        _, _, pid, found, _ = _FLOCK.unpack(self._control(fd, F_OFD_GETLK, _packed(kind, start, length)))
        return None if found == self.NONE else (found, pid)

    # Memory

    def library_of_wasmtime(self) -> tuple[str, str]:
        return f"darwin-{self.machine().replace('arm64', 'aarch64')}", "_libwasmtime.dylib"

    def configure(self, config: Any, functions: Any) -> None:
        """As in `System`; without Mach ports, wasmtime handles SIGBUS, which a trial can then show."""
        super().configure(config, functions)
        functions.wasmtime_config_macos_use_mach_ports_set(config, False)

    def _keep_from_children(self, address: int, length: int) -> None:
        if self._libc.minherit(ctypes.c_void_p(address), ctypes.c_size_t(length), _VM_INHERIT_NONE):
            raise last_error()

    def is_local(self, fd: int) -> bool:
        status = ctypes.create_string_buffer(_STATFS_BYTES)
        # On Intel the plain name is a function for older programs, with another structure.
        fstatfs = getattr(self._libc, "fstatfs$INODE64", None) or self._libc.fstatfs
        if fstatfs(fd, status):
            raise last_error()
        flags = int.from_bytes(status.raw[_STATFS_FLAGS_AT : _STATFS_FLAGS_AT + 4], "little")
        return bool(flags & _MNT_LOCAL)
