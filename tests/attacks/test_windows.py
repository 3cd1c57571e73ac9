"""A guest that maps files at arbitrary addresses, and makes them vanish: a trap, never the end of the process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rapsqlite import _constants as abi
from rapsqlite._wasm.imports import SIGNATURES
from tests.attacks.hostile import FD, WINDOW, must_be_ok, outcomes
from tests.guest.played import ARGUMENT_BLOCK, CONTROL, FREE, PAGES, REPLIES, REQUESTS, RING, RING_BY_WRITING

if TYPE_CHECKING:
    from pathlib import Path

MAPPED = must_be_ok(f"(call $window_map {FD} {WINDOW} (i32.const 65536) (i64.const 0))")
CUT = must_be_ok(f"(call $file_truncate {FD} (i64.const 0))")
OUTSIDE = "the guest passed an address outside its memory"
UNMAPPABLE = "the guest passed an address where no file can be mapped"
TRAP = "out of bounds memory access"
LEFT = "the guest left its service loop"
SHARED = "the guest passed an address that it shares with the host"
SIZE_NOW = PAGES << 16  # of a guest's memory


@pytest.mark.parametrize(
    "call",
    [
        "$window_map {fd} (i32.const {at}) (i32.const 4096) (i64.const 0)",
        "$window_map {fd} (i32.const {at}) (i32.const -1) (i64.const 0)",
        "$shm_map {fd} (i32.const 0) (i32.const 32768) (i32.const 1) (i32.const {at})",
        "$window_unmap (i32.const {at}) (i32.const 4096)",
    ],
    ids=["window", "large window", "index", "off"],
)
def test_no_file_is_mapped_over_the_guests_own_memory(tmp_path: Path, call: str) -> None:
    """The host reads and writes rings, control words and arguments: a file mapped there could shrink, or reject a
    write.
    """
    addresses = [CONTROL & ~4095, ARGUMENT_BLOCK & ~4095, REQUESTS, REPLIES, FREE, -4096, 0x7FFF_0000]
    attacks = {str(at): f"(drop (call {call.format(fd=FD, at=at)}))" for at in addresses}

    said = outcomes(attacks, tmp_path / "a.db")

    assert said == dict.fromkeys(attacks, UNMAPPABLE)


@pytest.mark.parametrize(
    "address, length, reason",
    [
        (CONTROL & ~4095, 4096, SHARED),
        (0, SIZE_NOW, SHARED),
        (ARGUMENT_BLOCK + 8, 4096, SHARED),
        (REQUESTS, 1, SHARED),
        (REPLIES + RING - 1, 4096, SHARED),
        (FREE, 65536, LEFT),
        (FREE + 1, 65534, LEFT),
        (FREE, 0, LEFT),
        (FREE, SIZE_NOW, OUTSIDE),
        (SIZE_NOW, 1, OUTSIDE),
        (FREE, -1, OUTSIDE),
        (-4096, 4096, OUTSIDE),
        (0x7FFF_0000, 65536, OUTSIDE),
    ],
)
def test_only_pages_of_unshared_memory_are_dropped(tmp_path: Path, address: int, length: int, reason: str) -> None:
    """Pages that the host reads and writes, and other memory, stay."""
    kept = f"(i64.store (i32.const {FREE}) (i64.const -1))"
    attack = f"{kept} (call $memory_unused (i32.const {address}) (i32.const {length}))"

    assert outcomes({"drops": attack}, tmp_path / "a.db") == {"drops": reason}


USES = (
    f"(call $file_write {FD} {WINDOW} (i32.const 64) (i64.const 0))",
    f"(call $file_read {FD} {WINDOW} (i32.const 64) (i64.const 0))",
    f"(call $spill {WINDOW} (i32.const 64))",
    f"(call $payload (i32.const 1) {WINDOW} (i32.const 8))",
    f"(call $callback_answer {WINDOW} (i32.const 0))",
    f"(call $log {WINDOW} (i32.const 64)) (i32.const 0)",
    f"(call $memory_unused {WINDOW} (i32.const 65536)) (i32.const 0)",
    f"(call $path_full {WINDOW} (i32.const 5) (i32.const {FREE}) (i32.const 99))",
    f"(call $path_full (i32.const {FREE}) (i32.const 5) {WINDOW} (i32.const 99))",
    f"(call $file_open {WINDOW} (i32.const 5) (i32.const 0) (i32.const {FREE}))",
    f"(call $file_open (i32.const {FREE}) (i32.const 5) (i32.const 0) {WINDOW})",
    f"(call $file_delete {WINDOW} (i32.const 5) (i32.const 0))",
    f"(call $file_access {WINDOW} (i32.const 5) (i32.const 0) (i32.const {FREE}))",
    f"(call $file_access (i32.const {FREE}) (i32.const 5) (i32.const 0) {WINDOW})",
    f"(call $file_size {FD} {WINDOW})",
    f"(call $file_reserved {FD} {WINDOW})",
    f"(call $file_moved {FD} {WINDOW})",
    f"(call $file_lock {FD} (i32.const 1) {WINDOW})",
)


@pytest.mark.parametrize("cut", ["", CUT], ids=["whole", "cut"])
def test_host_functions_refuse_addresses_in_windows(tmp_path: Path, cut: str) -> None:
    """What the host reads must not vanish meanwhile, and what it writes must not go to a file."""
    attacks = {use: f"{MAPPED} {cut} (drop {use})" for use in USES}

    said = outcomes(attacks, tmp_path / "a.db")

    assert said == dict.fromkeys(attacks, OUTSIDE)


def test_every_host_function_that_takes_an_address_is_attacked() -> None:
    attacked = {use.split()[1].strip("$") for use in USES}
    mapping = {"window_map", "shm_map", "window_unmap"}
    without = {
        *("park", "bell", "busy", "busy_timeout", "sleep", "localtime", "callback"),
        *("file_close", "file_truncate", "file_sync", "file_unlock", "shm_lock", "shm_unlock", "shm_unmap", "unlock"),
    }

    assert attacked | mapping | without == set(SIGNATURES)


@pytest.mark.parametrize("cut", ["", CUT], ids=["whole", "cut"])
def test_instructions_run_by_native_code_refuse_windows(tmp_path: Path, cut: str) -> None:
    """A fault there is not a trap but the end of the process."""
    uses = [
        f"(memory.copy (i32.const {FREE}) {WINDOW} (i32.const 64))",
        f"(memory.copy {WINDOW} (i32.const {FREE}) (i32.const 64))",
        f"(memory.fill {WINDOW} (i32.const 1) (i32.const 64))",
        f"(i64.store {WINDOW} (i64.const 1))",
    ]
    attacks = {use: f"{MAPPED} {cut} {use}" for use in uses}

    said = outcomes(attacks, tmp_path / "a.db")

    assert said == dict.fromkeys(attacks, TRAP)


def test_load_from_a_truncated_file_is_a_trap(tmp_path: Path) -> None:
    loads = ["i64.load", "i32.atomic.load", "i32.load8_u"]
    attacks = {load: f"{MAPPED} {CUT} (drop ({load} {WINDOW}))" for load in loads}

    said = outcomes(attacks, tmp_path / "a.db")

    assert said == dict.fromkeys(attacks, TRAP)


def test_wasi_functions_refuse_addresses_in_windows(tmp_path: Path) -> None:
    """WASI is native code too: it rejects the address, or traps."""
    calls = [
        f"(call $random_get {WINDOW} (i32.const 64))",
        f"(call $fd_write (i32.const 1) {WINDOW} (i32.const 1) (i32.const {FREE}))",
        f"{RING_BY_WRITING.replace('528', str(abi.WINDOWS_START - (1 << 32)))} (i32.const 0)",
    ]
    attacks = {call: f"{MAPPED} {cut} (drop {call})" for call in calls for cut in ("", CUT)}

    said = outcomes(attacks, tmp_path / "a.db")

    assert set(said) == set(attacks)
    assert not [reason for reason in said.values() if reason.startswith("the process ended")]


def test_memory_does_not_grow_into_the_windows(tmp_path: Path) -> None:
    pages = abi.WINDOWS_START >> 16
    grown = f"(if (i32.ne (memory.grow (i32.const {pages})) (i32.const -1)) (then (unreachable)))"
    attack = f"{grown} (drop (memory.grow (i32.const 16))) {MAPPED} (drop (i32.load {WINDOW}))"

    assert outcomes({"grows": attack}, tmp_path / "a.db") == {"grows": LEFT}


def test_no_address_is_mapped_twice(tmp_path: Path) -> None:
    """Nested mappings would exhaust the process's limit."""
    inside = f"(i32.const {abi.WINDOWS_START - (1 << 32) + 4096})"
    again = f"(call $window_map {FD} {inside} (i32.const 4096) (i64.const 0))"
    attack = f"{MAPPED} (if (i32.ne {again} (i32.const {abi.SQLITE_IOERR_MMAP})) (then (unreachable)))"

    assert outcomes({"twice": attack}, tmp_path / "a.db") == {"twice": LEFT}
