"""`PRAGMA busy_timeout` and `timeout` are one setting; however it is set, a cancellation ends the wait for a lock."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import anyio
import pytest

import rapsqlite
from rapsqlite import connect
from rapsqlite._guest import host_functions
from rapsqlite._guest.host_functions import HostFunctions
from tests.callbacks.lingering import Blocked, started
from tests.played_time import PlayedTime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

READ = "PRAGMA busy_timeout"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep a database locked, as another program would."""
    with closing(sqlite3.connect(path, isolation_level=None)) as native:
        native.execute("CREATE TABLE IF NOT EXISTS t (a)")
        native.execute("BEGIN EXCLUSIVE")
        yield


@pytest.mark.parametrize("seconds", [0, 0.0004, 0.25, 5, 60, 86400])
@pytest.mark.parametrize("name", [":memory:", "file"])
async def test_pragma_reads_the_timeout_as_in_sqlite3(database: Path, seconds: float, name: str) -> None:
    path = name if name == ":memory:" else str(database)
    with closing(sqlite3.connect(path, timeout=seconds)) as native:
        expected = [list(row) for row in native.execute(READ)]

    async with connect(path, timeout=seconds) as conn:
        assert await conn.fetch_all(READ) == expected
        assert conn.timeout == seconds  # reading does not round


async def test_pragma_reads_the_timeout_that_the_attribute_was_set_to(database: Path) -> None:
    async with connect(database) as conn:
        for timeout in (1.5, 0, 2, 1e9):
            conn.timeout = timeout
            assert await conn.fetch_scalar(READ) == min(int(timeout * 1000), 2**31 - 1)


SPELLINGS = [
    "PRAGMA busy_timeout=100", "PRAGMA busy_timeout(100)", "PRAGMA BUSY_timeout = '100'",
    "PRAGMA main.busy_timeout=100",
    "PRAGMA temp.busy_timeout=100", "PRAGMA other.busy_timeout=100", "PRAGMA busy_timeout=0", "PRAGMA busy_timeout=-5",
    "PRAGMA busy_timeout=0x10", "PRAGMA busy_timeout=12abc", "PRAGMA busy_timeout='12abc'",
    "PRAGMA busy_timeout=1.9", "PRAGMA other.busy_timeout",
    "EXPLAIN PRAGMA busy_timeout=7",
]  # fmt: skip


@pytest.mark.parametrize("name", [":memory:", "file"])
@pytest.mark.parametrize("sql", SPELLINGS)
async def test_pragma_sets_the_timeout_as_in_sqlite3(database: Path, name: str, sql: str) -> None:
    path = name if name == ":memory:" else str(database)
    with closing(sqlite3.connect(path)) as native:
        native.execute("ATTACH ':memory:' AS other")
        try:
            answer = native.execute(sql).fetchall()
        except sqlite3.Error as error:
            answer = [(type(error).__name__,)]
        (after,) = native.execute(READ).fetchone()

    async with connect(path) as conn:
        await conn.execute("ATTACH ':memory:' AS other")
        try:
            ours = await conn.fetch_all(sql)
        except rapsqlite.Error as error:
            ours = [[type(error).__name__]]
        assert conn.timeout == after / 1000
        assert await conn.fetch_scalar(READ) == after
        if not sql.startswith("EXPLAIN"):
            assert ours == [list(row) for row in answer]


async def test_cached_pragma_sets_the_timeout_each_time(database: Path) -> None:
    """SQLite runs this pragma while compiling it, so cached statements are compiled again."""
    async with connect(database) as conn, conn.prepare("PRAGMA busy_timeout=300") as prepared:
        for _ in range(2):
            await conn.execute("PRAGMA busy_timeout=100")
            assert conn.timeout == 0.1
            await conn.execute("PRAGMA busy_timeout=200")
            assert conn.timeout == 0.2
            await prepared.fetch_all()
            assert conn.timeout == 0.3


async def test_every_way_to_set_a_pragma_sets_the_timeout(database: Path) -> None:
    async with connect(database, pragmas={"busy_timeout": 70}) as conn:
        assert conn.timeout == 0.07
        await conn.set_pragma("main.busy_timeout", 80)
        assert conn.timeout == 0.08
        await conn.executescript("SELECT 1; PRAGMA busy_timeout=90; SELECT 2")
        assert conn.timeout == 0.09
        assert await conn.fetch_all("SELECT * FROM pragma_busy_timeout") == [[90]]
        assert conn.timeout == 0.09


@pytest.mark.parametrize(
    "pragma", ["PRAGMA busy_timeout=60000", "PRAGMA busy_timeout", "PRAGMA other.busy_timeout=60000"]
)
async def test_cancellation_ends_the_wait_for_a_lock(database: Path, pragma: str) -> None:
    """SQLite's own busy handler sleeps: a cancelled task would have to wait for it, and then lose its connection."""
    async with connect(database, timeout=60, isolation_level=None) as conn:
        await conn.execute("ATTACH ':memory:' AS other")
        await conn.execute(pragma)
        with locked(database):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(conn.execute, "INSERT INTO t VALUES (1)")
                while not conn._state.guest.host.busy_waits:  # noqa: ASYNC110
                    await anyio.sleep(0.002)
                tasks.cancel_scope.cancel()
        await conn.execute("INSERT INTO t VALUES (2)")
        assert await conn.fetch_all("SELECT * FROM t") == [[2]]


async def test_wait_for_a_lock_outlasts_the_cancelled_statement_before_it(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended at once, with "database is locked", if the cancelled statement's reply had not been taken yet."""
    nap, has_napped, blocked = HostFunctions._nap, threading.Event(), Blocked(1)

    def nap_noted(self: HostFunctions, seconds: float, is_over: Callable[[], bool]) -> bool:
        is_wanted = nap(self, seconds, is_over)
        has_napped.set()
        return is_wanted

    async with connect(database, timeout=60, isolation_level=None) as conn:
        await conn.execute("CREATE TABLE t (a)")
        await conn.create_function("blocked", 0, blocked)

        async def ask() -> None:
            with scope:
                await conn.fetch_scalar("SELECT blocked()")

        async with anyio.create_task_group() as tasks:
            scope = anyio.CancelScope()
            tasks.start_soon(ask)
            await started(blocked)
            with locked(database):
                tasks.start_soon(conn.execute, "INSERT INTO t VALUES (1)")
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
                await anyio.wait_all_tasks_blocked()
                monkeypatch.setattr(HostFunctions, "_nap", nap_noted)
                blocked.let_go.set()
                assert has_napped.wait(50)  # the loop does not run meanwhile

        assert await conn.fetch_all("SELECT * FROM t") == [[1]]


class PlayedNaps(PlayedTime):
    """The module ``time`` of host functions, where it passes only while a guest naps for a lock."""

    def nap(self, _host: HostFunctions, seconds: float, _is_over: Callable[[], bool]) -> bool:
        self.now += seconds
        return True


async def test_script_waits_as_long_as_its_pragma_sets(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    time = PlayedNaps(1000.0)
    async with connect(database, timeout=60) as conn:
        monkeypatch.setattr(host_functions, "time", time)
        monkeypatch.setattr(HostFunctions, "_nap", lambda *arguments: time.nap(*arguments))
        with locked(database), pytest.raises(rapsqlite.OperationalError, match="locked"):
            await conn.executescript("PRAGMA busy_timeout=20; INSERT INTO t VALUES (1)")

    assert time.now == pytest.approx(1000.02)


async def test_pragma_removes_a_busy_handler_as_in_sqlite(database: Path) -> None:
    """https://sqlite.org/c3ref/busy_timeout.html: there is one busy handler, and a timeout is another."""
    asked = []
    async with connect(database, timeout=0.01) as conn:
        await conn.set_busy_handler(lambda attempt: asked.append(attempt))
        assert await conn.fetch_scalar(READ) == 0
        with locked(database):
            with pytest.raises(rapsqlite.OperationalError, match="locked"):
                await conn.execute("INSERT INTO t VALUES (1)")
            assert asked == [0]

            await conn.execute("PRAGMA busy_timeout=20")
            with pytest.raises(rapsqlite.OperationalError, match="locked"):
                await conn.execute("INSERT INTO t VALUES (1)")
            assert asked == [0]
            assert (conn.timeout, await conn.fetch_scalar(READ)) == (0.02, 20)


async def test_removing_a_busy_handler_restores_the_timeout(database: Path) -> None:
    async with connect(database, timeout=1.5) as conn:
        await conn.set_busy_handler(lambda _: 0)
        await conn.set_busy_handler(None)

        assert await conn.fetch_scalar(READ) == 1500


@pytest.mark.parametrize("answer", [sqlite3.SQLITE_DENY, sqlite3.SQLITE_IGNORE])
async def test_pragma_that_the_authorizer_forbids_sets_nothing(database: Path, answer: int) -> None:
    def authorize(action: int, *_: object) -> int:
        return answer if action == rapsqlite.SQLITE_PRAGMA else sqlite3.SQLITE_OK

    async with connect(database, timeout=1.5) as conn:
        await conn.set_authorizer(authorize)
        try:
            await conn.execute("PRAGMA busy_timeout=20")
        except rapsqlite.DatabaseError as error:
            assert "not authorized" in str(error)  # noqa: PT017
        await conn.set_authorizer(None)

        assert (conn.timeout, await conn.fetch_scalar(READ)) == (1.5, 1500)


async def test_authorizer_is_asked_only_about_the_pragma(database: Path) -> None:
    """The engine's own queries are not reported to the user's authorizer."""
    asked: list[tuple[object, ...]] = []

    def note(*arguments: object) -> int:
        asked.append(arguments)
        return sqlite3.SQLITE_OK

    async with connect(database) as conn:
        await conn.set_authorizer(note)
        await conn.execute("PRAGMA busy_timeout=20")
        await conn.set_authorizer(None)

    assert asked == [(rapsqlite.SQLITE_PRAGMA, "busy_timeout", "20", None, None)]
