"""A user's extension, compiled by the tests, in the sandbox."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

import rapsqlite
from rapsqlite import runtime
from rapsqlite._files import module_cache, opening
from tests.extensions.conftest import (
    ROOT,
    SAMPLE,
    documented_command,
    documented_command_of_a_package,
    documented_source,
)
from tests.extensions.modules import ENTRY, dylink, mem_info, side_module
from tests.played_time import let_killed_guests_end_late

if TYPE_CHECKING:
    from collections.abc import Callable


async def test_function_aggregate_and_table_work(conn: rapsqlite.Connection, sample: Path) -> None:
    await conn.load_extension(str(sample))

    assert await conn.fetch_all("SELECT apply('double', 21), apply('negate', 3), sorted('hello')") == [
        [42, -3, "ehllo"]
    ]
    assert await conn.fetch_scalar("SELECT product(value) FROM json_each('[2, 3, 7]')") == 42
    assert await conn.fetch_all("SELECT name FROM planets WHERE name LIKE 'm%'") == [["mercury"], ["mars"]]
    with pytest.raises(rapsqlite.OperationalError, match="no such operation"):
        await conn.fetch_scalar("SELECT apply('halve', 1)")


async def test_documented_example_builds_and_loads(conn: rapsqlite.Connection, build: Callable[..., Path]) -> None:
    page = (ROOT / "docs" / "extensions.md").read_text(encoding="utf-8")
    [(query, answer)] = re.findall(r'fetch_scalar\("(SELECT initials.*)"\)  # \'(.*)\'', page)
    await conn.load_extension(build("myextension", documented_source()))

    assert await conn.fetch_scalar(query) == answer
    assert await conn.fetch_all("SELECT initials(NULL), initials(''), initials('one-two 3')") == [[None, None, "OT"]]


async def test_sysroot_of_an_sdk_works_like_the_directory_of_headers(
    conn: rapsqlite.Connection, build: Callable[..., Path], tmp_path: Path
) -> None:
    """An SDK keeps the headers elsewhere; the clang is the same."""
    page = (ROOT / "docs" / "extensions.md").read_text(encoding="utf-8")
    [flags] = re.findall(r"instead of\s+`(.*?)`", page)
    sysroot = tmp_path / "share" / "wasi-sysroot"
    (sysroot / "include").mkdir(parents=True)
    (sysroot / "include" / "wasm32-wasip1").symlink_to(flags.rpartition(" ")[2])
    module = build("myextension", documented_source(), replace=(flags, f"--sysroot={sysroot}"))
    await conn.load_extension(module)

    assert await conn.fetch_scalar("SELECT initials('Ada Lovelace')") == "AL"


@pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed")
async def test_compiler_from_a_python_package_builds_extensions(
    conn: rapsqlite.Connection, build: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    command = documented_command_of_a_package()
    await conn.load_extension(build("myextension", documented_source(), command=command))
    await conn.load_extension(build("sample", SAMPLE.read_text(encoding="utf-8"), command=command))

    assert await conn.fetch_scalar("SELECT initials('Ada Lovelace')") == "AL"
    assert await conn.fetch_scalar("SELECT facts()") == "built 1, mars, 0"
    assert await conn.fetch_scalar("SELECT sorted('hello')") == "ehllo"


def test_documented_packages_are_those_that_the_build_installs() -> None:
    page = (ROOT / "docs" / "extensions.md").read_text(encoding="utf-8")
    script = (ROOT / "scripts" / "build_wasm.sh").read_text(encoding="utf-8")
    [named] = re.findall(r"`apt-get install (.*?)`", page)
    [installed] = re.findall(r"^debian_packages=\((.*)\)", script, re.MULTILINE)

    assert set(named.split()) <= set(installed.split())


async def test_two_documented_lines_replace_the_prelude(conn: rapsqlite.Connection, build: Callable[..., Path]) -> None:
    lines = '#include "sqlite3.h"\n#undef SQLITE_OMIT_LOAD_EXTENSION\n#include "sqlite3ext.h"'
    source = documented_source().replace('#include "sqlite3ext.h"', lines)
    option = '-include "$RAPSQLITE/wasm/extensions/prelude.h"'
    assert option in documented_command()

    await conn.load_extension(build("myextension", source, replace=(option, "")))

    assert await conn.fetch_scalar("SELECT initials('grace hopper')") == "GH"


async def test_static_data_is_relocated_and_constructors_are_run_once(conn: rapsqlite.Connection, sample: Path) -> None:
    await conn.load_extension(str(sample))
    await conn.load_extension(str(sample))
    await conn.fetch_scalar("SELECT apply('double', 1)")

    assert await conn.fetch_scalar("SELECT facts()") == "built 1, mars, 1"


async def test_each_connection_has_its_own_static_data(conn: rapsqlite.Connection, sample: Path) -> None:
    await conn.load_extension(str(sample))
    await conn.fetch_scalar("SELECT apply('double', 1)")

    async with rapsqlite.connect(":memory:") as other:
        with pytest.raises(rapsqlite.OperationalError, match="not authorized"):
            await other.load_extension(str(sample))
        with pytest.raises(rapsqlite.OperationalError, match="no such function"):
            await other.fetch_scalar("SELECT facts()")
        await other.enable_load_extension(True)
        await other.load_extension(str(sample))
        assert await other.fetch_scalar("SELECT facts()") == "built 1, mars, 0"


async def test_path_may_lack_the_suffix_and_be_a_path_object(conn: rapsqlite.Connection, sample: Path) -> None:
    await conn.load_extension(sample.with_suffix(""))

    assert await conn.fetch_scalar("SELECT apply('double', 4)") == 8


async def test_entry_point_can_be_named(conn: rapsqlite.Connection, sample: Path) -> None:
    await conn.load_extension(str(sample), entrypoint="other_entry")

    with pytest.raises(rapsqlite.OperationalError, match="no such function: apply"):
        await conn.fetch_scalar("SELECT apply('double', 1)")
    with pytest.raises(rapsqlite.OperationalError, match="no such operation"):
        await conn.fetch_scalar("SELECT negated(1)")


async def test_two_extensions_share_a_connection(
    conn: rapsqlite.Connection, sample: Path, build: Callable[..., Path]
) -> None:
    """Each has its own part of the memory and of the table."""
    more = build("more", SHOUT)
    await conn.load_extension(str(more))
    await conn.load_extension(str(sample))

    assert await conn.fetch_all("SELECT shout(name) FROM planets") == [["MERCURY"], ["VENUS"], ["EARTH"], ["MARS"]]


async def test_functions_stay_after_loading_is_disabled(conn: rapsqlite.Connection, sample: Path) -> None:
    await conn.load_extension(str(sample))
    await conn.enable_load_extension(False)

    assert await conn.fetch_scalar("SELECT apply('negate', 4)") == -4
    with pytest.raises(rapsqlite.OperationalError, match="not authorized"):
        await conn.load_extension(str(sample))
    with pytest.raises(rapsqlite.OperationalError, match="not authorized"):
        await conn.fetch_scalar("SELECT load_extension(?)", [str(sample)])


async def test_sql_may_load_only_granted_files_and_the_program_any(sample: Path, tmp_path: Path) -> None:
    """SQL may be untrusted: it can name only files that it could open anyway."""
    (tmp_path / "granted").mkdir()
    granted = Path(shutil.copy(sample, tmp_path / "granted"))

    async with rapsqlite.connect(tmp_path / "test.db", limits={"directories": [granted.parent]}) as conn:
        with pytest.raises(rapsqlite.OperationalError, match="not authorized"):
            await conn.fetch_scalar("SELECT load_extension(?)", [str(granted)])
        await conn.enable_load_extension(True)
        with pytest.raises(rapsqlite.OperationalError, match="unable to open shared library") as caught:
            await conn.fetch_scalar("SELECT load_extension(?)", [str(sample)])
        assert "not granted" in str(caught.value.__cause__)
        await conn.fetch_scalar("SELECT load_extension(?)", [str(granted)])
        assert await conn.fetch_scalar("SELECT apply('double', 2)") == 4
        await conn.load_extension(str(sample))


async def test_sql_may_load_any_file_without_limits(sample: Path) -> None:
    async with rapsqlite.connect(":memory:") as conn:
        await conn.enable_load_extension(True)
        await conn.fetch_scalar("SELECT load_extension(?)", [str(sample)])

        assert await conn.fetch_scalar("SELECT apply('double', 2)") == 4


async def test_link_out_of_a_granted_directory_is_not_followed(sample: Path, tmp_path: Path) -> None:
    granted = tmp_path / "granted"
    granted.mkdir()
    (granted / "sample.wasm").symlink_to(sample)

    async with rapsqlite.connect(":memory:", limits={"directories": [granted]}) as conn:
        await conn.enable_load_extension(True)
        with pytest.raises(rapsqlite.OperationalError, match="unable to open shared library") as caught:
            await conn.fetch_scalar("SELECT load_extension(?)", [str(granted / "sample.wasm")])

    assert "not granted" in str(caught.value.__cause__)


async def test_file_replaced_by_a_link_after_the_check_is_not_loaded(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that can write to the granted directory must not win a race."""
    granted = tmp_path / "granted"
    granted.mkdir()
    module = Path(shutil.copy(sample, granted))
    read_whole = opening.read_whole
    swapped: list[bytes] = []

    def swapped_before(path: bytes, *rest: Any) -> bytes | None:
        if path == os.fsencode(module):
            module.unlink()
            module.symlink_to(sample)
            swapped.append(path)
        return read_whole(path, *rest)

    async with rapsqlite.connect(":memory:", limits={"directories": [granted]}) as conn:
        await conn.enable_load_extension(True)
        monkeypatch.setattr(opening, "read_whole", swapped_before)
        with pytest.raises(rapsqlite.OperationalError, match="unable to open shared library") as caught:
            await conn.fetch_scalar("SELECT load_extension(?)", [str(module)])

        assert "there is no extension" in str(caught.value.__cause__)
        assert swapped
        with pytest.raises(rapsqlite.OperationalError, match="no such function"):
            await conn.fetch_scalar("SELECT facts()")


async def test_setconfig_can_enable_loading(sample: Path) -> None:
    async with rapsqlite.connect(":memory:") as conn:
        await conn.setconfig(rapsqlite.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, True)
        await conn.load_extension(str(sample))

        assert await conn.fetch_scalar("SELECT apply('double', 2)") == 4


async def test_compiled_extension_is_cached(
    conn: rapsqlite.Connection, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = runtime.shared_engine()
    monkeypatch.setattr(engine, "_side_modules", {})
    monkeypatch.setenv("RAPSQLITE_CACHE_DIR", str(tmp_path / "cache"))
    await conn.load_extension(str(sample))
    directory = module_cache.cache_directory()
    assert directory is not None
    [kept] = directory.glob("*.compiled")

    def refuse(*_: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(engine, "_side_modules", {})
    monkeypatch.setattr(runtime.Engine, "_compile", refuse)
    async with rapsqlite.connect(":memory:") as other:
        await other.enable_load_extension(True)
        await other.load_extension(str(sample))
        assert await other.fetch_scalar("SELECT apply('double', 2)") == 4
    assert kept.is_file()


async def test_trap_ends_only_its_connection(conn: rapsqlite.Connection, sample: Path) -> None:
    async def trap() -> None:
        async with rapsqlite.connect(":memory:", isolation_level=None) as lost:
            await lost.enable_load_extension(True)
            await lost.load_extension(str(sample))
            await lost.fetch_scalar("SELECT trap()")

    with pytest.raises(rapsqlite.OperationalError, match="unreachable"):
        await trap()

    assert await conn.fetch_scalar("SELECT 1") == 1


async def test_function_that_never_returns_is_killed_with_its_connection(
    sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_killed_guests_end_late(monkeypatch)
    conn = await rapsqlite.connect(":memory:")
    monkeypatch.setattr(conn._state.guest._queue, "grace_period_s", 0.1)
    await conn.enable_load_extension(True)
    await conn.load_extension(str(sample))
    spinning = threading.Event()
    await conn.create_function("begins", 0, spinning.set)

    async with anyio.create_task_group() as group:
        group.start_soon(conn.fetch_scalar, "SELECT begins(), spin()")
        await anyio.to_thread.run_sync(spinning.wait)
        group.cancel_scope.cancel()
    with pytest.raises(rapsqlite.OperationalError, match="did not answer an interrupt"):
        await conn.fetch_scalar("SELECT 1")

    await conn.close()


async def test_memory_limit_holds_for_extensions(tmp_path: Path) -> None:
    hungry = tmp_path / "hungry.wasm"
    hungry.write_bytes(side_module(ENTRY, dylink(mem_info(200 << 20, 4))))

    async with rapsqlite.connect(":memory:", limits={"memory_bytes": 64 << 20}) as conn:
        await conn.enable_load_extension(True)
        with pytest.raises(rapsqlite.OutOfMemoryError, match="209715200 bytes"):
            await conn.load_extension(str(hungry))
        assert await conn.fetch_scalar("SELECT 1") == 1


SHOUT = """
#include "sqlite3ext.h"
#include <ctype.h>
#include <string.h>
SQLITE_EXTENSION_INIT1

static void shout(sqlite3_context *context, int count, sqlite3_value **values) {
  char *text = sqlite3_mprintf("%s", sqlite3_value_text(values[0]));
  size_t at;
  for (at = 0; at < strlen(text); at++) text[at] = (char)toupper(text[at]);
  sqlite3_result_text(context, text, -1, sqlite3_free);
}

int sqlite3_more_init(sqlite3 *db, char **error, const sqlite3_api_routines *api) {
  SQLITE_EXTENSION_INIT2(api);
  return sqlite3_create_function(db, "shout", 1, SQLITE_UTF8, 0, shout, 0, 0);
}
"""
