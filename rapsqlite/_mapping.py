"""Laying parts of files over the guest's linear memory, and taking them off again.

A mapping may cover nothing but what the caller has checked to be the guest's memory: the functions here check only
pages. Mappings are not inherited by a forked child, which could otherwise keep a dead parent's locks alive: a mapping
holds the open file. Freeing a guest's memory frees what is laid over it, too.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys

_MAP_FIXED = 0x10
_MAP_FAILED = ctypes.c_void_p(-1).value

# These calls take microseconds: the GIL stays, since getting it back can take far longer.
_libc = ctypes.PyDLL(None, use_errno=True)
_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
_madvise = _libc.madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

# Kinds of file system whose mappings and locks are shared by everybody who has the file open (statfs(2)).
# Network file systems, FUSE and 9p are not among them: another machine may be using the same file.
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


def lay(address: int, fd: int, offset: int, length: int, *, writable: bool) -> None:
    """Lay ``length`` bytes of a file, shared with everyone who has it open, over the memory at ``address``.

    Raises OSError; the memory is then as it was. ValueError: something is not a multiple of a page.
    """
    _check_pages(address, length)
    _check_pages(offset, length)
    access = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
    _map(address, length, access, mmap.MAP_SHARED | _MAP_FIXED, fd, offset)
    if sys.platform == "linux" and _madvise(address, length, mmap.MADV_DONTFORK):
        number = ctypes.get_errno()
        clear(address, length)
        raise OSError(number, os.strerror(number))


def clear(address: int, length: int) -> None:
    """Turn what ``lay`` covered back into plain memory, filled with zeros."""
    _check_pages(address, length)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
    _map(address, length, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)


def _map(address: int, length: int, access: int, flags: int, fd: int, offset: int) -> None:
    if _mmap(address, length, access, flags, fd, offset) == _MAP_FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _check_pages(start: int, length: int) -> None:
    if start % mmap.PAGESIZE or length % mmap.PAGESIZE or length <= 0:
        raise ValueError("the guest asked for a mapping that does not begin and end with a page")


def whole_pages(size_bytes: int) -> int:
    """Round up to whole pages: what may be mapped of a file of that size."""
    return -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE


def address_of(view: memoryview) -> int:
    """Return where the bytes of a writable view are."""
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def is_shared_by_all(fd: int) -> bool:
    """Whether everyone who has this file open sees the same memory: not so on network file systems."""
    return sys.platform != "linux" or _file_system(fd) in _LOCAL_FILE_SYSTEMS


def _file_system(fd: int) -> int:
    status = ctypes.create_string_buffer(256)
    if _libc.fstatfs(fd, status):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return ctypes.c_long.from_buffer(status).value & 0xFFFF_FFFF
