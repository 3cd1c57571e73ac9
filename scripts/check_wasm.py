#!/usr/bin/env python3
"""Check a linked ``engine.wasm`` against the contract, before it is installed.

It checks what a compiler or linker flag can break without an error: words that the host writes must be read by atomic
loads (a plain load is hoisted out of the polling loop), imports come from only two modules, the exports of docs/abi.md
exist, and the module is not too large for the wheel. It reads the binary format itself and needs no tool:
https://webassembly.github.io/spec/core/binary/
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from pathlib import Path

IMPORT_MODULES = {"rapsqlite", "wasi_snapshot_preview1"}
SECTION_IMPORT, SECTION_EXPORT, SECTION_CODE = 2, 7, 10
KINDS = ("func", "table", "memory", "global", "tag")
ATOMIC_LOAD = (0xFE, 0x10)
# C calls these, so Rust exports them under their plain names, and the linker exports every such name.
EXPORTS_BESIDE_CONTRACT = {"sqlite3_os_init", "sqlite3_os_end", "rapsqlite_free", "rapsqlite_realloc"}

# Opcodes by what follows them; every other one-byte opcode of the features in use has no immediate.
BLOCKS = {0x02, 0x03, 0x04}
ONE_INDEX = {0x08, 0x0C, 0x0D, 0x10, 0x12, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x3F, 0x40, 0x41, 0x42, 0xD0, 0xD2}
TWO_INDEXES = {0x11, 0x13}
BULK_ONE = {9, 11, 13, 15, 16, 17}
BULK_TWO = {8, 10, 12, 14}


class Reader:
    """A position in the module's bytes."""

    def __init__(self, data: bytes, position: int = 0) -> None:
        self.data = data
        self.position = position

    def byte(self) -> int:
        """Return the next byte."""
        self.position += 1
        return self.data[self.position - 1]

    def number(self) -> int:
        """Return an unsigned LEB128 number; also good enough to skip a signed one."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def name(self) -> str:
        """Return a length-prefixed name."""
        size = self.number()
        self.position += size
        return self.data[self.position - size : self.position].decode()

    def memory_argument(self) -> None:
        """Skip alignment, memory and offset of a load or store."""
        if self.number() & 0x40:
            self.number()
        self.number()


def sections(data: bytes) -> dict[int, tuple[int, int]]:
    """Return start and end of each non-custom section."""
    if data[:8] != b"\0asm\1\0\0\0":
        raise SystemExit("not a WebAssembly module")
    reader, found = Reader(data, 8), {}
    while reader.position < len(data):
        number, size = reader.byte(), reader.number()
        if number:
            found[number] = (reader.position, reader.position + size)
        reader.position += size
    return found


def imports(reader: Reader) -> list[tuple[str, str]]:
    """Return module and name of each import."""
    found = []
    for _ in range(reader.number()):
        found.append((reader.name(), reader.name()))
        kind = KINDS[reader.byte()]
        if kind != "func":
            raise SystemExit(f"the module imports a {kind}: {found[-1]}")
        reader.number()
    return found


def exports(reader: Reader) -> dict[str, str]:
    """Return the kind of each export by its name."""
    found = {}
    for _ in range(reader.number()):
        name = reader.name()
        found[name] = KINDS[reader.byte()]
        reader.number()
    return found


def skip_prefixed(reader: Reader, opcode: int, number: int) -> None:
    """Skip the immediates of an instruction of two bytes or more."""
    if opcode == 0xFC:
        for _ in range(2 if number in BULK_TWO else 1 if number in BULK_ONE else 0):
            reader.number()
    elif opcode == 0xFE:
        reader.number() if number == 0x03 else reader.memory_argument()
    elif number <= 11 or 84 <= number <= 93:
        reader.memory_argument()
        if 84 <= number <= 91:
            reader.byte()
    elif number in (12, 13):
        reader.position += 16
    elif 21 <= number <= 34:
        reader.byte()


def skip_plain(reader: Reader, opcode: int) -> None:
    """Skip the immediates of an instruction of one byte."""
    if opcode in BLOCKS or opcode in ONE_INDEX:
        reader.number()
    elif opcode in TWO_INDEXES:
        reader.number()
        reader.number()
    elif 0x28 <= opcode <= 0x3E:
        reader.memory_argument()
    elif opcode == 0x0E:
        for _ in range(reader.number() + 1):
            reader.number()
    elif opcode in (0x43, 0x44):
        reader.position += 4 if opcode == 0x43 else 8
    elif opcode == 0x1C:
        reader.position += reader.number()


def prefixed_instructions(reader: Reader) -> Counter[tuple[int, int]]:
    """Count the instructions of the bulk, vector and atomic groups in the code section."""
    found: Counter[tuple[int, int]] = Counter()
    for _ in range(reader.number()):
        end = reader.number()
        end += reader.position
        for _ in range(reader.number()):
            reader.number()
            reader.number()
        while reader.position < end:
            opcode = reader.byte()
            if opcode in (0xFC, 0xFD, 0xFE):
                number = reader.number()
                found[opcode, number] += 1
                skip_prefixed(reader, opcode, number)
            else:
                skip_plain(reader, opcode)
        if reader.position != end:
            raise SystemExit(f"a function's code ends at {reader.position}, not at {end}: unknown instruction")
    return found


def contract(abi: Path) -> set[str]:
    """Return the names of the exports in the contract's first table, one or more in a row."""
    table = abi.read_text(encoding="utf-8").split("## Exports", 1)[1].split("##", 1)[0]
    first_cells = re.findall(r"^\| (`[^|]+)\|", table, re.MULTILINE)
    names = {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)}
    if not names:
        raise SystemExit(f"{abi}: no table of exports")
    return names


def faults(data: bytes, abi: Path, max_bytes: int) -> list[str]:
    """Return the problems of the module, one sentence each."""
    parts = sections(data)
    absent = {SECTION_IMPORT, SECTION_EXPORT, SECTION_CODE} - set(parts)
    if absent:
        return [f"no section {', '.join(map(str, sorted(absent)))}: the linker threw the engine away"]
    found = []
    if len(data) > max_bytes:
        found.append(f"{len(data)} bytes, more than the {max_bytes} allowed")
    unknown = {module for module, _ in imports(Reader(data, parts[SECTION_IMPORT][0]))} - IMPORT_MODULES
    if unknown:
        found.append(f"imports from {', '.join(sorted(unknown))}")
    expected, present = contract(abi), set(exports(Reader(data, parts[SECTION_EXPORT][0])))
    missing, strange = expected - present, present - expected - EXPORTS_BESIDE_CONTRACT
    if missing or strange:
        found.append(f"exports: missing {sorted(missing)}, not in the contract {sorted(strange)}")
    counts = prefixed_instructions(Reader(data, parts[SECTION_CODE][0]))
    if not counts[ATOMIC_LOAD]:
        found.append("no i32.atomic.load: built without +atomics, so polling never sees the host's words")
    return found


def main() -> int:
    """Check the module named on the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Check engine.wasm against docs/abi.md.")
    parser.add_argument("module", type=Path)
    parser.add_argument("--abi", type=Path, required=True)
    parser.add_argument("--max-bytes", type=int, required=True)
    arguments = parser.parse_args()
    found = faults(arguments.module.read_bytes(), arguments.abi, arguments.max_bytes)
    for fault in found:
        print(f"{arguments.module.name}: {fault}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
