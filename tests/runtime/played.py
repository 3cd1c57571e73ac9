"""Guests written by hand in WebAssembly text: each does one thing that the real one never does."""

from __future__ import annotations

import wasmtime

from rapsqlite import _constants as abi
from rapsqlite import runtime
from rapsqlite._files import FileTable
from rapsqlite._guest import Guest

CONTROL = 1024
REQUESTS = 65536
REPLIES = 131072
RING = 65536


def _data(values: dict[int, int]) -> str:
    lines = []
    for offset, value in values.items():
        escaped = "".join("\\" + f"{byte:02x}" for byte in value.to_bytes(4, "little"))
        lines.append(f'(data (i32.const {CONTROL + offset}) "{escaped}")')
    return "\n".join(lines)


def module(
    run: str, *, control: dict[int, int] | None = None, version: int = abi.ABI_VERSION, imports: str = ""
) -> bytes:
    """Return a module whose service loop is ``run`` (a function body that leaves an i32)."""
    words = {
        abi.CONTROL_MAGIC: abi.MAGIC,
        abi.CONTROL_ABI_VERSION: abi.ABI_VERSION,
        abi.CONTROL_REQUEST_RING: REQUESTS,
        abi.CONTROL_REQUEST_RING + 4: RING,
        abi.CONTROL_REPLY_RING: REPLIES,
        abi.CONTROL_REPLY_RING + 4: RING,
        **(control or {}),
    }
    text = f"""
    (module
      (import "rapsqlite" "park" (func $park (param i32) (result i32)))
      (import "rapsqlite" "bell" (func $bell))
      (import "rapsqlite" "spill" (func $spill (param i32 i32) (result i32)))
      (import "rapsqlite" "payload" (func $payload (param i32 i32 i32) (result i32)))
      (import "rapsqlite" "log" (func $log (param i32 i32)))
      (import "rapsqlite" "file_size" (func $file_size (param i32 i32) (result i32)))
      (import "rapsqlite" "sleep" (func $sleep (param i32)))
      (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
      {imports}
      (memory (export "memory") 4)
      (table (export "__indirect_function_table") 1 funcref)
      (type $sleep (func))
      {_data(words)}
      (func (export "_initialize"))
      (func (export "rapsqlite_abi_version") (result i32) i32.const {version})
      (func (export "rapsqlite_control") (result i32) i32.const {CONTROL})
      (func $run (export "rapsqlite_run") (result i32) {run}))
    """
    return bytes(wasmtime.wat2wasm(text))


def guest_of(
    run: str, *, control: dict[int, int] | None = None, version: int = abi.ABI_VERSION, patience_s: float = 5.0
) -> Guest:
    """Return a guest, not started, that runs ``module(run, ...)``."""
    wasm = module(run, control=control, version=version)
    return Guest("played", FileTable(b":memory:"), 1.0, patience_s=patience_s, engine=lambda: runtime.Engine(wasm))


# Sleep until there is a request, as the real guest does.
AWAIT_REQUEST = "(drop (call $park (i32.const 0)))"


def publish(head: int) -> str:
    """Return instructions that move the reply head and ring."""
    return f"(i32.atomic.store (i32.const {CONTROL + abi.CONTROL_REPLY_HEAD}) (i32.const {head})) (call $bell)"


def store(address: int, *values: int) -> str:
    """Return instructions that store 32-bit words."""
    return " ".join(f"(i32.store (i32.const {address + 4 * i}) (i32.const {value}))" for i, value in enumerate(values))


# Sleep by the host's function, as the real guest does, but without a word about it.
SLEEP_UNSAID = f"(call_indirect (type $sleep) (i32.load (i32.const {CONTROL + abi.CONTROL_SLEEP})))"
# Write to the standard output, more than a pipe takes.
RING_BY_WRITING = (
    "(i32.store (i32.const 512) (i32.const 528)) (i32.store (i32.const 516) (i32.const 200000))"
    "(drop (call $fd_write (i32.const 1) (i32.const 512) (i32.const 1) (i32.const 520)))"
)
PARK_FOR_EVER = "(loop $l (br_if $l (i32.ne (call $park (i32.const 0)) (i32.const 1)))) (i32.const 0)"
