"""Modules that trap or never return while loading are tried in a separate sandbox first, so the connection
continues.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

import rapsqlite
from rapsqlite._client import extension_trial
from rapsqlite._client.extension_loader import Loader
from rapsqlite._client.opening import OpenOptions
from rapsqlite._guest import registry
from tests.extensions.modules import ENTRY, side_module
from tests.played_time import let_killed_guests_end_late, play_time_limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from rapsqlite._guest.guest import Guest

TRAPS = {
    "start": "(func $f unreachable) (start $f)",
    "relocations": '(func (export "__wasm_apply_data_relocs") unreachable)',
    "constructor": '(func (export "__wasm_call_ctors") unreachable)',
    "entry point": ENTRY.replace("(i32.const 0)", "unreachable"),
}
LOOPS = {
    "start": "(func $f (loop (br 0))) (start $f)",
    "relocations": '(func (export "__wasm_apply_data_relocs") (loop (br 0)))',
    "constructor": '(func (export "__wasm_call_ctors") (loop (br 0)))',
    "entry point": ENTRY.replace("(i32.const 0)", "(loop (br 0)) unreachable"),
}
BY_SQL = "SELECT load_extension(?)"


class Linked:
    """Signals that a module has been linked: its code is about to run."""

    def __init__(self) -> None:
        self.happened = threading.Event()

    async def wait(self) -> None:
        assert await anyio.to_thread.run_sync(self.happened.wait, 30)


@pytest.fixture
def linked(monkeypatch: pytest.MonkeyPatch) -> Linked:
    """Signals for any module that is linked."""
    seen = Linked()
    link = Loader.link

    def watched(self: Loader, number: int, memory_base: int) -> bytes:
        answer = link(self, number, memory_base)
        seen.happened.set()
        return answer

    monkeypatch.setattr(Loader, "link", watched)
    return seen


@pytest.fixture
def scratches(monkeypatch: pytest.MonkeyPatch) -> list[Guest]:
    """The sandboxes in which modules are tried, with a grace period short enough for a test."""
    let_killed_guests_end_late(monkeypatch)
    opened: list[Guest] = []
    open_scratch = OpenOptions.open_scratch

    async def watched(self: OpenOptions) -> Guest:
        guest = await open_scratch(self)
        guest._queue.grace_period_s = 0.1
        opened.append(guest)
        return guest

    monkeypatch.setattr(OpenOptions, "open_scratch", watched)
    return opened


@pytest.fixture
async def busy(database: Path) -> AsyncIterator[rapsqlite.Connection]:
    """A connection with much to lose: a committed row, an open transaction, a temporary table, a function."""
    async with rapsqlite.connect(database, isolation_level=None) as conn:
        await conn.executescript(
            "CREATE TABLE t (a); INSERT INTO t VALUES (1); CREATE TEMP TABLE mine AS SELECT 5 AS x"
        )
        await conn.create_function("twice", 1, lambda value: 2 * value)
        await conn.enable_load_extension(True)
        await conn.begin()
        await conn.execute("INSERT INTO t VALUES (2)")
        yield conn


def guest_threads() -> int:
    return sum(thread.name.startswith("rapsqlite") for thread in threading.enumerate())


async def assert_nothing_is_lost(conn: rapsqlite.Connection) -> None:
    assert conn.in_transaction
    assert await conn.fetch_all("SELECT a, twice(x) FROM t, mine ORDER BY a") == [[1, 10], [2, 10]]
    await conn.commit()
    assert await conn.fetch_scalar("SELECT sum(a) FROM t") == 3


@pytest.mark.parametrize("where", sorted(TRAPS))
async def test_trap_is_an_error_and_the_connection_continues(
    busy: rapsqlite.Connection, tmp_path: Path, where: str
) -> None:
    module = tmp_path / "module.wasm"
    module.write_bytes(side_module(TRAPS[where]))
    threads = guest_threads()

    for _ in range(2):
        with pytest.raises(rapsqlite.OperationalError, match=r"module\.wasm'.*was not loaded: .*unreachable") as caught:
            await busy.load_extension(str(module))
        assert "\n" not in str(caught.value)

    await assert_nothing_is_lost(busy)
    assert guest_threads() == threads


async def test_trap_in_compiled_c_is_an_error(busy: rapsqlite.Connection, build: Callable[..., Path]) -> None:
    trapping = build("trapping", TRAPPING)

    with pytest.raises(rapsqlite.OperationalError, match="unreachable"):
        await busy.load_extension(trapping)

    await assert_nothing_is_lost(busy)


@pytest.mark.parametrize("where", sorted(LOOPS))
async def test_endless_loading_is_killed_at_the_time_limit_and_delays_no_other_connection(
    tmp_path: Path, where: str, scratches: list[Guest], linked: Linked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile others open, use and close connections: nothing that they need is locked."""
    clock = play_time_limits(monkeypatch)
    module = tmp_path / "module.wasm"
    module.write_bytes(side_module(LOOPS[where]))

    async with rapsqlite.connect(":memory:", limits={"statement_seconds": 0.05}) as conn:
        await conn.enable_load_extension(True)

        async def load() -> None:
            with pytest.raises(rapsqlite.OperationalError, match=r"took longer than 0\.05 seconds"):
                await conn.load_extension(str(module))
            ended.set()

        ended = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(load)
            await linked.wait()
            async with rapsqlite.connect(":memory:") as other:
                assert await other.fetch_scalar("SELECT 1") == 1
            assert await conn.fetch_scalar("SELECT 1") == 1
            with clock.running():
                await ended.wait()

        assert await conn.fetch_scalar("SELECT 1") == 1
    assert [guest.is_running() for guest in scratches] == [False]


@pytest.mark.parametrize("where", sorted(LOOPS))
async def test_endless_loading_can_be_cancelled(
    busy: rapsqlite.Connection, tmp_path: Path, where: str, scratches: list[Guest], linked: Linked
) -> None:
    module = tmp_path / "module.wasm"
    module.write_bytes(side_module(LOOPS[where]))

    async with anyio.create_task_group() as group:
        group.start_soon(busy.load_extension, str(module))
        await linked.wait()
        group.cancel_scope.cancel()

    await assert_nothing_is_lost(busy)
    assert [guest.is_running() for guest in scratches] == [False]


@pytest.mark.parametrize("where", sorted(TRAPS))
async def test_trap_while_sql_loads_a_module_ends_only_its_connection(
    busy: rapsqlite.Connection, database: Path, tmp_path: Path, where: str
) -> None:
    """SQLite itself loads it, in the middle of a statement, so it cannot be tried elsewhere."""
    module = tmp_path / "module.wasm"
    module.write_bytes(side_module(TRAPS[where]))
    async with rapsqlite.connect(database) as other:
        lost = await rapsqlite.connect(database, isolation_level=None)
        await busy.commit()
        await lost.enable_load_extension(True)
        await lost.begin("IMMEDIATE")
        await lost.execute("INSERT INTO t VALUES (3)")

        with pytest.raises(rapsqlite.OperationalError, match="unreachable"):
            await lost.fetch_scalar(BY_SQL, [str(module)])
        with pytest.raises(rapsqlite.OperationalError, match="has failed and is closed"):
            await lost.execute("SELECT 1")
        await lost.close()

        assert await other.fetch_all("SELECT a FROM t") == [[1], [2]]
    assert await busy.fetch_scalar("SELECT sum(twice(a)) FROM t") == 6
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as native, native:
        assert native.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        native.execute("INSERT INTO t VALUES (4)")


@pytest.mark.parametrize("where", sorted(LOOPS))
async def test_endless_loading_by_sql_is_killed_when_cancelled(
    database: Path, tmp_path: Path, where: str, linked: Linked, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_killed_guests_end_late(monkeypatch)
    module = tmp_path / "module.wasm"
    module.write_bytes(side_module(LOOPS[where]))
    conn = await rapsqlite.connect(database)
    conn._state.guest._queue.grace_period_s = 0.1
    await conn.execute("CREATE TABLE t (a)")
    await conn.commit()
    await conn.enable_load_extension(True)

    async with anyio.create_task_group() as group:
        group.start_soon(conn.fetch_scalar, BY_SQL, [str(module)])
        await linked.wait()
        group.cancel_scope.cancel()
    with pytest.raises(rapsqlite.OperationalError, match="did not answer an interrupt"):
        await conn.fetch_scalar("SELECT 1")
    await conn.close()

    async with rapsqlite.connect(database) as again:
        assert await again.get_tables() == ["t"]


async def test_entry_point_runs_once_on_the_connection(busy: rapsqlite.Connection, build: Callable[..., Path]) -> None:
    """In the trial the table does not exist: that error is not the connection's."""
    await busy.load_extension(build("writing", WRITING))

    assert await busy.fetch_all("SELECT a FROM t WHERE a > 2") == [[42]]


async def test_only_user_modules_are_tried_and_only_if_loading_is_allowed(
    conn: rapsqlite.Connection, sample: Path, scratches: list[Guest]
) -> None:
    for name in ("fts5", "Regexp"):
        await conn.load_extension(name)
    await conn.enable_load_extension(False)
    with pytest.raises(rapsqlite.OperationalError, match="not authorized"):
        await conn.load_extension(sample)
    assert scratches == []

    await conn.enable_load_extension(True)
    await conn.load_extension(sample)

    assert [guest.is_running() for guest in scratches] == [False]
    assert not {id(guest) for guest in scratches} & {id(guest) for guest in registry._live}


async def test_task_cancelled_before_loading_loads_nothing(
    busy: rapsqlite.Connection, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cancelled(*_: object) -> None:
        scope.cancel()
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr(extension_trial, "ask_loader", cancelled)
    with anyio.CancelScope() as scope:
        await busy.load_extension(sample)

    assert scope.cancelled_caught
    with pytest.raises(rapsqlite.OperationalError, match="no such function: facts"):
        await busy.fetch_scalar("SELECT facts()")
    await assert_nothing_is_lost(busy)


TRAPPING = """
#include "sqlite3ext.h"
SQLITE_EXTENSION_INIT1

int sqlite3_trapping_init(sqlite3 *db, char **error, const sqlite3_api_routines *api) {
  SQLITE_EXTENSION_INIT2(api);
  __builtin_trap();
}
"""

WRITING = """
#include "sqlite3ext.h"
SQLITE_EXTENSION_INIT1

int sqlite3_writing_init(sqlite3 *db, char **error, const sqlite3_api_routines *api) {
  SQLITE_EXTENSION_INIT2(api);
  return sqlite3_exec(db, "INSERT INTO t VALUES (42)", 0, 0, error);
}
"""
