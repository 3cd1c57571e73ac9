"""The only module that uses wasmtime: engine, compiled module, store, instance, raw calls.

The process has one engine, module and linker; every guest has its own store and instance and runs on one thread. Two C
functions are bound directly, because wasmtime's Python layer would cost 12 to 60 µs per crossing:
``wasmtime_func_call_unchecked`` to enter the guest and ``wasmtime_linker_define_func_unchecked`` for its imports.
tests/guest/test_binding.py pins their signatures and the private handles that they take.
https://docs.wasmtime.dev/c-api/

wasmtime is imported when the first connection opens, not with the package, because the import takes about 40 ms.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
from pathlib import Path
from threading import get_ident
from typing import TYPE_CHECKING, Any

from rapsqlite._constants import WINDOWS_BYTES, WINDOWS_START
from rapsqlite._files import mapping, module_cache, shortage, sigbus, trap_signals
from rapsqlite._wasm.c_functions import EPOCH_CONTINUE, BareImport, CFunctions, EpochCallback, Import
from rapsqlite._wasm.dylink import read_side
from rapsqlite._wasm.imports import MODULE, SIGNATURES, WASI, WASI_FUNCTIONS
from rapsqlite._wasm.linking import Library
from rapsqlite._wasm.table import Table
from rapsqlite.errors import InternalError, NotSupportedError, OperationalError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

logger: logging.Logger = logging.getLogger("rapsqlite")

SUPPORTED_WASMTIME = (50,)  # major versions whose C interface is pinned by tests
WASM_STACK_BYTES = 16 << 20  # SQLite's own limits need about 8 MiB; only what is used takes memory
THREAD_STACK_BYTES = WASM_STACK_BYTES + (3 << 20)  # of a guest's thread, including host calls
_ADDRESS_SPACE = 1 << 32
_U32 = 0xFFFF_FFFF
_TABLE_LIMIT = 1 << 18  # slots of 8 bytes; the engine's own functions take a few thousand
_CONFIG_NAME = "2"  # change it with every change of ``_configure``: it is part of the cache key


class TrapError(Exception):
    """The guest trapped: its instance must never be entered again."""


class Memory:
    """The guest's linear memory. Its base address never moves, because the engine reserves the whole address space.

    It never grows to ``WINDOWS_START``, where files are mapped. So the bytes of `view` can neither vanish nor reject a
    write, whatever the guest does meanwhile, and nothing in Python touches the addresses of `window`.
    """

    __slots__ = ("_known_size", "_size_now", "_whole", "base")

    def __init__(self, base: int, size_now: Callable[[], int]) -> None:
        self.base: int = base
        self._size_now = size_now
        self._known_size = min(size_now(), WINDOWS_START)
        # One view over the whole reservation; ``view`` returns only parts that are memory by now.
        self._whole = memoryview((ctypes.c_ubyte * _ADDRESS_SPACE).from_address(base)).cast("B")

    def view(self, address: int, length: int) -> memoryview:
        """Return the bytes at ``address``; IndexError if they are not all inside the memory.

        The guest may grow the memory, so beyond the known size only the guest's own thread may ask.
        """
        end = address + length
        if not 0 <= address <= end <= self._known_size:
            self._known_size = min(self._size_now(), WINDOWS_START)
            if not 0 <= address <= end <= self._known_size:
                raise IndexError("the guest passed an address outside its memory")
        return self._whole[address:end]

    def window(self, address: int, length: int) -> memoryview:
        """Return the bytes at ``address`` for mapping a file there; IndexError if they are not all in that region.

        They are not memory: never read or write them here.
        """
        if not WINDOWS_START <= address <= address + length <= WINDOWS_START + WINDOWS_BYTES:
            raise IndexError("the guest passed an address where no file can be mapped")
        return self._whole[address : address + length]


class Instance:
    """One guest: its store, memory and exports. Created and entered on one thread only."""

    def __init__(
        self,
        engine: Engine,
        functions: Mapping[str, Callable[..., int | None]],
        memory_limit_bytes: int = -1,
        output: str = "",
    ) -> None:
        """Instantiate the engine's module; ``functions`` are the imports by name, ``output`` its standard output."""
        self.functions = functions
        # The guest itself counts the ones without arguments.
        self.counts: dict[str, int] = dict.fromkeys((name for name in SIGNATURES if name not in _bare), 0)
        self.failure: BaseException | None = None
        trap_signals.mend()
        self.killed: bool = False
        with _store_lock:
            self._store = engine.new_store(memory_limit_bytes, output)
            self._store.set_epoch_deadline(1)
            self._context = ctypes.cast(self._store._context(), ctypes.c_void_p)
            instance = engine.pre.instantiate(self._store)
            self._exports = instance.exports(self._store)
        self._engine = engine
        self.table: Table = Table(engine.c.new_unchecked, engine.wasmtime, self._store, self._exports, _store_lock)
        raw_memory = self._exports["memory"]._memory
        base = ctypes.cast(engine.ffi.wasmtime_memory_data(self._store._context(), raw_memory), ctypes.c_void_p)
        self.memory: Memory = Memory(base.value or 0, lambda: self._memory_size(raw_memory))

    def _memory_size(self, raw_memory: Any) -> int:
        return int(self._engine.ffi.wasmtime_memory_data_size(self._store._context(), raw_memory))

    def call(self, name: str) -> int:
        """Enter the guest's export ``name``, which takes no arguments, and return its i32 (0 without a result).

        Raises TrapError, with the exception of an import as its cause.
        """
        func = self._exports[name]._func
        values = (ctypes.c_int64 * 2)()
        trap = ctypes.c_void_p()
        thread = threading.get_ident()
        _entered[thread] = self
        for function_name, by_thread in _bare.items():
            by_thread[thread] = self.functions.get(function_name, _missing)
        try:
            error = self._engine.c.call_unchecked(self._context, ctypes.byref(func), values, 1, ctypes.byref(trap))
        finally:
            del _entered[thread]
            for by_thread in _bare.values():
                del by_thread[thread]
        if error or trap.value:
            raise TrapError(self._engine.describe(error, trap)) from self.failure
        return values[0] & _U32

    def give_up(self, exc: BaseException, name: str = "callback") -> int:
        """Return what a host function must return to end the guest because of ``exc``: a trap's address."""
        self.failure = exc
        return self._engine.new_trap(f"host function {name} failed: {type(exc).__name__}")

    def open_library(self, wasm: bytes) -> Library:
        """Return a side module that can be linked into this guest. On its own thread, from a host function.

        Raises the errors of `dylink` and `linking`; OperationalError if it does not compile.
        """
        side = read_side(wasm)
        module = self._engine.side_module(side.wasm)
        return Library(self._engine.wasmtime, self._store, self._exports, module, side.needs, _store_lock)

    def prepare_output(self) -> None:
        """Let wasmtime set up writing to standard outputs, unless it has done so for another guest."""
        global _output_is_prepared
        if not _output_is_prepared and self._exports.get("rapsqlite_prepare_bell") is not None:
            self.call("rapsqlite_prepare_bell")
            _output_is_prepared = True

    def kill(self) -> None:
        """Trap the guest wherever it is, as soon as it runs wasm; the instance is lost. Any thread.

        The last resort, for a guest that does not react to its cancel and stop words.
        """
        self.killed = True
        self._engine.engine.increment_epoch()

    def close(self) -> None:
        """Free the store and everything in it; no view of the memory may be used afterwards."""
        mapping.forget(self.memory.base + WINDOWS_START, WINDOWS_BYTES)
        with _store_lock:
            self._store.close()


class Engine:
    """wasmtime's engine with one compiled module, linked with the imports; shared by all instances."""

    def __init__(self, wasm: bytes) -> None:
        """Load the compiled ``wasm`` from the cache, or compile it (1 to 2 s, without the GIL) and store it there.

        Raises NotSupportedError for a wasmtime version whose C interface is not known to match.
        """
        import wasmtime
        from wasmtime import _ffi

        self.wasmtime = wasmtime
        self.ffi = _ffi
        self.c: CFunctions = CFunctions(_ffi.dll)
        self._epoch_callback = EpochCallback(self._on_epoch)
        sigbus.identify(_ffi.filename)
        self.engine: wasmtime.Engine = wasmtime.Engine(_configure(wasmtime.Config(), self.c))
        trap_signals.note_handlers()
        self._side_modules: dict[str, Any] = {}
        self._compiling = threading.Lock()
        self.module: Any = self._load_module(self._cache_key(wasm), wasm)
        self._callbacks: list[object] = []  # the linker holds only their addresses
        self.pre: Any = self._link()

    def side_module(self, wasm: bytes) -> Any:
        """Return a compiled extension, from the cache if possible; OperationalError if it does not compile."""
        key = self._cache_key(wasm)
        with self._compiling:
            if key not in self._side_modules:
                try:
                    self._side_modules[key] = self._load_module(key, wasm)
                except self.wasmtime.WasmtimeError as exc:
                    raise OperationalError(f"it is not valid: {str(exc).splitlines()[0]}") from None
            return self._side_modules[key]

    def _load_module(self, key: str, wasm: bytes) -> Any:
        compiled = module_cache.load(key)
        if compiled is not None:
            try:
                return self.wasmtime.Module.deserialize_file(self.engine, str(compiled))
            except self.wasmtime.WasmtimeError as exc:
                logger.info("the cached module does not match this wasmtime (%s): compiling it again", exc)
        _check_version()
        module = self.wasmtime.Module(self.engine, wasm)
        module_cache.store(key, bytes(module.serialize()))
        return module

    def _cache_key(self, wasm: bytes) -> str:
        # Imports OpenSSL, which takes 4 ms, so not before the first connection.
        import hashlib

        library = Path(self.ffi.filename).stat()
        build = f"{library.st_size} {library.st_mtime_ns} {self.ffi.filename} {_CONFIG_NAME}".encode()
        return f"{hashlib.sha256(wasm).hexdigest()[:24]}-{hashlib.sha256(build).hexdigest()[:16]}.compiled"

    def _link(self) -> Any:
        wanted = {each.name for each in self.module.imports if each.module == WASI}
        if wanted - WASI_FUNCTIONS:
            raise InternalError(f"engine.wasm imports {', '.join(sorted(wanted - WASI_FUNCTIONS))} of WASI")
        linker = self.wasmtime.Linker(self.engine)
        linker.define_wasi()
        module_name = MODULE.encode()
        for name, (params, result) in SIGNATURES.items():
            if name in _bare:
                callback: Any = BareImport(_bare_trampoline(name))
            else:
                callback = Import(_trampoline(name, params, bool(result)))
            self._callbacks.append(callback)
            functype = self._functype(params, result)
            error = self.c.define_unchecked(
                ctypes.cast(linker.ptr(), ctypes.c_void_p),
                module_name,
                len(module_name),
                name.encode(),
                len(name),
                ctypes.cast(functype.ptr(), ctypes.c_void_p),
                ctypes.cast(callback, ctypes.c_void_p),
                None,
                None,
            )
            if error:
                raise InternalError(f"import {name} cannot be defined: {self.describe(error, ctypes.c_void_p())}")
        return linker.instantiate_pre(self.module)

    def _functype(self, params: str, result: str) -> Any:
        kinds = {"i": self.wasmtime.ValType.i32, "I": self.wasmtime.ValType.i64}
        return self.wasmtime.FuncType([kinds[letter]() for letter in params], [kinds[letter]() for letter in result])

    def new_store(self, memory_limit_bytes: int, output: str) -> Any:
        """Return a killable store whose memory is limited (-1: unlimited) and which writes to ``output``."""
        store = self.wasmtime.Store(self.engine)
        store_pointer = ctypes.cast(store.ptr(), ctypes.c_void_p)
        self.c.set_epoch_callback(store_pointer, self._epoch_callback, None, None)
        most = WINDOWS_START if memory_limit_bytes < 0 else min(memory_limit_bytes, WINDOWS_START)
        store.set_limits(memory_size=most, table_elements=_TABLE_LIMIT)
        wasi = self.wasmtime.WasiConfig()  # clocks and randomness; no directories, arguments or environment variables
        if output:
            wasi.stdout_file = output
        store.set_wasi(wasi)
        return store

    def _on_epoch(self, _context: int, _data: int, delta: Any, kind: Any) -> int:
        """Called for every running guest after a ``kill``: trap the killed one, let the others continue."""
        if _entered[threading.get_ident()].killed:
            return self.new_error("killed: it did not answer an interrupt")
        delta[0] = 1
        kind[0] = EPOCH_CONTINUE
        return 0

    def new_error(self, message: str) -> int:
        """Return the address of a new error, for a callback to return."""
        error = self.ffi.wasmtime_error_new(message.encode())
        return ctypes.cast(error, ctypes.c_void_p).value or 0

    def new_trap(self, message: str) -> int:
        """Return the address of a new trap, for an import to return."""
        encoded = message.encode()
        trap = self.ffi.wasmtime_trap_new(ctypes.create_string_buffer(encoded), len(encoded))
        return ctypes.cast(trap, ctypes.c_void_p).value or 0

    def describe(self, error: int | None, trap: ctypes.c_void_p) -> str:
        """Consume an error or a trap of the C interface and return its message."""
        if error:
            pointer = ctypes.cast(error, ctypes.POINTER(self.ffi.wasmtime_error_t))
            return str(self.wasmtime.WasmtimeError._from_ptr(pointer))
        trap_pointer = ctypes.cast(trap, ctypes.POINTER(self.ffi.wasm_trap_t))
        return str(self.wasmtime.Trap._from_ptr(trap_pointer))


def _configure(config: Any, c: CFunctions) -> Any:
    config.wasm_threads = True  # atomic instructions, on an unshared memory
    config.memory_may_move = False  # so that ``Memory.base`` never changes
    config.memory_reservation = _ADDRESS_SPACE
    # wasmtime requires stacks of asynchronous calls, which are not used, to be at least as large.
    c.set_async_stack_size(ctypes.cast(config.ptr(), ctypes.c_void_p), WASM_STACK_BYTES)
    config.max_wasm_stack = WASM_STACK_BYTES
    config.native_unwind_info = False  # nothing unwinds through the guest, and registering it costs start-up time
    config.gc_support = False
    config.epoch_interruption = True  # ``Instance.kill``
    config.parallel_compilation = not _forked  # a forked child has lost the compiler's threads
    return config


def _check_version() -> None:
    # Reading metadata imports the e-mail parser, so not before the first connection.
    from importlib.metadata import version

    found = version("wasmtime")
    if int(found.partition(".")[0]) not in SUPPORTED_WASMTIME:
        wanted = " or ".join(str(major) for major in SUPPORTED_WASMTIME)
        raise NotSupportedError(f"wasmtime {found} is installed; this rapsqlite works with wasmtime {wanted}")


def _trampoline(name: str, params: str, returns: bool) -> Callable[..., int]:
    """Return the C callback of one import: finds the guest by its thread, converts, never raises."""
    # Each value takes 16 bytes; an i32 is in the low four.
    slots = [(2 * index, letter == "I") for index, letter in enumerate(params)]

    def enter(_env: int, _caller: int, values: Any, _count: int) -> int:
        instance = _entered[threading.get_ident()]
        instance.counts[name] += 1
        try:
            arguments = [values[slot] if wide else values[slot] & _U32 for slot, wide in slots]
            result = instance.functions[name](*arguments)
        except BaseException as exc:  # noqa: BLE001 - it must not cross the wasm frames; ``call`` raises it again
            return instance.give_up(exc, name)
        if returns:
            values[0] = result
        return 0

    return enter


def _bare_trampoline(name: str) -> Callable[[], int]:
    """Return the C callback of an import without parameters and result, the cheapest kind.

    As a C function it ignores the arguments it is called with: in the calling conventions of all platforms that
    wasmtime supports the caller removes them, and converting them would take longer than everything else.
    """
    functions = _bare[name]

    def enter() -> int:
        try:
            return functions[get_ident()]() or 0
        except BaseException as exc:  # noqa: BLE001 - as in ``_trampoline``
            return _entered[get_ident()].give_up(exc, name)

    return enter


def _missing() -> None:
    raise InternalError("the guest called a function it was not given")


def can_write_output() -> bool:
    """Return whether a guest can be given a standard output: wasmtime aborts if it has too few resources for that."""
    if _output_is_prepared:
        return shortage.has_descriptors(1)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return shortage.has_descriptors(shortage.DESCRIPTORS_TO_WRITE) and shortage.has_threads(threads)


def shared_engine() -> Engine:
    """Return this process's engine with ``engine.wasm``, loading it on the first call."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = Engine(Path(__file__).with_name("engine.wasm").read_bytes())
        return _shared


def forget_after_fork() -> None:
    """In a forked child: never touch the parent's engine again; start afresh with new locks."""
    global _shared, _forked, _store_lock, _shared_lock
    _leaked.append(_shared)  # dropping it would free what the parent's threads were using at the fork
    _shared = None
    _forked = True
    _store_lock = threading.Lock()
    _shared_lock = threading.Lock()
    _entered.clear()
    for by_thread in _bare.values():
        by_thread.clear()


_entered: dict[int, Instance] = {}  # thread to the guest it runs
# Imports without parameters and result, by name: thread to the guest's function.
_bare: dict[str, dict[int, Callable[..., int | None]]] = {
    name: {} for name, signature in SIGNATURES.items() if signature == ("", "")
}
_store_lock = threading.Lock()  # wasmtime's Python layer is not thread-safe in creating and dropping stores
_shared_lock = threading.Lock()
_shared: Engine | None = None
_output_is_prepared = False
_leaked: list[Engine | None] = []
_forked = False
