"""Interpreters and machines that cannot run the engine: `connect` raises one clear error and never crashes."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING

import pytest

import rapsqlite
from rapsqlite import NotSupportedError, runtime
from rapsqlite._wasm import requirements
from tests.programs import run_python

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

HERE: dict[str, object] = {
    "implementation": SimpleNamespace(name="cpython"),
    "maxsize": 2**63 - 1,
    "byteorder": "little",
    "platform": "linux",
    "version_info": sys.version_info,
}
LACKING: dict[str, dict[str, object]] = {
    "CPython": {"implementation": SimpleNamespace(name="pypy")},
    "a 64-bit Python": {"maxsize": 2**31 - 1},
    "a little-endian processor": {"byteorder": "big"},
}


@pytest.mark.parametrize("needed", LACKING)
async def test_connect_names_what_the_machine_lacks(needed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise pip installs the wheel there, and the first connection fails somewhere inside ctypes."""
    monkeypatch.setattr(requirements, "sys", SimpleNamespace(**{**HERE, **LACKING[needed]}))

    with pytest.raises(NotSupportedError, match=f"^rapsqlite needs {needed}: "):
        await rapsqlite.connect(":memory:")


async def test_a_failed_check_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection can be closed, and dropped without a warning."""
    monkeypatch.setattr(requirements, "sys", SimpleNamespace(**{**HERE, "byteorder": "big"}))
    conn = rapsqlite.connect(":memory:")

    with pytest.raises(NotSupportedError):
        await conn

    await conn.close()
    assert not conn.is_alive()


async def test_connect_reports_a_missing_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where wasmtime has no build, pip installs its ``py3-none-any`` wheel, which holds another system's library."""
    installed = ModuleType("wasmtime")
    installed.__spec__ = ModuleSpec("wasmtime", None, is_package=True)
    installed.__spec__.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(runtime, "_shared", None)
    monkeypatch.setitem(sys.modules, "wasmtime", installed)

    with pytest.raises(NotSupportedError, match=r"^no WebAssembly runtime for this machine .* has no library for"):
        await rapsqlite.connect(":memory:")


async def test_connect_reports_a_runtime_that_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library may need another C library, or processor, than this machine's."""
    library = tmp_path / "wasmtime.so"
    library.write_bytes(b"\x7fELF of another processor")
    monkeypatch.setattr(runtime, "_shared", None)
    monkeypatch.setattr(runtime, "library_path", lambda: str(library))

    with pytest.raises(NotSupportedError, match=r"^no WebAssembly runtime for this machine") as caught:
        await rapsqlite.connect(":memory:")

    assert str(library) in str(caught.value)


# Several releases of CPython crash when a subinterpreter ends: this ends without.
IN_SUBINTERPRETER = """
import os, sys
MAIN = '''
try:
    import rapsqlite
    rapsqlite.connect(":memory:").__await__().send(None)
except Exception as exc:
    print(f"{type(exc).__name__}: {exc}", flush=True)
'''
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
    failure = interpreters.run_string(interpreters.create(isolated=sys.argv[1] == "isolated"), MAIN)
else:
    failure = interpreters.exec(interpreters.create(sys.argv[1]), MAIN)
print(failure or '', end='', flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("kind", ["isolated", "legacy"])
def test_a_subinterpreter_is_refused_by_name(kind: str) -> None:
    """msgspec does not load in an isolated one; in the other kind ctypes would call back into the main interpreter."""
    done = run_python("-c", IN_SUBINTERPRETER, kind)

    assert (done.stdout.strip(), done.returncode) == (
        "NotSupportedError: rapsqlite needs the main interpreter: this is a subinterpreter, which the compiled modules"
        " it uses do not support",
        0,
    ), done.stderr
