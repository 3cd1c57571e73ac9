"""Host functions in the guest's table, which the guest calls without an import: C functions and Python functions.

To the guest each has no parameters and no result. wasmtime calls it as a C function with four arguments and treats its
return value as the address of a trap. In the calling conventions of all platforms that wasmtime supports the caller
removes the arguments, so functions may have fewer parameters, or none.

https://docs.wasmtime.dev/c-api/
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

from rapsqlite._wasm.c_functions import FUNCREF, TABLE, BareImport, Func, Value, WasmtimeError
from rapsqlite.errors import OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite._wasm.c_functions import Exports

NAME = "__indirect_function_table"


class Table:
    """The table of one guest. Use on its own thread, including from a host function."""

    def __init__(self, exports: Exports) -> None:
        self._c = exports.c
        self._exports = exports
        self._entrances: list[object] = []  # the store keeps only their addresses

    def size(self) -> int:
        """Return the number of its slots."""
        return int(self._c.wasmtime_table_size(self._exports.context, self._exports.item(NAME, TABLE)))

    def grow(self, slots: int, function: Any = None) -> int:
        """Return the index of the new slots, filled with ``function``; they can never be given back.

        Raises OutOfMemoryError if it has reached its limit, KeyError if the guest has no table.
        """
        filling, index = Value(kind=FUNCREF), ctypes.c_uint64()
        if function is not None:
            ctypes.memmove(ctypes.byref(filling, Value.of.offset), function, ctypes.sizeof(Func))
        table = self._exports.item(NAME, TABLE)
        try:
            self._c.check(
                self._c.wasmtime_table_grow(
                    self._exports.context, table, slots, ctypes.byref(filling), ctypes.byref(index)
                )
            )
        except WasmtimeError:
            raise OutOfMemoryError("the function table is full: too many extensions are loaded") from None
        return index.value

    def add(self, address: int, argument: int) -> int:
        """Add the C function at ``address``, whose first argument is ``argument``; 0 if there is no space."""
        kind, function = self._c.function_type("", ""), Func()
        self._c.wasmtime_func_new_unchecked(
            self._exports.context, kind, address, argument, None, ctypes.byref(function)
        )
        try:
            return self.grow(1, ctypes.byref(function))
        except (KeyError, OutOfMemoryError):
            return 0  # there is no table, or it has reached the module's maximum

    def add_entrance(self, enter: Callable[[], int]) -> int:
        """Add a Python function, which must not raise; 0 if there is no space."""
        entrance = BareImport(enter)
        self._entrances.append(entrance)
        return self.add(ctypes.cast(entrance, ctypes.c_void_p).value or 0, 0)
