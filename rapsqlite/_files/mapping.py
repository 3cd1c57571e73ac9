"""Maps parts of files over a guest's address space, and unmaps them.

The caller has checked that a mapping covers only addresses reserved for it. The functions here check that it consists
of pages, overlaps no other mapping, and does not exceed the maximum number. A forked child does not inherit mappings,
which would keep the open file, and so a dead parent's locks, alive. Freeing a guest's memory also frees the mappings in
its address space.

https://man7.org/linux/man-pages/man2/mmap.2.html
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
import threading
from bisect import bisect_left, bisect_right

_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
_PROT_NONE = 0
_MREMAP_TO = 3  # MREMAP_MAYMOVE | MREMAP_FIXED
_MAP_FAILED = ctypes.c_void_p(-1).value

# These calls take microseconds, so they keep the GIL: getting it back can take far longer.
_libc = ctypes.PyDLL(None, use_errno=True)
_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
_mremap = getattr(_libc, "mremap", None)  # Linux
if _mremap is not None:
    _mremap.restype = ctypes.c_void_p
    _mremap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)
_madvise = _libc.madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
# But dropping many pages takes long.
_madvise_many = ctypes.CDLL(None).madvise
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


# Per process: Linux allows 65 530 by default, and each of ours may split the mapping around it.
_MOST_MAPPINGS = 24_576
_lock = threading.Lock()
_starts: list[int] = []  # of the mappings, in order
_laid: dict[int, tuple[int, int]] = {}  # by start: the end, and the file


def _forget_after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _starts.clear()
    _laid.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)


def lay(address: int, fd: int, offset: int, length: int, *, writable: bool) -> None:
    """Map ``length`` bytes of a file, shared with everyone who has it open, at ``address``.

    The same file may be mapped again at the same address. Raises OSError, in which case nothing has changed, and
    ValueError if something is not a multiple of a page, or another mapping is in the way.
    """
    _check_pages(address, length)
    _check_pages(offset, length)
    with _lock:
        _lay(address, fd, offset, length, writable=writable)


def _lay(address: int, fd: int, offset: int, length: int, *, writable: bool) -> None:
    known = _laid.get(address)
    next_one = bisect_right(_starts, address)
    if known is None:
        before = _laid[_starts[next_one - 1]] if next_one else None
        is_free = before is None or before[0] <= address
    else:
        is_free = known[1] == fd
    if not is_free or (next_one < len(_starts) and _starts[next_one] < address + length):
        raise ValueError("the guest requested a mapping over an existing one")
    if known is None and len(_starts) >= _MOST_MAPPINGS:
        raise OSError(errno.ENOMEM, "too many file ranges are mapped")
    access = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
    _map(address, length, access, mmap.MAP_SHARED | _MAP_FIXED, fd, offset)
    if sys.platform == "linux" and _madvise(address, length, mmap.MADV_DONTFORK):
        number = ctypes.get_errno()
        _clear(address, length)
        raise OSError(number, os.strerror(number))
    if known is None:
        _starts.insert(next_one, address)
    _laid[address] = (max(address + length, known[0] if known else 0), fd)


def make_shareable(address: int) -> bool:
    """Make a page of plain memory one that ``share`` can show elsewhere too; False if the system cannot.

    Its content stays. Nobody may use it meanwhile. Raises OSError.
    """
    if _mremap is None or address % mmap.PAGESIZE:
        return False
    content = ctypes.string_at(address, mmap.PAGESIZE)
    flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | _MAP_FIXED
    _map(address, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    ctypes.memmove(address, content, len(content))
    _madvise(address, mmap.PAGESIZE, mmap.MADV_DONTFORK)
    return True


def share(address: int, other: int) -> None:
    """Show the page at ``address`` at ``other`` too, instead of what was there. Raises OSError.

    https://man7.org/linux/man-pages/man2/mremap.2.html: an old size of 0 makes a second mapping of the same pages.
    """
    assert _mremap is not None
    if _mremap(address, 0, mmap.PAGESIZE, _MREMAP_TO, other) == _MAP_FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    _madvise(other, mmap.PAGESIZE, mmap.MADV_DONTFORK)


def drop_pages(view: memoryview) -> None:
    """Give whole pages of plain memory back to the system; their content is lost.

    Only Linux has a call for that which takes effect immediately. If it is refused (locked memory), nothing changes.
    """
    if sys.platform == "linux" and len(view) >= mmap.PAGESIZE:
        address = address_of(view)
        start, end = whole_pages(address), (address + len(view)) // mmap.PAGESIZE * mmap.PAGESIZE
        if start < end:
            _madvise_many(start, end - start, mmap.MADV_DONTNEED)


def drop_laid_pages(address: int) -> None:
    """Drop this process's pages of the mapping at ``address`` until they are read again."""
    with _lock:
        if sys.platform == "linux" and address in _laid:
            _madvise_many(address, _laid[address][0] - address, mmap.MADV_DONTNEED)


def clear(address: int) -> None:
    """Unmap the mapping at ``address``: nothing can be read or written there afterwards."""
    with _lock:
        if address in _laid:
            _clear(address, _laid[address][0] - address)
            del _laid[address]
            _starts.remove(address)


def forget(address: int, length: int) -> None:
    """Forget all mappings there: the memory under them is freed, and mappings that could not be cleared with it."""
    with _lock:
        first, last = bisect_left(_starts, address), bisect_left(_starts, address + length)
        for start in _starts[first:last]:
            del _laid[start]
        del _starts[first:last]


def _clear(address: int, length: int) -> None:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
    if sys.platform == "linux":
        flags |= _MAP_NORESERVE  # as wasmtime has reserved it, so that it merges with the mapping around it
    _map(address, length, _PROT_NONE, flags, -1, 0)


def _map(address: int, length: int, access: int, flags: int, fd: int, offset: int) -> None:
    if _mmap(address, length, access, flags, fd, offset) == _MAP_FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _check_pages(start: int, length: int) -> None:
    if start % mmap.PAGESIZE or length % mmap.PAGESIZE or length <= 0:
        raise ValueError("the guest requested a mapping that is not aligned to pages")


def whole_pages(size_bytes: int) -> int:
    """Round up to whole pages: the mappable size of a file of that size."""
    return -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE


def address_of(view: memoryview) -> int:
    """Return the address of a writable view's bytes."""
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def is_shared_by_all(fd: int) -> bool:
    """Return whether everyone who has this file open sees the same memory, which is false on network file systems."""
    return sys.platform != "linux" or _file_system(fd) in _LOCAL_FILE_SYSTEMS


def _file_system(fd: int) -> int:
    status = ctypes.create_string_buffer(256)
    if _libc.fstatfs(fd, status):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return ctypes.c_long.from_buffer(status).value & 0xFFFF_FFFF
