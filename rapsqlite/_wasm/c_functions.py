"""wasmtime's C functions that are called directly, and the types of the callbacks they take.

tests/guest/test_binding.py pins their signatures: https://docs.wasmtime.dev/c-api/
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ValuesPtr: type[ctypes._Pointer[ctypes.c_int64]] = ctypes.POINTER(ctypes.c_int64)
EpochCallback = ctypes.CFUNCTYPE(
    ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint64), ctypes.POINTER(ctypes.c_uint8)
)
EPOCH_CONTINUE = 0  # WASMTIME_UPDATE_DEADLINE_CONTINUE
BareImport = ctypes.CFUNCTYPE(ctypes.c_size_t)  # ignores its arguments
Import = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_size_t, ctypes.c_size_t, ValuesPtr, ctypes.c_size_t)
_POINTER, _SIZE, _TEXT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p


class CFunctions:
    """The functions of one loaded library. All release the GIL while they run."""

    call_unchecked: Callable[..., int | None]
    define_unchecked: Callable[..., int | None]
    new_unchecked: Callable[..., int | None]
    set_epoch_callback: Callable[..., int | None]
    set_async_stack_size: Callable[..., int | None]

    def __init__(self, library: ctypes.CDLL) -> None:
        def bind(name: str, result: object, *parameters: object) -> Callable[..., int | None]:
            return ctypes.CFUNCTYPE(result, *parameters)((name, library))  # type: ignore[arg-type]

        self.call_unchecked = bind(
            "wasmtime_func_call_unchecked", _POINTER, _POINTER, _POINTER, _POINTER, _SIZE, _POINTER
        )
        self.define_unchecked = bind(
            "wasmtime_linker_define_func_unchecked",
            *(_POINTER, _POINTER, _TEXT, _SIZE, _TEXT, _SIZE, _POINTER, _POINTER, _POINTER, _POINTER),
        )
        self.new_unchecked = bind(
            "wasmtime_func_new_unchecked", None, _POINTER, _POINTER, _POINTER, _POINTER, _POINTER, _POINTER
        )
        self.set_epoch_callback = bind(
            "wasmtime_store_epoch_deadline_callback", None, _POINTER, EpochCallback, _POINTER, _POINTER
        )
        self.set_async_stack_size = bind("wasmtime_config_async_stack_size_set", None, _POINTER, ctypes.c_uint64)
