"""Links a side module into a running guest: the part of extensions that deals with wasmtime's objects.

A side module has no private memory, stack or table. It gets a part of the engine's, and the listed C functions of
the engine; it gets none of the host's functions. So it acts only as the guest, whose bytes are untrusted
and whose limits apply. Everything here runs on the guest's thread, inside a host function. None of the module's code
runs meanwhile, not even its start function (`dylink.Side`): the guest calls that later, where it can be interrupted and
killed. https://github.com/WebAssembly/tool-conventions/blob/main/DynamicLinking.md
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from rapsqlite._constants import EXTENSION_FUNCTIONS
from rapsqlite._wasm.c_functions import (
    FUNCTION,
    GLOBAL,
    I32,
    ITEM,
    MEMORY,
    TABLE,
    Exports,
    Extern,
    Instance,
    Value,
    WasmtimeError,
    reason_of,
)
from rapsqlite._wasm.dylink import START
from rapsqlite._wasm.table import NAME as TABLE_NAME
from rapsqlite.errors import NotSupportedError, OperationalError

if TYPE_CHECKING:
    from rapsqlite._wasm.c_functions import Item
    from rapsqlite._wasm.dylink import Needs
    from rapsqlite._wasm.table import Table

_STACK = "__stack_pointer"
_SHARED = {"memory": MEMORY, TABLE_NAME: TABLE}
_GLOBALS = frozenset({_STACK, "__memory_base", "__table_base"})
_U32 = 0xFFFF_FFFF
_MOST_NAMES, _MOST_OF_A_NAME = 20, 100  # in a message
_STARTS = (START, "__wasm_apply_data_relocs", "__wasm_call_ctors")


class Library:
    """One side module for one guest: checked, then linked, then used for its entry points."""

    def __init__(self, exports: Exports, table: Table, module: int, needs: Needs) -> None:
        """Check the imports of the compiled ``module``; raises NotSupportedError for an import that does not exist.

        ``exports`` and ``table`` are the engine's.
        """
        self._c = exports.c
        self._engine = exports
        self._table = table
        self._module = module
        self._exports: Exports | None = None
        self.needs = needs
        self._exported = {export.name: export.kind for export in self._c.exports(module)}
        self._imports = self._c.imports(module)
        missing = [
            f"{wanted.module}.{wanted.name}"[:_MOST_OF_A_NAME] for wanted in self._imports if not self._has(wanted)
        ]
        if missing:
            more = f" and {len(missing) - _MOST_NAMES} more" if len(missing) > _MOST_NAMES else ""
            raise NotSupportedError(
                f"it imports {', '.join(missing[:_MOST_NAMES])}{more}, which the sandbox does not provide: "
                "docs/extensions.md lists what extensions may import"
            )

    def _has(self, wanted: Item) -> bool:
        """Return True if it can be imported; instantiation checks the details of its type."""
        if wanted.module == "env":
            if wanted.kind == FUNCTION:
                return wanted.name in EXTENSION_FUNCTIONS
            return _SHARED.get(wanted.name) == wanted.kind or (wanted.name in _GLOBALS and wanted.kind == GLOBAL)
        if wanted.kind != GLOBAL:
            return False
        if wanted.module == "GOT.mem":
            return self._exported.get(wanted.name) == GLOBAL
        return wanted.module == "GOT.func" and (
            wanted.name in EXTENSION_FUNCTIONS or self._exported.get(wanted.name) == FUNCTION
        )

    def link(self, memory_base: int) -> list[int]:
        """Put the module's data at ``memory_base`` and its functions into the table.

        Returns the table indexes of the functions to call next, in this order, 0 for none: its start function, the one
        that relocates pointers in its data, and its constructors. Raises OperationalError if it cannot be linked.
        """
        try:
            return self._link(memory_base)
        except WasmtimeError as exc:
            raise OperationalError(f"it cannot be linked: {reason_of(exc)}") from None

    def _link(self, memory_base: int) -> list[int]:
        padding = -self._table.size() % self.needs.table_alignment
        table_base = self._table.grow(padding + self.needs.table_slots) + padding
        offsets: list[tuple[Item, Extern]] = []
        bases = {"__memory_base": memory_base, "__table_base": table_base}
        imports = (Extern * len(self._imports))()
        for index, wanted in enumerate(self._imports):
            if wanted.module != "env":
                item = self._global(0, mutable=True)
                offsets.append((wanted, item))
            elif wanted.name in bases:
                item = self._global(bases[wanted.name], mutable=False)
            else:
                item = self._found(wanted)
            imports[index] = item
        self._exports = exports = self._instantiate(imports)
        for wanted, item in offsets:
            value = _i32(self._address_of(exports, wanted, memory_base))
            self._c.check(
                self._c.wasmtime_global_set(self._engine.context, ctypes.byref(item, ITEM), ctypes.byref(value))
            )
        return [self._function(exports, name, 0, 0) for name in _STARTS]

    def _found(self, wanted: Item) -> Extern:
        item = self._engine.find(wanted.name, wanted.kind)
        if item is None:
            raise OperationalError(f"the engine does not export {wanted.name}")
        return item

    def _instantiate(self, imports: ctypes.Array[Extern]) -> Exports:
        instance, trap = Instance(), ctypes.c_void_p()
        error = self._c.wasmtime_instance_new(
            self._engine.context, self._module, imports, len(imports), ctypes.byref(instance), ctypes.byref(trap)
        )
        self._c.check(error, trap)
        return Exports(self._c, self._engine.context, instance)

    def _global(self, value: int, *, mutable: bool) -> Extern:
        made, initial = Extern(kind=GLOBAL), _i32(value)
        kind = self._c.global_type(mutable=mutable)
        self._c.check(
            self._c.wasmtime_global_new(
                self._engine.context, kind.address, ctypes.byref(initial), ctypes.byref(made, ITEM)
            )
        )
        return made

    def _address_of(self, exports: Exports, wanted: Item, memory_base: int) -> int:
        if wanted.module == "GOT.func":
            is_own = self._exported.get(wanted.name) == FUNCTION
            return self._table.grow(1, (exports if is_own else self._engine).item(wanted.name, FUNCTION))
        offset = Value()
        self._c.wasmtime_global_get(exports.context, exports.item(wanted.name, GLOBAL), ctypes.byref(offset))
        if offset.kind != I32:
            raise OperationalError(f"its export {wanted.name} is not an address")
        return memory_base + (int(offset.of[0]) & _U32)

    def _function(self, exports: Exports, name: str, param_count: int, result_count: int) -> int:
        """Return the table index of the exported function, 0 if there is none; OperationalError for another type.

        Its parameters and results must be so many of the type i32.
        """
        function = exports.find(name, FUNCTION)
        if function is None:
            return 0
        c, item = self._c, ctypes.byref(function, ITEM)
        kind = c.owned(c.wasmtime_func_type(exports.context, item), "wasm_functype")
        params, results = c.wasm_functype_params(kind.address), c.wasm_functype_results(kind.address)
        if not (c.are_i32(params, param_count) and c.are_i32(results, result_count)):
            raise OperationalError(f"its function {name} has the wrong parameters or result")
        return self._table.grow(1, item)

    def entry_point(self, name: str) -> int:
        """Return the table index of this entry point of an extension, 0 if there is none.

        In C it is declared as ``int f(sqlite3 *, char **, const sqlite3_api_routines *)``.
        """
        return self._function(self._exports, name, 3, 1) if self._exports is not None else 0


def _i32(value: int) -> Value:
    made = Value(kind=I32)
    made.of[0] = value & _U32
    return made
