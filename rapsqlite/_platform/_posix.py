"""The parts that Linux and macOS share.

https://pubs.opengroup.org/onlinepubs/9799919799/functions/fcntl.html
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import posixpath
import signal
import stat
import time
from abc import abstractmethod
from resource import RUSAGE_SELF, getrusage
from typing import TYPE_CHECKING, Any

from rapsqlite._platform import fault_handlers
from rapsqlite._platform.interface import (
    DEAD_MAN_SWITCH,
    PENDING_BYTE,
    RESERVED_BYTE,
    SHARED_FIRST,
    SHARED_SIZE,
    ReadOnlyIndexError,
    System,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Container

_ONLY_SEARCH: int = getattr(os, "O_PATH", 0)
_TEMPORARY_MODE = 0o600
_PERMISSION_BITS = 0o777
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_PAGE = 4096
_MAP_FIXED = 0x10  # on Linux and macOS
_MAP_FAILED = ctypes.c_void_p(-1).value

# These calls take microseconds, so they keep the GIL: getting it back can take far longer.
_libc = ctypes.PyDLL(None, use_errno=True)
_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
_mprotect = _libc.mprotect
_mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def last_error() -> OSError:
    """Return the error of the last C function that failed in this thread."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _is_open(fd: int) -> bool:
    try:
        os.get_inheritable(fd)  # keeps the GIL
    except OSError:
        return False
    return True


class Posix(System):
    """A system with openat(2), byte-range locks of open files, mmap(2) and fork(2)."""

    can_delete_open_files = True
    maps_reads = True

    # Files

    def open_at(self, name: bytes, flags: int, mode: int, directory: int | None) -> int:
        flags |= os.O_CLOEXEC | os.O_NOFOLLOW
        self._occupy_standard_streams()
        try:
            return os.open(name, flags | os.O_NONBLOCK, mode, dir_fd=directory)
        except BlockingIOError:
            # Not a pipe, but a file on which another process has a lease, which it gives up for an opener that waits.
            return os.open(name, flags, mode, dir_fd=directory)

    def open_temporary(self, directory: bytes) -> int:
        unnamed = getattr(os, "O_TMPFILE", 0)
        if unnamed:
            with contextlib.suppress(OSError):  # not every file system supports it
                fd = os.open(directory, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC | unnamed, _TEMPORARY_MODE)
                return self.above_standard_streams(fd)
        path = posixpath.join(directory, b"etilqs_" + os.urandom(16).hex().encode())
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _TEMPORARY_MODE)
        try:
            os.unlink(path)
        except OSError:
            os.close(fd)
            raise
        return self.above_standard_streams(fd)

    def temporary_directories(self) -> tuple[bytes | None, ...]:
        chosen = (os.environb.get(b"SQLITE_TMPDIR"), os.environb.get(b"TMPDIR"))
        return (*chosen, b"/var/tmp", b"/usr/tmp", b"/tmp", b".")

    def delete_once_closed(self, name: bytes, directory: int) -> None:
        os.unlink(name, dir_fd=directory)

    def stat_at(self, name: bytes, directory: int | None) -> os.stat_result:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)

    def access_at(self, name: bytes, mode: int, directory: int) -> bool:
        return os.access(name, mode, dir_fd=directory)

    def delete_at(self, name: bytes, directory: int) -> None:
        os.unlink(name, dir_fd=directory)

    def read_at(self, fd: int, target: memoryview, offset: int) -> int:
        return os.preadv(fd, [target], offset)

    def write_at(self, fd: int, data: memoryview | bytes, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def truncate(self, fd: int, size_bytes: int) -> None:
        os.ftruncate(fd, size_bytes)

    def sync_directory(self, directory: int) -> None:
        os.fsync(directory)

    def allocate(self, fd: int, start: int, end: int) -> None:
        for page in range(start // _PAGE, -(-end // _PAGE)):
            os.pwrite(fd, b"\0", min(page * _PAGE + _PAGE, end) - 1)

    def open_directory(self, name: bytes, parent: int | None) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if parent is None else os.O_NOFOLLOW)
        try:
            return os.open(name, flags, dir_fd=parent)
        except PermissionError:
            if not _ONLY_SEARCH:
                raise
            # A directory that may be searched but not listed: files in it can be opened, but it cannot be synced.
            return os.open(name, flags | _ONLY_SEARCH, dir_fd=parent)

    def close_directory(self, directory: int) -> None:
        # Nothing was written through it, and it is closed whatever close(2) reports.
        with contextlib.suppress(OSError):
            os.close(directory)

    def _occupy_standard_streams(self) -> None:
        """Let no file get the number of a closed one: moving it away closes it there, which drops others' locks."""
        for fd in range(3):
            if not _is_open(fd):
                with contextlib.suppress(OSError):  # `above_standard_streams` tries again
                    null = os.open(os.devnull, os.O_RDWR)
                    if null > 2:  # another thread was faster
                        os.close(null)

    def above_standard_streams(self, fd: int) -> int:
        if fd > 2:
            return fd
        moved = -1
        try:
            moved = self._duplicate_above(fd, 3)
            null = os.open(os.devnull, os.O_RDWR)
        except OSError:
            for descriptor in (fd, moved):  # not left: it would take the output
                if descriptor >= 0:
                    os.close(descriptor)
            raise
        if null != fd:
            os.dup2(null, fd, inheritable=False)
            if null > 2:
                os.close(null)
        return moved

    @abstractmethod
    def _duplicate_above(self, fd: int, least: int) -> int:
        """Move a descriptor to a number that is not less than ``least``."""

    def give(self, fd: int, mode: int, model: os.stat_result | None) -> None:
        # Failures are tolerable: another user may then be unable to roll back, as with SQLite itself.
        try:
            status = os.fstat(fd)
        except OSError:
            return
        if mode and status.st_size == 0 and status.st_mode & _PERMISSION_BITS != mode:
            with contextlib.suppress(OSError):
                os.fchmod(fd, mode)
        is_of_another = model is not None and (status.st_uid, status.st_gid) != (model.st_uid, model.st_gid)
        if model is not None and is_of_another and os.geteuid() == 0:
            with contextlib.suppress(OSError):
                os.fchown(fd, model.st_uid, model.st_gid)

    def closing_unlocks_others(self, fd: int, ours: Container[int]) -> bool:
        # Code that opened the file since the first check has not yet locked it, or is found by the second check.
        return self._is_open_elsewhere(fd, ours) or self._is_locked_by_this_process(fd)

    def _is_open_elsewhere(self, fd: int, ours: Container[int]) -> bool:  # noqa: ARG002
        """Return whether other code in this process has the file open.

        If open files cannot be listed, the file counts as open elsewhere only while it is locked.
        """
        return self.conflicting_lock(fd, self.WRITE, 0, 0) is not None

    def _is_locked_by_this_process(self, fd: int) -> bool:
        found = self.conflicting_lock(fd, self.WRITE, 0, 0)
        return found is not None and found[1] == os.getpid()

    def is_private(self, status: os.stat_result) -> bool:
        return status.st_uid == os.geteuid() and not status.st_mode & _OTHERS_MAY_WRITE

    def size_at_once(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def may_exist_at_once(self, directory: int, name: bytes) -> bool:
        try:
            os.stat(name, dir_fd=directory, follow_symlinks=False)
        except OSError as error:
            return error.errno != errno.ENOENT
        return True

    # Names

    def internal(self, name: bytes) -> bytes:
        return name

    def external(self, name: bytes) -> bytes:
        return name

    def absolute(self, name: bytes) -> bytes:
        """As in `System`; ``..`` stays, because its meaning depends on links."""
        path = name if name.startswith(b"/") else posixpath.join(os.getcwdb(), name)
        return b"/" + b"/".join(part for part in path.split(b"/") if part not in (b"", b"."))

    def real(self, name: bytes) -> bytes:
        return os.path.realpath(name if name.startswith(b"/") else posixpath.join(os.getcwdb(), name))

    def link_target(self, name: bytes) -> bytes | None:
        try:
            return os.readlink(name)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):  # not a link, or does not exist yet
                return None
            raise

    def canonical(self, name: bytes) -> bytes:
        return name

    # Locks: they belong to the open file description (``F_OFD_SETLK``). Two connections of one process exclude each
    # other, and closing other descriptors in the process does not drop them, as it would drop POSIX locks. To other
    # SQLite libraries' POSIX locks they behave like another process's.

    @abstractmethod
    def conflicting_lock(self, fd: int, kind: int, start: int, length: int) -> tuple[int, int] | None:
        """Return kind and process of a lock that conflicts with this one, or None (process -1: an open file's).

        A length of 0 means to infinity, as for ``set_lock``.
        """

    def convert_lock(self, fd: int, kind: int, byte: int) -> None:
        self.set_lock(fd, kind, byte, 1)

    def take_shared(self, fd: int) -> None:
        # Readers pass through the pending byte, so a writer that holds it keeps new ones out.
        self.set_lock(fd, self.READ, PENDING_BYTE, 1)
        try:
            self.set_lock(fd, self.READ, SHARED_FIRST, SHARED_SIZE)
        finally:
            self.set_lock(fd, self.NONE, PENDING_BYTE, 1)

    def take_reserved(self, fd: int) -> None:
        self.set_lock(fd, self.WRITE, RESERVED_BYTE, 1)

    def take_pending(self, fd: int) -> None:
        self.set_lock(fd, self.WRITE, PENDING_BYTE, 1)

    def take_exclusive(self, fd: int, level: int) -> None:  # noqa: ARG002
        self.set_lock(fd, self.WRITE, SHARED_FIRST, SHARED_SIZE)

    def fall_to_shared(self, fd: int, level: int) -> None:  # noqa: ARG002
        self.set_lock(fd, self.READ, SHARED_FIRST, SHARED_SIZE)
        self.set_lock(fd, self.NONE, PENDING_BYTE, 2)

    def fall_to_none(self, fd: int, level: int) -> None:  # noqa: ARG002
        self.set_lock(fd, self.NONE, 0, 0)

    def is_reserved(self, fd: int) -> bool:
        return self.conflicting_lock(fd, self.WRITE, RESERVED_BYTE, 1) is not None

    def enter_index(self, fd: int, *, writable: bool) -> None:
        other = self.conflicting_lock(fd, self.WRITE, DEAD_MAN_SWITCH, 1)
        if other is None:
            if not writable:
                raise ReadOnlyIndexError
            self.set_lock(fd, self.WRITE, DEAD_MAN_SWITCH, 1)
            try:
                os.ftruncate(fd, 3)  # as SQLite does: 3 distinguishes this from a stray truncation to nothing
            except OSError:
                self.set_lock(fd, self.NONE, DEAD_MAN_SWITCH, 1)  # others may have more success
                raise
        elif other[0] == self.WRITE:
            raise BlockingIOError(errno.EAGAIN, "another connection is initialising it")
        self.set_lock(fd, self.READ, DEAD_MAN_SWITCH, 1)

    def is_index_used_by_others(self, fd: int) -> bool:
        return self.conflicting_lock(fd, self.WRITE, DEAD_MAN_SWITCH, 1) is not None

    def leave_index(self, fd: int, held: int, *, entered: bool) -> None:  # noqa: ARG002
        self.set_lock(fd, self.NONE, 0, 0)

    def lock_whole_file(self, fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    # Memory

    def configure(self, config: Any, functions: Any) -> None:
        # Nothing unwinds through the guest, and registering that costs start-up time.
        functions.wasmtime_config_native_unwind_info_set(config, False)

    def map_file(self, address: int, fd: int, offset: int, length: int, *, writable: bool) -> None:
        access = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
        self._map_fixed(address, length, access, mmap.MAP_SHARED, fd, offset)
        try:
            self._keep_from_children(address, length)
        except OSError:
            self.unmap_file(address, length)
            raise

    @abstractmethod
    def _keep_from_children(self, address: int, length: int) -> None:
        """Leave a mapping out of forked children: it would keep the open file, and so a dead parent's locks, alive."""

    def unmap_file(self, address: int, length: int) -> None:
        self._map_fixed(address, length, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)

    def _map_fixed(self, address: int, length: int, access: int, flags: int, fd: int, offset: int) -> None:
        if _mmap(address, length, access, flags | _MAP_FIXED, fd, offset) == _MAP_FAILED:
            raise last_error()

    def make_readable(self, address: int) -> None:
        self._protect(address, mmap.PROT_READ)

    def make_inaccessible(self, address: int) -> None:
        self._protect(address, 0)

    def _protect(self, address: int, access: int) -> None:
        if _mprotect(address, mmap.PAGESIZE, access):
            raise last_error()

    def drop_pages(self, address: int, length: int) -> None:
        """Do nothing: only Linux has a call that takes effect immediately."""

    def note_fault_handlers(self) -> None:
        fault_handlers.note()

    def unblock_faults(self) -> None:
        fault_handlers.unblock()

    def mend_fault_handlers(self) -> bool:
        return fault_handlers.mend()

    def handle_faults_of_mapped_files(self) -> bool:
        return fault_handlers.extend_to(signal.SIGBUS) and fault_handlers.mend()

    # Waiting

    yield_processor = staticmethod(getattr(os, "sched_yield", lambda: time.sleep(0)))

    # The process

    def machine(self) -> str:
        return os.uname().machine.lower()

    def at_fork(
        self,
        *,
        before: Callable[[], object] | None = None,
        in_parent: Callable[[], object] | None = None,
        in_child: Callable[[], object] | None = None,
    ) -> None:
        hooks = {"before": before, "after_in_parent": in_parent, "after_in_child": in_child}
        os.register_at_fork(**{name: hook for name, hook in hooks.items() if hook is not None})

    def involuntary_switches(self) -> int:
        return getrusage(RUSAGE_SELF).ru_nivcsw
