"""After a crash at any point, native SQLite finds every acknowledged commit, and no partial one."""

from __future__ import annotations

import os
import random
import sqlite3
from typing import TYPE_CHECKING

import pytest

from tests.vfs.crash_model import Change, Disk, RecordingFiles, lay_out
from tests.vfs.driver import Driven

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LONG = os.environ.get("RAPSQLITE_LONG") == "1"
TRANSACTIONS = 40 if LONG else 16
POWER_LOSSES = 25 if LONG else 10  # per point in time
ROWS = 4  # per transaction


def write_transactions(ours: Driven, files: RecordingFiles) -> None:
    """Run transactions of several shapes; a partial one can be recognised."""
    for number in range(1, TRANSACTIONS + 1):
        ours.sql("BEGIN IMMEDIATE")
        for part in range(ROWS):
            size = (37, 400, 5000, 90)[part] * (1 + number % 3)
            ours.sql("INSERT INTO item VALUES (?, ?, randomblob(?))", number, part, size)
        ours.sql("UPDATE total SET latest = ?, items = items + ?", number, ROWS)
        if number % 3 == 0:
            ours.sql("UPDATE item SET body = randomblob(600) WHERE number = ?", number - 2)
        ours.sql("COMMIT")
        files.acknowledge(number)


def record(database: Path, setup: str) -> list[Change]:
    """Return all changes that the workload makes to files, from the creation of the database on."""
    files = RecordingFiles(os.fsencode(database))
    with Driven(database, files=files) as ours:
        ours.script("PRAGMA page_size = 1024;" + setup)
        ours.script(
            "CREATE TABLE item (number, part, body, PRIMARY KEY (number, part)) WITHOUT ROWID;"
            "CREATE TABLE total (latest, items); INSERT INTO total VALUES (0, 0)"
        )
        files.acknowledge(0)
        write_transactions(ours, files)
    return files.changes


def recovered(directory: Path, name: str) -> int:
    """Open the files with native SQLite and return the last transaction in them, after checking all of them."""
    native = sqlite3.connect(directory / name)
    try:
        assert native.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        if not native.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'total'").fetchone()[0]:
            return -1  # before the first acknowledgement
        ((latest, items),) = native.execute("SELECT * FROM total").fetchall() or [(-1, 0)]
        found = native.execute("SELECT number, count(*) FROM item GROUP BY number ORDER BY number").fetchall()
    finally:
        native.close()
    assert found == [(number, ROWS) for number in range(1, latest + 1)]
    assert items == ROWS * max(latest, 0)
    return int(latest)


def replay(changes: list[Change], directory: Path, name: str, durable: bool) -> tuple[int, int]:
    """Crash after every change, by kill and by power loss; return how many states were opened, and lost commits.

    With ``durable``, a power loss must lose no acknowledged transaction either.
    """
    directory.mkdir()
    chance = random.Random(1)
    disk = Disk()
    started = False
    states = lost = 0
    for change in changes:
        disk.apply(change)
        started = started or change.kind == "acknowledge"
        required = disk.acknowledged if started else -1
        lay_out(disk.after_kill(), directory)
        assert recovered(directory, name) >= required
        for _ in range(POWER_LOSSES):
            lay_out(disk.after_power_loss(chance), directory)
            latest = recovered(directory, name)
            assert latest >= required or not durable
            lost = max(lost, required - latest)
        states += 1 + POWER_LOSSES
    return states, lost


# After a power loss the guarantees are SQLite's: https://sqlite.org/pragma.html#pragma_synchronous
@pytest.mark.parametrize(
    "setup,durable",
    [
        pytest.param("PRAGMA journal_mode = DELETE; PRAGMA synchronous = EXTRA;", True, id="delete-extra"),
        pytest.param("PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL;", False, id="delete-full"),
        pytest.param("PRAGMA journal_mode = TRUNCATE; PRAGMA synchronous = FULL;", True, id="truncate-full"),
        pytest.param("PRAGMA journal_mode = PERSIST; PRAGMA synchronous = FULL;", True, id="persist-full"),
        pytest.param("PRAGMA journal_mode = TRUNCATE; PRAGMA synchronous = EXTRA;", True, id="truncate-extra"),
        pytest.param("PRAGMA journal_mode = PERSIST; PRAGMA synchronous = EXTRA;", True, id="persist-extra"),
        pytest.param("PRAGMA journal_mode = WAL; PRAGMA synchronous = EXTRA;", True, id="wal-extra"),
        pytest.param("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;", True, id="wal-full"),
        pytest.param("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;", False, id="wal-normal"),
        pytest.param(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 20;",
            True,
            id="wal-full-checkpoints",
        ),
        pytest.param(
            "PRAGMA journal_mode = DELETE; PRAGMA synchronous = EXTRA; PRAGMA cache_size = 5;",
            True,
            id="delete-extra-spilling",
        ),
        pytest.param(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = 5;",
            True,
            id="wal-full-spilling",
        ),
    ],
)
@pytest.mark.timeout(7200 if LONG else 240)
def test_power_loss_and_kill_at_every_point_keep_every_commit(quick_disk: Path, setup: str, durable: bool) -> None:
    database = quick_disk / "test.db"
    changes = record(database, setup)

    states, lost = replay(changes, database.parent / "replay", database.name, durable)

    assert states > TRANSACTIONS * POWER_LOSSES
    assert not lost or not durable


# Without syncs only a kill is survived, because the host sees SQLite's writes in order. With NORMAL a rollback journal
# is synced only once, which SQLite does not guarantee to be enough.
@pytest.mark.parametrize("level", ["OFF", "NORMAL"])
@pytest.mark.parametrize("mode", ["DELETE", "TRUNCATE", "PERSIST", "WAL"])
def test_kill_at_every_point_keeps_every_commit(quick_disk: Path, mode: str, level: str) -> None:
    """A process may be killed after any change: every acknowledged transaction is there afterwards."""
    database = quick_disk / "test.db"
    changes = record(database, f"PRAGMA journal_mode = {mode}; PRAGMA synchronous = {level}; PRAGMA cache_size = 5;")

    killed(changes, database, lambda _change: True)


# Without a journal on disk nothing can be undone; only states between two transactions are certain.
@pytest.mark.parametrize("level", ["OFF", "NORMAL", "FULL", "EXTRA"])
@pytest.mark.parametrize("mode", ["MEMORY", "OFF"])
def test_kill_between_transactions_without_a_journal_keeps_commits(quick_disk: Path, mode: str, level: str) -> None:
    database = quick_disk / "test.db"
    changes = record(database, f"PRAGMA journal_mode = {mode}; PRAGMA synchronous = {level}; PRAGMA cache_size = 5;")

    killed(changes, database, lambda change: change.kind == "acknowledge")


def killed(changes: list[Change], database: Path, when: Callable[[Change], bool]) -> None:
    """Kill the process after those changes; everything acknowledged must be there."""
    directory = database.parent / "replay"
    directory.mkdir()
    disk = Disk()
    started = False
    for change in changes:
        disk.apply(change)
        started = started or change.kind == "acknowledge"
        if when(change):
            lay_out(disk.after_kill(), directory)
            assert recovered(directory, database.name) >= (disk.acknowledged if started else -1)
    assert disk.acknowledged == TRANSACTIONS


def test_the_test_notices_a_missing_sync(quick_disk: Path) -> None:
    """The test of the test: without the log's syncs, a power loss tears what checkpoints copied."""
    database = quick_disk / "test.db"
    changes = record(database, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")
    unsynced = [change for change in changes if not (change.kind == "sync" and change.name.endswith("-wal"))]

    with pytest.raises((AssertionError, sqlite3.DatabaseError)):
        replay(unsynced, database.parent / "replay", database.name, durable=True)


def test_the_test_notices_a_write_out_of_order(quick_disk: Path) -> None:
    """The test of the test: a database written before its journal does not survive a kill."""
    setup = "PRAGMA journal_mode = PERSIST; PRAGMA synchronous = OFF;"
    database = quick_disk / "test.db"
    changes = record(database, setup)
    journal = [number for number, change in enumerate(changes) if change.kind == "write" and "-journal" in change.name]
    broken = [change for number, change in enumerate(changes) if number not in journal[len(journal) // 2 :]]

    with pytest.raises((AssertionError, sqlite3.DatabaseError)):
        replay(broken, database.parent / "replay", database.name, durable=False)
