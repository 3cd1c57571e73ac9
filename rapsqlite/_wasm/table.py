"""Host functions in the guest's table, which the guest calls without an import: C functions and Python functions.

To the guest each has no parameters and no result. wasmtime calls it as a C function with four arguments and treats its
return value as the address of a trap. In the calling conventions of all platforms that wasmtime supports the caller
removes the arguments, so functions may have fewer parameters, or none.

https://docs.wasmtime.dev/c-api/
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

from rapsqlite._wasm.c_functions import BareImport
from rapsqlite._wasm.linking import TABLE

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable


class Table:
    """The table of one guest. Use on its own thread, including from a host function."""

    def __init__(
        self, new_unchecked: Callable[..., Any], wasmtime: Any, store: Any, exports: Any, lock: threading.Lock
    ):
        """``new_unchecked``: wasmtime_func_new_unchecked; ``lock`` guards wasmtime's Python layer."""
        self._new_unchecked = new_unchecked
        self._wasmtime = wasmtime
        self._ffi = wasmtime._ffi
        self._store = store
        self._exports = exports
        self._lock = lock
        self._entrances: list[object] = []  # the store keeps only their addresses

    def add(self, address: int, argument: int) -> int:
        """Add the C function at ``address``, whose first argument is ``argument``; 0 if there is no space."""
        with self._lock:
            functype = self._wasmtime.FuncType([], [])
            raw = self._ffi.wasmtime_func_t()
            context, kind = self._store._context(), functype.ptr()
            pointers = (ctypes.cast(pointer, ctypes.c_void_p) for pointer in (context, kind))
            self._new_unchecked(*pointers, address, argument, None, ctypes.byref(raw))
            try:
                return int(self._exports[TABLE].grow(self._store, 1, self._wasmtime.Func._from_raw(raw)))
            except (KeyError, self._wasmtime.WasmtimeError):
                return 0  # there is no table, or it has reached the module's maximum

    def add_entrance(self, enter: Callable[[], int]) -> int:
        """Add a Python function, which must not raise; 0 if there is no space."""
        entrance = BareImport(enter)
        self._entrances.append(entrance)
        return self.add(ctypes.cast(entrance, ctypes.c_void_p).value or 0, 0)
