"""Memory of guests on Windows, over which parts of files can be mapped.

Windows cannot replace part of a reservation that another allocator made, so guests' memories are made here, as
placeholders (Windows 10, version 1803): address space of which pieces become memory or views of files, and
placeholders again. https://learn.microsoft.com/windows/win32/api/memoryapi/nf-memoryapi-virtualalloc2
"""

from __future__ import annotations

import sys

assert sys.platform == "win32"  # so that type checkers for other systems skip the rest

import ctypes
import threading
from bisect import insort
from ctypes import wintypes
from itertools import pairwise
from typing import Any

_COMMIT, _RESERVE, _RELEASE = 0x1000, 0x2000, 0x8000
_COALESCE, _PRESERVE = 0x1, 0x2  # of VirtualFree
_REPLACE_PLACEHOLDER, _RESERVE_PLACEHOLDER = 0x4000, 0x4_0000
_NO_ACCESS, _READ_ONLY, _READ_WRITE = 0x01, 0x02, 0x04
_GRANULE = 0x1_0000
_ADDRESS_SPACE = 1 << 32
_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_size_t
_ULONG = ctypes.c_ulong
_PROCESS = wintypes.HANDLE(-1)  # this one

_library = ctypes.WinDLL("kernelbase", use_last_error=True)


def _bind(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(_library, name)
    function.restype, function.argtypes = result, arguments
    return function


_allocate = _bind("VirtualAlloc2", _POINTER, wintypes.HANDLE, _POINTER, _SIZE, _ULONG, _ULONG, _POINTER, _ULONG)
_free = _bind("VirtualFree", wintypes.BOOL, _POINTER, _SIZE, wintypes.DWORD)
_protect = _bind("VirtualProtect", wintypes.BOOL, _POINTER, _SIZE, wintypes.DWORD, _POINTER)
_map_view = _bind(
    "MapViewOfFile3",
    _POINTER,
    *(wintypes.HANDLE, wintypes.HANDLE, _POINTER, ctypes.c_uint64, _SIZE, _ULONG, _ULONG, _POINTER, _ULONG),
)
_unmap_view = _bind("UnmapViewOfFile2", wintypes.BOOL, wintypes.HANDLE, _POINTER, _ULONG)
_new_section = _bind(
    "CreateFileMappingW",
    wintypes.HANDLE,
    *(wintypes.HANDLE, _POINTER, wintypes.DWORD, wintypes.DWORD, wintypes.DWORD, _POINTER),
)
_close = _bind("CloseHandle", wintypes.BOOL, wintypes.HANDLE)


def _checked(result: Any) -> Any:
    if not result:
        raise ctypes.WinError(ctypes.get_last_error())
    return result


class Reservation:
    """The address space of one guest's memory. Call with the module's lock held."""

    def __init__(self, size_bytes: int) -> None:
        self.end = size_bytes = -(-size_bytes // _GRANULE) * _GRANULE
        kind = _RESERVE | _RESERVE_PLACEHOLDER
        self.base: int = _checked(_allocate(_PROCESS, None, size_bytes, kind, _NO_ACCESS, None, 0))
        self.end += self.base
        self.committed = 0
        self._pieces: list[int] = []  # starts of what is memory
        self._views: dict[int, int] = {}  # views of files: start to end
        self._placeholders = [(self.base, self.end)]  # in order

    def grow(self, size_bytes: int) -> None:
        """Make the first ``size_bytes`` usable memory; what already is stays unchanged."""
        if size_bytes > self.committed:
            self.commit(self.base + self.committed, self.base + size_bytes, _READ_WRITE)
            self.committed = size_bytes

    def commit(self, start: int, end: int, protection: int) -> None:
        """Make a part memory."""
        self._carve(start, end)
        kind = _COMMIT | _RESERVE | _REPLACE_PLACEHOLDER
        if not _allocate(_PROCESS, start, end - start, kind, protection, None, 0):
            error = ctypes.get_last_error()
            insort(self._placeholders, (start, end))
            raise ctypes.WinError(error)
        self._pieces.append(start)

    def map_file(self, address: int, file: int, offset: int, length: int, *, writable: bool) -> None:
        """Map a view of a file at this address, over no other one."""
        protection = _READ_WRITE if writable else _READ_ONLY
        section = _checked(_new_section(file, None, protection, 0, 0, None))
        try:
            self._carve(address, address + length)
            view = _map_view(section, _PROCESS, address, offset, length, _REPLACE_PLACEHOLDER, protection, None, 0)
            if not view:
                error = ctypes.get_last_error()
                insort(self._placeholders, (address, address + length))
                raise ctypes.WinError(error)
        finally:
            _close(section)
        self._views[address] = address + length

    def unmap_file(self, address: int) -> None:
        """Remove the view at this address."""
        _checked(_unmap_view(_PROCESS, address, _PRESERVE))
        insort(self._placeholders, (address, self._views.pop(address)))

    def _carve(self, start: int, end: int) -> None:
        """Split or merge placeholders into one with exactly these bounds, and remove it from the list."""
        touched = [each for each in self._placeholders if each[0] < end and start < each[1]]
        joined = all(before[1] == after[0] for before, after in pairwise(touched))
        if not touched or not joined or start < touched[0][0] or touched[-1][1] < end:
            raise OSError(f"the address range at {start:#x} is in use")
        first, last = touched[0][0], touched[-1][1]
        if len(touched) > 1:
            _checked(_free(first, last - first, _RELEASE | _COALESCE))
        rest = [each for each in self._placeholders if each not in touched]
        if (first, last) != (start, end):
            self._placeholders = sorted([*rest, (first, last)])
            _checked(_free(start, end - start, _RELEASE | _PRESERVE))
        self._placeholders = sorted([*rest, *(each for each in ((first, start), (end, last)) if each[0] < each[1])])

    def release(self) -> None:
        """Release the whole reservation."""
        for address in list(self._views):
            self.unmap_file(address)
        for start in (*self._pieces, *(start for start, _ in self._placeholders)):
            _checked(_free(start, 0, _RELEASE))
        self._pieces.clear()
        self._placeholders.clear()


_lock = threading.RLock()
_reservations: dict[int, Reservation] = {}  # by base
_kept: list[object] = []  # callbacks whose addresses wasmtime has


def reservation_at(address: int) -> Reservation:
    """Return the memory that contains an address."""
    for reservation in list(_reservations.values()):
        if reservation.base <= address < reservation.end:
            return reservation
    raise OSError("it is in no guest's memory")


def map_file(address: int, file: int, offset: int, length: int, *, writable: bool) -> None:
    """Map a part of a file, by its handle, over a guest's address space."""
    with _lock:
        reservation_at(address).map_file(address, file, offset, length, writable=writable)


def unmap_file(address: int) -> None:
    """Undo ``map_file``."""
    with _lock:
        reservation_at(address).unmap_file(address)


def make_readable(address: int) -> None:
    """Let a page of a guest's memory that is not in use be read, as zeros."""
    with _lock:
        reservation_at(address).commit(address, address + _GRANULE, _READ_ONLY)


def make_inaccessible(address: int) -> None:
    """Turn every access to such a page into a fault."""
    _checked(_protect(address, _GRANULE, _NO_ACCESS, ctypes.byref(wintypes.DWORD())))


_New = ctypes.CFUNCTYPE(_SIZE, _POINTER, _POINTER, _SIZE, _SIZE, _SIZE, _SIZE, _POINTER)
_Get = ctypes.CFUNCTYPE(_SIZE, _SIZE, ctypes.POINTER(_SIZE), ctypes.POINTER(_SIZE))
_Grow = ctypes.CFUNCTYPE(_SIZE, _SIZE, _SIZE)
_Finish = ctypes.CFUNCTYPE(None, _SIZE)


class _Memory(ctypes.Structure):
    """``wasmtime_linear_memory_t``."""

    _fields_ = (("env", _SIZE), ("get", _Get), ("grow", _Grow), ("finish", _Finish))


class _Creator(ctypes.Structure):
    """``wasmtime_memory_creator_t``."""

    _fields_ = (("env", _POINTER), ("new", _New), ("finish", _Finish))


def install(config: int, functions: Any) -> None:
    """Make wasmtime allocate its memories with this module. A memory's ``env`` is its base."""

    def refuse(reason: BaseException) -> int:
        error = functions.wasmtime_error_new(f"failed to reserve memory: {reason}".encode())
        return int(ctypes.cast(error, _POINTER).value or 0)

    def new(_env: int, _type: int, minimum: int, _maximum: int, reserved: int, guard: int, result: int) -> int:
        try:
            with _lock:
                reservation = Reservation(max(reserved, _ADDRESS_SPACE) + guard)
                try:
                    reservation.grow(minimum)
                except BaseException:
                    reservation.release()
                    raise
                _reservations[reservation.base] = reservation
        except BaseException as error:  # noqa: BLE001 - it must not cross wasmtime's frames
            return refuse(error)
        memory = _Memory.from_address(result)
        memory.env, memory.get, memory.grow, memory.finish = reservation.base, get_, grow_, finish_
        return 0

    def get(base: int, size: Any, capacity: Any) -> int:
        size[0], capacity[0] = _reservations[base].committed, _ADDRESS_SPACE
        return base

    def grow(base: int, size_bytes: int) -> int:
        try:
            with _lock:
                _reservations[base].grow(size_bytes)
        except BaseException as error:  # noqa: BLE001 - as above
            return refuse(error)
        return 0

    def finish(base: int) -> None:
        with _lock:
            _reservations.pop(base).release()

    get_, grow_, finish_ = _Get(get), _Grow(grow), _Finish(finish)
    creator = _Creator(None, _New(new), _Finish(lambda _env: None))
    _kept.extend((get_, grow_, finish_, creator))
    functions.wasmtime_config_host_memory_creator_set(config, ctypes.addressof(creator))
