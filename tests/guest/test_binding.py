"""What ``runtime`` relies on below wasmtime's public interface, so that no release changes it unnoticed."""

from __future__ import annotations

import ctypes

import pytest
import wasmtime
from wasmtime import _bindings, _ffi

from rapsqlite import runtime
from tests.guest.played import module


def test_c_functions_bound_directly_have_the_signatures_relied_on() -> None:
    call = _bindings._wasmtime_func_call_unchecked
    define = _bindings._wasmtime_linker_define_func_unchecked
    epoch = _bindings._wasmtime_store_epoch_deadline_callback
    max_stack = _bindings._wasmtime_config_max_wasm_stack_set

    assert [kind.__name__ for kind in call.argtypes[:4]] == [
        "LP_wasmtime_context",
        "LP_wasmtime_func",
        "LP_wasmtime_val_raw",
        "c_ulong",
    ]
    assert len(call.argtypes) == 5
    assert len(define.argtypes) == 9
    assert len(epoch.argtypes) == 4
    # wasmtime's Python layer does not bind the asynchronous function of the same form.
    assert len(max_stack.argtypes) == 2
    assert hasattr(_ffi.dll, "wasmtime_config_async_stack_size_set")
    callback = _bindings.wasmtime_func_unchecked_callback_t
    assert callback._restype_ is ctypes.c_size_t
    assert len(callback._argtypes_) == 4


def test_values_and_handles_have_the_sizes_relied_on() -> None:
    assert ctypes.sizeof(_ffi.wasmtime_val_raw_t) == 16
    assert ctypes.sizeof(_ffi.wasmtime_func_t) == 16
    assert ctypes.sizeof(ctypes.c_int64) * 2 == ctypes.sizeof(_ffi.wasmtime_val_raw_t)


def test_private_members_used_are_there() -> None:
    engine = wasmtime.Engine()
    store = wasmtime.Store(engine)
    instance = wasmtime.Instance(
        store, wasmtime.Module(engine, '(module (memory (export "m") 1) (func (export "f")))'), []
    )
    exports = instance.exports(store)

    function, memory = exports["f"], exports["m"]

    assert isinstance(function, wasmtime.Func)
    assert isinstance(function._func, _ffi.wasmtime_func_t)
    assert isinstance(memory, wasmtime.Memory)
    assert isinstance(memory._memory, _ffi.wasmtime_memory_t)
    assert callable(store._context)
    assert callable(wasmtime.WasmtimeError._from_ptr)
    assert callable(wasmtime.Trap._from_ptr)


def test_arguments_of_both_widths_reach_an_import_and_its_result_comes_back() -> None:
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
