"""The only module that uses wasmtime: engine, compiled module, store, instance, raw calls.

The process has one engine, module and linker; every guest has its own store and instance and runs on one thread.
wasmtime's shared library is bound directly, without importing the package (`_wasm.c_functions`), when the first
connection opens.
https://docs.wasmtime.dev/c-api/
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
from contextlib import nullcontext
from pathlib import Path
from threading import get_ident
from typing import TYPE_CHECKING, Any

from rapsqlite._constants import POLLING_PAGE, WINDOWS_BYTES, WINDOWS_START
from rapsqlite._files import mapping, module_cache, shortage, sigbus
from rapsqlite._platform import system
from rapsqlite._wasm import requirements
from rapsqlite._wasm.c_functions import (
    FUNCTION,
    MEMORY,
    BareImport,
    CFunctions,
    Exports,
    Import,
    Owned,
    Vector,
    WasmtimeError,
    library_path,
)
from rapsqlite._wasm.c_functions import Instance as RawInstance
from rapsqlite._wasm.compile_notice import announced
from rapsqlite._wasm.imports import MODULE, SIGNATURES, WASI, WASI_FUNCTIONS
from rapsqlite._wasm.reply_watcher import ReplyWatcher, SharedPage, watcher_module
from rapsqlite._wasm.table import Table
from rapsqlite.errors import InternalError, NotSupportedError, OperationalError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from rapsqlite._wasm.linking import Library

logger: logging.Logger = logging.getLogger("rapsqlite")

SUPPORTED_WASMTIME = (50,)  # major versions whose C interface is pinned by tests
WASM_STACK_BYTES = 16 << 20  # SQLite's own limits need about 8 MiB; only what is used takes memory
THREAD_STACK_BYTES = WASM_STACK_BYTES + (3 << 20)  # of a guest's thread, including host calls
_ADDRESS_SPACE = 1 << 32
_U32 = 0xFFFF_FFFF
_TABLE_LIMIT = 1 << 18  # slots of 8 bytes; the engine's own functions take a few thousand
_UNANNOUNCED: AbstractContextManager[None] = nullcontext()
_CONFIG_NAME = "5"  # change it with every change of ``_new_config`` or of the polls: it is part of the cache key


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
        system.mend_fault_handlers()
        system.unblock_faults()
        self.killed: bool = False
        self._engine = engine
        self._c = engine.c
        self._store: Owned = engine.new_store(memory_limit_bytes, output)
        self._context = int(self._c.wasmtime_store_context(self._store.address))
        self._exports = Exports(self._c, self._context, self._instantiate())
        self.table: Table = Table(self._exports)
        self._raw_memory = self._exports.item("memory", MEMORY)
        base = self._c.wasmtime_memory_data(self._context, self._raw_memory)
        self.memory: Memory = Memory(base or 0, self._memory_size)
        self._polling_page: int = self.memory.base + POLLING_PAGE
        try:
            system.make_readable(self._polling_page)
        except OSError:
            self._store.delete()  # the error's traceback would keep it
            raise
        self._lock = threading.Lock()  # of ``_is_closed``
        self._is_closed = False

    def _instantiate(self) -> RawInstance:
        instance, trap = RawInstance(), ctypes.c_void_p()
        error = self._c.wasmtime_instance_pre_instantiate(
            self._engine.pre.address, self._context, ctypes.byref(instance), ctypes.byref(trap)
        )
        self._c.check(error, trap)
        return instance

    def _memory_size(self) -> int:
        if not self._store.address:
            raise InternalError("the guest has ended, and its memory is gone")
        return int(self._c.wasmtime_memory_data_size(self._context, self._raw_memory))

    def call(self, name: str) -> int:
        """Enter the guest's export ``name``, which takes no arguments, and return its i32 (0 without a result).

        Raises TrapError, with the exception of an import as its cause.
        """
        func = self._exports.item(name, FUNCTION)
        values = (ctypes.c_int64 * 2)()
        trap = ctypes.c_void_p()
        thread = threading.get_ident()
        _entered[thread] = self
        for function_name, by_thread in _bare.items():
            by_thread[thread] = self.functions.get(function_name, _missing)
        try:
            error = self._c.wasmtime_func_call_unchecked(self._context, func, values, 1, ctypes.byref(trap))
        finally:
            del _entered[thread]
            for by_thread in _bare.values():
                del by_thread[thread]
        if error or trap.value:
            reason = self._c.describe(error, trap)
            raise TrapError("killed: it did not answer an interrupt" if self.killed else reason) from self.failure
        return values[0] & _U32

    def give_up(self, exc: BaseException, name: str = "callback") -> int:
        """Return what a host function must return to end the guest because of ``exc``: a trap's address."""
        self.failure = exc
        return self._engine.new_trap(f"host function {name} failed: {type(exc).__name__}")

    def open_library(self, wasm: bytes) -> Library:
        """Return a side module that can be linked into this guest. On its own thread, from a host function.

        Raises the errors of `dylink` and `linking`; OperationalError if it does not compile.
        """
        from rapsqlite._wasm.dylink import read_side  # both only for connections that load an extension
        from rapsqlite._wasm.linking import Library  # as above

        side = read_side(wasm)
        module = self._engine.side_module(side.wasm)
        return Library(self._exports, self.table, module.address, side.needs)

    def share_page(self, address: int) -> SharedPage | None:
        """Let watchers show the page at ``address``; None where the system cannot. The guest does not run yet."""
        self.memory.view(address, mapping.whole_pages(1))
        if not self._engine.prepare_watching() or not mapping.make_shareable(self.memory.base + address):
            return None
        return SharedPage(self.memory.base + address)

    def prepare_output(self) -> None:
        """Let wasmtime set up writing to standard outputs, unless it has done so for another guest."""
        global _output_is_prepared
        if not _output_is_prepared and self._exports.find("rapsqlite_prepare_bell", FUNCTION) is not None:
            self.call("rapsqlite_prepare_bell")
            _output_is_prepared = True

    def kill(self) -> bool:
        """Trap the guest wherever it is, as soon as it runs wasm; the instance is lost. Any thread.

        The last resort, for a guest that does not react to its cancel and stop words. Returns False, and lets it run
        on, where other code has replaced wasmtime's handlers for faults: a trap would end the process.
        """
        self.killed = True
        with self._lock:
            if self._is_closed:
                return True
            is_safe = system.mend_fault_handlers()
            if is_safe:
                system.make_inaccessible(self._polling_page)
            return is_safe

    def close(self) -> None:
        """Free the store and everything in it; no view of the memory may be used afterwards."""
        with self._lock:
            self._is_closed = True
        mapping.forget(self.memory.base + WINDOWS_START, WINDOWS_BYTES)
        self._store.delete()


class Engine:
    """wasmtime's engine with one compiled module, linked with the imports; shared by all instances."""

    def __init__(self, wasm: bytes | Path) -> None:
        """Load a module, or file, from the cache, or compile it (1 to 2 s, without the GIL) and store it there.

        Raises NotSupportedError for a wasmtime version whose C interface is not known to match, and without wasmtime.
        """
        try:
            self.c: CFunctions = CFunctions(library_path())
        except (ImportError, OSError) as exc:  # where wasmtime has no build, its wheel holds another system's library
            raise requirements.no_runtime(exc) from exc
        self._build = module_cache.digest_of_file(self.c.path)
        sigbus.identify(self._build)
        self.engine: Owned = self.c.owned(self.c.wasm_engine_new_with_config(_new_config(self.c)), "wasm_engine")
        system.note_fault_handlers()
        self._side_modules: dict[str, Owned] = {}
        self._watcher: Owned | None = None  # the compiled module, from the first guest on
        self._compiling = threading.Lock()
        self.module: Owned = self._load_file(wasm) if isinstance(wasm, Path) else self._load_engine(wasm)
        self._callbacks: list[object] = []  # the linker holds only their addresses
        self.pre: Owned = self._link()

    def side_module(self, wasm: bytes) -> Owned:
        """Return a compiled extension, from the cache if possible; OperationalError if it does not compile."""
        key = module_cache.digest(wasm)
        with self._compiling:
            if key not in self._side_modules:
                try:
                    self._side_modules[key] = self._load_module(wasm)
                except WasmtimeError as exc:
                    raise OperationalError(f"it is not valid: {str(exc).splitlines()[0]}") from None
            return self._side_modules[key]

    def prepare_watching(self) -> bool:
        """Compile the module of the watchers, or load it from the cache; False if that fails, for want of descriptors.

        Not in a thread of an event loop.
        """
        try:
            with self._compiling:
                if self._watcher is None:
                    self._watcher = self._load_module(watcher_module(self.c), is_own=True)
        except (OSError, WasmtimeError) as exc:
            logger.info("replies are not watched for without the GIL: %s", exc)
        return self._watcher is not None

    def new_watcher(self) -> ReplyWatcher | None:
        """Return a watcher for one thread; None if there is none, for want of address space."""
        if self._watcher is None:
            return None
        try:
            return ReplyWatcher(self.c, self.engine.address, self._watcher.address)
        except WasmtimeError as exc:
            logger.info("replies are not watched for without the GIL: %s", exc)
            return None

    def _load_file(self, path: Path) -> Owned:
        # The file is read only if it must be compiled.
        cached = self._load_cached(self._cache_key(module_cache.digest_of_file(str(path))))
        return self._load_engine(path.read_bytes()) if cached is None else cached

    def _load_engine(self, wasm: bytes) -> Owned:
        return self._load_module(wasm, announced())

    def _load_module(
        self, wasm: bytes, compiling: AbstractContextManager[None] = _UNANNOUNCED, *, is_own: bool = False
    ) -> Owned:
        # The host's own code is short and has no polls.
        key = self._cache_key(module_cache.digest(wasm))
        cached = self._load_cached(key)
        if cached is not None:
            return cached
        _check_version()
        with compiling:
            module = self._compile(wasm if is_own else _with_polls(wasm))
        serialized = Vector()
        self.c.check(self.c.wasmtime_module_serialize(module.address, ctypes.byref(serialized)))
        module_cache.store(key, self.c.take_bytes(serialized))
        return module

    def _load_cached(self, key: str) -> Owned | None:
        with module_cache.load(key) as name:
            if name is None:
                return None
            try:
                return self._map_compiled(name)
            except WasmtimeError as exc:
                logger.info("the cached module cannot be mapped: %s", exc)  # on a file system without execution, say
        content = module_cache.read(key)
        try:
            return None if content is None else self._copy_compiled(content)
        except WasmtimeError as exc:
            logger.info("the cached module does not match this wasmtime (%s): compiling it again", exc)
            return None

    def _map_compiled(self, name: str) -> Owned:
        module = ctypes.c_void_p()
        path = os.fsencode(name)
        self.c.check(self.c.wasmtime_module_deserialize_file(self.engine.address, path, ctypes.byref(module)))
        return self.c.owned(module.value or 0, "wasmtime_module")

    def _copy_compiled(self, content: bytes) -> Owned:
        module = ctypes.c_void_p()
        self.c.check(
            self.c.wasmtime_module_deserialize(self.engine.address, content, len(content), ctypes.byref(module))
        )
        return self.c.owned(module.value or 0, "wasmtime_module")

    def _compile(self, wasm: bytes) -> Owned:
        module = ctypes.c_void_p()
        self.c.check(self.c.wasmtime_module_new(self.engine.address, wasm, len(wasm), ctypes.byref(module)))
        return self.c.owned(module.value or 0, "wasmtime_module")

    def _cache_key(self, digest: str) -> str:
        build = module_cache.digest(f"{self._build} {_CONFIG_NAME}".encode())
        return f"{digest[:24]}-{build[:16]}.compiled"

    def _link(self) -> Owned:
        wanted = {each.name for each in self.c.imports(self.module.address) if each.module == WASI}
        if wanted - WASI_FUNCTIONS:
            raise InternalError(f"engine.wasm imports {', '.join(sorted(wanted - WASI_FUNCTIONS))} of WASI")
        linker = self.c.owned(self.c.wasmtime_linker_new(self.engine.address), "wasmtime_linker")
        self.c.check(self.c.wasmtime_linker_define_wasi(linker.address))
        for name, (params, result) in SIGNATURES.items():
            self._define(linker, name, params, result)
        pre = ctypes.c_void_p()
        self.c.check(self.c.wasmtime_linker_instantiate_pre(linker.address, self.module.address, ctypes.byref(pre)))
        return self.c.owned(pre.value or 0, "wasmtime_instance_pre")

    def _define(self, linker: Owned, name: str, params: str, result: str) -> None:
        module_name, own_name = MODULE.encode(), name.encode()
        if name in _bare:
            callback: Any = BareImport(_bare_trampoline(name))
        else:
            callback = Import(_trampoline(name, params, bool(result)))
        self._callbacks.append(callback)
        self.c.check(
            self.c.wasmtime_linker_define_func_unchecked(
                linker.address,
                module_name,
                len(module_name),
                own_name,
                len(own_name),
                self.c.function_type(params, result),
                ctypes.cast(callback, ctypes.c_void_p),
                None,
                None,
            )
        )

    def new_store(self, memory_limit_bytes: int, output: str) -> Owned:
        """Return a store whose memory is limited (-1: unlimited) and which writes to ``output``."""
        store = self.c.owned(self.c.wasmtime_store_new(self.engine.address, None, None), "wasmtime_store")
        most = WINDOWS_START if memory_limit_bytes < 0 else min(memory_limit_bytes, WINDOWS_START)
        self.c.wasmtime_store_limiter(store.address, most, _TABLE_LIMIT, -1, -1, -1)
        # Clocks and randomness; no directories, arguments or environment variables.
        wasi = self.c.owned(self.c.wasi_config_new(), "wasi_config")
        if output and not self.c.wasi_config_set_stdout_file(wasi.address, output.encode()):
            raise WasmtimeError("failed to set stdout file")
        consumed, wasi.address = wasi.address, 0
        self.c.check(self.c.wasmtime_context_set_wasi(self.c.wasmtime_store_context(store.address), consumed))
        return store

    def new_trap(self, message: str) -> int:
        """Return the address of a new trap, for an import to return."""
        encoded = message.encode()
        return int(self.c.wasmtime_trap_new(encoded, len(encoded)))


def _new_config(c: CFunctions) -> int:
    config = int(c.wasm_config_new())
    c.wasmtime_config_wasm_threads_set(config, True)  # atomic instructions, on an unshared memory
    c.wasmtime_config_memory_may_move_set(config, False)  # so that ``Memory.base`` never changes
    c.wasmtime_config_memory_reservation_set(config, _ADDRESS_SPACE)
    # wasmtime requires stacks of asynchronous calls, which are not used, to be at least as large.
    c.wasmtime_config_async_stack_size_set(config, WASM_STACK_BYTES)
    c.wasmtime_config_max_wasm_stack_set(config, WASM_STACK_BYTES)
    c.wasmtime_config_gc_support_set(config, False)
    c.wasmtime_config_wasm_exceptions_set(config, False)  # without garbage collection, some end the compiler's process
    # A forked child has lost the compiler's threads.
    c.wasmtime_config_parallel_compilation_set(config, not _forked)
    system.configure(config, c)
    return config


def _with_polls(wasm: bytes) -> bytes:
    from rapsqlite._wasm.safepoints import with_polls  # only for what is not in the cache

    return with_polls(wasm)


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
    threads = system.processor_count()
    return shortage.has_descriptors(shortage.DESCRIPTORS_TO_WRITE) and shortage.has_threads(threads)


def shared_engine() -> Engine:
    """Return this process's engine with ``engine.wasm``, loading it on the first call."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = Engine(Path(__file__).with_name("engine.wasm"))
        return _shared


def watcher_here() -> ReplyWatcher | None:
    """Return the calling thread's watcher; None if it can have none."""
    try:
        return _watchers.here  # type: ignore[no-any-return]
    except AttributeError:
        _watchers.here = shared_engine().new_watcher()
    return watcher_here()


def forget_after_fork() -> None:
    """In a forked child: never touch the parent's engine again; start afresh with new locks."""
    global _shared, _forked, _shared_lock, _watchers
    _leaked.append((_shared, _watchers))  # dropping it would free what the parent's threads were using at the fork
    _shared = None
    _watchers = threading.local()
    _forked = True
    _shared_lock = threading.Lock()
    _entered.clear()
    for by_thread in _bare.values():
        by_thread.clear()


_entered: dict[int, Instance] = {}  # thread to the guest it runs
# Imports without parameters and result, by name: thread to the guest's function.
_bare: dict[str, dict[int, Callable[..., int | None]]] = {
    name: {} for name, signature in SIGNATURES.items() if signature == ("", "")
}
_shared_lock = threading.Lock()
_shared: Engine | None = None
_output_is_prepared = False
_watchers = threading.local()  # `ReplyWatcher` of each thread
_leaked: list[object] = []
_forked = False
