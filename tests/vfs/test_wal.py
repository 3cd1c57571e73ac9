"""WAL mode: the index is really shared, with connections of this package and with other SQLite libraries."""

from __future__ import annotations

import ctypes
import mmap
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rapsqlite import _constants as sqlite
from rapsqlite._files import mapping, sigbus, wal_index
from rapsqlite._files.file_error import FileError
from rapsqlite._files.file_table import FileTable
from rapsqlite._platform import system
from rapsqlite.errors import OperationalError
from tests.vfs.driver import Driven

DATABASE = sqlite.SQLITE_OPEN_READWRITE | sqlite.SQLITE_OPEN_CREATE | sqlite.SQLITE_OPEN_MAIN_DB
EXCLUSIVE = sqlite.SQLITE_SHM_LOCK | sqlite.SQLITE_SHM_EXCLUSIVE
SHARED = sqlite.SQLITE_SHM_LOCK | sqlite.SQLITE_SHM_SHARED
on_windows = sys.platform == "win32"
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="replaces a call of Linux")


@pytest.fixture
def wal(database: Path) -> Path:
    """A database in WAL mode with one table."""
    native = sqlite3.connect(database)
    native.execute("PRAGMA journal_mode = WAL")
    native.execute("CREATE TABLE t (x)")
    native.commit()
    native.close()
    return database


def test_writes_are_seen_in_both_directions(wal: Path) -> None:
    native = sqlite3.connect(wal, isolation_level=None)
    with Driven(wal) as ours, Driven(wal) as second:
        for number in range(0, 300, 3):
            native.execute("INSERT INTO t VALUES (?)", (number,))
            ours.sql("INSERT INTO t VALUES (?)", number + 1)
            second.sql("INSERT INTO t VALUES (?)", number + 2)
            expected = number + 3
            assert native.execute("SELECT count(*) FROM t").fetchone() == (expected,)
            assert ours.value("SELECT count(*) FROM t") == expected
            assert second.value("SELECT count(*) FROM t") == expected
        native.close()

    with sqlite3.connect(wal) as native:
        assert native.execute("SELECT count(*), sum(x) FROM t").fetchone() == (300, sum(range(300)))
        assert native.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    native.close()


def test_reader_keeps_its_snapshot(wal: Path) -> None:
    """A native process commits meanwhile; the reader sees that once its transaction has ended."""
    native = sqlite3.connect(wal, isolation_level=None)
    with Driven(wal) as ours:
        ours.sql("BEGIN")
        assert ours.value("SELECT count(*) FROM t") == 0
        native.execute("INSERT INTO t VALUES (1)")
        assert ours.value("SELECT count(*) FROM t") == 0
        ours.sql("COMMIT")
        assert ours.value("SELECT count(*) FROM t") == 1
    native.close()


@pytest.mark.parametrize("mode", ["PASSIVE", "FULL", "RESTART", "TRUNCATE"])
def test_every_checkpoint_mode_completes_without_readers(wal: Path, mode: str) -> None:
    """Every mode checkpoints fully if nobody else reads, with a native connection open."""
    native = sqlite3.connect(wal, isolation_level=None)
    with Driven(wal) as ours:
        ours.sql("INSERT INTO t VALUES (1)")

        (busy, in_log, done), *_ = ours.sql(f"PRAGMA wal_checkpoint({mode})")

        assert (busy, in_log) == (0, done)
        native.execute("INSERT INTO t VALUES (2)")
        assert ours.value("SELECT sum(x) FROM t") == 3
        size = wal.with_name(wal.name + "-wal").stat().st_size
        assert size > 0
    native.close()


def test_reader_delays_a_truncating_checkpoint(wal: Path) -> None:
    native = sqlite3.connect(wal, isolation_level=None)
    native.execute("INSERT INTO t VALUES (1)")
    native.execute("BEGIN")
    native.execute("SELECT * FROM t").fetchall()
    with Driven(wal) as ours:
        ours.sql("INSERT INTO t VALUES (2)")

        assert ours.sql("PRAGMA wal_checkpoint(TRUNCATE)")[0][0] == 1

        native.execute("COMMIT")
        assert ours.sql("PRAGMA wal_checkpoint(TRUNCATE)") == [[0, 0, 0]]
    native.close()


def test_index_grows_over_several_regions(wal: Path) -> None:
    """A region describes 4096 frames at most."""
    with Driven(wal) as ours, Driven(wal) as reader:
        ours.sql("PRAGMA wal_autocheckpoint = 0")
        ours.sql("PRAGMA synchronous = OFF")
        ours.script("CREATE TABLE big (x); BEGIN")
        ours.sql(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12000)"
            " INSERT INTO big SELECT randomblob(4000) FROM n"
        )
        ours.sql("COMMIT")

        assert ours.imports()["shm_map"] >= 3
        assert reader.value("SELECT count(*) FROM big") == 12000
        native = sqlite3.connect(wal)
        assert native.execute("PRAGMA quick_check").fetchone() == ("ok",)
        native.close()


def test_last_connection_removes_wal_and_index(wal: Path) -> None:
    with Driven(wal) as ours:
        ours.sql("INSERT INTO t VALUES (1)")
        names = {path.name for path in wal.parent.iterdir()}

    assert names == {wal.name, wal.name + "-wal", wal.name + "-shm"}
    assert [path.name for path in wal.parent.iterdir()] == [wal.name]


def test_native_sqlite_finds_a_killed_writers_commits(wal: Path) -> None:
    script = (
        "import os, sys\n"
        "from tests.vfs.driver import Driven\n"
        "ours = Driven(sys.argv[1])\n"
        "ours.sql('INSERT INTO t VALUES (7)')\n"
        "ours.sql('BEGIN')\n"
        "ours.sql('INSERT INTO t VALUES (8)')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    code = subprocess.run([sys.executable, "-c", script, str(wal)], check=False).returncode
    assert abs(code) == 9  # Windows has no signals

    native = sqlite3.connect(wal)
    assert native.execute("SELECT x FROM t").fetchall() == [(7,)]
    native.close()


@pytest.mark.skipif(on_windows, reason="files inherit their directory's access control list there")
def test_index_file_has_the_mode_of_its_database(wal: Path) -> None:
    wal.chmod(0o606)
    with Driven(wal) as ours:
        ours.sql("SELECT * FROM t")
        mode = wal.with_name(wal.name + "-shm").stat().st_mode

    assert stat.S_IMODE(mode) == 0o606


def test_stale_index_is_emptied(wal: Path) -> None:
    """After a crash of the machine the index may hold anything: its first user rebuilds it."""
    shm = wal.with_name(wal.name + "-shm")
    shm.write_bytes(b"\xff" * 65536)

    with Driven(wal) as ours:
        assert ours.value("SELECT count(*) FROM t") == 0


# statfs(2) on Linux: <linux/magic.h>
NETWORK = {
    "nfs": 0x6969,
    "smb2": 0xFE53_4D42,
    "cifs": 0xFF53_4D42,
    "fuse": 0x6573_5546,
    "9p": 0x0102_1997,
    "ceph": 0xC36400,
}


@linux_only
@pytest.mark.parametrize("kind", NETWORK)
def test_wal_on_a_network_file_system_is_refused(wal: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(system, "file_system", lambda _fd: NETWORK[kind])

    with Driven(wal) as ours, pytest.raises(OperationalError, match="needs a local file system") as caught:
        ours.sql("SELECT * FROM t")

    assert str(wal) in str(caught.value)


@linux_only
def test_database_on_a_network_file_system_can_leave_wal_mode(wal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error for a database that is in WAL mode there says what to do, and that works."""
    monkeypatch.setattr(system, "file_system", lambda _fd: NETWORK["nfs"])

    with Driven(wal) as ours:
        ours.sql("PRAGMA locking_mode = EXCLUSIVE")
        ours.sql("SELECT * FROM t")
        assert ours.value("PRAGMA journal_mode = DELETE") == "delete"
    with Driven(wal) as ours:
        ours.sql("INSERT INTO t VALUES (1)")

    native = sqlite3.connect(wal)
    assert native.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert native.execute("SELECT x FROM t").fetchall() == [(1,)]
    native.close()


def test_exclusive_mode_needs_no_shared_memory(wal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping, "is_shared_by_all", lambda _fd: False)

    with Driven(wal) as ours:
        ours.sql("PRAGMA locking_mode = EXCLUSIVE")
        ours.sql("INSERT INTO t VALUES (1)")
        assert ours.value("SELECT count(*) FROM t") == 1
        assert "shm_map" not in {name for name, count in ours.imports().items() if count}


@linux_only
def test_full_disk_while_the_index_grows_is_an_error(wal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with Driven(wal) as ours:
        with monkeypatch.context() as patched:
            patched.setattr(os, "posix_fallocate", full)
            with pytest.raises(OperationalError, match="No space left"):
                ours.sql("INSERT INTO t VALUES (1)")
        ours.sql("INSERT INTO t VALUES (2)")
        assert ours.sql("SELECT x FROM t") == [[2]]


@linux_only
def test_index_grows_on_a_file_system_without_fallocate(wal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The WAL index is then filled by writing: a hole would be SIGBUS on a full disk."""

    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    with Driven(wal) as ours:
        ours.sql("INSERT INTO t VALUES (1)")
        assert wal.with_name(wal.name + "-shm").stat().st_blocks * 512 >= 32768


def own_memory(size_bytes: int) -> memoryview:
    """Return page-aligned memory of our own in place of a guest's. On Windows only what is mapped can be read."""
    if sys.platform != "win32":
        return memoryview(mmap.mmap(-1, size_bytes))
    from rapsqlite._platform import placeholders

    reservation = placeholders.Reservation(size_bytes)
    placeholders._reservations[reservation.base] = reservation
    return memoryview((ctypes.c_char * size_bytes).from_address(reservation.base)).cast("B")


class Index:
    """The WAL index of one file table, without a guest."""

    def __init__(self, path: Path) -> None:
        self.table = FileTable(os.fsencode(path))
        self.handle, _ = self.table.open(os.fsencode(path), DATABASE)
        self.memory = own_memory(4 * wal_index.REGION_BYTES)

    def map(self, region: int = 0, *, extend: bool = True, start: int = 0, size: int = wal_index.REGION_BYTES) -> int:
        view = self.memory[start : start + size]
        return self.table.map_index(self.handle, region, view, extend=extend)

    def lock(self, first: int, count: int, flags: int) -> bool:
        try:
            self.table.lock_index(self.handle, first, count, flags)
        except FileError as error:
            if error.code != sqlite.SQLITE_BUSY:
                raise
            return False
        return True


def test_index_locks_exclude_each_other_byte_by_byte(wal: Path) -> None:
    one, two = Index(wal), Index(wal)
    assert one.map() == two.map() == sqlite.SQLITE_OK

    assert one.lock(3, 1, SHARED)
    assert two.lock(3, 1, SHARED)
    assert not two.lock(3, 5, EXCLUSIVE)
    assert two.lock(4, 4, EXCLUSIVE)
    assert not one.lock(5, 1, SHARED)
    two.table.unlock_index(two.handle, 0b1111_0000)
    assert one.lock(5, 1, SHARED)
    for index in (one, two):
        index.table.close()


def test_two_connections_share_one_memory(wal: Path) -> None:
    one, two = Index(wal), Index(wal)
    one.map()
    two.map()

    one.memory[100:105] = b"hello"

    assert bytes(two.memory[100:105]) == b"hello"
    one.table.close()
    two.table.close()
    if sys.platform == "linux":
        assert f"{wal}-shm" not in Path("/proc/self/maps").read_text()


def test_missing_region_is_not_created_unless_requested(wal: Path) -> None:
    index = Index(wal)

    assert index.map(extend=False) == sqlite.SQLITE_NOTFOUND
    assert index.map(extend=True) == sqlite.SQLITE_OK
    index.table.close()


@linux_only
def test_failed_initialisation_of_the_index_locks_no_one_out(wal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next connection initialises it; the first one may stay open for long, and try again."""

    def fail(*_: object) -> None:
        monkeypatch.undo()  # only the first call fails
        raise OSError(5, "Input/output error")

    one, two = Index(wal), Index(wal)
    monkeypatch.setattr(os, "ftruncate", fail)
    with pytest.raises(FileError, match="initialise"):
        one.map()

    assert two.map() == sqlite.SQLITE_OK
    assert one.map() == sqlite.SQLITE_OK
    one.table.close()
    two.table.close()


@pytest.mark.skipif(on_windows, reason="replaces a call of POSIX")
@pytest.mark.parametrize("stuck", ["window", "index"])
def test_index_that_cannot_be_unmapped_locks_no_one_out(wal: Path, monkeypatch: pytest.MonkeyPatch, stuck: str) -> None:
    """A process with the most mappings that it may have can make none, not even in place of another."""
    monkeypatch.setattr(sigbus, "turns_into_trap", lambda: True)
    one, two = Index(wal), Index(wal)
    one.map()
    assert one.lock(0, 8, EXCLUSIVE)
    window = one.memory[-mmap.PAGESIZE :]
    one.table.map_window(one.handle, window, 0)
    kept = mapping.address_of(window if stuck == "window" else one.memory)
    clear = mapping.clear

    def fail_there(address: int) -> None:
        if address == kept:
            raise OSError(12, "Cannot allocate memory")
        clear(address)

    monkeypatch.setattr(mapping, "clear", fail_there)
    one.table.close()

    assert "Cannot allocate memory" in str(one.table.failure)
    two.map()
    assert two.lock(0, 8, EXCLUSIVE)
    two.table.close()
    mapping.forget(kept, mmap.PAGESIZE)


@pytest.mark.skipif(on_windows, reason="reads memory that is not mapped")
@pytest.mark.parametrize(
    "region,start,size",
    [
        pytest.param(1, 32768 + 512, 32768, id="unaligned"),
        pytest.param(1, 32768, 4096, id="short"),
        pytest.param(1 << 20, 32768, 32768, id="far"),
        pytest.param(0, 65536, 32768, id="twice"),
    ],
)
def test_impossible_regions_are_refused(wal: Path, region: int, start: int, size: int) -> None:
    index = Index(wal)
    index.map()
    before = bytes(index.memory[32768:])

    with pytest.raises(FileError) as caught:
        index.map(region, start=start, size=size)

    assert caught.value.code == sqlite.SQLITE_IOERR_SHMMAP
    assert bytes(index.memory[32768:]) == before
    index.table.close()


def test_impossible_locks_are_refused(wal: Path) -> None:
    index = Index(wal)
    with pytest.raises(FileError):
        index.table.lock_index(index.handle, 0, 1, EXCLUSIVE)
    index.map()
    for first, count in ((-1, 1), (0, 0), (7, 2), (8, 1)):
        with pytest.raises(FileError) as caught:
            index.table.lock_index(index.handle, first, count, EXCLUSIVE)
        assert caught.value.code == sqlite.SQLITE_IOERR_SHMLOCK
    index.table.unlock_index(index.handle, -1)
    index.table.unlock_index(index.handle, 1 << 8)
    index.table.close()


@pytest.mark.skipif(on_windows, reason="no close drops others' locks there")
def test_database_in_use_by_wal_readers_cannot_be_locked_exclusively(wal: Path) -> None:
    """A library whose lock was dropped by a stray close still uses the index, which must not be deleted."""
    one, two = Index(wal), Index(wal)
    one.map()
    two.map()
    for level in (sqlite.SQLITE_LOCK_SHARED, sqlite.SQLITE_LOCK_RESERVED):
        one.table.lock(one.handle, level)

    with pytest.raises(FileError) as caught:
        one.table.lock(one.handle, sqlite.SQLITE_LOCK_EXCLUSIVE)

    assert caught.value.code == sqlite.SQLITE_BUSY
    for index in (one, two):
        index.table.close()
