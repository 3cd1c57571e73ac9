"""What ``runtime`` relies on below wasmtime's public interface, so that no release changes it unnoticed."""

from __future__ import annotations

import ctypes
import importlib
import subprocess
import sys
from typing import Any

import pytest
import wasmtime
from wasmtime import _bindings, _ffi

from rapsqlite import runtime
from rapsqlite._wasm import c_functions
from rapsqlite.errors import InternalError
from tests.guest.played import module

_POINTERS = (ctypes._Pointer, type(ctypes.CFUNCTYPE(None)(0)).__mro__[1], ctypes.c_void_p, ctypes.c_char_p)
_NOT_IN_THE_PACKAGE = {"wasmtime_config_async_stack_size_set": "wasmtime_config_max_wasm_stack_set"}


def _form(kind: Any) -> tuple[str, int]:
    """What the calling convention distinguishes in a type: nothing, an address, or a number's size and sign."""
    if kind is None:
        return "nothing", 0
    if issubclass(kind, _POINTERS):
        return "address", ctypes.sizeof(kind)
    name = "bool" if kind is ctypes.c_bool else "signed" if kind(-1).value == -1 else "unsigned"
    return name, ctypes.sizeof(kind)


@pytest.mark.parametrize("name", sorted(c_functions.PROTOTYPES))
def test_prototype_is_the_one_that_the_package_declares(name: str) -> None:
    """The library is called without the package: a wrong prototype would corrupt memory rather than raise."""
    result, *parameters = c_functions.PROTOTYPES[name]
    declared = getattr(_bindings, "_" + _NOT_IN_THE_PACKAGE.get(name, name))

    assert hasattr(_ffi.dll, name)
    assert _form(result) == _form(declared.restype)
    assert [_form(each) for each in parameters] == [_form(each) for each in declared.argtypes]


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (c_functions.Func, _ffi.wasmtime_func_t),
        (c_functions.Extern, _ffi.wasmtime_extern_t),
        (c_functions.Value, _ffi.wasmtime_val_t),
        (c_functions.Instance, _ffi.wasmtime_instance_t),
        (c_functions.Vector, _ffi.wasm_byte_vec_t),
        (c_functions.Vector, _ffi.wasm_importtype_vec_t),
        (c_functions.Vector, _ffi.wasm_exporttype_vec_t),
        (c_functions.Vector, _ffi.wasm_valtype_vec_t),
    ],
)
def test_structure_has_the_layout_that_the_package_declares(ours: Any, theirs: Any) -> None:
    def layout(structure: Any) -> list[tuple[int, int]]:
        fields = [getattr(structure, name) for name, *_ in structure._fields_]
        return [(field.offset, field.size) for field in fields]

    assert (ctypes.sizeof(ours), ctypes.alignment(ours)) == (ctypes.sizeof(theirs), ctypes.alignment(theirs))
    assert layout(ours) == layout(theirs)


def test_fields_of_an_export_are_at_the_expected_offsets() -> None:
    for name in ("func", "global_", "table", "memory"):
        assert _ffi.wasmtime_extern_t.of.offset + getattr(_ffi.wasmtime_extern_union_t, name).offset == c_functions.ITEM
    for name in ("i32", "i64", "funcref"):
        assert getattr(_ffi.wasmtime_valunion_t, name).offset == 0
    assert ctypes.sizeof(_ffi.wasmtime_val_raw_t) == 2 * ctypes.sizeof(ctypes.c_int64)


def test_kind_numbers_match_the_package() -> None:
    kinds = [_ffi.WASMTIME_EXTERN_FUNC, _ffi.WASMTIME_EXTERN_GLOBAL, _ffi.WASMTIME_EXTERN_TABLE]
    kinds += [_ffi.WASMTIME_EXTERN_MEMORY, _ffi.WASMTIME_I32, _ffi.WASMTIME_I64, _ffi.WASMTIME_FUNCREF]
    ours = [c_functions.FUNCTION, c_functions.GLOBAL, c_functions.TABLE, c_functions.MEMORY]
    ours += [c_functions.I32, c_functions.I64, c_functions.FUNCREF]

    assert [kind.value for kind in kinds] == ours
    assert (_ffi.WASM_I32.value, _ffi.WASM_I64.value) == (c_functions.I32, c_functions.I64)
    assert (_ffi.WASM_CONST.value, _ffi.WASM_VAR.value) == (c_functions._CONST, c_functions._VAR)


def test_callbacks_have_the_form_that_the_package_declares() -> None:
    pairs: list[tuple[Any, Any]] = [
        (c_functions.Import, _bindings.wasmtime_func_unchecked_callback_t),
    ]
    for ours, theirs in pairs:
        assert ctypes.sizeof(ours._restype_) == ctypes.sizeof(theirs._restype_)
        assert [ctypes.sizeof(each) for each in ours._argtypes_] == [ctypes.sizeof(each) for each in theirs._argtypes_]


def test_library_is_the_one_that_the_package_loads() -> None:
    assert c_functions.library_path() == str(_ffi.filename)


def test_kinds_of_imports_and_exports_are_read_without_the_package() -> None:
    wasm = wasmtime.wat2wasm("""
    (module
      (import "a" "f" (func (param i64)))
      (import "b" "g" (global (mut i32)))
      (table (export "t") 1 funcref)
      (memory (export "m") 1)
      (func (export "é")))
    """)
    engine = runtime.Engine(module("(i32.const 1)"))
    compiled = engine._compile(bytes(wasm))

    assert engine.c.imports(compiled.address) == [("a", "f", c_functions.FUNCTION), ("b", "g", c_functions.GLOBAL)]
    assert engine.c.exports(compiled.address) == [
        ("", "t", c_functions.TABLE),
        ("", "m", c_functions.MEMORY),
        ("", "é", c_functions.FUNCTION),
    ]


def test_function_type_survives_when_several_threads_create_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a guest uses the type that another guest's thread has just replaced, and thereby deleted."""
    c = runtime.Engine(module("(i32.const 1)")).c
    real = c._new_function_type
    made: list[int] = []

    def overtaken(params: str, result: str) -> c_functions.Owned:
        if not made:
            made.append(0)
            made[0] = c.function_type(params, result)  # as another thread does meanwhile
        return real(params, result)

    monkeypatch.setattr(c, "_new_function_type", overtaken)

    assert c.function_type("iIiI", "I") == made[0] == c.function_type("iIiI", "I")


def test_first_connection_imports_little() -> None:
    """Importing takes two thirds of the time to the first row; the package's own declarations took a third of it."""
    program = (
        "import asyncio, sys\n"
        "before = set(sys.modules)\n"
        "import rapsqlite\n"
        "async def main():\n"
        "    async with rapsqlite.connect(':memory:') as conn:\n"
        "        await conn.fetch_all('SELECT 1')\n"
        "asyncio.run(main())\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    command = [sys.executable, "-c", program]
    subprocess.run(command, check=True, capture_output=True)  # fills the cache, for which it imports more
    imported = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()

    others = [name for name in imported if name.partition(".")[0] not in ("rapsqlite", "msgspec")]
    unwanted = {"wasmtime", "shutil", "tempfile", "dataclasses", "inspect", "anyio", "trio", "importlib.metadata"}
    assert not unwanted & set(others)
    assert not {"rapsqlite._wasm.linking", "rapsqlite._wasm.dylink"} & set(imported)
    assert len(others) <= 60
    assert len(imported) - len(others) <= 165


def test_error_names_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "wasmtime", raising=False)
    monkeypatch.setattr(sys, "path", [])
    importlib.invalidate_caches()

    with pytest.raises(ModuleNotFoundError, match="wasmtime"):
        c_functions.library_path()


def test_memory_of_a_guest_that_has_ended_is_never_read() -> None:
    instance = runtime.Instance(runtime.Engine(module("(i32.const 1)")), {})
    instance.close()

    with pytest.raises(InternalError, match="ended"):
        instance.memory.view(1 << 30, 8)


def test_import_gets_arguments_of_both_widths_and_returns_its_result() -> None:
    seen: list[tuple[int, ...]] = []

    def write(*arguments: int) -> int:
        seen.append(arguments)
        return 7

    wasm = wasmtime.wat2wasm("""
    (module
      (import "rapsqlite" "file_write" (func $write (param i32 i32 i32 i64) (result i32)))
      (memory (export "memory") 1)
      (func (export "run") (result i32)
        (call $write (i32.const 1) (i32.const -8) (i32.const 3) (i64.const -5000000000))))
    """)
    instance = runtime.Instance(runtime.Engine(bytes(wasm)), {"file_write": write})

    assert instance.call("run") == 7
    assert seen == [(1, 0xFFFF_FFF8, 3, -5_000_000_000)]
    assert instance.counts["file_write"] == 1
    instance.close()


def test_memory_beyond_the_limit_is_refused_to_the_guest() -> None:
    wasm = wasmtime.wat2wasm("""
    (module (memory (export "memory") 1)
      (func (export "grow") (result i32) (memory.grow (i32.const 16))))
    """)
    engine = runtime.Engine(bytes(wasm))
    small = runtime.Instance(engine, {}, memory_limit_bytes=4 << 16)
    large = runtime.Instance(engine, {})

    assert small.call("grow") == 0xFFFF_FFFF
    assert large.call("grow") == 1
    assert len(large.memory.view(16 << 16, 8)) == 8
    small.close()
    large.close()


def test_exception_in_an_import_traps_the_guest_and_is_the_cause() -> None:
    def park(_reason: int) -> int:
        raise ZeroDivisionError("on purpose")

    instance = runtime.Instance(runtime.Engine(module("(call $park (i32.const 0))")), {"park": park})

    with pytest.raises(runtime.TrapError, match="host function park failed") as caught:
        instance.call("rapsqlite_run")

    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    instance.close()
