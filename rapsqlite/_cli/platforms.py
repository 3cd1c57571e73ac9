"""How this machine's kind is tested: the rows of the table in docs/platforms.md, which a test compares."""

from __future__ import annotations

import platform
import sys
from typing import NamedTuple

from rapsqlite._platform import system as here


class Row(NamedTuple):
    """A system and processor, and how it is tested."""

    system: str
    processor: str
    tested: str


ROWS = (
    Row("Linux", "x86-64", "every commit: all tests on one Python, an eighth on each other"),
    Row("Linux", "arm64", "under qemu, by scripts/platforms/arm64.sh"),
    Row("Linux, musl", "x86-64, arm64", "not tested; wasmtime and msgspec have wheels"),
    Row("macOS", "x86-64, arm64", "not on the system itself; its branches by test doubles"),
    Row("Windows", "x86-64", "under Wine, by scripts/platforms/windows.sh"),
    Row("Windows", "arm64", "not tested; wasmtime and msgspec have wheels"),
)
UNKNOWN = Row("another system", "", "not tested: please report what doctor prints")
_PROCESSORS = {"amd64": "x86-64", "x86_64": "x86-64", "aarch64": "arm64", "arm64": "arm64"}


def row_of(system: str, machine: str, libc: str) -> Row:
    """Return the row of a machine, given the system's name and `platform`'s names for the rest."""
    name = system
    if name == "Linux" and libc != "glibc":
        name = "Linux, musl"
    processor = _PROCESSORS.get(machine.lower(), machine)
    return next((row for row in ROWS if row.system == name and processor in row.processor.split(", ")), UNKNOWN)


def row_here() -> Row:
    """Return the row of this machine."""
    return row_of(here.name, platform.machine(), platform.libc_ver()[0])


def interpreter() -> str:
    """Return the interpreter's relevant properties beyond its version."""
    is_gil_enabled = getattr(sys, "_is_gil_enabled", lambda: True)
    bits = "64-bit" if sys.maxsize >= 1 << 32 else "32-bit"
    return f"{bits}, {sys.byteorder}-endian, the GIL is {'on' if is_gil_enabled() else 'off'}"
