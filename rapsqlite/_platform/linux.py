"""Linux, with either C library.

https://man7.org/linux/man-pages/man2/fcntl_locking.2.html
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import mmap
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rapsqlite._platform._posix import Posix, last_error

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from rapsqlite._platform.interface import Parking, PipeWait

_DESCRIPTORS = "/proc/self/fd"
_LOAD = "/proc/loadavg"
_LOCKS = "/proc/locks"
_PROCESS = "/proc/self"
_NO_FALLOCATE = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
_MAP_NORESERVE = 0x4000
_MREMAP_TO = 3  # MREMAP_MAYMOVE | MREMAP_FIXED
_MAP_FAILED = ctypes.c_void_p(-1).value
_AT_SYMLINK_NOFOLLOW = 0x100

# struct flock: type, whence, start, length, pid.
_FLOCK = struct.Struct("@hhqqi0q")

# These calls never wait, and `fcntl.fcntl` would release the GIL for each: getting it back takes 5 ms if another thread
# runs pure Python, three times for one shared lock.
_libc = ctypes.PyDLL(None, use_errno=True)
# No argument types: ctypes passes integers and bytes faster without them.
_fcntl = _libc.fcntl
_faccessat = _libc.faccessat
_lseek = _libc.lseek
_lseek.restype = ctypes.c_int64
_lseek.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int)
_mremap = _libc.mremap
_mremap.restype = ctypes.c_void_p
_mremap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)
_madvise = _libc.madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
# Dropping many pages takes long, and polling may wait, so these release the GIL.
_waiting_libc = ctypes.CDLL(None)
_madvise_many = _waiting_libc.madvise
_madvise_many.argtypes = _madvise.argtypes

# File systems on which everyone who has the file open shares mappings and locks (statfs(2)). Network file systems, FUSE
# and 9p are not among them: another machine may be using the same file.
_LOCAL_FILE_SYSTEMS = {
    0xEF53: "ext4",
    0x5846_5342: "xfs",
    0x9123_683E: "btrfs",
    0x0102_1994: "tmpfs",
    0x8584_58F6: "ramfs",
    0x794C_7630: "overlay",
    0xF2F5_2010: "f2fs",
    0x2FC1_2FC1: "zfs",
    0xCA45_1A4E: "bcachefs",
    0x5265_4973: "reiserfs",
    0x3153_464A: "jfs",
    0x3434: "nilfs",
    0xF15F: "ecryptfs",
    0x4D44: "vfat",
    0x2011_BAB0: "exfat",
    0x7366_746E: "ntfs3",
    0x7371_7368: "squashfs",
    0xE0F5_E1E2: "erofs",
    0x9660: "iso9660",
}

_STRUCT_WORDS = 16  # 128 bytes: more than any C library's pthread_mutex_t and its attributes
_PTHREAD_MUTEX_NORMAL = 0
# Where functions may be called with extra arguments: they are in registers, which the function ignores.
_PARKING_MACHINES = ("x86_64", "aarch64")
_POLLIN = 1

_Words = ctypes.c_uint64 * _STRUCT_WORDS
_AsHostFunction = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_size_t)


@functools.cache  # there are a few dozen different ones
def _packed(kind: int, start: int, length: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)


class Linux(Posix):
    """Linux."""

    name = "Linux"
    READ, WRITE, NONE = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
    has_bells = True

    def __init__(self) -> None:
        self.has_parking = self.machine() in _PARKING_MACHINES and ctypes.sizeof(ctypes.c_void_p) == 8
        self.lacks = {} if self.has_parking else {"sleep without the GIL": "guests sleep in Python"}

    # Files

    def open_shrinking_file(self) -> int:
        return os.memfd_create("trial")

    def sync(self, fd: int, *, full: bool) -> None:  # noqa: ARG002
        os.fdatasync(fd)

    def allocate(self, fd: int, start: int, end: int) -> None:
        try:
            os.posix_fallocate(fd, start, end - start)
        except OSError as error:
            if error.errno not in _NO_FALLOCATE:
                raise
            super().allocate(fd, start, end)

    def _duplicate_above(self, fd: int, least: int) -> int:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, least)

    def _is_open_elsewhere(self, fd: int, ours: Container[int]) -> bool:
        """As in `Posix`, by the file's name: asking the file itself may block."""
        if not Path(_DESCRIPTORS).is_dir():
            return super()._is_open_elsewhere(fd, ours)
        name = _name_of(str(fd))
        numbers = os.listdir(_DESCRIPTORS)
        return not name or any(_name_of(number) == name for number in numbers if int(number) not in ours)

    def _is_locked_by_this_process(self, fd: int) -> bool:
        """As in `Posix`, even if another process's lock is found first, and under all names of the file."""
        found = self.conflicting_lock(fd, self.WRITE, 0, 0)
        if found is None or found[1] == os.getpid():
            return found is not None
        inode = b":%d" % os.fstat(fd).st_ino
        process = os.fsencode(os.readlink(_PROCESS))  # as the list names it
        with open(_LOCKS, "rb") as locks:
            # https://man7.org/linux/man-pages/man5/proc_locks.5.html
            return any(
                b"POSIX" in line and process in line and line[5].endswith(inode) for line in map(bytes.split, locks)
            )

    def cache_home(self) -> Path:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()

    def size_at_once(self, fd: int) -> int:
        size_bytes: int = _lseek(fd, 0, os.SEEK_END)  # the position is unused: reads and writes give theirs
        if size_bytes < 0:
            raise last_error()
        return size_bytes

    def may_exist_at_once(self, directory: int, name: bytes) -> bool:
        found: int = _faccessat(directory, name, os.F_OK, _AT_SYMLINK_NOFOLLOW)
        return found == 0 or ctypes.get_errno() != errno.ENOENT

    # Locks

    def set_lock(self, fd: int, kind: int, start: int, length: int) -> None:
        if _fcntl(fd, fcntl.F_OFD_SETLK, _packed(kind, start, length)) < 0:
            raise last_error()

    def conflicting_lock(self, fd: int, kind: int, start: int, length: int) -> tuple[int, int] | None:
        buffer = ctypes.create_string_buffer(_packed(kind, start, length), _FLOCK.size)
        if _fcntl(fd, fcntl.F_OFD_GETLK, buffer) < 0:
            raise last_error()
        found, _, _, _, pid = _FLOCK.unpack(buffer.raw)
        return None if found == fcntl.F_UNLCK else (found, pid)

    # Memory

    def library_of_wasmtime(self) -> tuple[str, str]:
        return f"linux-{self.machine()}", "_libwasmtime.so"

    def _keep_from_children(self, address: int, length: int) -> None:
        if _madvise(address, length, mmap.MADV_DONTFORK):
            raise last_error()

    def unmap_file(self, address: int, length: int) -> None:
        # As wasmtime has reserved it, so that it merges with the mapping around it.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        self._map_fixed(address, length, 0, flags, -1, 0)

    def make_page_shareable(self, address: int) -> bool:
        content = ctypes.string_at(address, mmap.PAGESIZE)
        access = mmap.PROT_READ | mmap.PROT_WRITE
        self._map_fixed(address, mmap.PAGESIZE, access, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS, -1, 0)
        ctypes.memmove(address, content, len(content))
        self._keep_from_children(address, mmap.PAGESIZE)
        return True

    def share_page(self, address: int, other: int) -> None:
        # https://man7.org/linux/man-pages/man2/mremap.2.html: an old size of 0 maps the same pages a second time.
        if _mremap(address, 0, mmap.PAGESIZE, _MREMAP_TO, other) == _MAP_FAILED:
            raise last_error()
        self._keep_from_children(other, mmap.PAGESIZE)

    def drop_pages(self, address: int, length: int) -> None:
        # If it is refused (locked memory), nothing changes.
        _madvise_many(address, length, mmap.MADV_DONTNEED)

    def is_local(self, fd: int) -> bool:
        return self.file_system(fd) in _LOCAL_FILE_SYSTEMS

    def file_system(self, fd: int) -> int:
        """Return the number of the file system's kind."""
        status = ctypes.create_string_buffer(256)
        if _libc.fstatfs(fd, status):
            raise last_error()
        return ctypes.c_long.from_buffer(status).value & 0xFFFF_FFFF

    # Waiting

    def open_pipe(self) -> tuple[int, int]:
        return os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def path_of(self, fd: int) -> str:
        return f"{_DESCRIPTORS}/{fd}"

    def new_pipe_wait(self) -> PipeWait:
        return _Poll()

    def new_parking(self) -> Parking:
        return MutexParking()

    # The process

    def processor_count(self) -> int:
        return len(os.sched_getaffinity(0))

    def may_lack_processors(self) -> bool:
        # The fourth number is how many threads of the machine run or could: proc_loadavg(5). On which processors they
        # may run is not known, nor which ones this process would have to share if it is bound to some of them. Systems
        # that imitate Linux, such as gVisor, write 0.
        try:
            with open(_LOAD, "rb") as load:
                runnable_count = int(load.read().split()[3].partition(b"/")[0])
        except (OSError, IndexError, ValueError):
            return True
        machine_count = os.cpu_count() or 1
        return not 0 < runnable_count <= machine_count or self.processor_count() < machine_count


def _name_of(number: str) -> str:
    try:
        return os.readlink(f"{_DESCRIPTORS}/{number}")
    except OSError:
        return ""  # already closed


class _PollFd(ctypes.Structure):
    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Poll(_PollFd):
    """Waits by ppoll(2): poll(2) counts in milliseconds."""

    _ppoll = _waiting_libc.ppoll

    def __init__(self) -> None:
        super().__init__(-1, _POLLIN, 0)

    def wait(self, seconds: float) -> bool:
        timeout = _TimeSpec(0, int(seconds * 1e9))
        return bool(self._ppoll(ctypes.byref(self), 1, ctypes.byref(timeout), None) == 1)


class MutexParking:
    """Puts a guest's thread to sleep on a mutex that is always locked; waking it means unlocking the mutex.

    Among C functions that wait, ``pthread_mutex_lock`` is not interrupted by signals and returns only 0, which wasmtime
    requires of a host function that does not trap. POSIX leaves unlocking in another thread than the one that locked
    undefined. Linux's C libraries support it for mutexes of the type PTHREAD_MUTEX_NORMAL, which have no owner, and
    ``works`` tests it for each guest. https://man7.org/linux/man-pages/man3/pthread_mutex_lock.3p.html
    """

    def __init__(self) -> None:
        attributes = _Words()
        self.mutex = _Words()
        self.unlock: Callable[[Any], object] = _libc.pthread_mutex_unlock  # keeps the GIL: none of these calls waits
        self._try_lock = _libc.pthread_mutex_trylock
        _libc.pthread_mutexattr_init(attributes)
        _libc.pthread_mutexattr_settype(attributes, _PTHREAD_MUTEX_NORMAL)
        _libc.pthread_mutex_init(self.mutex, attributes)
        self.function = ctypes.cast(_libc.pthread_mutex_lock, ctypes.c_void_p).value or 0
        self.argument = ctypes.addressof(self.mutex)
        self._try_lock(self.mutex)

    def works(self) -> bool:
        """Test the assumptions."""
        as_host_function = _AsHostFunction(self.function)
        was_locked = self._try_lock(self.mutex) != 0
        unlocked = self.unlock(self.mutex) == 0 and self._try_lock(self.mutex) == 0
        self.wake()
        return was_locked and unlocked and int(as_host_function(self.argument, 1, 2, 3)) == 0

    def wake(self) -> None:
        """End the sleep, or the next one immediately if there is none."""
        self.unlock(self.mutex)
