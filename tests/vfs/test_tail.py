"""The mapped end of a WAL: commits that call nobody, seen and kept as those that are written."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from rapsqlite import _mapping, _sigbus
from rapsqlite._files import FileTable
from tests.vfs.driver import Driven

if TYPE_CHECKING:
    from pathlib import Path

TAIL_BYTES = 1 << 20  # as in wasm/src/vfs/tail.rs


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "test.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as native:
        native.execute("PRAGMA journal_mode = WAL")
        native.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body)")
    return path


def log_of(database: Path) -> Path:
    return database.with_name(database.name + "-wal")


def insert(ours: Driven, count: int, body: object = "row") -> None:
    for _ in range(count):
        ours.sql("INSERT INTO t (body) VALUES (?)", body)


def sleep_of_the_guest(ours: Driven) -> None:
    """Return once the guest sleeps after the newest statement, and keeps no lock."""
    ours.sql("SELECT 1")
    while not ours.guest.host.is_asleep():
        os.sched_yield()


def test_commits_are_stores_and_native_sees_each(database: Path) -> None:
    with Driven(database) as ours, closing(sqlite3.connect(database)) as native:
        for number in range(1, 200):
            insert(ours, 1)
            assert native.execute("SELECT count(*) FROM t").fetchone() == (number,)

        assert ours.imports()["file_write"] == 0
        assert ours.statistics()["mapped_writes"] >= 2 * 199


def test_connection_that_is_alone_writes_without_any_call(database: Path) -> None:
    """A lock's time that is over costs a call, a megabyte another: none of it comes with each statement."""
    with Driven(database) as ours:
        ours.sql("PRAGMA synchronous = OFF")
        insert(ours, 20)
        before = ours.imports()
        insert(ours, 500)
        after = ours.imports()

    calls = {name: after[name] - before[name] for name in after}
    # The guest slept, or kept a lock for its 5 ms: how often depends on the machine. After each the tail is looked at.
    kept = sum(calls.pop(name) for name in ("park", "shm_alone", "shm_lock"))
    megabytes = calls.pop("tail_map")
    assert 1 <= megabytes <= 500 * 2 * 4120 // TAIL_BYTES + 1 + kept
    assert not any(calls.values()), calls


def test_log_grows_over_many_tails_and_starts_anew(database: Path) -> None:
    with Driven(database) as ours:
        ours.script("PRAGMA wal_autocheckpoint = 0; PRAGMA synchronous = OFF")
        for _ in range(2):
            written = ours.imports()["file_write"]
            insert(ours, 30, b"x" * 200_000)
            assert ours.imports()["file_write"] == written
            with closing(sqlite3.connect(database)) as native:
                assert native.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                assert native.execute("SELECT DISTINCT length(body) FROM t").fetchall() == [(200_000,)]
            ours.script("PRAGMA wal_checkpoint(RESTART)")
        assert log_of(database).stat().st_size > 6 * TAIL_BYTES
        assert ours.value("SELECT count(*) FROM t") == 60


def test_log_that_others_truncate_between_transactions_is_extended_again(database: Path) -> None:
    with Driven(database) as ours, closing(sqlite3.connect(database, timeout=20, isolation_level=None)) as native:
        for number in range(1, 30):
            insert(ours, 1)
            sleep_of_the_guest(ours)
            assert native.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
            assert native.execute("SELECT count(*) FROM t").fetchone() == (number,)
        assert ours.imports()["file_write"] == 0


def test_own_truncating_checkpoints_are_minded(database: Path) -> None:
    with Driven(database) as ours:
        for _ in range(20):
            insert(ours, 3)
            ours.sql("PRAGMA wal_checkpoint(TRUNCATE)")
            assert log_of(database).stat().st_size == 0
        assert ours.value("SELECT count(*) FROM t") == 60


def test_page_sizes_up_to_the_largest(tmp_path: Path) -> None:
    for page_size in (512, 4096, 65536):
        path = tmp_path / f"{page_size}.db"
        with Driven(path) as ours:
            ours.script(f"PRAGMA page_size = {page_size}; PRAGMA journal_mode = WAL; CREATE TABLE t (id, body)")
            insert(ours, 40, b"y" * 5000)
            assert ours.imports()["tail_map"] > 0
        with closing(sqlite3.connect(path)) as native:
            assert native.execute("PRAGMA page_size").fetchone() == (page_size,)
            assert native.execute("SELECT count(*), min(length(body)) FROM t").fetchone() == (40, 5000)


def test_log_that_somebody_cuts_ends_the_connection_not_the_process(database: Path) -> None:
    """The last transaction was not acknowledged, so nothing that was is lost."""
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from rapsqlite.errors import Error\n"
        "from tests.vfs.driver import Driven\n"
        "path = Path(sys.argv[1])\n"
        "ours = Driven(path)\n"
        "ours.sql('PRAGMA synchronous = OFF')\n"
        "for _ in range(5): ours.sql('INSERT INTO t (body) VALUES (1)')\n"
        "assert ours.imports()['tail_map'] > 0\n"
        "ours.script('PRAGMA cache_size = 10; BEGIN IMMEDIATE')  # so that the log is written before the end\n"
        "ours.sql('INSERT INTO t (body) VALUES (zeroblob(30000))')\n"
        "ours.sql('INSERT INTO t (body) VALUES (zeroblob(300000))')\n"
        "os.truncate(str(path) + '-wal', 4096)\n"
        "try:\n"
        "    ours.sql('COMMIT')\n"
        "except Error as error: print(type(error).__name__)\n"
        "ours.close()\n"
        "with Driven(path.with_name('other.db')) as other: print(other.value('SELECT 42'))\n"
    )

    done = subprocess.run([sys.executable, "-c", script, str(database)], check=False, capture_output=True, text=True)

    assert (done.returncode, done.stdout.split()[-1:], done.stderr) == (0, ["42"], "")
    assert done.stdout.split() == ["OperationalError", "42"]


@pytest.mark.parametrize("obstacle", ["no trial", "copy-on-write", "turned off", "no fallocate"])
def test_without_a_mapped_log_the_host_writes(database: Path, monkeypatch: pytest.MonkeyPatch, obstacle: str) -> None:
    allocate = os.posix_fallocate

    def fail(fd: int, offset: int, length: int) -> None:
        if length == TAIL_BYTES:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        allocate(fd, offset, length)

    if obstacle == "no trial":
        monkeypatch.setattr(_sigbus, "turns_into_trap", lambda: False)
    elif obstacle == "copy-on-write":
        monkeypatch.setattr(_mapping, "keeps_reserved_blocks", lambda _fd: False)
    elif obstacle == "no fallocate":
        monkeypatch.setattr(os, "posix_fallocate", fail)
    files = FileTable(os.fsencode(database), maps_writes=obstacle != "turned off")

    with Driven(database, files=files) as ours:
        insert(ours, 10)
        assert ours.imports()["tail_map"] == 1, "asked once, refused, never again"
        assert ours.imports()["file_write"] == 11, "the log's header, then one for each transaction"
    with closing(sqlite3.connect(database)) as native:
        assert native.execute("SELECT count(*) FROM t").fetchone() == (10,)


def test_disk_without_room_for_a_tail_still_takes_what_fits(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allocate = os.posix_fallocate

    def fail(fd: int, offset: int, length: int) -> None:
        if length == TAIL_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        allocate(fd, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with Driven(database) as ours:
        insert(ours, 3)
        assert ours.imports()["file_write"] == 4, "the log's header, then one for each transaction"
        sleep_of_the_guest(ours)  # it asks for room once while it keeps the writer's lock

        monkeypatch.setattr(os, "posix_fallocate", allocate)
        insert(ours, 3)

        assert ours.imports()["file_write"] == 4
        assert ours.value("SELECT count(*) FROM t") == 6


def test_closed_connection_leaves_nothing_mapped(database: Path) -> None:
    def mapped() -> int:
        with open("/proc/self/maps") as maps:
            return sum(str(log_of(database)) in line for line in maps)

    with closing(sqlite3.connect(database)) as native:
        native.execute("SELECT * FROM t").fetchall()  # keeps the log from being deleted
        with Driven(database) as ours:
            insert(ours, 3)
            assert mapped() > 0
        assert mapped() == 0


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_child_inherits_no_mapped_log(database: Path) -> None:
    with Driven(database) as ours:
        insert(ours, 3)
        pid = os.fork()
        if not pid:
            try:
                with open("/proc/self/maps") as maps:
                    os._exit(any(str(log_of(database)) in line for line in maps))
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        insert(ours, 3)
