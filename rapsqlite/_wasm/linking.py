"""Links a side module into a running guest: the part of extensions that deals with wasmtime's objects.

A side module has no private memory, stack or table. It gets a part of the engine's, and the listed C functions of
the engine; it gets none of the host's functions. So it acts only as the guest, whose bytes are untrusted
and whose limits apply. Everything here runs on the guest's thread, inside a host function. None of the module's code
runs meanwhile, not even its start function (`dylink.Side`): the guest calls that later, where it can be interrupted and
killed. https://github.com/WebAssembly/tool-conventions/blob/main/DynamicLinking.md
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rapsqlite._constants import EXTENSION_FUNCTIONS
from rapsqlite._wasm.dylink import START
from rapsqlite.errors import NotSupportedError, OperationalError, OutOfMemoryError

if TYPE_CHECKING:
    import threading

    from rapsqlite._wasm.dylink import Needs

TABLE = "__indirect_function_table"
_STACK = "__stack_pointer"
_SHARED = {"memory": "MemoryType", TABLE: "TableType"}
_GLOBALS = frozenset({_STACK, "__memory_base", "__table_base"})
_ENTRY_TYPE = (["i32"] * 3, ["i32"])  # sqlite3*, char**, sqlite3_api_routines*: int
_START_TYPE: tuple[list[str], list[str]] = ([], [])
_MOST_NAMES, _MOST_OF_A_NAME = 20, 100  # in a message
_STARTS = (START, "__wasm_apply_data_relocs", "__wasm_call_ctors")


class Library:
    """One side module for one guest: checked, then linked, then used for its entry points."""

    def __init__(
        self, wasmtime: Any, store: Any, engine_exports: Any, module: Any, needs: Needs, lock: threading.Lock
    ) -> None:
        """Check the imports of the compiled ``module``; raises NotSupportedError for an import that does not exist.

        ``lock`` guards wasmtime's Python layer.
        """
        self._wasmtime = wasmtime
        self._store = store
        self._engine = engine_exports
        self._module = module
        self._lock = lock
        self._exports: Any = None
        self.needs = needs
        self._exported = {export.name: type(export.type).__name__ for export in self._module.exports}
        missing = [
            f"{wanted.module}.{wanted.name}"[:_MOST_OF_A_NAME]
            for wanted in self._module.imports
            if not self._has(wanted.module, wanted.name, type(wanted.type).__name__)
        ]
        if missing:
            more = f" and {len(missing) - _MOST_NAMES} more" if len(missing) > _MOST_NAMES else ""
            raise NotSupportedError(
                f"it imports {', '.join(missing[:_MOST_NAMES])}{more}, which the sandbox does not provide: "
                "docs/extensions.md lists what extensions may import"
            )

    def _has(self, module: str, name: str, kind: str) -> bool:
        """Return True if it can be imported; the linker checks the details of its type."""
        if module == "env":
            if kind == "FuncType":
                return name in EXTENSION_FUNCTIONS
            return _SHARED.get(name) == kind or (name in _GLOBALS and kind == "GlobalType")
        if kind != "GlobalType":
            return False
        if module == "GOT.mem":
            return self._exported.get(name) == "GlobalType"
        return module == "GOT.func" and (name in EXTENSION_FUNCTIONS or self._exported.get(name) == "FuncType")

    def link(self, memory_base: int) -> list[int]:
        """Put the module's data at ``memory_base`` and its functions into the table.

        Returns the table indexes of the functions to call next, in this order, 0 for none: its start function, the one
        that relocates pointers in its data, and its constructors. Raises OperationalError if it cannot be linked.
        """
        try:
            with self._lock:
                return self._link(memory_base)
        except (self._wasmtime.WasmtimeError, self._wasmtime.Trap) as exc:
            raise OperationalError(f"it cannot be linked: {reason_of(exc)}") from None

    def _link(self, memory_base: int) -> list[int]:
        table_base = self._reserve_table()
        offsets: dict[tuple[str, str], Any] = {}
        bases = {"__memory_base": memory_base, "__table_base": table_base}
        imports = []
        for wanted in self._module.imports:
            if wanted.module != "env":
                item = offsets[wanted.module, wanted.name] = self._global(0, mutable=True)
            elif wanted.name in bases:
                item = self._global(bases[wanted.name], mutable=False)
            else:
                item = self._engine[wanted.name]
            imports.append(item)
        self._exports = self._wasmtime.Instance(self._store, self._module, imports).exports(self._store)
        for (module, name), item in offsets.items():
            item.set_value(self._store, self._address_of(module, name, memory_base))
        return [self._function(name, _START_TYPE) for name in _STARTS]

    def _reserve_table(self) -> int:
        """Return the table index for the module's functions; the slots before it are padding for the alignment."""
        padding = -int(self._engine[TABLE].size(self._store)) % self.needs.table_alignment
        return self._grow_table(padding + self.needs.table_slots) + padding

    def _grow_table(self, slots: int, function: Any = None) -> int:
        """Return the index of the new slots, filled with ``function``; they can never be given back."""
        try:
            return int(self._engine[TABLE].grow(self._store, slots, function))
        except self._wasmtime.WasmtimeError:
            raise OutOfMemoryError("the function table is full: too many extensions are loaded") from None

    def _global(self, value: int, *, mutable: bool) -> Any:
        kind = self._wasmtime.GlobalType(self._wasmtime.ValType.i32(), mutable)
        return self._wasmtime.Global(self._store, kind, value)

    def _address_of(self, module: str, name: str, memory_base: int) -> int:
        if module == "GOT.func":
            function = self._exports[name] if self._exported.get(name) == "FuncType" else self._engine[name]
            return self._grow_table(1, function)
        offset = self._exports[name].value(self._store)
        if not isinstance(offset, int):
            raise OperationalError(f"its export {name} is not an address")
        return memory_base + int(offset)

    def _function(self, name: str, wanted: tuple[list[str], list[str]]) -> int:
        """Return the table index of the exported function, 0 if there is none; OperationalError for another type."""
        if self._exported.get(name) != "FuncType":
            return 0
        function = self._exports[name]
        kind = function.type(self._store)
        if ([str(param) for param in kind.params], [str(result) for result in kind.results]) != wanted:
            raise OperationalError(f"its function {name} has the wrong parameters or result")
        return self._grow_table(1, function)

    def entry_point(self, name: str) -> int:
        """Return the table index of this entry point of an extension, 0 if there is none."""
        with self._lock:
            return self._function(name, _ENTRY_TYPE)


def reason_of(exc: BaseException | None) -> str:
    """Return wasmtime's message without the backtrace: the error and its cause."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    whole = [line for line in (lines[:1] + lines[-1:]) if not line.startswith("error while executing")]
    return ": ".join(dict.fromkeys(whole))
