"""What `statistics` counts, and what that proves: a statement calls the host a bounded number of times."""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import anyio
import pytest

import rapsqlite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

STATEMENTS = 100
WINDOW_BYTES = 16 << 20
FILE_CALLS = ("path_", "file_", "shm_", "window_map", "window_unmap")


def file_calls(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """Return how often each file-related host function was called between two snapshots."""
    names = [name for name in after if name.startswith(FILE_CALLS)]
    assert len(names) >= 15
    return {name: after[name] - before[name] for name in names if after[name] > before[name]}


@pytest.fixture
async def conn(database: Path) -> AsyncIterator[rapsqlite.Connection]:
    """A connection to a database in WAL mode with rows and warm caches."""
    with closing(sqlite3.connect(database, isolation_level=None)) as native:
        native.execute("PRAGMA journal_mode = WAL")
        native.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body)")
        native.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 2000)"
            " INSERT INTO t SELECT i, randomblob(500) FROM n"
        )
        async with rapsqlite.connect(database, isolation_level=None) as conn:
            await conn.execute("PRAGMA synchronous = NORMAL")
            await conn.execute("INSERT INTO t (body) VALUES ('a log that is not empty')")
            for _ in range(5):
                await conn.fetch_all("SELECT sum(length(body)) FROM t")
            yield conn


def within(made: dict[str, int], most: dict[str, int]) -> bool:
    """Return True if nothing was called more often; with prelocks it is less often (tests/vfs/test_prelocks.py)."""
    return all(count <= most.get(name, 0) for name, count in made.items())


async def test_point_reads_take_at_most_two_calls_each(conn: rapsqlite.Connection) -> None:
    """One takes the lock, one releases it before the reply."""
    before = await conn.statistics()
    for number in range(1, STATEMENTS + 1):
        assert await conn.fetch_scalar("SELECT length(body) FROM t WHERE id = ?", (number,)) == 500
    after = await conn.statistics()

    assert within(file_calls(before, after), {"shm_lock": STATEMENTS, "shm_unlock": STATEMENTS})


async def test_point_reads_in_delete_mode_take_at_most_two_calls_each(database: Path) -> None:
    async with rapsqlite.connect(database, isolation_level=None) as conn:
        await conn.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body)")
        await conn.executemany("INSERT INTO t (body) VALUES (?)", [(number,) for number in range(STATEMENTS)])
        for _ in range(5):  # until the file is mapped
            await conn.fetch_all("SELECT sum(length(body)) FROM t")
        before = await conn.statistics()
        for number in range(1, STATEMENTS + 1):
            assert await conn.fetch_scalar("SELECT body FROM t WHERE id = ?", (number,)) == number - 1
        after = await conn.statistics()

    assert within(file_calls(before, after), {"file_lock": STATEMENTS, "file_unlock": STATEMENTS})


async def test_autocommit_writes_in_wal_mode_take_at_most_five_calls_each(conn: rapsqlite.Connection) -> None:
    before = await conn.statistics()
    for number in range(STATEMENTS):
        await conn.execute("INSERT INTO t (body) VALUES (?)", (number,))
    after = await conn.statistics()

    # The locks: a reader's mark twice, to move and to share it, and the writer's.
    most = {"shm_lock": 3 * STATEMENTS, "file_write": STATEMENTS, "shm_unlock": STATEMENTS}
    assert within(file_calls(before, after), most)
    assert after["syncs"] == before["syncs"], "synchronous=NORMAL syncs at checkpoints alone"


@pytest.mark.skipif(sys.platform != "linux", reason="reads are mapped on Linux only")
async def test_scan_of_a_hundred_thousand_pages_takes_one_call_per_window(database: Path) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as native:
        native.executescript("PRAGMA page_size = 512; PRAGMA synchronous = OFF; CREATE TABLE t (body)")
        native.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100000)"
            " INSERT INTO t SELECT zeroblob(400) FROM n"
        )
    size = os.stat(database).st_size
    assert size >= 100_000 * 512
    async with rapsqlite.connect(database) as conn:
        await conn.fetch_all("SELECT sum(length(body)) FROM t")
        before = await conn.statistics()
        assert before["window_map"] == -(-size // WINDOW_BYTES)

        assert await conn.fetch_scalar("SELECT sum(length(body)) FROM t") == 40_000_000

        after = await conn.statistics()
    assert sum(file_calls(before, after).values()) <= 10 + before["window_map"]
    assert after["window_hits"] - before["window_hits"] > 90_000
    assert after["bytes_read"] == before["bytes_read"]


async def test_bytes_and_syncs_of_the_statement_are_counted(database: Path) -> None:
    async with rapsqlite.connect(database, isolation_level=None) as conn:
        await conn.execute("PRAGMA synchronous = FULL")
        await conn.execute("CREATE TABLE t (body)")
        before = await conn.statistics()

        await conn.execute("INSERT INTO t VALUES (zeroblob(100000))")

        after = await conn.statistics()
    assert after["bytes_written"] - before["bytes_written"] > 100_000
    assert after["syncs"] - before["syncs"] >= 2, "the journal, then the database"


async def test_lock_waits_are_counted(database: Path) -> None:
    async with rapsqlite.connect(database, isolation_level=None, timeout=60) as conn:
        host = conn._state.guest.host
        await conn.execute("CREATE TABLE t (body)")
        assert (await conn.statistics())["busy_waits"] == 0
        with closing(sqlite3.connect(database, isolation_level=None)) as native:
            native.execute("BEGIN EXCLUSIVE")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(conn.execute, "INSERT INTO t VALUES (1)")
                while not host.busy_waits:  # noqa: ASYNC110
                    await anyio.sleep(0.002)
                native.execute("ROLLBACK")
        assert (await conn.statistics())["busy_waits"] == host.busy_waits
