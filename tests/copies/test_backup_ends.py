"""Every kind of source and target of a backup, in this package and in Python's sqlite3, and the same database twice."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

import rapsqlite
from rapsqlite import _constants as abi
from rapsqlite import backup
from rapsqlite._client.image import Image
from rapsqlite._guest.guest import Guest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rapsqlite._files.file_table import FileTable
    from rapsqlite._wasm.rings import Request

KINDS = ["memory", "file", "wal"]
SCRIPT = """CREATE TABLE t (a INTEGER PRIMARY KEY, b); CREATE INDEX i ON t (b);
    WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 500)
    INSERT INTO t SELECT i, hex(randomblob(50)) FROM n"""
ROWS = "SELECT * FROM t ORDER BY a"


def path_of(kind: str, path: Path) -> str:
    return ":memory:" if kind == "memory" else str(path)


@pytest.mark.parametrize("pages", [-1, 7])
@pytest.mark.parametrize("to", KINDS)
@pytest.mark.parametrize("of", KINDS)
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
async def test_backup_onto_its_own_file_changes_nothing(journal: str, pages: int, tmp_path: Path) -> None:
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


async def test_shared_memory_database_can_be_backed_up_onto_itself() -> None:
    async with rapsqlite.connect_memory(name="ends") as conn, rapsqlite.connect_memory(name="ends") as same:
        await conn.executescript(SCRIPT)
        before = await conn.fetch_all(ROWS)

        await conn.backup(same)

        assert await same.fetch_all(ROWS) == before
        with pytest.raises(ValueError, match="same connection"):
            await conn.backup(conn)
        assert await conn.fetch_all(ROWS) == before


async def test_concurrent_backups_in_opposite_directions_complete(tmp_path: Path) -> None:
    """Whichever comes second, both end up with the content of one of them."""
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


async def test_sqlite3_target_may_belong_to_another_thread(tmp_path: Path) -> None:
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


async def test_backup_includes_rows_written_by_its_own_connection_between_steps(tmp_path: Path) -> None:
    """Each row that existed before a step, or was inserted between two, is in the copy once."""
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


@pytest.mark.parametrize("sleep", [0.25, 0.003, 0.0])
async def test_backup_retries_soon_after_a_transaction_of_its_own_connection(
    sleep: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a writer on the connection makes the file grow as fast as it is copied."""
    async with rapsqlite.connect(tmp_path / "a.db") as conn, rapsqlite.connect(":memory:") as target:
        await conn.executescript(SCRIPT)
        await conn.execute("INSERT INTO t (b) VALUES ('own')")
        pauses: list[float] = []

        async def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 10:
                await conn.commit()

        monkeypatch.setattr(backup, "pause", pause)
        await conn.backup(target, pages=2, sleep=sleep)

        assert pauses == [min(0.001 * 2**number, sleep) for number in range(10)]
        assert await target.fetch_scalar("SELECT count(*) FROM t") == 501


async def test_backup_waits_a_millisecond_for_each_transaction_between_two_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rapsqlite.connect(tmp_path / "a.db") as conn, rapsqlite.connect(":memory:") as target:
        await conn.executescript(SCRIPT)
        source, call, pauses, statuses = conn._state.guest, Guest.call, list[float](), list[int]()

        async def call_after_insert(guest: Guest, request: Request) -> Any:
            if guest is source and request.op == abi.OP_BACKUP_STEP and statuses[-1:] != [abi.SQLITE_BUSY]:
                await conn.execute("INSERT INTO t (b) VALUES ('own')")
            return await call(guest, request)

        async def pause(seconds: float) -> None:
            pauses.append(seconds)
            await conn.commit()

        with monkeypatch.context() as patch:
            patch.setattr(Guest, "call", call_after_insert)
            patch.setattr(backup, "pause", pause)
            await conn.backup(target, pages=2, progress=lambda status, *_: statuses.append(status))

        *steps, last = statuses
        assert last == abi.SQLITE_DONE
        assert steps == ([abi.SQLITE_BUSY, abi.SQLITE_OK] * len(steps))[: len(steps)]
        assert pauses == [0.001] * statuses.count(abi.SQLITE_BUSY)
        assert await target.fetch_scalar("SELECT count(*) FROM t") == 500 + len(pauses)


async def test_backup_sleeps_as_requested_while_others_hold_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.db"
    async with rapsqlite.connect(path, timeout=0) as conn, rapsqlite.connect(":memory:") as target:
        await conn.executescript(SCRIPT)
        pauses: list[float] = []

        async def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 3:
                native.rollback()

        monkeypatch.setattr(backup, "pause", pause)
        with contextlib.closing(sqlite3.connect(path)) as native:
            native.execute("BEGIN EXCLUSIVE")
            await conn.backup(target)

        assert pauses == [0.25] * 3


@pytest.mark.parametrize(
    "options, error",
    [
        ({"pages": "1"}, TypeError), ({"pages": 1.5}, TypeError), ({"pages": None}, TypeError),
        ({"pages": 1 << 40}, OverflowError), ({"pages": -(1 << 40)}, OverflowError),
        ({"sleep": "1"}, TypeError), ({"sleep": None}, TypeError),
        ({"name": 5}, TypeError), ({"name": "main\0"}, ValueError), ({"name": "nowhere"}, rapsqlite.OperationalError),
    ],
)  # fmt: skip
async def test_nonsensical_arguments_are_refused_as_by_sqlite3(options: dict[str, Any], error: type[Exception]) -> None:
    native, copy = sqlite3.connect(":memory:"), sqlite3.connect(":memory:")
    with pytest.raises((TypeError, ValueError, OverflowError, sqlite3.Error)) as expected:
        native.backup(copy, **options)
    assert issubclass(error, expected.type)
    async with rapsqlite.connect(":memory:") as conn, rapsqlite.connect(":memory:") as target:
        await target.execute("CREATE TABLE kept (a)")
        for end in (target, copy):
            with pytest.raises(error):
                await conn.backup(end, **options)
        if "pages" not in options:
            for source in (conn, native):
                with pytest.raises(error):
                    await target.restore(source, **options)
        if "name" in options:
            with pytest.raises(error):
                await conn.serialize(**options)
            with pytest.raises(error):
                await conn.deserialize(await target.serialize(), **options)

        assert await target.get_tables() == ["kept"]
    native.close()
    copy.close()


async def test_step_may_have_as_many_pages_as_sqlite3_accepts() -> None:
    async with rapsqlite.connect(":memory:") as conn, rapsqlite.connect(":memory:") as target:
        await conn.executescript(SCRIPT)

        for pages in ((1 << 31) - 1, -(1 << 31), True):
            await conn.backup(target, pages=pages, sleep=-1)

        assert await target.fetch_all(ROWS) == await conn.fetch_all(ROWS)


def open_files() -> set[str]:
    """Return the paths of all files that this process has open or mapped."""
    paths = {line.split(maxsplit=5)[5] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line}
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the descriptor of the listing itself
            paths.add(os.readlink(descriptor))
    return paths


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which files a process has open")
@pytest.mark.parametrize("of", KINDS)
@pytest.mark.parametrize("direction", ["backup", "restore"])
async def test_no_file_is_open_in_two_sqlite_libraries_at_once(
    direction: str, of: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only one of them has the image open at a time, and neither ever has the other's database."""
    ours, theirs = path_of(of, tmp_path / "ours"), str(tmp_path / "theirs")
    steps: list[str] = []
    connect_natively, grant = sqlite3.connect, Image.granted_to

    class Native(sqlite3.Connection):
        def close(self) -> None:
            super().close()
            assert not any(path.endswith("/image") for path in open_files())
            steps.append("sqlite3 has closed it")

    def open_natively(path: str) -> sqlite3.Connection:
        assert path.endswith("/image")
        assert path not in open_files()
        steps.append("sqlite3 opens it")
        return connect_natively(path, factory=Native)

    @contextlib.contextmanager
    def grant_image(image: Image, files: FileTable) -> Iterator[None]:
        path = os.fsdecode(image.path)
        assert path not in open_files()
        steps.append("ours may open it")
        with grant(image, files):
            yield
            assert path not in open_files()
        steps.append("ours has closed it")

    async with rapsqlite.connect(ours) as conn:
        if of == "wal":
            await conn.set_pragma("journal_mode", "wal")
        await conn.executescript(SCRIPT)
        with contextlib.closing(connect_natively(theirs, check_same_thread=False)) as native:
            native.executescript(SCRIPT)
            with monkeypatch.context() as patched:
                patched.setattr(sqlite3, "connect", open_natively)
                patched.setattr(Image, "granted_to", grant_image)
                await getattr(conn, direction)(native)

            assert [list(row) for row in native.execute(ROWS)] == await conn.fetch_all(ROWS)

    halves = [["ours may open it", "ours has closed it"], ["sqlite3 opens it", "sqlite3 has closed it"]]
    assert steps == (halves[0] + halves[1] if direction == "backup" else halves[1] + halves[0])
