"""Guests written by hand in WebAssembly text: each does one thing that the real one never does."""

from __future__ import annotations

import wasmtime

from rapsqlite import _constants as abi
from rapsqlite import runtime
from rapsqlite._files.file_table import FileTable
from rapsqlite._guest.guest import Guest
from rapsqlite._wasm.imports import MODULE, SIGNATURES

CONTROL = 1024
ARGUMENT_BLOCK = 2048  # for callbacks
REQUESTS = 65536
REPLIES = REQUESTS + abi.REQUEST_RING_BYTES
RING = abi.REPLY_RING_BYTES
FREE = REPLIES + RING  # the last page, which is unused
PAGES = FREE // 65536 + 1  # of memory


def _data(values: dict[int, int]) -> str:
    lines = []
    for offset, value in values.items():
        escaped = "".join("\\" + f"{byte:02x}" for byte in value.to_bytes(4, "little"))
        lines.append(f'(data (i32.const {CONTROL + offset}) "{escaped}")')
    return "\n".join(lines)


def _imports() -> str:
    """Return the imports of all host functions, with the signatures of `SIGNATURES`."""
    kinds = {"i": "i32", "I": "i64"}
    lines = []
    for name, (params, result) in SIGNATURES.items():
        param = f"(param {' '.join(kinds[letter] for letter in params)})" if params else ""
        lines.append(
            f'(import "{MODULE}" "{name}" (func ${name} {param} {f"(result {kinds[result]})" if result else ""}))'
        )
    return "\n".join(lines)


def module(
    run: str, *, control: dict[int, int] | None = None, version: int = abi.ABI_VERSION, imports: str = ""
) -> bytes:
    """Return a module whose service loop is ``run`` (a function body that leaves an i32)."""
    words = {
        abi.CONTROL_MAGIC: abi.MAGIC,
        abi.CONTROL_ABI_VERSION: abi.ABI_VERSION,
        abi.CONTROL_REQUEST_RING: REQUESTS,
        abi.CONTROL_REQUEST_RING + 4: abi.REQUEST_RING_BYTES,
        abi.CONTROL_REPLY_RING: REPLIES,
        abi.CONTROL_REPLY_RING + 4: RING,
        abi.CONTROL_ARGUMENT_BLOCK: ARGUMENT_BLOCK,
        **(control or {}),
    }
    text = f"""
    (module
      {_imports()}
      (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
      {imports}
      (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
      (memory (export "memory") {PAGES})
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
    run: str,
    *,
    control: dict[int, int] | None = None,
    version: int = abi.ABI_VERSION,
    grace_period_s: float = 5.0,
    files: FileTable | None = None,
    result_limit_bytes: int = 0,
) -> Guest:
    """Return a guest, not started, that runs ``module(run, ...)``."""
    wasm = module(run, control=control, version=version)
    table = files or FileTable(b":memory:")
    return Guest(
        "played",
        table,
        1.0,
        grace_period_s=grace_period_s,
        result_limit_bytes=result_limit_bytes,
        engine=lambda: runtime.Engine(wasm),
    )


# Sleep until there is a request, as the real guest does.
AWAIT_REQUEST = "(drop (call $park (i32.const 0)))"


def publish(head: int) -> str:
    """Return instructions that move the reply head and ring."""
    return f"(i32.atomic.store (i32.const {CONTROL + abi.CONTROL_REPLY_HEAD}) (i32.const {head})) (call $bell)"


def store(address: int, *values: int) -> str:
    """Return instructions that store 32-bit words."""
    return " ".join(f"(i32.store (i32.const {address + 4 * i}) (i32.const {value}))" for i, value in enumerate(values))


# Sleep with the host's function, like the real guest, but without announcing it.
SLEEP_UNSAID = f"(call_indirect (type $sleep) (i32.load (i32.const {CONTROL + abi.CONTROL_SLEEP})))"
# Write to the standard output, more than a pipe holds.
RING_BY_WRITING = (
    "(i32.store (i32.const 512) (i32.const 528)) (i32.store (i32.const 516) (i32.const 200000))"
    "(drop (call $fd_write (i32.const 1) (i32.const 512) (i32.const 1) (i32.const 520)))"
)
RING_ONCE = RING_BY_WRITING.replace("(i32.const 200000)", "(i32.const 1)")
PARK_FOR_EVER = "(loop $l (br_if $l (i32.ne (call $park (i32.const 0)) (i32.const 1)))) (i32.const 0)"
