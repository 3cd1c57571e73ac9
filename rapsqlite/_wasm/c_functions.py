"""The part of wasmtime's C API that the package uses: prototypes, structures, error messages.

The shared library of the ``wasmtime`` package is bound directly. Importing the package would take half as long as
everything else in a first connection, because it declares two thousand functions, and each call through its Python
layer costs 12 to 60 µs. tests/guest/test_binding.py compares every prototype and structure with the package's own.
https://docs.wasmtime.dev/c-api/

Handles are addresses. Functions bind when they are first used, and all release the GIL while they run.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rapsqlite._platform import system

if TYPE_CHECKING:
    from collections.abc import Callable

ValuesPtr: type[ctypes._Pointer[ctypes.c_int64]] = ctypes.POINTER(ctypes.c_int64)
BareImport = ctypes.CFUNCTYPE(ctypes.c_size_t)  # ignores its arguments
Import = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_size_t, ctypes.c_size_t, ValuesPtr, ctypes.c_size_t)

FUNCTION, GLOBAL, TABLE, MEMORY = range(4)  # kinds of imports and exports
I32, I64 = range(2)  # kinds of values
FUNCREF = 5
_CONST, _VAR = range(2)


class Func(ctypes.Structure):
    """``wasmtime_func_t``: a function of one store."""

    _fields_ = (("store_id", ctypes.c_uint64), ("private", ctypes.c_void_p))


class Extern(ctypes.Structure):
    """``wasmtime_extern_t``: an export of an instance. The item itself is at `ITEM`."""

    _fields_ = (("kind", ctypes.c_uint8), ("of", ctypes.c_uint64 * 3))


class Value(ctypes.Structure):
    """``wasmtime_val_t``: one value; an i32 is in the low half of the first word."""

    _fields_ = (("kind", ctypes.c_uint8), ("of", ctypes.c_uint64 * 3))


class Instance(ctypes.Structure):
    """``wasmtime_instance_t``: an instance in one store."""

    _fields_ = (("store_id", ctypes.c_uint64), ("private", ctypes.c_size_t))


class Vector(ctypes.Structure):
    """Any vector type: ``wasm_byte_vec_t``, ``wasm_importtype_vec_t`` and so on."""

    _fields_ = (("size", ctypes.c_size_t), ("data", ctypes.c_void_p))


ITEM = Extern.of.offset

_bool, _u8, _int, _i64, _size = ctypes.c_bool, ctypes.c_uint8, ctypes.c_int, ctypes.c_int64, ctypes.c_size_t
_pointer, _text = ctypes.c_void_p, ctypes.c_char_p

PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "wasi_config_new": (_pointer,),
    "wasi_config_delete": (None, _pointer),
    "wasi_config_set_stdout_file": (_bool, _pointer, _text),
    "wasm_byte_vec_delete": (None, _pointer),
    "wasm_config_new": (_pointer,),
    "wasm_engine_delete": (None, _pointer),
    "wasm_engine_new_with_config": (_pointer, _pointer),
    "wasm_exporttype_name": (_pointer, _pointer),
    "wasm_exporttype_type": (_pointer, _pointer),
    "wasm_exporttype_vec_delete": (None, _pointer),
    "wasm_externtype_kind": (_u8, _pointer),
    "wasm_functype_delete": (None, _pointer),
    "wasm_functype_new": (_pointer, _pointer, _pointer),
    "wasm_functype_params": (_pointer, _pointer),
    "wasm_functype_results": (_pointer, _pointer),
    "wasm_globaltype_delete": (None, _pointer),
    "wasm_globaltype_new": (_pointer, _pointer, _u8),
    "wasm_importtype_module": (_pointer, _pointer),
    "wasm_importtype_name": (_pointer, _pointer),
    "wasm_importtype_type": (_pointer, _pointer),
    "wasm_importtype_vec_delete": (None, _pointer),
    "wasm_trap_delete": (None, _pointer),
    "wasm_trap_message": (None, _pointer, _pointer),
    "wasm_valtype_delete": (None, _pointer),
    "wasm_valtype_new": (_pointer, _u8),
    "wasm_valtype_vec_new": (None, _pointer, _size, _pointer),
    # The wasmtime package does not declare this one. It has the same form as the next.
    "wasmtime_config_async_stack_size_set": (None, _pointer, ctypes.c_uint64),
    "wasmtime_config_max_wasm_stack_set": (None, _pointer, _size),
    "wasmtime_config_gc_support_set": (None, _pointer, _bool),
    "wasmtime_config_host_memory_creator_set": (None, _pointer, _pointer),
    "wasmtime_config_macos_use_mach_ports_set": (None, _pointer, _bool),
    "wasmtime_config_memory_may_move_set": (None, _pointer, _bool),
    "wasmtime_config_memory_reservation_set": (None, _pointer, ctypes.c_uint64),
    "wasmtime_config_native_unwind_info_set": (None, _pointer, _bool),
    "wasmtime_config_parallel_compilation_set": (None, _pointer, _bool),
    "wasmtime_config_wasm_exceptions_set": (None, _pointer, _bool),
    "wasmtime_config_wasm_threads_set": (None, _pointer, _bool),
    "wasmtime_context_set_wasi": (_pointer, _pointer, _pointer),
    "wasmtime_error_delete": (None, _pointer),
    "wasmtime_error_message": (None, _pointer, _pointer),
    "wasmtime_error_new": (_pointer, _text),
    "wasmtime_func_call_unchecked": (_pointer, _pointer, _pointer, _pointer, _size, _pointer),
    "wasmtime_func_new_unchecked": (None, _pointer, _pointer, _pointer, _pointer, _pointer, _pointer),
    "wasmtime_func_type": (_pointer, _pointer, _pointer),
    "wasmtime_global_get": (None, _pointer, _pointer, _pointer),
    "wasmtime_global_new": (_pointer, _pointer, _pointer, _pointer, _pointer),
    "wasmtime_global_set": (_pointer, _pointer, _pointer, _pointer),
    "wasmtime_instance_export_get": (_bool, _pointer, _pointer, _text, _size, _pointer),
    "wasmtime_instance_new": (_pointer, _pointer, _pointer, _pointer, _size, _pointer, _pointer),
    "wasmtime_instance_pre_delete": (None, _pointer),
    "wasmtime_instance_pre_instantiate": (_pointer, _pointer, _pointer, _pointer, _pointer),
    "wasmtime_linker_define_func_unchecked": (
        *(_pointer, _pointer, _text, _size, _text, _size),
        *(_pointer, _pointer, _pointer, _pointer),
    ),
    "wasmtime_linker_define_wasi": (_pointer, _pointer),
    "wasmtime_linker_delete": (None, _pointer),
    "wasmtime_linker_instantiate_pre": (_pointer, _pointer, _pointer, _pointer),
    "wasmtime_linker_new": (_pointer, _pointer),
    "wasmtime_memory_data": (_pointer, _pointer, _pointer),
    "wasmtime_memory_data_size": (_size, _pointer, _pointer),
    "wasmtime_module_delete": (None, _pointer),
    "wasmtime_module_deserialize": (_pointer, _pointer, _text, _size, _pointer),
    "wasmtime_module_deserialize_file": (_pointer, _pointer, _text, _pointer),
    "wasmtime_module_exports": (None, _pointer, _pointer),
    "wasmtime_module_imports": (None, _pointer, _pointer),
    "wasmtime_module_new": (_pointer, _pointer, _text, _size, _pointer),
    "wasmtime_module_serialize": (_pointer, _pointer, _pointer),
    "wasmtime_store_context": (_pointer, _pointer),
    "wasmtime_store_delete": (None, _pointer),
    "wasmtime_store_limiter": (None, _pointer, _i64, _i64, _i64, _i64, _i64),
    "wasmtime_store_new": (_pointer, _pointer, _pointer, _pointer),
    "wasmtime_table_grow": (_pointer, _pointer, _pointer, ctypes.c_uint64, _pointer, _pointer),
    "wasmtime_table_size": (ctypes.c_uint64, _pointer, _pointer),
    "wasmtime_trap_new": (_pointer, _text, _size),
    "wasmtime_wat2wasm": (_pointer, _text, _size, _pointer),
    "wasmtime_wasm_valtype_equal": (_bool, _pointer, _pointer),
}
"""Result and parameters by name."""


class WasmtimeError(Exception):
    """An error from wasmtime, or a trap while a module was instantiated."""


class Item(NamedTuple):
    """An import or export of a module; ``module`` is "" for an export."""

    module: str
    name: str
    kind: int


class Owned:
    """An object of the library, deleted with the last reference to this wrapper.

    One that is still referred to when the interpreter ends is left to the end of the process. Modules are emptied
    then, in an order that nobody chooses, and deleting an object can call callbacks that are already gone.
    """

    __slots__ = ("_delete", "address")

    def __init__(self, address: int, delete: Callable[[int], object]) -> None:
        self.address: int = address
        self._delete = delete

    def delete(self) -> None:
        """Delete it now. Idempotent."""
        address, self.address = self.address, 0
        if address:
            self._delete(address)

    def __del__(self, _is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not _is_finalizing():
            self.delete()


class CFunctions:
    """The functions in `PROTOTYPES`, by name."""

    def __init__(self, path: str) -> None:
        self.path: str = path
        self._library = ctypes.CDLL(path)
        self._function_types: dict[str, Owned] = {}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in PROTOTYPES:
            raise AttributeError(name)
        result, *parameters = PROTOTYPES[name]
        function = self._library[name]
        function.restype = result
        function.argtypes = parameters
        setattr(self, name, function)
        return function

    def owned(self, address: int, kind: str) -> Owned:
        """Return a new, owned object of this kind, which is the start of its functions' names."""
        return Owned(address, getattr(self, f"{kind}_delete"))

    def check(self, error: int | None, trap: ctypes.c_void_p | None = None) -> None:
        """Raise WasmtimeError for an error or a trap, which are consumed."""
        if error or (trap is not None and trap.value):
            raise WasmtimeError(self.describe(error, trap))

    def describe(self, error: int | None, trap: ctypes.c_void_p | None) -> str:
        """Return the message of an error, or else of a trap; both are consumed."""
        text = Vector()
        if error:
            self.wasmtime_error_message(error, ctypes.byref(text))
            self.wasmtime_error_delete(error)
        else:
            self.wasm_trap_message(trap, ctypes.byref(text))
            self.wasm_trap_delete(trap)
        return self.take_bytes(text).rstrip(b"\0").decode("utf-8", "replace")

    def take_bytes(self, vector: Vector) -> bytes:
        """Return the content of a byte vector, which is consumed."""
        content = ctypes.string_at(vector.data, vector.size)
        self.wasm_byte_vec_delete(ctypes.byref(vector))
        return content

    def function_type(self, params: str, result: str) -> int:
        """Return a function type from one letter per value: i is i32, I is i64. This object owns it."""
        key = params + ":" + result
        if key not in self._function_types:
            # Another thread may do the same: a type that is stored stays, because it may be in use.
            self._function_types.setdefault(key, self._new_function_type(params, result))
        return self._function_types[key].address

    def _new_function_type(self, params: str, result: str) -> Owned:
        vectors = Vector(), Vector()
        for vector, letters in zip(vectors, (params, result), strict=True):
            kinds = [self.wasm_valtype_new(I64 if letter == "I" else I32) for letter in letters]
            self.wasm_valtype_vec_new(ctypes.byref(vector), len(kinds), (ctypes.c_void_p * len(kinds))(*kinds))
        return self.owned(self.wasm_functype_new(*map(ctypes.byref, vectors)), "wasm_functype")

    def global_type(self, *, mutable: bool) -> Owned:
        """Return the type of a global i32."""
        kind = self.wasm_globaltype_new(self.wasm_valtype_new(I32), _VAR if mutable else _CONST)
        return self.owned(kind, "wasm_globaltype")

    def are_i32(self, vector: int, count: int) -> bool:
        """Return True if the parameters or results at this address are so many of the type i32."""
        kinds = _elements(Vector.from_address(vector))
        # Asking for their kinds would end the process if one is a vector or a typed reference.
        i32 = self.owned(self.wasm_valtype_new(I32), "wasm_valtype")
        return len(kinds) == count and all(self.wasmtime_wasm_valtype_equal(each, i32.address) for each in kinds)

    def imports(self, module: int) -> list[Item]:
        """Return the imports of a module."""
        vector = Vector()
        self.wasmtime_module_imports(module, ctypes.byref(vector))
        found = [
            Item(
                _text_at(self.wasm_importtype_module(each)),
                _text_at(self.wasm_importtype_name(each)),
                self.wasm_externtype_kind(self.wasm_importtype_type(each)),
            )
            for each in _elements(vector)
        ]
        self.wasm_importtype_vec_delete(ctypes.byref(vector))
        return found

    def exports(self, module: int) -> list[Item]:
        """Return the exports of a module."""
        vector = Vector()
        self.wasmtime_module_exports(module, ctypes.byref(vector))
        found = [
            Item(
                "",
                _text_at(self.wasm_exporttype_name(each)),
                self.wasm_externtype_kind(self.wasm_exporttype_type(each)),
            )
            for each in _elements(vector)
        ]
        self.wasm_exporttype_vec_delete(ctypes.byref(vector))
        return found


class Exports:
    """The exports of one instance. Use on its thread, while its store exists."""

    __slots__ = ("_instance", "c", "context")

    def __init__(self, c: CFunctions, context: int, instance: Instance) -> None:
        self.c: CFunctions = c
        self.context: int = context
        self._instance = instance

    def find(self, name: str, kind: int) -> Extern | None:
        """Return an export, or None if none has this name and kind."""
        encoded, found = name.encode(), Extern()
        is_there = self.c.wasmtime_instance_export_get(
            self.context, ctypes.byref(self._instance), encoded, len(encoded), ctypes.byref(found)
        )
        return found if is_there and found.kind == kind else None

    def item(self, name: str, kind: int) -> Any:
        """Return an export as C functions take it; KeyError if none has this name and kind."""
        found = self.find(name, kind)
        if found is None:
            raise KeyError(name)
        return ctypes.byref(found, ITEM)


def reason_of(exc: BaseException | None) -> str:
    """Return wasmtime's message without the backtrace: the error and its cause."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    whole = [line for line in (lines[:1] + lines[-1:]) if not line.startswith("error while executing")]
    return ": ".join(dict.fromkeys(whole))


def library_path() -> str:
    """Return the shared library of the ``wasmtime`` package without importing the package."""
    # Only a first connection needs it.
    from importlib.util import find_spec

    spec = find_spec("wasmtime")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'wasmtime'", name="wasmtime")
    folder, name = system.library_of_wasmtime()
    path = Path(spec.submodule_search_locations[0], folder, name)
    if not path.is_file():
        raise ImportError(f"wasmtime has no library for {folder}: {path} is missing")
    return str(path)


def _elements(vector: Vector) -> list[int]:
    return list((ctypes.c_void_p * vector.size).from_address(vector.data)) if vector.size else []


def _text_at(address: int) -> str:
    text = Vector.from_address(address)
    return ctypes.string_at(text.data, text.size).decode("utf-8", "replace")
