"""``backup``, ``serialize`` and ``deserialize``: between this package's connections, and to Python's sqlite3."""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import rapsqlite
from rapsqlite import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

KINDS = ["memory", "file", "wal"]
ROWS = 2000


@pytest.fixture(autouse=True)
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where images are created; none may be left."""
    folder = tmp_path / "images"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.delenv("SQLITE_TMPDIR", raising=False)
    return folder


def left_in(directory: Path) -> list[str]:
    return os.listdir(directory)


async def make(kind: str, path: Path, page_size: int = 4096) -> rapsqlite.Connection:
    conn = await connect(":memory:" if kind == "memory" else path)
    await conn.set_pragma("page_size", page_size)
    if kind == "wal":
        await conn.set_pragma("journal_mode", "wal")
    return conn


async def fill(conn: rapsqlite.Connection, count: int = ROWS) -> None:
    await conn.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
    await conn.executemany("INSERT INTO t (b) VALUES (?)", ((f"{n:0>200}",) for n in range(count)))
    await conn.commit()


@pytest.fixture
async def source() -> AsyncIterator[rapsqlite.Connection]:
    async with connect(":memory:") as conn:
        await fill(conn)
        yield conn


@pytest.mark.parametrize("to", KINDS)
@pytest.mark.parametrize("of", KINDS)
async def test_backup_copies_everything(of: str, to: str, tmp_path: Path, images: Path) -> None:
    """It replaces the target, which then works, and leaves no temporary image behind."""
    conn, target = await make(of, tmp_path / "a.db"), await make(to, tmp_path / "b.db")
    async with conn.transaction():
        await conn.execute("CREATE TABLE other (x)")
    await fill(conn)
    await target.execute("CREATE TABLE replaced (x)")

    await conn.backup(target)

    assert await target.iterdump() == await conn.iterdump()
    assert await target.fetch_all("PRAGMA integrity_check") == [["ok"]]
    await target.execute("INSERT INTO t (b) VALUES (1)")
    await target.commit()
    await conn.close()
    await target.close()
    assert left_in(images) == []
    if to != "memory":
        native = sqlite3.connect(tmp_path / "b.db")
        assert native.execute("SELECT count(*) FROM t").fetchall() == [(ROWS + 1,)]
        native.close()


async def test_progress_is_reported_as_by_sqlite3(source: rapsqlite.Connection) -> None:
    ours: list[tuple[int, int, int]] = []
    theirs: list[tuple[int, int, int]] = []
    native, copy = sqlite3.connect(":memory:"), sqlite3.connect(":memory:")
    native.executescript("\n".join(await source.iterdump()))

    async with connect(":memory:") as target:
        await source.backup(target, pages=20, progress=lambda *step: ours.append(step))
    native.backup(copy, pages=20, progress=lambda *step: theirs.append(step))

    assert ours == theirs
    native.close()
    copy.close()


@pytest.mark.parametrize("pages", [-1, 0, 10_000])
async def test_non_positive_pages_copy_everything_in_one_step(source: rapsqlite.Connection, pages: int) -> None:
    """0 and negative numbers mean all pages, as in sqlite3."""
    steps: list[tuple[int, int, int]] = []

    async with connect(":memory:") as target:
        await source.backup(target, pages=pages, progress=lambda *step: steps.append(step))

    assert [(status, remaining) for status, remaining, _ in steps] == [(101, 0)]


async def test_target_may_be_a_connection_of_sqlite3(source: rapsqlite.Connection, tmp_path: Path) -> None:
    """A connection of sqlite3 is a valid target, in memory or in a file."""
    steps: list[tuple[int, int, int]] = []
    for name in (":memory:", str(tmp_path / "native.db")):
        native = sqlite3.connect(name)

        await source.backup(native, pages=30, progress=lambda *step: steps.append(step))

        assert list(native.iterdump()) == await source.iterdump()
        native.close()
    assert steps[-1][:2] == (101, 0)


async def test_target_of_sqlite3_with_a_transaction_is_refused(source: rapsqlite.Connection) -> None:
    native = sqlite3.connect(":memory:")
    native.execute("CREATE TABLE mine (x)")
    native.execute("INSERT INTO mine VALUES (1)")

    with pytest.raises(rapsqlite.OperationalError, match="target"):
        await source.backup(native)

    assert native.execute("SELECT * FROM mine").fetchall() == [(1,)]
    native.close()
    with pytest.raises(rapsqlite.ProgrammingError, match="closed"):
        await source.backup(native)


async def test_writes_to_the_source_during_a_backup_are_copied(source: rapsqlite.Connection) -> None:
    """As in sqlite3: a page that changes after it was copied is copied again."""
    steps = 0
    async with connect(":memory:") as target, anyio.create_task_group() as tasks:

        async def write() -> None:
            await source.execute("UPDATE t SET b = 'changed'")
            await source.execute("INSERT INTO t (b) VALUES ('new')")
            await source.commit()

        def progress(status: int, remaining: int, total: int) -> None:
            nonlocal steps
            steps += 1
            if steps == 2:
                tasks.start_soon(write)

        await source.backup(target, pages=1, progress=progress, sleep=0.001)

        assert await target.fetch_all("SELECT b, count(*) FROM t GROUP BY b ORDER BY b") == [
            ["changed", ROWS],
            ["new", 1],
        ]
        assert await target.fetch_all("PRAGMA integrity_check") == [["ok"]]


async def test_writes_of_another_connection_restart_the_copy(tmp_path: Path) -> None:
    async with connect(tmp_path / "a.db") as conn, connect(":memory:") as target:
        await fill(conn)
        other = sqlite3.connect(tmp_path / "a.db")
        remaining = []

        def progress(_status: int, left: int, _total: int) -> None:
            remaining.append(left)
            if len(remaining) == 3:
                other.execute("DELETE FROM t WHERE a > 100")
                other.commit()

        await conn.backup(target, pages=10, progress=progress)
        other.close()

        assert await target.fetch_scalar("SELECT count(*) FROM t") == 100
        assert sorted(remaining, reverse=True) != remaining


async def test_source_in_a_transaction_is_waited_for(source: rapsqlite.Connection) -> None:
    await source.execute("DELETE FROM t")
    statuses = []
    async with connect(":memory:") as target, anyio.create_task_group() as tasks:

        def progress(status: int, _remaining: int, _total: int) -> None:
            statuses.append(status)
            if len(statuses) == 2:
                tasks.start_soon(source.rollback)

        await source.backup(target, progress=progress, sleep=0.001)

        assert await target.fetch_scalar("SELECT count(*) FROM t") == ROWS
    assert statuses[:2] == [rapsqlite.SQLITE_BUSY] * 2
    assert statuses[-1] == 101


async def test_locked_target_is_waited_for(source: rapsqlite.Connection, tmp_path: Path) -> None:
    path = tmp_path / "target.db"
    native = sqlite3.connect(path, isolation_level=None)
    native.executescript("CREATE TABLE x (y); BEGIN IMMEDIATE")
    statuses = []

    def progress(status: int, _remaining: int, _total: int) -> None:
        statuses.append(status)
        if len(statuses) == 2:
            native.execute("ROLLBACK")

    async with connect(path, timeout=0) as target:
        await source.backup(target, progress=progress, sleep=0.001)

        assert await target.fetch_scalar("SELECT count(*) FROM t") == ROWS
    assert statuses == [rapsqlite.SQLITE_BUSY] * 2 + [101]
    native.close()


async def test_exception_in_progress_ends_the_backup(source: rapsqlite.Connection, images: Path) -> None:
    class EnoughError(Exception):
        pass

    def progress(*_: int) -> None:
        raise EnoughError

    async with connect(":memory:") as target:
        await target.execute("CREATE TABLE kept (x)")
        with pytest.raises(EnoughError):
            await source.backup(target, pages=1, progress=progress)

        assert await target.get_tables() == ["kept"]
        await source.execute("DELETE FROM t")
        await source.commit()
    assert left_in(images) == []


@pytest.mark.parametrize("pages", [-1, 1])
async def test_cancelled_backup_leaves_the_target_as_it_was(
    source: rapsqlite.Connection, pages: int, images: Path
) -> None:
    async with connect(":memory:") as target:
        await target.execute("CREATE TABLE kept (x)")
        with anyio.CancelScope() as scope:
            scope.cancel()
            await source.backup(target, pages=pages)
            await anyio.lowlevel.checkpoint()

        assert scope.cancelled_caught
        assert await target.get_tables() == ["kept"]
        assert await source.fetch_scalar("SELECT count(*) FROM t") == ROWS
        await source.backup(target)
        assert await target.get_tables() == ["t"]
    assert left_in(images) == []


async def test_backup_cancelled_between_steps_leaves_target_and_files_alone(
    source: rapsqlite.Connection, images: Path
) -> None:
    """A cancelled backup leaves the target as it was, and no files."""
    steps = 0
    async with connect(":memory:") as target:
        await target.execute("CREATE TABLE kept (x)")
        with anyio.CancelScope() as scope:

            def progress(*_: int) -> None:
                nonlocal steps
                steps += 1
                if steps == 3:
                    scope.cancel()

            await source.backup(target, pages=1, progress=progress)

        # A step that finishes first is not undone, so the cancellation may come a few steps later.
        assert scope.cancelled_caught
        assert await target.get_tables() == ["kept"]
        assert await source.fetch_scalar("SELECT count(*) FROM t") == ROWS
    assert left_in(images) == []


async def test_target_in_a_transaction_is_refused_and_unchanged(source: rapsqlite.Connection) -> None:
    """A target with an open transaction is refused and keeps its data."""
    async with connect(":memory:") as target:
        await target.execute("CREATE TABLE kept (x)")
        await target.execute("INSERT INTO kept VALUES (1)")

        with pytest.raises(rapsqlite.OperationalError, match="destination database is in use") as caught:
            await source.backup(target)

        assert caught.value.sqlite_errorcode == rapsqlite.SQLITE_ERROR
        assert await target.fetch_all("SELECT * FROM kept") == [[1]]
        await target.rollback()


async def test_invalid_backup_arguments_are_refused_as_by_sqlite3(source: rapsqlite.Connection) -> None:
    native, copy = sqlite3.connect(":memory:"), sqlite3.connect(":memory:")
    calls: list[Any] = [
        lambda conn, itself, other: conn.backup(itself),
        lambda conn, itself, other: conn.backup(other, name="nowhere"),
        lambda conn, itself, other: conn.backup(other, progress=5),
        lambda conn, itself, other: conn.backup(None),
    ]
    for call in calls:
        with pytest.raises(Exception) as expected:
            call(native, native, copy)
        async with connect(":memory:") as target:
            with pytest.raises(type(expected.value)) as caught:
                await call(source, source, target)
        if not isinstance(expected.value, TypeError):
            assert str(caught.value) == str(expected.value)
    native.close()
    copy.close()


async def test_closed_source_or_target_is_refused(source: rapsqlite.Connection) -> None:
    """A closed connection is refused as either end of a copy."""
    target = await connect(":memory:")
    await target.close()

    with pytest.raises(rapsqlite.ProgrammingError):
        await source.backup(target)
    for call in (target.backup(source), target.serialize(), target.deserialize(b"")):
        with pytest.raises(rapsqlite.ProgrammingError):
            await call


async def test_named_database_of_the_source_is_copied(source: rapsqlite.Connection, tmp_path: Path) -> None:
    """``name`` chooses which database of the source is copied."""
    await source.executescript("""ATTACH ':memory:' AS "o'd"" d"; CREATE TABLE "o'd"" d".inner (x)""")
    await source.execute("CREATE TEMP TABLE passing (x)")
    await source.commit()
    async with connect(tmp_path / "b.db") as target:
        await source.backup(target, name="o'd\" d")
        assert await target.get_tables() == ["inner"]

        await source.backup(target, name="temp")
        assert await target.get_tables() == ["passing"]


async def test_concurrent_backups_of_one_connection_are_complete(tmp_path: Path) -> None:
    """Backups of one connection may overlap, and each is complete."""
    async with connect(tmp_path / "a.db") as conn:
        await fill(conn)
        targets = [await connect(tmp_path / f"{n}.db") for n in range(4)]
        async with anyio.create_task_group() as tasks:
            for target in targets:
                tasks.start_soon(lambda to: conn.backup(to, pages=7), target)

        for target in targets:
            assert await target.fetch_scalar("SELECT count(*) FROM t") == ROWS
            await target.close()


async def test_target_with_another_page_size_is_replaced(tmp_path: Path) -> None:
    """The copy replaces a target whose pages have another size."""
    conn, target = await make("file", tmp_path / "a.db", 1024), await make("file", tmp_path / "b.db", 8192)
    await fill(conn)
    await target.execute("CREATE TABLE old (x)")

    await conn.backup(target)

    assert await target.iterdump() == await conn.iterdump()
    await conn.close()
    await target.close()


async def test_image_directory_is_granted_only_during_the_backup(source: rapsqlite.Connection, images: Path) -> None:
    async with connect(":memory:", limits={}) as target:
        await source.backup(target)
        (images / "left.db").touch()
        with pytest.raises(rapsqlite.OperationalError):
            await target.execute("ATTACH ? AS x", (str(images / "left.db"),))
    (images / "left.db").unlink()


# -- serialize, deserialize ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_serialized_database_is_a_database_file(kind: str, tmp_path: Path, images: Path) -> None:
    conn = await make(kind, tmp_path / "a.db")
    await fill(conn)

    data = await conn.serialize()

    (tmp_path / "copy.db").write_bytes(data)
    native = sqlite3.connect(tmp_path / "copy.db")
    assert list(native.iterdump()) == await conn.iterdump()
    native.close()
    async with connect(":memory:") as copy:
        await copy.deserialize(data)
        assert await copy.iterdump() == await conn.iterdump()
        await copy.execute("INSERT INTO t (b) VALUES (zeroblob(100000))")
        await copy.commit()
    await conn.close()
    assert left_in(images) == []


@pytest.mark.skipif(sys.version_info < (3, 11), reason="sqlite3 has no serialize before 3.11")
async def test_serialized_images_are_exchanged_with_sqlite3(source: rapsqlite.Connection) -> None:
    """Images go both ways between this package and sqlite3."""
    native: Any = sqlite3.connect(":memory:")

    native.deserialize(await source.serialize())
    native.execute("DELETE FROM t WHERE a > 10")
    native.commit()
    await source.deserialize(native.serialize())

    assert await source.iterdump() == list(native.iterdump())
    native.close()


async def test_deserialize_does_not_change_the_file(tmp_path: Path, source: rapsqlite.Connection) -> None:
    async with connect(tmp_path / "a.db") as conn:
        await conn.execute("CREATE TABLE kept (x)")
        await conn.commit()
        before = (tmp_path / "a.db").read_bytes()

        await conn.deserialize(memoryview(await source.serialize()))
        await conn.execute("DELETE FROM t")
        await conn.commit()

    assert (tmp_path / "a.db").read_bytes() == before


async def test_deserialize_replaces_the_named_database(source: rapsqlite.Connection) -> None:
    """``name`` chooses which database is replaced; an unknown one is refused."""
    data = await source.serialize()
    async with connect(":memory:") as conn:
        await conn.execute("ATTACH ':memory:' AS other")

        await conn.deserialize(bytearray(data), name="other")

        assert await conn.fetch_scalar("SELECT count(*) FROM other.t") == ROWS
        with pytest.raises(rapsqlite.OperationalError):
            await conn.deserialize(data, name="nowhere")


@pytest.mark.parametrize("damage", ["short", "garbage", "header alone", "truncated", "schema"])
async def test_deserialize_refuses_bytes_that_are_no_database(source: rapsqlite.Connection, damage: str) -> None:
    data = await source.serialize()
    bad = {
        "short": b"\0\1\3",
        "garbage": os.urandom(20_000),
        "header alone": data[:100],
        "truncated": data[: len(data) // 2],
        "schema": data.replace(b"CREATE TABLE t", b"CREATE TABLX t"),
    }[damage]

    with pytest.raises(rapsqlite.DatabaseError) as caught:
        await source.deserialize(bad)

    assert caught.value.sqlite_errorcode & 0xFF in (rapsqlite.SQLITE_NOTADB, rapsqlite.SQLITE_CORRUPT)
    assert await source.fetch_scalar("SELECT count(*) FROM t") == ROWS
    await source.deserialize(data)
    assert await source.fetch_scalar("SELECT count(*) FROM t") == ROWS


async def test_deserialize_with_a_running_statement_is_refused(source: rapsqlite.Connection) -> None:
    data = await source.serialize()
    async with source.execute("SELECT * FROM t") as cursor:
        await cursor.fetchone()

        with pytest.raises(rapsqlite.OperationalError):
            await source.deserialize(data)

        assert len(await cursor.fetchall()) == ROWS - 1
    with pytest.raises(TypeError):
        await source.deserialize("text")  # type: ignore[arg-type]


async def test_interrupted_deserialize_keeps_the_database(source: rapsqlite.Connection) -> None:
    """SQLite empties the database in a statement first, and a progress handler could interrupt that at its end."""
    data = await source.serialize()
    is_done, allowed = False, 0
    while not is_done:
        async with connect(":memory:") as conn:
            await conn.execute("CREATE TABLE kept (a)")
            await conn.commit()
            answers = chain(repeat(False, allowed), repeat(True))
            await conn.set_progress_handler(answers.__next__, 1)
            try:
                await conn.deserialize(data)
                is_done = True
            except rapsqlite.OperationalError:
                allowed += 1
            await conn.set_progress_handler(None, 1)

            assert await conn.get_tables() == (["t"] if is_done else ["kept"])


async def test_serialize_uses_little_guest_memory(tmp_path: Path) -> None:
    """A copy of the whole database inside the guest would show."""
    async with connect(tmp_path / "a.db") as conn:
        await conn.execute("CREATE TABLE t (b)")
        for _ in range(32):
            await conn.execute("INSERT INTO t VALUES (zeroblob(2000000))")
        await conn.commit()
        # What it reads is mapped into its memory, as for any statement.
        await conn.fetch_all("SELECT max(substr(b, 1900000, 1)) FROM t")
        before = (await conn.statistics())["memory_bytes"]

        data = await conn.serialize()

        assert len(data) > 64_000_000
        assert (await conn.statistics())["memory_bytes"] - before < 8_000_000
