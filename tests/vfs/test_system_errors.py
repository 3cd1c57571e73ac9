"""Every system call under every host function fails in every way: the right exception, no loss, and work continues.

`test_faults` checks what happens to the database when a host function fails; this checks that each failure of the
system is reported with the right class, result code and message.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from rapsqlite import _constants as codes
from rapsqlite._files import mapping
from rapsqlite._platform import system
from rapsqlite.errors import DatabaseError, Error, OperationalError
from tests.systems import not_on_windows
from tests.vfs.driver import Driven

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = not_on_windows("replaces calls of POSIX")

# Where system calls on files are made, by name.
CALLS: dict[str, tuple[Any, str]] = {
    "open": (os, "open"),
    "stat": (os, "stat"),
    "fstat": (os, "fstat"),
    "fstatfs": (system, "file_system"),
    "readlink": (os, "readlink"),
    "pread": (os, "preadv"),
    "pwrite": (os, "pwrite"),
    "ftruncate": (os, "ftruncate"),
    "fallocate": (os, "posix_fallocate"),
    "fdatasync": (os, "fdatasync"),
    "fsync": (os, "fsync"),
    "unlink": (os, "unlink"),
    "close": (os, "close"),
    "setlk": (system, "set_lock"),
    "getlk": (system, "conflicting_lock"),
    "mmap": (mapping, "map_at"),
    "munmap": (mapping, "clear"),
}
IOERR, FULL, BUSY, CANTOPEN = codes.SQLITE_IOERR, codes.SQLITE_FULL, codes.SQLITE_BUSY, codes.SQLITE_CANTOPEN


class Errors(NamedTuple):
    """How a call may fail, and the primary result codes that a statement may end with; none: it never fails."""

    numbers: tuple[int, ...]
    codes: tuple[int, ...]


EXPECTED: dict[str, tuple[Errors, ...]] = {
    "open": (
        Errors((errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EIO, errno.ENOMEM, errno.ELOOP), (CANTOPEN,)),
        # A file that is not writable is read, as far as SQLite can do that.
        Errors((errno.EACCES, errno.EROFS), (CANTOPEN, codes.SQLITE_READONLY)),
    ),
    "stat": (Errors((errno.EIO, errno.EACCES, errno.ELOOP), (IOERR,)),),
    "fstat": (Errors((errno.EIO, errno.EOVERFLOW), (IOERR,)),),
    "fstatfs": (Errors((errno.EIO, errno.ENOSYS), (IOERR,)),),
    "readlink": (Errors((errno.EIO, errno.EACCES), (CANTOPEN,)),),
    "pread": (Errors((errno.EIO, errno.ESTALE, errno.ENXIO), (IOERR, codes.SQLITE_CORRUPT)),),
    "pwrite": (
        Errors((errno.ENOSPC, errno.EDQUOT), (FULL,)),
        Errors((errno.EIO, errno.EFBIG, errno.EROFS), (IOERR,)),
    ),
    "ftruncate": (Errors((errno.EIO, errno.EFBIG, errno.EPERM), (IOERR,)),),
    "fallocate": (
        Errors((errno.ENOSPC, errno.EDQUOT), (FULL, IOERR)),
        Errors((errno.EIO, errno.EFBIG), (IOERR,)),
        Errors((errno.EOPNOTSUPP,), ()),
    ),
    "fdatasync": (Errors((errno.EIO, errno.ENOSPC, errno.EDQUOT), (IOERR,)),),
    "fsync": (
        Errors((errno.EIO, errno.ENOSPC), (IOERR,)),
        Errors((errno.EINVAL,), ()),  # a directory that cannot be synced
    ),
    "unlink": (Errors((errno.EIO, errno.EACCES, errno.EROFS, errno.EBUSY), (IOERR,)),),
    "close": (Errors((errno.EIO, errno.ENOSPC, errno.EDQUOT), ()),),  # it closes anyway
    "setlk": (
        Errors((errno.EAGAIN, errno.EACCES, errno.ENOLCK), (BUSY, IOERR)),
        Errors((errno.EIO,), (BUSY, IOERR)),  # SQLite treats every failure on the WAL index as busy
        Errors((errno.EPERM,), (BUSY, IOERR, codes.SQLITE_PERM)),
    ),
    "getlk": (Errors((errno.EIO, errno.ENOLCK), (IOERR,)),),
    "mmap": (Errors((errno.ENOMEM, errno.EACCES, errno.ENODEV), (IOERR,)),),
    "munmap": (Errors((errno.ENOMEM,), ()),),
}
CASES = [
    pytest.param(call, number, errors.codes, id=f"{call}-{errno.errorcode[number]}")
    for call, several in EXPECTED.items()
    for errors in several
    for number in errors.numbers
]


class Fault:
    """Makes the n-th call of a system call fail once, on the threads of guests."""

    def __init__(self, call: str, number: int, nth: int) -> None:
        self.happened = False
        self.paused = False
        self._call = call
        self._number = number
        self._left = nth

    def install(self, patched: pytest.MonkeyPatch) -> None:
        module, name = CALLS[self._call]
        real: Callable[..., Any] = getattr(module, name)

        def call(*arguments: Any, **options: Any) -> Any:
            if not self.paused and threading.current_thread().name.startswith("rapsqlite"):
                self._left -= 1
                if self._left == 0:
                    self.happened = True
                    if self._call == "close":
                        real(*arguments, **options)
                    raise OSError(self._number, os.strerror(self._number))
            return real(*arguments, **options)

        patched.setattr(module, name, call)


class Workload:
    """A connection that is opened, reads, writes, spills, rolls back and checkpoints, whatever fails."""

    def __init__(self, database: Path, fault: Fault) -> None:
        self._database = database
        self._fault = fault
        self.errors: list[Error] = []
        self.acknowledged: set[int] = set()
        self.doubtful: set[int] = set()

    def run(self) -> None:
        try:
            ours = Driven(self._database)
        except Error as error:
            self.errors.append(error)
            return
        try:
            self._attempt(ours, "PRAGMA cache_size = 4")
            for number in range(1, 4):
                self._transaction(ours, number)
            self._attempt(ours, "SELECT total(length(body)) FROM item")
            self._attempt(ours, "PRAGMA wal_checkpoint(TRUNCATE)")
            self._fault.paused = True
            self._go_on(ours)
            self._fault.paused = False
        finally:
            ours.close()

    def _attempt(self, ours: Driven, sql: str, *parameters: object) -> bool:
        try:
            ours.sql(sql, *parameters)
        except Error as error:
            self.errors.append(error)
            return False
        return True

    def _transaction(self, ours: Driven, number: int) -> None:
        done = self._attempt(ours, "BEGIN IMMEDIATE") and all(
            self._attempt(ours, "INSERT INTO item VALUES (?, ?, randomblob(3000))", number, part) for part in (1, 2, 3)
        )
        if number != 2 and done:
            if self._attempt(ours, "COMMIT"):
                self.acknowledged.add(number)
                return
            self.doubtful.add(number)
        while ours.guest.in_transaction and not self._attempt(ours, "ROLLBACK"):
            assert len(self.errors) < 10

    def _go_on(self, ours: Driven) -> None:
        """After the fault everything works again, on the same connection unless that was opened read-only."""
        if any(error.sqlite_errorcode & 0xFF == codes.SQLITE_READONLY for error in self.errors):
            with Driven(self._database) as another:
                return self._write(another)
        return self._write(ours)

    def _write(self, ours: Driven) -> None:
        ours.sql("INSERT INTO item VALUES (4, 1, ''), (4, 2, ''), (4, 3, '')")
        self.acknowledged.add(4)
        assert ours.sql("PRAGMA integrity_check") == [["ok"]]
        assert ours.value("SELECT count(*) FROM item WHERE number = 4") == 3

    def check(self) -> None:
        """Compare with what native SQLite finds, which is never locked out."""
        with closing(sqlite3.connect(self._database, timeout=0, isolation_level=None)) as native:
            assert native.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            found = dict(native.execute("SELECT number, count(*) FROM item GROUP BY number"))
            native.execute("BEGIN EXCLUSIVE")
        assert set(found.values()) <= {3}
        assert self.acknowledged <= set(found) <= self.acknowledged | self.doubtful


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
@pytest.mark.parametrize("call,number,expected", CASES)
def test_system_call_may_fail_at_every_place(
    quick_disk: Path, monkeypatch: pytest.MonkeyPatch, mode: str, call: str, number: int, expected: tuple[int, ...]
) -> None:
    nth = 0
    while True:
        nth += 1
        fault = Fault(call, number, nth)

        errors = run_with(fault, quick_disk / f"{nth}" / "test.db", mode, monkeypatch)

        if not fault.happened:
            break
        for error in errors:
            # To SQLite a broken device is a damaged database.
            damaged = error.sqlite_errorcode == codes.SQLITE_CORRUPT
            assert type(error) is (DatabaseError if damaged else OperationalError)
            assert error.sqlite_errorcode & 0xFF in expected, f"call {nth}: {error!r}"
            if error.sqlite_errorcode not in (BUSY, codes.SQLITE_READONLY):  # which SQLite finds by itself
                assert os.strerror(number) in str(error)
    assert errors == [], "the last run met no fault"


def run_with(fault: Fault, database: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> list[Error]:
    """Run the workload on a new database, check the result, and return what statements raised."""
    database.parent.mkdir()
    with closing(sqlite3.connect(database)) as native:
        native.execute("PRAGMA page_size = 1024")
        native.execute(f"PRAGMA journal_mode = {mode}")
        native.execute("CREATE TABLE item (number, part, body)")
    workload = Workload(database, fault)
    with monkeypatch.context() as patched:
        fault.install(patched)
        workload.run()
    workload.check()
    return workload.errors
