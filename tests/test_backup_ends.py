"""What a backup may start and end at: every place of ours and of Python's sqlite3, and the same database twice."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

import rapsqlite

if TYPE_CHECKING:
    from pathlib import Path

PLACES = ["memory", "file", "wal"]
SCRIPT = """CREATE TABLE t (a INTEGER PRIMARY KEY, b); CREATE INDEX i ON t (b);
    WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 500)
    INSERT INTO t SELECT i, hex(randomblob(50)) FROM n"""
ROWS = "SELECT * FROM t ORDER BY a"


def path_of(place: str, path: Path) -> str:
    return ":memory:" if place == "memory" else str(path)


@pytest.mark.parametrize("pages", [-1, 7])
@pytest.mark.parametrize("to", PLACES)
@pytest.mark.parametrize("of", PLACES)
async def test_database_of_sqlite3_is_replaced(of: str, to: str, pages: int, tmp_path: Path) -> None:
    async with rapsqlite.connect(path_of(of, tmp_path / "a")) as conn:
        if of == "wal":
            await conn.set_pragma("journal_mode", "wal")
        await conn.executescript(SCRIPT)
        with contextlib.closing(sqlite3.connect(path_of(to, tmp_path / "b"))) as target:
            if to == "wal":
                target.execute("PRAGMA journal_mode = wal")
            target.executescript("CREATE TABLE replaced (x)")

            await conn.backup(target, pages=pages)

            assert target.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert [list(row) for row in target.execute(ROWS)] == await conn.fetch_all(ROWS)
            assert target.execute("SELECT name FROM sqlite_master ORDER BY 1").fetchall() == [("i",), ("t",)]
            target.execute("INSERT INTO t (b) VALUES (1)")
            target.commit()


@pytest.mark.parametrize("pages", [-1, 3])
@pytest.mark.parametrize("journal", ["delete", "wal"])
async def test_backup_onto_the_file_that_it_comes_from_changes_nothing(
    journal: str, pages: int, tmp_path: Path
) -> None:
    """SQLite takes the two connections for two databases; the image between them keeps them apart."""
    path = tmp_path / "a.db"
    async with rapsqlite.connect(path) as conn, rapsqlite.connect(path) as same:
        await conn.set_pragma("journal_mode", journal)
        await conn.executescript(SCRIPT)
        before = await conn.fetch_all(ROWS)

        await conn.backup(same, pages=pages)

        for one in (conn, same):
            assert await one.fetch_all(ROWS) == before
            assert await one.fetch_scalar("PRAGMA integrity_check") == "ok"
        for one in (conn, same):
            await one.execute("INSERT INTO t (b) VALUES (1)")
            await one.commit()
    with contextlib.closing(sqlite3.connect(path)) as native:
        assert native.execute("SELECT count(*) FROM t").fetchone() == (502,)


async def test_named_database_in_memory_onto_itself() -> None:
    async with rapsqlite.connect_memory(name="ends") as conn, rapsqlite.connect_memory(name="ends") as same:
        await conn.executescript(SCRIPT)
        before = await conn.fetch_all(ROWS)

        await conn.backup(same)

        assert await same.fetch_all(ROWS) == before
        with pytest.raises(ValueError, match="same connection"):
            await conn.backup(conn)
        assert await conn.fetch_all(ROWS) == before


async def test_two_connections_onto_each_other_at_once(tmp_path: Path) -> None:
    """Whichever comes second, both end up with what one of them had."""
    async with rapsqlite.connect(tmp_path / "a.db") as one, rapsqlite.connect(tmp_path / "b.db") as other:
        await one.executescript("CREATE TABLE t (a); INSERT INTO t VALUES ('one')")
        await other.executescript("CREATE TABLE t (a); INSERT INTO t VALUES ('other')")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.backup, other)
            tasks.start_soon(other.backup, one)

        rows = [await conn.fetch_scalar("SELECT a FROM t") for conn in (one, other)]
        assert set(rows) <= {"one", "other"}
        for conn in (one, other):
            assert await conn.fetch_scalar("PRAGMA integrity_check") == "ok"


async def test_target_of_sqlite3_that_belongs_to_another_thread(tmp_path: Path) -> None:
    made: list[sqlite3.Connection] = []
    counted: list[int] = []
    copied = threading.Event()

    def own() -> None:
        with contextlib.closing(sqlite3.connect(tmp_path / "b.db")) as target:
            made.append(target)
            anyio.from_thread.run_sync(ready.set)
            copied.wait(30)
            counted.append(target.execute("SELECT count(*) FROM t").fetchone()[0])

    ready = anyio.Event()
    async with rapsqlite.connect(":memory:") as conn, anyio.create_task_group() as tasks:
        await conn.executescript(SCRIPT)
        tasks.start_soon(anyio.to_thread.run_sync, own)
        await ready.wait()

        await conn.backup(made[0])
        copied.set()

    assert counted == [500]


async def test_source_is_written_by_its_own_connection_between_all_steps(tmp_path: Path) -> None:
    """Each row that was there before a step, or came between two, is in the copy once."""
    async with rapsqlite.connect(tmp_path / "a.db") as conn, rapsqlite.connect(":memory:") as target:
        await conn.executescript(SCRIPT)
        steps = 0
        written = 0

        def count(_status: int, _remaining: int, _total: int) -> None:
            nonlocal steps
            steps += 1

        async def write() -> None:
            nonlocal written
            while not done:
                await conn.execute("INSERT INTO t (b) VALUES ('between')")
                await conn.commit()
                written += 1
                await anyio.lowlevel.checkpoint()

        done = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            await conn.backup(target, pages=2, progress=count)
            done = True

        assert steps > 5
        assert written > 0
        copied = await target.fetch_all("SELECT a FROM t ORDER BY a")
        assert copied == [[number] for number in range(1, len(copied) + 1)]
        assert 500 <= len(copied) <= 500 + written
        assert await target.fetch_scalar("PRAGMA integrity_check") == "ok"
