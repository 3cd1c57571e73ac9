"""Invalid extensions, and imports that the sandbox does not provide: a clear error, and the connection continues."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import sys
from typing import TYPE_CHECKING, Any, cast

import anyio
import pytest

import rapsqlite
from rapsqlite import runtime
from rapsqlite._values.bounds import MOST_LIBRARIES
from tests.extensions.modules import ENTRY, dylink, mem_info, side_module

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BY_SQL = "SELECT load_extension(?)"
# The C interface of wasmtime ends the process when it is asked what kind of value these are.
UNASKABLE = ["v128", "(ref func)", "(ref null $t)"]
WRONG_STRLEN = '(import "env" "strlen" (func (param f64)))'
REFUSED: dict[str, tuple[bytes, type[Exception], str]] = {
    "not wasm": (b"hello", rapsqlite.OperationalError, "not a WebAssembly module"),
    "invalid code": (side_module(ENTRY) + b"\x0b\x03abc", rapsqlite.OperationalError, "not valid"),
    "wasi": (
        side_module('(import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))' + ENTRY),
        rapsqlite.NotSupportedError,
        r"imports wasi_snapshot_preview1\.fd_write",
    ),
    "host": (
        side_module('(import "rapsqlite" "file_open" (func))'),
        rapsqlite.NotSupportedError,
        r"rapsqlite\.file_open",
    ),
    "unknown function": (side_module('(import "env" "printf" (func))'), rapsqlite.NotSupportedError, r"env\.printf"),
    "engine's own function": (
        side_module('(import "env" "rapsqlite_run" (func (result i32)))'),
        rapsqlite.NotSupportedError,
        r"env\.rapsqlite_run",
    ),
    "many functions": (
        side_module("".join(f'(import "env" "f{number}" (func))' for number in range(23))),
        rapsqlite.NotSupportedError,
        r"imports env\.f0, env\.f1, .*env\.f19 and 3 more, which",
    ),
    "unknown global": (side_module('(import "env" "x" (global i32))'), rapsqlite.NotSupportedError, r"env\.x"),
    "table as memory": (
        side_module('(import "env" "memory" (table 1 funcref))'),
        rapsqlite.NotSupportedError,
        "memory",
    ),
    "unresolved data": (
        side_module('(import "GOT.mem" "lost" (global (mut i32)))'),
        rapsqlite.NotSupportedError,
        r"GOT\.mem\.lost",
    ),
    "unresolved function": (
        side_module('(import "GOT.func" "lost" (global (mut i32)))'),
        rapsqlite.NotSupportedError,
        r"GOT\.func\.lost",
    ),
    "other type of function": (side_module(WRONG_STRLEN), rapsqlite.OperationalError, "strlen"),
    "too large a memory": (
        side_module('(import "env" "memory" (memory 60000))'),
        rapsqlite.OperationalError,
        "cannot be linked",
    ),
    "data outside": (
        side_module('(import "env" "memory" (memory 1)) (data (i32.const -4) "12345678")'),
        rapsqlite.OperationalError,
        "out of bounds memory",
    ),
    "functions outside": (
        side_module(
            '(import "env" "__indirect_function_table" (table 1 funcref)) (func $f) (elem (i32.const 500000) func $f)'
        ),
        rapsqlite.OperationalError,
        "out of bounds table",
    ),
    "start function that is none": (
        side_module(ENTRY) + b"\x08\x01\x63",
        rapsqlite.OperationalError,
        "not valid",
    ),
    "two start functions": (
        side_module("(func $f) (start $f)") + b"\x08\x01\0",
        rapsqlite.OperationalError,
        "more than one start function",
    ),
    "address that is none": (
        side_module('(import "GOT.mem" "x" (global (mut i32))) (global (export "x") f64 (f64.const 1))'),
        rapsqlite.OperationalError,
        "x is not an address",
    ),
    "constructor of another type": (
        side_module('(func (export "__wasm_call_ctors") (param i32))'),
        rapsqlite.OperationalError,
        "__wasm_call_ctors has the wrong parameters",
    ),
    "entry point of another type": (
        side_module('(func (export "sqlite3_extension_init") (result i32) (i32.const 0))'),
        rapsqlite.OperationalError,
        "sqlite3_extension_init has the wrong parameters",
    ),
    "entry point that is no function": (
        side_module('(global (export "sqlite3_extension_init") i32 (i32.const 1))'),
        rapsqlite.OperationalError,
        "no entry point",
    ),
    "huge memory": (side_module(ENTRY, dylink(mem_info(3 << 30))), rapsqlite.OutOfMemoryError, "3221225472 bytes"),
    "huge table": (
        side_module(ENTRY, dylink(mem_info(0, 0, 1 << 20))),
        rapsqlite.OutOfMemoryError,
        "1048576 table slots",
    ),
}


@pytest.mark.parametrize("value", UNASKABLE)
@pytest.mark.parametrize("part", ["param i32 i32 ", "param i32 i32 i32) (result "])
async def test_entry_point_with_another_type_of_value_is_refused(
    conn: rapsqlite.Connection, tmp_path: Path, value: str, part: str
) -> None:
    module = tmp_path / "module.wasm"
    function = f'(func (export "sqlite3_extension_init") ({part}{value}) unreachable)'
    module.write_bytes(side_module(f"(type $t (func)) {function}"))

    with pytest.raises(rapsqlite.OperationalError, match="sqlite3_extension_init has the wrong parameters"):
        await conn.load_extension(str(module))


EXCEPTIONS = {
    "a handler": "(func (block $h (try_table (catch $e $h))))",
    "a handler with a value": "(func (drop (block $h (result i32) (try_table (catch $f $h)) (i32.const 1))))",
    "a handler of all": "(func (block $h (try_table (catch_all $h))))",
    "one that is raised": "(func (throw $e))",
    "one that is raised again": "(func (throw_ref (ref.null exn)))",
    "a type": "(func (param exnref))",
    "a tag": "",
}


@pytest.mark.parametrize("what", EXCEPTIONS)
async def test_exceptions_are_refused(conn: rapsqlite.Connection, tmp_path: Path, what: str) -> None:
    """wasmtime without garbage collection ends the process when it compiles a handler."""
    module = tmp_path / "module.wasm"
    module.write_bytes(side_module(f"(tag $e) (tag $f (param i32)) {EXCEPTIONS[what]} {ENTRY}"))

    with pytest.raises((rapsqlite.OperationalError, rapsqlite.NotSupportedError), match=r"not valid|not supported"):
        await conn.load_extension(str(module))
    assert await conn.fetch_scalar("SELECT 1") == 1


@pytest.mark.parametrize("what", sorted(REFUSED))
async def test_invalid_module_is_refused(conn: rapsqlite.Connection, tmp_path: Path, what: str) -> None:
    content, error, words = REFUSED[what]
    module = tmp_path / "module.wasm"
    module.write_bytes(content)

    with pytest.raises(error, match=words) as caught:
        await conn.load_extension(str(module))

    assert "module.wasm" in str(caught.value)
    assert await conn.fetch_scalar("SELECT 1") == 1


@pytest.fixture
def lengths(sample: Path) -> list[int]:
    """Places to cut the sample at, the last one first."""
    return list(range(0, sample.stat().st_size, 97))[::-1]


async def test_truncated_module_is_refused(
    conn: rapsqlite.Connection, sample: Path, tmp_path: Path, lengths: list[int]
) -> None:
    cut = shutil.copy(sample, tmp_path / "cut.wasm")
    for length in lengths:
        os.truncate(cut, length)
        with pytest.raises(rapsqlite.DatabaseError, match=r"cut\.wasm|no entry point"):
            await conn.load_extension(str(cut))

    assert await conn.fetch_scalar("SELECT 1") == 1
    await conn.load_extension(str(sample))
    assert await conn.fetch_scalar("SELECT apply('double', 1)") == 2


async def test_extension_can_be_repaired_and_loaded_again(conn: rapsqlite.Connection, tmp_path: Path) -> None:
    module = tmp_path / "module.wasm"
    module.write_bytes(side_module())
    with pytest.raises(rapsqlite.OperationalError, match="no entry point"):
        await conn.load_extension(str(module))
    module.write_bytes(side_module(ENTRY))

    await conn.load_extension(str(module))


async def test_modules_that_cannot_be_linked_are_not_kept(conn: rapsqlite.Connection, tmp_path: Path) -> None:
    """They would count as open, and only so many may be."""
    module = tmp_path / "module.wasm"
    module.write_bytes(REFUSED["constructor of another type"][0])
    for _ in range(MOST_LIBRARIES):
        with pytest.raises(rapsqlite.OperationalError):
            await conn.execute(BY_SQL, [str(module)])

    module.write_bytes(side_module(ENTRY))

    await conn.load_extension(str(module))


async def test_missing_entry_point_raises_with_sqlites_message(conn: rapsqlite.Connection, sample: Path) -> None:
    with pytest.raises(rapsqlite.OperationalError, match=r"no entry point \[nope\] in shared library"):
        await conn.load_extension(str(sample), entrypoint="nope")


async def test_failing_entry_point_raises_with_its_message(
    conn: rapsqlite.Connection, build: Callable[..., Path]
) -> None:
    failing = build("failing", FAILING)

    for _ in range(2):
        with pytest.raises(rapsqlite.OperationalError, match=r"error during initialization: no luck today \(1\)"):
            await conn.load_extension(str(failing))

    assert await conn.fetch_scalar("SELECT 1") == 1


async def test_function_table_is_bounded(conn: rapsqlite.Connection, tmp_path: Path) -> None:
    """However often a greedy module is loaded: its share is bounded, and the connection continues."""
    module = tmp_path / "module.wasm"
    module.write_bytes(side_module("", dylink(mem_info(0, 0, 1 << 16))))

    messages = []
    for _ in range(runtime._TABLE_LIMIT // (1 << 16) + 1):
        with pytest.raises(rapsqlite.OperationalError) as caught:
            await conn.load_extension(str(module))
        messages.append(str(caught.value))

    assert "no entry point" in messages[0]
    assert "table is full" in messages[-1]
    assert await conn.fetch_scalar("SELECT 1") == 1


@pytest.mark.parametrize("suffix", ["", ".so", ".dylib", ".dll"])
async def test_native_library_is_refused_with_a_clear_error(
    conn: rapsqlite.Connection, tmp_path: Path, suffix: str
) -> None:
    library = tmp_path / f"native{suffix or '.so'}"
    library.write_bytes({".dylib": b"\xcf\xfa\xed\xfe", ".dll": b"MZ"}.get(suffix, b"\x7fELF") + bytes(100))

    with pytest.raises(rapsqlite.NotSupportedError, match=r"native library.*sandbox.*create_function") as caught:
        await conn.load_extension(str(tmp_path / f"native{suffix}"))

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", ["directory", "pipe", "nothing", "below a file"])
async def test_extension_must_be_a_regular_file(conn: rapsqlite.Connection, tmp_path: Path, what: str) -> None:
    """A pipe without a writer does not block."""
    name = tmp_path / "name"
    if what == "directory":
        name.mkdir()
    elif what == "pipe":
        os.mkfifo(name)
    elif what == "below a file":
        name.write_bytes(b"")
        name /= "module"

    for load in (conn.load_extension, lambda path: conn.fetch_scalar(BY_SQL, [path])):
        with pytest.raises(rapsqlite.OperationalError) as caught:
            await load(str(name))
        error = caught.value if "there is no extension" in str(caught.value) else caught.value.__cause__
        assert "there is no extension" in str(error)
        assert str(name) in str(error)
    assert await conn.fetch_scalar("SELECT 1") == 1


@pytest.mark.parametrize("by", ["method", "SQL"])
async def test_database_named_as_an_extension_keeps_its_locks(
    conn: rapsqlite.Connection, database: Path, by: str
) -> None:
    """Closing any descriptor of a file drops the POSIX locks that another SQLite in this process has on it."""
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as native:
        native.execute("CREATE TABLE t (a)")
        native.execute("BEGIN EXCLUSIVE")
        load = conn.load_extension(database) if by == "method" else conn.fetch_scalar(BY_SQL, [str(database)])
        with pytest.raises(rapsqlite.OperationalError):
            await load

        program = f"import sqlite3; sqlite3.connect({str(database)!r}, timeout=0).execute('INSERT INTO t VALUES (1)')"
        done = await anyio.run_process([sys.executable, "-c", program], check=False)
        assert b"database is locked" in done.stderr
        native.execute("COMMIT")


async def test_nothing_is_loaded_unless_enabled(sample: Path) -> None:
    async with rapsqlite.connect(":memory:") as conn:
        for name in (str(sample), "regexp", "fts5", "nothing of the kind"):
            with pytest.raises(rapsqlite.OperationalError, match=r"^not authorized$"):
                await conn.load_extension(name)
            with pytest.raises(rapsqlite.OperationalError, match=r"^not authorized"):
                await conn.fetch_scalar("SELECT load_extension(?)", [name])


@pytest.mark.parametrize("name,error", [(7, TypeError), (b"bytes", TypeError), ("a\0b", ValueError), (None, TypeError)])
async def test_invalid_extension_name_is_refused(
    conn: rapsqlite.Connection, name: object, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await conn.load_extension(cast("Any", name))


async def test_extension_is_not_loaded_on_a_closed_connection() -> None:
    conn = await rapsqlite.connect(":memory:")
    await conn.close()

    with pytest.raises(rapsqlite.ProgrammingError, match="closed"):
        await conn.enable_load_extension(True)
    with pytest.raises(rapsqlite.ProgrammingError, match="closed"):
        await conn.load_extension("fts5")


FAILING = """
#include "sqlite3ext.h"
SQLITE_EXTENSION_INIT1

static int tries = 0;

int sqlite3_failing_init(sqlite3 *db, char **error, const sqlite3_api_routines *api) {
  SQLITE_EXTENSION_INIT2(api);
  *error = sqlite3_mprintf("no luck today (%d)", ++tries);
  return SQLITE_ERROR;
}
"""
