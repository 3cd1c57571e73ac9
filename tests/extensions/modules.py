"""Side modules made from text, for code that no compiler would generate."""

from __future__ import annotations

import wasmtime

from rapsqlite._wasm.binary import leb128, sized

HEADER = b"\0asm\x01\0\0\0"
MEM_INFO, NEEDED = 1, 2


def dylink(*parts: bytes) -> bytes:
    """The custom section of a side module."""
    return b"\0" + sized(sized(b"dylink.0") + b"".join(parts))


def mem_info(data_bytes: int = 0, alignment_log2: int = 0, slots: int = 0, slot_alignment_log2: int = 0) -> bytes:
    numbers = (data_bytes, alignment_log2, slots, slot_alignment_log2)
    return bytes([MEM_INFO]) + sized(b"".join(map(leb128, numbers)))


def side_module(text: str = "", section: bytes | None = None) -> bytes:
    """A module of WebAssembly's text form, with a dylink section in front."""
    plain = bytes(wasmtime.wat2wasm(f"(module {text})"))
    return HEADER + (dylink(mem_info()) if section is None else section) + plain[len(HEADER) :]


# An entry point that succeeds and does nothing.
ENTRY = '(func (export "sqlite3_extension_init") (param i32 i32 i32) (result i32) (i32.const 0))'
