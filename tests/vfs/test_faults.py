"""Every host function fails at every call: acknowledged data stays, nothing is torn, no one stays locked out."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from rapsqlite import _constants as sqlite
from rapsqlite._files.file_error import FileError
from rapsqlite._files.file_table import FileTable
from rapsqlite.errors import Error
from tests.vfs.driver import Driven

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROWS = 5
QUIET = 8  # runs in a row without a fault: the number of calls varies a little, with how often a lock is kept

# The methods behind imports, and what each may fail with.
FAULTS = {
    "full_path": sqlite.SQLITE_CANTOPEN,
    "open": sqlite.SQLITE_CANTOPEN,
    "close_file": sqlite.SQLITE_IOERR_CLOSE,
    "read_into": sqlite.SQLITE_IOERR_READ,
    "write": sqlite.SQLITE_FULL,
    "truncate": sqlite.SQLITE_IOERR_TRUNCATE,
    "sync": sqlite.SQLITE_IOERR_FSYNC,
    "size": sqlite.SQLITE_IOERR_FSTAT,
    "delete": sqlite.SQLITE_IOERR_DELETE,
    "access": sqlite.SQLITE_IOERR_ACCESS,
    "has_moved": sqlite.SQLITE_IOERR_FSTAT,
    "lock": sqlite.SQLITE_BUSY,
    "unlock": sqlite.SQLITE_IOERR_UNLOCK,
    "is_reserved": sqlite.SQLITE_IOERR_CHECKRESERVEDLOCK,
    "map_index": sqlite.SQLITE_IOERR_SHMMAP,
    "lock_index": sqlite.SQLITE_BUSY,
    "unlock_index": sqlite.SQLITE_IOERR_UNLOCK,
    "unmap_index": sqlite.SQLITE_IOERR_SHMMAP,
    "map_window": sqlite.SQLITE_IOERR_MMAP,
    "unmap_window": sqlite.SQLITE_IOERR_MMAP,
}


class FaultyFiles(FileTable):
    """A file table whose n-th call fails, or every call from the n-th on."""

    def __init__(self, database: Path, nth: int, *, for_good: bool, only: str | None = None) -> None:
        super().__init__(os.fsencode(database))
        self._countdown = nth
        self._for_good = for_good
        self.failed: str | None = None
        for name, code in FAULTS.items():
            if for_good and code == sqlite.SQLITE_BUSY:
                code = sqlite.SQLITE_IOERR_LOCK  # SQLite would retry for ten seconds
            if only in (None, name):
                setattr(self, name, self._wrap(name, code, getattr(self, name)))

    def _wrap(self, name: str, code: int, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self._countdown -= 1
            if self._countdown == 0 or (self._for_good and self._countdown < 0):
                self.failed = self.failed or name
                if name == "write":  # a failing call may have been done in part
                    handle, data, offset = arguments
                    method(handle, bytes(data[: len(data) // 2]), offset)
                if name == "close_file":  # close(2) may fail, but closes
                    method(*arguments)
                raise FileError(code, name, b"", "injected")
            return method(*arguments, **options)

        return call


class Workload:
    """Transactions that continue after errors, and what is known about each."""

    def __init__(self, database: Path, files: FileTable, setup: str) -> None:
        self.acknowledged: set[int] = set()
        self.doubtful: set[int] = set()  # the commit failed: as with any database, it may have happened
        self._database = database
        self._files = files
        self._setup = setup

    def run(self) -> None:
        try:
            ours = Driven(self._database, files=self._files)
        except Error:
            return
        try:
            with contextlib.suppress(Error):
                ours.script(self._setup)
            for number in range(1, 7):
                self._transaction(ours, number)
        finally:
            ours.close()

    def _transaction(self, ours: Driven, number: int) -> None:
        committing = False
        try:
            ours.sql("BEGIN IMMEDIATE")
            for part in range(ROWS):
                ours.sql("INSERT INTO item VALUES (?, ?, randomblob(?))", number, part, 900 * part)
            ours.value("SELECT count(*) FROM item")
            if number == 3:
                ours.sql("ROLLBACK")
                return
            committing = True
            ours.sql("COMMIT")
            self.acknowledged.add(number)
        except Error:
            if committing:
                self.doubtful.add(number)
            with contextlib.suppress(Error):  # otherwise the connection is unusable, and closing it does the rest
                if ours.guest.in_transaction:
                    ours.sql("ROLLBACK")

    def check(self) -> None:
        """Compare with what native SQLite finds."""
        native = sqlite3.connect(self._database, timeout=0)
        try:
            assert native.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            found = native.execute("SELECT number, count(*) FROM item GROUP BY number").fetchall()
            native.execute("BEGIN EXCLUSIVE")
        finally:
            native.close()
        assert {count for _, count in found} <= {ROWS}
        numbers = {number for number, _ in found}
        assert self.acknowledged <= numbers <= self.acknowledged | self.doubtful


def prepare(database: Path, mode: str) -> None:
    database.parent.mkdir(exist_ok=True)
    native = sqlite3.connect(database)
    native.executescript(
        f"PRAGMA page_size = 1024; PRAGMA journal_mode = {mode}; CREATE TABLE item (number, part, body)"
    )
    native.close()


@pytest.mark.parametrize(
    "mode,setup",
    [
        pytest.param("DELETE", "PRAGMA cache_size = 4", id="delete"),
        pytest.param("DELETE", "PRAGMA journal_mode = PERSIST; PRAGMA synchronous = OFF", id="persist-off"),
        pytest.param("WAL", "PRAGMA wal_autocheckpoint = 8; PRAGMA cache_size = 4", id="wal"),
    ],
)
@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])
def test_any_host_function_may_fail_at_any_call(quick_disk: Path, mode: str, setup: str, for_good: bool) -> None:
    failed: set[str] = set()
    acknowledged: set[int] = set()
    nth = quiet = 0
    while quiet < QUIET:
        nth += 1
        database = quick_disk / f"{nth}" / "test.db"
        prepare(database, mode)
        files = FaultyFiles(database, nth, for_good=for_good)
        workload = Workload(database, files, setup)

        workload.run()

        workload.check()
        acknowledged = workload.acknowledged
        quiet = quiet + 1 if files.failed is None else 0
        if files.failed is not None:
            failed.add(files.failed)

    assert acknowledged == {1, 2, 4, 5, 6}, "the last run met no fault"
    expected = {"full_path", "open", "close_file", "read_into", "write", "lock"}
    # In WAL mode the database stays locked until it is closed.
    expected |= {"lock_index", "unlock_index"} if mode == "WAL" else {"unlock"}
    if "PERSIST" in setup:  # files next to the database were seen when it was locked
        expected.add("access")
    assert failed >= expected
    assert nth > 100


@pytest.mark.parametrize("kind", ["write", "sync", "truncate"])
@pytest.mark.parametrize("mode", ["DELETE", "TRUNCATE", "WAL"])
def test_failing_device_is_survived(quick_disk: Path, mode: str, kind: str) -> None:
    """All writes, syncs or truncations fail from some point on; reading still works."""
    nth = 0
    while True:
        nth += 1
        database = quick_disk / f"{nth}" / "test.db"
        prepare(database, mode)
        files = FaultyFiles(database, nth, for_good=True, only=kind)
        workload = Workload(database, files, f"PRAGMA journal_mode = {mode}; PRAGMA wal_autocheckpoint = 8")

        workload.run()

        workload.check()
        if files.failed is None:
            break

    assert nth > 1 or (kind == "truncate" and mode != "TRUNCATE")


def test_lock_that_could_not_be_released_is_not_used_after_its_index_was_closed(database: Path) -> None:
    """A read in the next WAL index took no lock: a checkpoint could overwrite the log under it."""
    unlocking_fails = False

    class Files(FileTable):
        def unlock_index(self, handle: int, locks: int) -> None:
            if unlocking_fails:
                raise FileError(sqlite.SQLITE_IOERR_UNLOCK, "unlock", b"", "injected")
            super().unlock_index(handle, locks)

    ours = Driven(database, files=Files(os.fsencode(database)))
    native = sqlite3.connect(database, isolation_level=None, timeout=0)
    try:
        ours.script("PRAGMA journal_mode = WAL; CREATE TABLE item (number)")
        unlocking_fails = True
        ours.sql("SELECT * FROM item")
        ours.sql("PRAGMA journal_mode = DELETE")
        unlocking_fails = False
        native.execute("PRAGMA journal_mode = WAL")
        native.execute("INSERT INTO item VALUES (1)")
        native.execute("BEGIN")
        native.execute("SELECT * FROM item").fetchall()  # marks what ours reads up to

        ours.sql("BEGIN")
        ours.sql("SELECT * FROM item")
        native.execute("COMMIT")

        assert native.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 1, "busy"
    finally:
        native.close()
        ours.close()
