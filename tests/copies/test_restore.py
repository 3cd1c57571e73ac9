"""Copies from connections of Python's sqlite3, and from this package's."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import rapsqlite

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = "CREATE TABLE t (a, b); INSERT INTO t VALUES (1, x'00ff'), ('two', NULL), (3.5, ''); PRAGMA user_version = 7"
ROWS = "SELECT * FROM t ORDER BY rowid"


def native(
    path: str | Path = ":memory:", script: str = SCRIPT, **options: Any
) -> contextlib.closing[sqlite3.Connection]:
    conn = sqlite3.connect(path, **options)
    conn.executescript(script)
    return contextlib.closing(conn)


@pytest.mark.parametrize("check_same_thread", [True, False], ids=["this thread", "any thread"])
@pytest.mark.parametrize("to", ["memory", "file", "wal"])
@pytest.mark.parametrize("of", ["memory", "file", "wal"])
async def test_native_database_replaces_ours(of: str, to: str, check_same_thread: bool, tmp_path: Path) -> None:
    paths = {
        "of": ":memory:" if of == "memory" else tmp_path / "a",
        "to": ":memory:" if to == "memory" else tmp_path / "b",
    }
    with native(paths["of"], check_same_thread=check_same_thread) as source:
        if of == "wal":
            source.execute("PRAGMA journal_mode = wal")
        async with rapsqlite.connect(paths["to"]) as conn:
            if to == "wal":
                await conn.set_pragma("journal_mode", "wal")
            await conn.execute("CREATE TABLE replaced (a)")
            await conn.commit()

            await conn.restore(source)

            assert await conn.fetch_all(ROWS) == [list(row) for row in source.execute(ROWS)]
            assert await conn.get_tables() == ["t"]
            assert await conn.fetch_scalar("PRAGMA user_version") == 7
            assert await conn.fetch_scalar("PRAGMA integrity_check") == "ok"
            await conn.execute("INSERT INTO t VALUES (9, 9)")
            await conn.commit()
            assert source.execute("SELECT count(*) FROM t").fetchone() == (3,)


@pytest.mark.parametrize("replace", ["deserialize", "restore", "backup"])
async def test_setting_that_commits_is_applied_before_the_database_is_replaced(replace: str) -> None:
    """As before any statement: the transaction that it ends would lock the database."""
    async with rapsqlite.connect(":memory:") as conn, rapsqlite.connect(":memory:") as other:
        await other.executescript(SCRIPT)
        await conn.execute("CREATE TABLE replaced (a)")
        await conn.execute("INSERT INTO replaced VALUES (1)")
        conn.isolation_level = None

        if replace == "deserialize":
            await conn.deserialize(await other.serialize())
        elif replace == "restore":
            with native() as source:
                await conn.restore(source)
        else:
            await other.backup(conn)

        assert await conn.get_tables() == ["t"]


async def test_native_connection_to_the_same_file_keeps_its_locks(tmp_path: Path) -> None:
    """A user may open one file with two SQLite libraries in a process; the copy must not break the locks."""
    path = tmp_path / "a.db"
    with native(path, isolation_level=None) as source:
        async with rapsqlite.connect(path, timeout=0) as conn:
            await conn.restore(source)
            assert len(await conn.fetch_all(ROWS)) == 3

            source.execute("BEGIN IMMEDIATE")
            with pytest.raises(rapsqlite.OperationalError, match="locked"):
                await conn.execute("INSERT INTO t VALUES (5, 5)")
            source.execute("ROLLBACK")


async def test_attached_database_of_a_native_connection_is_restored(tmp_path: Path) -> None:
    with native() as source:
        source.executescript("ATTACH ':memory:' AS beside; CREATE TABLE beside.other (x)")
        async with rapsqlite.connect(tmp_path / "b.db") as conn:
            await conn.restore(source, name="beside")

            assert await conn.get_tables() == ["other"]


async def test_empty_native_database_empties_the_target(tmp_path: Path) -> None:
    """An empty source empties the target: it is a copy, not a merge."""
    with native(script="") as source:
        async with rapsqlite.connect(tmp_path / "b.db") as conn:
            await conn.execute("CREATE TABLE t (a)")
            await conn.commit()

            await conn.restore(source)

            assert await conn.get_tables() == []


async def test_locked_native_source_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with native(path, timeout=0) as source, native(path, "", isolation_level=None) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        writer.execute("INSERT INTO t VALUES (4, 4)")
        async with rapsqlite.connect(":memory:") as conn, anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: conn.restore(source, sleep=0.01))
            for _ in range(5):
                await anyio.sleep(0.01)
                assert await conn.get_tables() == []
            writer.execute("COMMIT")
        async with rapsqlite.connect(":memory:") as conn:
            await conn.restore(source)
            assert await conn.fetch_scalar("SELECT count(*) FROM t") == 4


async def test_cancelled_restore_leaves_everything_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with native(path, timeout=0) as source, native(path, "", isolation_level=None) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        async with rapsqlite.connect(":memory:") as conn:
            await conn.execute("CREATE TABLE kept (a)")
            await conn.commit()
            with anyio.move_on_after(0.05) as scope:
                await conn.restore(source, sleep=0.01)

            assert scope.cancelled_caught
            assert await conn.get_tables() == ["kept"]
        writer.execute("ROLLBACK")
        assert source.execute("SELECT count(*) FROM t").fetchone() == (3,)


async def test_source_may_be_a_connection_of_this_package_but_not_itself() -> None:
    """A connection can be restored from another one of this package, but never from itself."""
    async with rapsqlite.connect(":memory:") as source, rapsqlite.connect(":memory:") as conn:
        await source.executescript(SCRIPT)
        await source.executescript("ATTACH ':memory:' AS beside; CREATE TABLE beside.other (x)")

        await conn.restore(source)
        assert await conn.fetch_all(ROWS) == await source.fetch_all(ROWS)

        await conn.restore(source, name="beside")
        assert await conn.get_tables() == ["other"]
        with pytest.raises(ValueError, match="same connection"):
            await conn.restore(conn)


async def test_invalid_restore_arguments_are_refused_with_the_reason(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"no database" * 1000)
    closed = sqlite3.connect(":memory:")
    closed.close()
    async with rapsqlite.connect(":memory:") as conn:
        await conn.execute("CREATE TABLE kept (a)")
        await conn.commit()
        with native() as source:
            with pytest.raises(rapsqlite.OperationalError, match="the source: unknown database"):
                await conn.restore(source, name="nowhere")
            await conn.begin("IMMEDIATE")
            with pytest.raises(rapsqlite.OperationalError):
                await conn.restore(source)
            await conn.rollback()
        with native(garbage, "") as source, pytest.raises(rapsqlite.DatabaseError, match="the source"):
            await conn.restore(source)
        with pytest.raises(rapsqlite.ProgrammingError, match=r"the source: .*closed"):
            await conn.restore(closed)
        with pytest.raises(TypeError, match="must be a Connection"):
            await conn.restore("path")  # type: ignore[arg-type]

        assert await conn.get_tables() == ["kept"]
    with native() as source, pytest.raises(rapsqlite.ProgrammingError):
        await conn.restore(source)
