"""Maps parts of files over a guest's address space, and unmaps them.

The caller has checked that a mapping covers only addresses reserved for it. The functions here check that it consists
of pages, overlaps no other mapping, and does not exceed the maximum number. Freeing a guest's memory also frees the
mappings in its address space. https://sqlite.org/mmap.html
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import threading
from bisect import bisect_left, bisect_right

from rapsqlite._platform import system

# Per process: Linux allows 65 530 by default, and each of ours may split the mapping around it.
_MOST_MAPPINGS = 24_576
_lock = threading.Lock()
_starts: list[int] = []  # of the mappings, in order
_mappings: dict[int, tuple[int, int]] = {}  # by start: the end, and the file


def _forget_after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _starts.clear()
    _mappings.clear()


system.at_fork(in_child=_forget_after_fork)


def map_at(address: int, fd: int, offset: int, length: int, *, writable: bool) -> None:
    """Map ``length`` bytes of a file, shared with everyone who has it open, at ``address``.

    The same file may be mapped again at the same address. Raises OSError, in which case nothing has changed, and
    ValueError if something is not a multiple of a page, or another mapping is in the way.
    """
    _check_pages(address, length)
    _check_pages(offset, length)
    with _lock:
        _map_at(address, fd, offset, length, writable=writable)


def _map_at(address: int, fd: int, offset: int, length: int, *, writable: bool) -> None:
    known = _mappings.get(address)
    next_one = bisect_right(_starts, address)
    if known is None:
        before = _mappings[_starts[next_one - 1]] if next_one else None
        is_free = before is None or before[0] <= address
    else:
        is_free = known[1] == fd
    if not is_free or (next_one < len(_starts) and _starts[next_one] < address + length):
        raise ValueError("the guest requested a mapping over an existing one")
    if known is None and len(_starts) >= _MOST_MAPPINGS:
        raise OSError(errno.ENOMEM, "too many file ranges are mapped")
    system.map_file(address, fd, offset, length, writable=writable)
    if known is None:
        _starts.insert(next_one, address)
    _mappings[address] = (max(address + length, known[0] if known else 0), fd)


def make_shareable(address: int) -> bool:
    """Make a page of plain memory one that ``share`` can map elsewhere too; False if the system cannot.

    Its content stays. Nobody may use it meanwhile. Raises OSError.
    """
    return address % mmap.PAGESIZE == 0 and system.make_page_shareable(address)


def share(address: int, other: int) -> None:
    """Map the page at ``address`` at ``other`` too, replacing what was there. Raises OSError."""
    system.share_page(address, other)


def drop_pages(view: memoryview) -> None:
    """Return whole pages of plain memory to the system, if it takes them; their content is lost."""
    if len(view) >= mmap.PAGESIZE:
        address = address_of(view)
        start, end = whole_pages(address), (address + len(view)) // mmap.PAGESIZE * mmap.PAGESIZE
        if start < end:
            system.drop_pages(start, end - start)


def drop_mapped_pages(address: int) -> None:
    """Drop this process's pages of the mapping at ``address`` until they are read again."""
    with _lock:
        if address in _mappings:
            system.drop_pages(address, _mappings[address][0] - address)


def clear(address: int) -> None:
    """Unmap the mapping at ``address``: nothing can be read or written there afterwards."""
    with _lock:
        if address in _mappings:
            system.unmap_file(address, _mappings[address][0] - address)
            del _mappings[address]
            _starts.remove(address)


def forget(address: int, length: int) -> None:
    """Forget all mappings there: the memory under them is freed, and mappings that could not be cleared with it."""
    with _lock:
        first, last = bisect_left(_starts, address), bisect_left(_starts, address + length)
        for start in _starts[first:last]:
            del _mappings[start]
        del _starts[first:last]


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
    return system.is_local(fd)
