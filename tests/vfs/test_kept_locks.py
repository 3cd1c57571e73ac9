"""Locks kept between statements: fewer calls of the host, nothing stale, and nobody else is kept out."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

import rapsqlite
from rapsqlite import _constants as abi
from rapsqlite._guest import _SLICE_S as SLICE_S
from rapsqlite._wire import encode_params

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

MODES = ("delete", "wal")
LONGEST_S = 0.005  # LONGEST in wasm/src/vfs/lease.rs


@pytest.fixture(params=MODES)
def path(request: pytest.FixtureRequest, database: Path) -> Path:
    """A database in either kind of journal mode, with one row to change."""
    with closing(sqlite3.connect(database, isolation_level=None)) as native:
        native.execute(f"PRAGMA journal_mode = {request.param}")
        native.execute("CREATE TABLE t (v)")
        native.execute("INSERT INTO t VALUES (0)")
    return database


@pytest.fixture
async def connection(path: Path) -> AsyncIterator[rapsqlite.Connection]:
    async with rapsqlite.connect(path, isolation_level=None) as opened:
        yield opened


def host_calls(connection: rapsqlite.Connection) -> dict[str, int]:
    return connection._session.guest.statistics()


async def sleep_of_the_guest(connection: rapsqlite.Connection) -> None:
    """Return once the guest has gone to sleep after the newest statement."""
    await connection.fetch_all("SELECT v FROM t")
    while not connection._session.guest.host.is_asleep():
        await anyio.lowlevel.checkpoint()


async def test_locks_are_taken_per_pause_not_per_statement(connection: rapsqlite.Connection) -> None:
    """Seven calls at most after each sleep of the guest and each end of a lock's time; none in between."""
    await connection.fetch_all("SELECT v FROM t")
    before = await connection.statistics()
    start = time.monotonic()

    async with anyio.create_task_group() as tasks:
        for _ in range(2000):
            tasks.start_soon(connection.fetch_all, "SELECT v FROM t")

    after = await connection.statistics()
    calls = sum(after[name] - before[name] for name in after if name.startswith(("file_", "shm_")))
    sleeps = after["parks"] - before["parks"]
    ends = (time.monotonic() - start) / LONGEST_S
    assert calls <= 7 * (sleeps + ends + 2)


async def test_changes_of_others_are_seen_at_once(path: Path, connection: rapsqlite.Connection) -> None:
    with closing(sqlite3.connect(path, timeout=20, isolation_level=None)) as native:
        for value in range(200):
            # Straight after a statement of ours, whose lock may still be kept; this one waits in a thread.
            await connection.fetch_all("SELECT v FROM t")
            native.execute("UPDATE t SET v = ?", (value,))
            assert await connection.fetch_scalar("SELECT v FROM t") == value


async def test_own_changes_are_seen_by_others(path: Path, connection: rapsqlite.Connection) -> None:
    with closing(sqlite3.connect(path, timeout=20, isolation_level=None)) as native:
        for value in range(200):
            await connection.fetch_all("SELECT v FROM t")
            await connection.execute("UPDATE t SET v = ?", (value,))
            assert native.execute("SELECT v FROM t").fetchone() == (value,)


async def test_growth_of_the_file_by_others_is_seen(path: Path, connection: rapsqlite.Connection) -> None:
    with closing(sqlite3.connect(path, timeout=20, isolation_level=None)) as native:
        for count in range(2, 60):
            await connection.fetch_all("SELECT v FROM t")
            native.execute("INSERT INTO t VALUES (zeroblob(20000))")
            assert await connection.fetch_scalar("SELECT count(*) FROM t WHERE length(v) > 0") == count
        native.execute("DELETE FROM t WHERE length(v) > 1")
        native.execute("VACUUM")
        assert await connection.fetch_all("SELECT v FROM t") == [[0]]
        assert await connection.fetch_scalar("PRAGMA integrity_check") == "ok"


async def test_sleeping_guest_holds_no_lock(path: Path, connection: rapsqlite.Connection) -> None:
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as native:
        for _ in range(20):
            await sleep_of_the_guest(connection)
            native.execute("BEGIN EXCLUSIVE")
            native.execute("UPDATE t SET v = v + 1")
            native.execute("COMMIT")
            native.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            if native.execute("PRAGMA journal_mode").fetchone() == ("wal",):
                assert native.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)


async def test_writer_elsewhere_gets_in_while_we_never_pause(path: Path, connection: rapsqlite.Connection) -> None:
    """The lock is given up after a few milliseconds, whatever else is queued: 30 commits in the native wait."""
    stop = False

    async def read() -> None:
        while not stop:
            await connection.fetch_all("SELECT v FROM t")

    def write() -> None:
        with closing(sqlite3.connect(path, timeout=20, isolation_level=None)) as native:
            for _ in range(30):
                native.execute("UPDATE t SET v = v + 1")

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(read)
        await anyio.to_thread.run_sync(write)
        stop = True

    assert await connection.fetch_scalar("SELECT v FROM t") == 30


async def test_writer_elsewhere_gets_in_while_we_never_stop_writing(
    path: Path, connection: rapsqlite.Connection
) -> None:
    """The writer's lock is kept by who is alone, and others are noticed after 5 ms."""
    stop = False

    async def write() -> int:
        count = 0
        while not stop:
            await connection.execute("UPDATE t SET v = v + 1")
            count += 1
        return count

    def write_natively() -> None:
        with closing(sqlite3.connect(path, timeout=20, isolation_level=None)) as native:
            for _ in range(30):
                native.execute("UPDATE t SET v = v + 1")

    async with anyio.create_task_group() as tasks:
        counts: list[int] = []

        async def note() -> None:
            counts.append(await write())

        tasks.start_soon(note)
        await anyio.to_thread.run_sync(write_natively)
        stop = True

    assert await connection.fetch_scalar("SELECT v FROM t") == 30 + counts[0]


async def test_reader_that_never_pauses_does_not_let_the_log_grow(database: Path) -> None:
    """A mark that is kept stands in for newer ones only while the log is shorter than what is checkpointed."""
    with closing(sqlite3.connect(database, timeout=20, isolation_level=None, check_same_thread=False)) as native:
        native.execute("PRAGMA journal_mode = WAL")
        native.execute("CREATE TABLE t (v)")
        native.execute("INSERT INTO t VALUES (0)")
        stop = False

        def write() -> None:
            for _ in range(4000):
                native.execute("UPDATE t SET v = v + 1")

        async with rapsqlite.connect(database, isolation_level=None) as reader:

            async def read() -> None:
                while not stop:
                    await reader.fetch_all("SELECT v FROM t")

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                await anyio.to_thread.run_sync(write)
                stop = True
        frames = database.with_name(database.name + "-wal").stat().st_size // 4120
    assert frames < 3000


async def test_kept_lock_of_one_database_ends_while_another_is_read(path: Path, tmp_path: Path) -> None:
    """A long statement on an attached database must not hold the main one's lock along."""
    other = tmp_path / "other.db"
    long_query = (
        "WITH RECURSIVE c(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM c WHERE x < 100000000) "
        "SELECT count(*) FROM c, other.t"
    )
    async with rapsqlite.connect(path, isolation_level=None) as connection:
        await connection.execute("ATTACH ? AS other", (str(other),))
        await connection.execute("CREATE TABLE other.t (v)")
        await connection.execute("INSERT INTO other.t VALUES (1)")
        with closing(sqlite3.connect(path, timeout=20, isolation_level=None, check_same_thread=False)) as native:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(connection.fetch_all, "SELECT v FROM main.t")
                tasks.start_soon(connection.fetch_all, long_query)
                await anyio.to_thread.run_sync(partial(native.execute, "BEGIN EXCLUSIVE"))
                tasks.cancel_scope.cancel()
            native.execute("COMMIT")


async def test_file_that_was_leased_can_be_closed_and_replaced(path: Path) -> None:
    for value in range(20):
        async with rapsqlite.connect(path, isolation_level=None) as connection:
            await connection.fetch_all("SELECT v FROM t")
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as native:
            native.execute("BEGIN EXCLUSIVE")
            native.execute("UPDATE t SET v = ?", (value,))
            native.execute("COMMIT")


async def test_result_that_cannot_be_decoded_leaves_no_lock_behind(
    path: Path, connection: rapsqlite.Connection
) -> None:
    """The guest sleeps behind a full ring, without having rung, when the task gives up; it is stopped all the same."""
    guest = connection._session.guest
    batches = 0

    def decode(_batch: bytes) -> list[object]:
        nonlocal batches
        batches += 1
        time.sleep(2 * SLICE_S)  # the event loop runs between this batch and the next, and what was posted with it
        if batches < 10:
            return []
        while not guest.host.is_asleep():
            time.sleep(0.001)
        raise ValueError("not what was expected")

    with pytest.raises(ValueError, match="not what was expected"):
        await guest.collect(
            abi.OP_FETCH,
            decode,
            b"WITH RECURSIVE c(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM c) SELECT x, v FROM c, t",
            encode_params(None, connection._session.adapters),
        )

    def take_it_all() -> None:
        with closing(sqlite3.connect(path, timeout=20, isolation_level=None)) as native:
            native.execute("BEGIN EXCLUSIVE")
            native.execute("DROP TABLE t")
            native.execute("COMMIT")
            if native.execute("PRAGMA journal_mode").fetchone() == ("wal",):
                assert native.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)

    await anyio.to_thread.run_sync(take_it_all)
