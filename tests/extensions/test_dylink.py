"""Reading a side module's declarations from arbitrary bytes."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import wasmtime

import rapsqlite
from rapsqlite._wasm.binary import leb128, sized
from rapsqlite._wasm.dylink import START, Needs, read_side
from tests.extensions.modules import ENTRY, HEADER, NEEDED, dylink, mem_info, side_module

if TYPE_CHECKING:
    from pathlib import Path

START_SECTION = b"\x08\x01\x01"  # of one byte: function 1


def test_requirements_of_a_module_are_read() -> None:
    assert read_side(side_module(ENTRY, dylink(mem_info(100, 4, 7, 1)))).needs == Needs(100, 16, 7, 2)


def test_unknown_parts_of_the_section_are_skipped() -> None:
    unknown = bytes([99]) + sized(b"whatever")

    assert read_side(side_module(ENTRY, dylink(unknown, mem_info(8), unknown))).needs.data_bytes == 8


def test_section_without_numbers_requires_nothing() -> None:
    assert read_side(HEADER + dylink()).needs == Needs(0, 1, 0, 1)


@pytest.mark.parametrize("exports", ["", ENTRY], ids=["no exports", "exports"])
def test_start_function_becomes_an_export(exports: str) -> None:
    whole = side_module(f"(func $first) (func $started) {exports} (start $started)")

    side = read_side(whole)

    module = wasmtime.Module(wasmtime.Engine(), side.wasm)
    names = [export.name for export in module.exports]
    assert names == (["sqlite3_extension_init", START] if exports else [START])
    assert START_SECTION in whole
    assert START_SECTION not in side.wasm


def test_module_with_memory_and_without_a_start_function_is_unchanged() -> None:
    whole = side_module(f'(import "env" "memory" (memory 0)) {ENTRY}')

    assert read_side(whole).wasm == whole


@pytest.mark.parametrize(
    "imports",
    [
        "",
        '(import "env" "f" (func (param i32)))',
        '(import "env" "t" (table 1 2 funcref)) (import "env" "u" (table 1 funcref))',
        '(import "env" "a" (global i32)) (import "env" "b" (global (mut i64)))',
        '(import "env" "f" (func)) (import "env" "t" (table 1 funcref)) (import "env" "a" (global f64))',
    ],
)
def test_module_without_memory_imports_it_for_its_polls(imports: str) -> None:
    side = read_side(side_module(f"{imports} {ENTRY}"))

    module = wasmtime.Module(wasmtime.Engine(), side.wasm)
    assert [each.name for each in module.imports].count("memory") == 1
    assert len(module.imports) == imports.count("import") + 1
    assert module.exports[0].name == "sqlite3_extension_init"


def test_import_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(rapsqlite.NotSupportedError, match="an import of an unknown kind, 4"):
        read_side(side_module('(import "env" "t" (tag))'))


@pytest.mark.parametrize(
    "wasm,error,words",
    [
        (b"", rapsqlite.OperationalError, "not a WebAssembly module"),
        (b"SQLite format 3\0", rapsqlite.OperationalError, "not a WebAssembly module"),
        (HEADER[:6], rapsqlite.OperationalError, "truncated"),
        (b"\0asm\x0d\0\x01\0", rapsqlite.OperationalError, "version"),
        (HEADER, rapsqlite.NotSupportedError, "no section dylink"),
        (HEADER + b"\0\x05\x04abcd", rapsqlite.NotSupportedError, "no section dylink"),
        (HEADER + b"\0\x7fabc", rapsqlite.OperationalError, "truncated"),
        (HEADER + b"\0", rapsqlite.OperationalError, "truncated"),
        (HEADER + b"\0\xff\xff\xff\xff\xff\x01", rapsqlite.OperationalError, "32 bits"),
        (HEADER + b"\0\xff\xff\xff\xff\x7f", rapsqlite.OperationalError, "32 bits"),
        (HEADER + dylink(bytes([1]) + sized(b"\x01\x02")), rapsqlite.OperationalError, "truncated"),
        (HEADER + dylink(b"\x01\x7f"), rapsqlite.OperationalError, "truncated"),
        (HEADER + dylink(mem_info(8, 17)), rapsqlite.OperationalError, "alignment"),
        (HEADER + dylink(mem_info(8, 0, 1, 32)), rapsqlite.OperationalError, "alignment"),
        (HEADER + dylink(mem_info(1 << 31)), rapsqlite.OutOfMemoryError, "2147483648 bytes"),
        (HEADER + dylink(mem_info(0, 0, 65_537)), rapsqlite.OutOfMemoryError, "slots"),
        (
            HEADER + dylink(mem_info(), bytes([NEEDED]) + sized(leb128(1) + sized(b"libz.so"))),
            rapsqlite.NotSupportedError,
            r"libz\.so",
        ),
        (HEADER + dylink() + 2 * START_SECTION, rapsqlite.OperationalError, "more than one start function"),
        (HEADER + dylink() + b"\x08\0", rapsqlite.OperationalError, "truncated"),
        (side_module("(memory 1)"), rapsqlite.NotSupportedError, "its own memory"),
        (side_module("(table 1 funcref)"), rapsqlite.NotSupportedError, "its own table"),
    ],
)
def test_bytes_that_are_no_side_module_are_refused(wasm: bytes, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        read_side(wasm)


def test_damaged_module_raises_only_the_documented_error(sample: Path) -> None:
    """For any bytes: no IndexError, no endless loop, no number out of range."""
    whole = sample.read_bytes()
    chance = random.Random(5)
    refused = 0

    for _ in range(3000):
        damaged = bytearray(whole[: chance.randrange(9, len(whole))])
        for _ in range(chance.randrange(3)):
            damaged[chance.randrange(8, min(len(damaged), 200))] = chance.randrange(256)
        try:
            needs = read_side(bytes(damaged)).needs
        except rapsqlite.DatabaseError:
            refused += 1
        else:
            assert needs.data_bytes < 1 << 31
            assert needs.data_alignment <= 1 << 16

    assert refused > 1000
