"""The lock levels, against the standard library's sqlite3 in this process and in others."""

from __future__ import annotations

import errno
import os
import random
import sqlite3
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from rapsqlite import _constants as sqlite
from rapsqlite._files import descriptors
from rapsqlite._files.file_error import FileError
from rapsqlite._files.file_table import FileTable
from tests.vfs.driver import Driven

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATABASE = sqlite.SQLITE_OPEN_READWRITE | sqlite.SQLITE_OPEN_CREATE | sqlite.SQLITE_OPEN_MAIN_DB
READ_ONLY = sqlite.SQLITE_OPEN_READONLY | sqlite.SQLITE_OPEN_MAIN_DB
NONE, SHARED = sqlite.SQLITE_LOCK_NONE, sqlite.SQLITE_LOCK_SHARED
RESERVED, EXCLUSIVE = sqlite.SQLITE_LOCK_RESERVED, sqlite.SQLITE_LOCK_EXCLUSIVE
PARKED = 0 if sys.platform == "win32" else 1
no_windows = pytest.mark.skipif(
    sys.platform == "win32", reason="descriptors are parked, and processes fork, on POSIX only"
)


class Ours:
    """One database file, opened as a connection of this package would."""

    def __init__(self, path: Path, flags: int = DATABASE) -> None:
        self.table = FileTable(os.fsencode(path))
        self.handle, _ = self.table.open(os.fsencode(path), flags)

    def lock(self, *levels: int) -> bool:
        """Take the levels one after another; False if one is refused."""
        try:
            for level in levels:
                self.table.lock(self.handle, level)
        except FileError as error:
            if error.code != sqlite.SQLITE_BUSY:
                raise
            return False
        return True

    def unlock(self, level: int = NONE) -> None:
        self.table.unlock(self.handle, level)

    def is_reserved(self) -> bool:
        return self.table.is_reserved(self.handle)


class Native:
    """The standard library's sqlite3, in this process or in another."""

    def __init__(self, path: Path, elsewhere: bool) -> None:
        self._script: subprocess.Popen[str] | None = None
        if elsewhere:
            code = (
                "import sqlite3, sys\n"
                "c = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)\n"
                "for line in sys.stdin:\n"
                "    try: c.execute(line).fetchall(); answer = 'ok'\n"
                "    except sqlite3.OperationalError as e: answer = str(e)\n"
                "    print(answer, flush=True)\n"
            )
            self._script = subprocess.Popen(
                [sys.executable, "-c", code, str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        else:
            self._connection = sqlite3.connect(path, timeout=0, isolation_level=None)

    def run(self, sql: str) -> bool:
        """Run a statement; False if the database is locked."""
        if self._script:
            assert self._script.stdin
            assert self._script.stdout
            print(sql, file=self._script.stdin, flush=True)
            answer = self._script.stdout.readline().strip()
        else:
            try:
                self._connection.execute(sql).fetchall()
                answer = "ok"
            except sqlite3.OperationalError as error:
                answer = str(error)
        assert answer in ("ok", "database is locked")
        return answer == "ok"

    def close(self) -> None:
        if self._script:
            self._script.communicate()
        else:
            self._connection.close()


@pytest.fixture
def path(database: Path) -> Path:
    connection = sqlite3.connect(database)
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    return database


@pytest.fixture(params=["same process", "other process"])
def native(path: Path, request: pytest.FixtureRequest) -> Iterator[Native]:
    other = Native(path, elsewhere=request.param == "other process")
    yield other
    other.close()


@pytest.fixture
def ours(path: Path) -> Iterator[Ours]:
    file = Ours(path)
    yield file
    file.table.close()


def test_readers_share(ours: Ours, native: Native) -> None:
    """SHARED locks exclude no other reader."""
    assert ours.lock(SHARED)
    assert native.run("BEGIN")
    assert native.run("SELECT * FROM t")


def test_our_reader_prevents_a_native_commit(ours: Ours, native: Native) -> None:
    assert ours.lock(SHARED)

    assert native.run("BEGIN IMMEDIATE")
    assert native.run("INSERT INTO t VALUES (1)")
    assert ours.is_reserved()
    assert not native.run("COMMIT")

    ours.unlock()
    assert native.run("COMMIT")
    assert not ours.is_reserved()


def test_native_reader_prevents_our_commit(ours: Ours, native: Native) -> None:
    assert native.run("BEGIN")
    assert native.run("SELECT * FROM t")

    assert ours.lock(SHARED, RESERVED)
    assert not ours.lock(EXCLUSIVE)

    assert native.run("COMMIT")
    assert not native.run("SELECT * FROM t"), "our PENDING lock must keep new readers out"
    assert ours.lock(EXCLUSIVE)
    ours.unlock()
    assert native.run("SELECT * FROM t")


def test_only_one_writer_at_a_time(ours: Ours, native: Native) -> None:
    assert ours.lock(SHARED, RESERVED)
    assert not native.run("BEGIN IMMEDIATE")
    assert native.run("SELECT * FROM t")

    ours.unlock(SHARED)
    assert native.run("BEGIN IMMEDIATE")
    assert not ours.lock(RESERVED)


def test_native_exclusive_lock_excludes_us(ours: Ours, native: Native) -> None:
    assert native.run("BEGIN EXCLUSIVE")
    assert not ours.lock(SHARED)

    assert native.run("COMMIT")
    assert ours.lock(SHARED)


def test_our_exclusive_lock_excludes_natives(ours: Ours, native: Native) -> None:
    assert ours.lock(SHARED, RESERVED, EXCLUSIVE)
    assert not native.run("SELECT * FROM t")

    ours.unlock(SHARED)
    assert native.run("SELECT * FROM t")
    assert native.run("BEGIN IMMEDIATE")


def test_two_connections_of_one_process_exclude_each_other(ours: Ours, path: Path) -> None:
    other = Ours(path)
    assert ours.lock(SHARED, RESERVED)
    assert other.lock(SHARED)
    assert other.is_reserved()
    assert not other.lock(RESERVED)
    assert not ours.lock(EXCLUSIVE)

    other.table.close()
    assert ours.lock(EXCLUSIVE)


def test_reserved_needs_shared(ours: Ours) -> None:
    """SQLite never takes RESERVED without SHARED, so a guest that does is refused."""
    with pytest.raises(FileError) as caught:
        ours.table.lock(ours.handle, RESERVED)

    assert caught.value.code == sqlite.SQLITE_MISUSE


def test_closing_releases_all_locks(ours: Ours, native: Native) -> None:
    """Closing a file releases all its locks."""
    assert ours.lock(SHARED, RESERVED, EXCLUSIVE)

    ours.table.close_file(ours.handle)

    assert native.run("BEGIN EXCLUSIVE")


@pytest.mark.parametrize("flags", [DATABASE, READ_ONLY])
def test_closing_keeps_the_locks_of_other_libraries(path: Path, flags: int) -> None:
    """POSIX drops a process's locks on a file when any descriptor of it is closed, hence parking."""
    descriptors.sweep()
    before = descriptors.parked_count()
    inside = Native(path, elsewhere=False)
    outside = Native(path, elsewhere=True)
    assert inside.run("BEGIN IMMEDIATE")

    Ours(path, flags).table.close()
    still_held = not outside.run("BEGIN IMMEDIATE")
    parked = descriptors.parked_count()

    assert inside.run("COMMIT")
    assert still_held
    assert parked == before + PARKED
    for native in (inside, outside):
        native.close()
    descriptors.sweep()
    assert descriptors.parked_count() == before


@no_windows
def test_closing_keeps_locks_taken_by_another_name_of_the_file(path: Path) -> None:
    """The system reports the lock of another process first, and the open file has another name."""
    link = path.with_name("link.db")
    link.hardlink_to(path)
    reader, inside, outside = Native(path, elsewhere=True), Native(link, elsewhere=False), Native(path, elsewhere=True)
    assert reader.run("BEGIN")
    assert reader.run("SELECT * FROM t")
    assert inside.run("BEGIN IMMEDIATE")

    Ours(path).table.close()

    assert not outside.run("BEGIN IMMEDIATE")
    for native in (reader, inside, outside):
        native.close()
    descriptors.sweep()


@no_windows
@pytest.mark.parametrize("suffix", ["", "-shm"])
def test_guest_cannot_drop_the_locks_of_other_libraries_by_opening_a_database_as_a_journal(
    path: Path, suffix: str
) -> None:
    """Files that are never locked are closed at once; what is one must not be the guest's word."""
    inside = Native(path, elsewhere=False)
    outside = Native(path, elsewhere=True)
    if suffix:
        inside.run("PRAGMA journal_mode = WAL")
    assert inside.run("BEGIN IMMEDIATE")
    table = FileTable(os.fsencode(path), directories=[], read_only=True)
    flags = sqlite.SQLITE_OPEN_READONLY | sqlite.SQLITE_OPEN_MAIN_JOURNAL

    handle, _ = table.open(os.fsencode(path) + suffix.encode(), flags)
    table.close_file(handle)

    assert not outside.run("BEGIN IMMEDIATE")
    table.close()
    for native in (inside, outside):
        native.close()
    descriptors.sweep()


@no_windows
def test_opening_drops_no_lock_where_standard_streams_are_closed(path: Path) -> None:
    """The database got the number of one, and was moved: that closed a descriptor of it, and POSIX dropped the lock."""
    script = (
        "import os, sqlite3, sys\n"
        "from rapsqlite._files import descriptors\n"
        "name = sys.argv[1]\n"
        "inside = sqlite3.connect(name, isolation_level=None)\n"
        "inside.execute('BEGIN IMMEDIATE')\n"
        "answer = os.dup(1)\n"
        "for fd in (0, 1, 2): os.close(fd)\n"
        "assert descriptors.open_file(os.fsencode(name), os.O_RDWR, 0, None) > 2\n"
        "os.write(answer, b'opened\\n')\n"
        "os.read(int(sys.argv[2]), 1)\n"
    )
    waiting, end = os.pipe()
    outside = Native(path, elsewhere=True)
    command = [sys.executable, "-c", script, str(path), str(waiting)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[waiting]) as opener:
        assert opener.stdout is not None
        assert opener.stdout.readline() == b"opened\n"

        intruded = outside.run("BEGIN IMMEDIATE")

        os.close(waiting)
        os.close(end)
    outside.close()
    assert not intruded


@no_windows
def test_parked_descriptors_are_reused(path: Path) -> None:
    descriptors.sweep()
    before = descriptors.parked_count()
    inside = Native(path, elsewhere=False)
    assert inside.run("BEGIN IMMEDIATE")
    for _ in range(10):
        Ours(path).table.close()

    assert descriptors.parked_count() == before + 1

    inside.close()
    Ours(path).table.close()
    assert descriptors.parked_count() == before


@no_windows
def test_replaced_file_is_not_served_from_a_parked_descriptor(path: Path) -> None:
    inside = Native(path, elsewhere=False)
    assert inside.run("BEGIN IMMEDIATE")
    Ours(path).table.close()
    path.rename(path.with_name("old.db"))
    path.write_bytes(b"new")

    ours = Ours(path)

    assert ours.table.size(ours.handle) == 3
    assert inside.run("ROLLBACK")
    inside.close()
    ours.table.close()


@no_windows
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_child_neither_drops_nor_keeps_our_locks(path: Path) -> None:
    ours = Ours(path)
    assert ours.lock(SHARED, RESERVED)
    to_child, from_parent = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(from_parent)
            ours.table.abandon()
            os.read(to_child, 1)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(to_child)
    outside = Native(path, elsewhere=True)

    assert not outside.run("BEGIN IMMEDIATE"), "the child's closing must not unlock"
    ours.table.close()
    assert outside.run("BEGIN EXCLUSIVE"), "the child must not keep the lock"

    outside.close()
    os.close(from_parent)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@no_windows
@pytest.mark.parametrize("moment", ["before", "after_in_parent"])
def test_interrupt_key_during_a_fork_locks_no_one_out(path: Path, moment: str) -> None:
    """Python raises it as the next function of Python is entered: our guard was then never released."""
    script = (
        "import ctypes, functools, logging, os, random, signal, sys\n"  # those with hooks of their own are first
        "interrupt = functools.partial(ctypes.PyDLL(None)['raise'], signal.SIGINT)\n"
        "moment, name = sys.argv[1], os.fsencode(sys.argv[2])\n"
        "if moment != 'before': os.register_at_fork(**{moment: interrupt})\n"
        "from rapsqlite._files import descriptors\n"
        "if moment == 'before': os.register_at_fork(**{moment: interrupt})\n"
        "try:\n"
        "    pid = os.fork()\n"
        "    if not pid: os._exit(0)\n"
        "    for _ in range(9): pass\n"
        "except KeyboardInterrupt: pass\n"
        "assert not descriptors._guard.locked()\n"
        "descriptors.release(descriptors.open_file(name, os.O_RDWR, 0, None), writable=True)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script, moment, str(path)], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "descriptors.py" not in done.stderr  # the standard library may lose its own locks


@no_windows
def test_killed_process_leaves_no_lock_to_a_forked_child(path: Path) -> None:
    """An inherited descriptor would keep the dead parent's lock as long as the child lives."""
    script = (
        "import os, sys\n"
        "from rapsqlite._files.file_table import FileTable\n"
        "name = os.fsencode(sys.argv[1])\n"
        "table = FileTable(name)\n"
        f"handle, _ = table.open(name, {DATABASE})\n"
        "for level in (1, 2, 4): table.lock(handle, level)\n"
        "ready, started = os.pipe()\n"
        "if not os.fork():\n"
        "    os.write(started, b'x')\n"
        "    os.read(0, 1)\n"
        "    os._exit(0)\n"
        "os.read(ready, 1)\n"
        "print('locked', flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout
    assert parent.stdout.readline() == "locked\n"
    parent.wait()

    outside = Native(path, elsewhere=True)
    assert outside.run("BEGIN EXCLUSIVE")

    outside.close()
    parent.communicate()


class Model:
    """SQLite's rules for one file (https://sqlite.org/lockingv3.html), as levels of three parties."""

    def __init__(self) -> None:
        self.levels = [NONE, NONE, NONE]

    def lock(self, party: int, level: int) -> bool:
        others = [held for number, held in enumerate(self.levels) if number != party]
        mine = self.levels[party]
        if mine >= level:
            return True
        if level == SHARED:
            allowed = max(others) < sqlite.SQLITE_LOCK_PENDING
        elif level == RESERVED:
            allowed = max(others) < RESERVED
        else:
            allowed = max(others) == NONE
            if mine == RESERVED and not allowed:
                self.levels[party] = sqlite.SQLITE_LOCK_PENDING
        if allowed:
            self.levels[party] = level
        return allowed

    def unlock(self, party: int, level: int = NONE) -> None:
        self.levels[party] = min(self.levels[party], level)


class Schedule:
    """Two files of ours and one native connection take and release locks at random."""

    def __init__(self, path: Path, native: Native, seed: int) -> None:
        self.ours = [Ours(path), Ours(path)]
        self.native = native
        self.model = Model()
        self._chance = random.Random(seed)

    def step(self) -> None:
        party = self._chance.randrange(3)
        if party == 2:
            self._native_step()
        elif self._chance.random() < 0.4:
            level = self._chance.choice([NONE, SHARED])
            self.ours[party].unlock(level)
            self.model.unlock(party, level)
        else:
            held = self.model.levels[party]
            level = SHARED if held == NONE else self._chance.choice([SHARED, RESERVED, EXCLUSIVE])
            assert self.ours[party].lock(level) == self.model.lock(party, level)
            others = [held for number, held in enumerate(self.model.levels) if number != party]
            reserved = max(*others, self.model.levels[party]) >= RESERVED
            # An EXCLUSIVE lock taken directly from SHARED leaves the reserved byte alone, as SQLite's does.
            if EXCLUSIVE not in others:
                assert self.ours[party].is_reserved() == reserved

    def _native_step(self) -> None:
        if self.model.levels[2] != NONE:
            assert self.native.run("ROLLBACK")  # COMMIT would request EXCLUSIVE, although nothing changed
            self.model.unlock(2)
        elif self._chance.random() < 0.5:
            granted = self.model.lock(2, SHARED)
            assert self.native.run("BEGIN")
            assert self.native.run("SELECT * FROM t") == granted
            if not granted:
                assert self.native.run("ROLLBACK")
        else:
            granted = self.model.lock(2, SHARED) and self.model.lock(2, RESERVED)
            if not granted:
                self.model.unlock(2)
            assert self.native.run("BEGIN IMMEDIATE") == granted


@pytest.mark.parametrize("seed", range(40 if os.environ.get("RAPSQLITE_LONG") == "1" else 4))
def test_random_schedules_follow_the_model(path: Path, native: Native, seed: int) -> None:
    schedule = Schedule(path, native, seed)

    for _ in range(500):
        schedule.step()

    for ours in schedule.ours:
        ours.table.close()


@no_windows
@pytest.mark.parametrize("flags", [DATABASE, READ_ONLY])
def test_descriptor_is_parked_while_another_library_may_lock_the_file(path: Path, flags: int) -> None:
    """It has the file open and no lock yet: it could take one just before the descriptor is closed."""
    descriptors.sweep()
    before = descriptors.parked_count()
    inside = Native(path, elsewhere=False)
    assert inside.run("BEGIN IMMEDIATE")
    assert inside.run("COMMIT")

    Ours(path, flags).table.close()
    parked = descriptors.parked_count()

    inside.close()
    descriptors.sweep()
    assert (parked, descriptors.parked_count()) == (before + 1, before)


@no_windows
def test_descriptor_of_a_file_that_cannot_be_examined_is_closed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was taken for another library's, which kept it open for ever."""
    before = set(os.listdir("/dev/fd"))

    def fail(_: int) -> None:
        monkeypatch.undo()  # only the first call fails
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fstat", fail)
    with pytest.raises(FileError, match="examine"):
        descriptors.open_file(os.fsencode(path), os.O_RDWR, 0, None)

    assert set(os.listdir("/dev/fd")) <= before  # what earlier tests have left may be closed meanwhile


@no_windows
def test_descriptor_that_a_fork_may_have_copied_is_closed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is opened again, because the child does not know of the first descriptor."""
    before = set(os.listdir("/dev/fd"))
    fstat = os.fstat

    def fork_and_examine(fd: int) -> os.stat_result:
        monkeypatch.undo()
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
        return fstat(fd)

    monkeypatch.setattr(os, "fstat", fork_and_examine)
    fd = descriptors.open_file(os.fsencode(path), os.O_RDWR, 0, None)
    descriptors.release(fd, writable=True)

    assert set(os.listdir("/dev/fd")) <= before


IMPATIENT_READER = """
import sqlite3, sys
native = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
print("ready", flush=True)
refused = 0
while True:
    try:
        native.execute("SELECT * FROM t").fetchall()
    except sqlite3.OperationalError as error:
        print(error, flush=True)
"""


@pytest.fixture
def impatient_readers(path: Path) -> Iterator[None]:
    """Readers in other processes; at the end none of them was ever refused."""
    command = [sys.executable, "-c", IMPATIENT_READER, str(path)]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
    yield
    for reader in readers:
        reader.kill()
    refusals = [reader.communicate()[0] for reader in readers]
    assert [reader.returncode for reader in readers] == [-9] * 2, "they have read until they were killed"
    assert refusals == ["", ""]


@pytest.mark.skipif(sys.platform == "win32", reason="readers exclude each other for a moment there, SQLite's own too")
@pytest.mark.usefixtures("impatient_readers")
def test_closing_excludes_no_reader(path: Path) -> None:
    """A reader in another process that does not wait is never refused while we open, read and close."""
    for _ in range(200):
        with Driven(path) as ours:
            ours.sql("SELECT * FROM t")


def test_closing_keeps_the_locks_of_a_library_that_opens_and_locks_meanwhile(path: Path) -> None:
    """A writer that holds RESERVED excludes another process's throughout, whenever we close."""
    over = threading.Event()
    outside = Native(path, elsewhere=True)
    intruders = 0

    def close_all_the_time() -> None:
        while not over.is_set():
            Ours(path).table.close()

    closer = threading.Thread(target=close_all_the_time)
    closer.start()
    for _ in range(200):
        inside = Native(path, elsewhere=False)
        assert inside.run("BEGIN IMMEDIATE")
        if outside.run("BEGIN IMMEDIATE"):
            intruders += 1
            outside.run("ROLLBACK")
        inside.close()
    over.set()
    closer.join()
    outside.close()
    descriptors.sweep()

    assert not intruders
