"""Makes a load from a truncated file trap the guest instead of ending the process.

Touching a mapped page that its file no longer has raises SIGBUS. wasmtime turns faults of wasm code into traps, but on
Linux it only handles SIGSEGV. Its handler checks where the fault happened, not which signal reported it, so the same
handler works for SIGBUS. wasmtime does not promise that, so a child process tests it, once for each version of
wasmtime, and reads are mapped only if the test passes. https://man7.org/linux/man-pages/man2/mmap.2.html#ERRORS
"""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from rapsqlite._constants import WINDOWS_START
from rapsqlite._files import mapping, module_cache
from rapsqlite._platform import system

if TYPE_CHECKING:
    from collections.abc import Callable

_PATIENCE_S = 30.0
_PASSED = b"trapped"

_verdict: bool | None = None
_library = ""


def identify(library: str) -> None:
    """Identify the build of wasmtime by the digest of its shared library."""
    global _library
    _library = library


def turns_into_trap() -> bool:
    """Return whether SIGBUS in wasm code traps on this machine. Requires `identify` and an engine.

    The first call ever runs a trial; its result is stored next to the compiled module, unless the trial itself failed.
    """
    global _verdict
    if _verdict is None:
        _verdict = _known_verdict()
    return bool(_verdict) and arm()


def _known_verdict() -> bool | None:
    if not _library:
        return None
    identity = f"{_library} {platform.release()} {sys.executable} {_MAPPED_AT}"
    key = f"sigbus-{zlib.crc32(identity.encode()):08x}.trial"
    known = module_cache.read(key)
    if known is not None:
        return known == _PASSED
    directory = module_cache.cache_directory()
    if directory is None or not os.access(directory, os.W_OK):
        return None  # every process would have to run the trial
    passed = _passes_trial()
    if passed is not None:
        module_cache.store(key, _PASSED if passed else b"failed")
    return bool(passed)


def arm() -> bool:
    """Let wasmtime's handler for SIGSEGV handle SIGBUS too; False if there is none, or other code has replaced it.

    Call once wasmtime's engine exists. Cheap when called again.
    """
    return system.handle_faults_of_mapped_files()


def _passes_trial() -> bool | None:
    """Try in a child process whether a fault traps; None if it got no chance to, for lack of time or memory.

    Takes as long as starting Python and wasmtime.
    """
    if getattr(sys, "frozen", False):
        return False
    # An embedding program's executable must not be started a second time.
    if not sys.executable or not Path(sys.executable).name.startswith("python"):
        return False
    command = [sys.executable, "-c", "from rapsqlite._files import sigbus; sigbus.try_fault()"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and text
            command, env=environment, capture_output=True, timeout=_PATIENCE_S, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    if done.returncode > 0:  # an exception; a fault that does not trap ends it by a signal
        return None
    return done.returncode == 0 and done.stdout == _PASSED


# (module (memory (export "memory") 2)
#   (func (export "load") (param i32) (result i64) local.get 0 i64.load))
_MODULE = bytes.fromhex(
    "0061736d0100000001060160017f017e030201000503010002071102066d656d6f72790200046c6f616400000a0901070020002903000b"
)
_MAPPED_AT = WINDOWS_START  # beyond the memory, where files are mapped


def try_fault() -> None:
    """Load from a page beyond the memory whose file is then truncated, in this process; print the result."""
    import wasmtime  # imported only in the trial's own process

    config = wasmtime.Config()
    config.memory_reservation = 1 << 32  # like every guest
    config.memory_may_move = False
    system.configure(config.ptr(), wasmtime._ffi)
    store = wasmtime.Store(wasmtime.Engine(config))
    system.note_fault_handlers()
    exports = wasmtime.Instance(store, wasmtime.Module(store.engine, _MODULE), []).exports(store)
    load: Callable[[wasmtime.Store, int], int] = exports["load"]  # type: ignore[assignment]
    memory: wasmtime.Memory = exports["memory"]  # type: ignore[assignment]
    base = ctypes.addressof(memory.data_ptr(store).contents)
    fd = system.open_shrinking_file()
    os.write(fd, b"\1" * 65536)
    mapping.map_at(base + _MAPPED_AT, fd, 0, 65536, writable=False)
    expected = int.from_bytes(b"\1" * 8, "little")
    if not arm() or load(store, _MAPPED_AT - (1 << 32)) != expected:
        return
    os.ftruncate(fd, 0)
    try:
        load(store, _MAPPED_AT - (1 << 32))
    except wasmtime.Trap:
        if load(store, 0) == 0:  # and wasm continues
            sys.stdout.write(_PASSED.decode())
