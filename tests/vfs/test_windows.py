"""Reads from mapped windows: always up to date, with few calls, and safe when a file shrinks."""

from __future__ import annotations

import mmap
import os
import random
import signal
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from rapsqlite import _constants as sqlite
from rapsqlite._files import mapping, sigbus
from rapsqlite._files.file_error import FileError
from rapsqlite._files.file_table import FileTable
from tests.programs import run_python
from tests.vfs.driver import Driven

if TYPE_CHECKING:
    from pathlib import Path

DATABASE = sqlite.SQLITE_OPEN_READWRITE | sqlite.SQLITE_OPEN_CREATE | sqlite.SQLITE_OPEN_MAIN_DB
MIB = 1 << 20
FAULT = -getattr(signal, "SIGBUS", 1)  # Windows has none

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads are mapped on Linux only")


def fill(database: Path, rows: int, page_size: int = 4096) -> sqlite3.Connection:
    """Make a table of numbered rows of 1000 bytes with native SQLite."""
    native = sqlite3.connect(database, isolation_level=None)
    native.execute(f"PRAGMA page_size = {page_size}")
    native.execute("PRAGMA synchronous = OFF")
    native.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body)")
    native.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
        " INSERT INTO t SELECT i, randomblob(1000) FROM n",
        (rows,),
    )
    return native


def calls(ours: Driven, sql: str) -> dict[str, int]:
    """Return which host functions a statement called, how often."""
    before = ours.imports()
    ours.sql(sql)
    after = ours.imports()
    return {name: after[name] - before[name] for name in after if after[name] > before[name]}


def warm_up(ours: Driven) -> None:
    for _ in range(5):
        ours.sql("SELECT count(*) FROM t")


def test_trial_of_mapped_reads_passes_here() -> None:
    """If it fails, mapped reads are off, and the other tests of this file test nothing."""
    assert sigbus._passes_trial()


def test_scan_takes_one_call_per_window(database: Path) -> None:
    fill(database, 40_000).close()
    windows = -(-database.stat().st_size // (16 * MIB))
    with Driven(database) as ours:
        assert calls(ours, "SELECT sum(length(body)) FROM t").get("window_map", 0) == windows

        made = calls(ours, "SELECT sum(length(body)) FROM t")

        assert "file_read" not in made
        assert "window_map" not in made
        assert sum(made.values()) <= 10


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_point_read_takes_one_call_to_lock_and_one_to_unlock(database: Path, mode: str) -> None:
    native = fill(database, 5000)
    native.execute(f"PRAGMA journal_mode = {mode}")
    native.execute("DELETE FROM t WHERE id = 1")  # an empty WAL takes one more, for the size of the database
    with Driven(database) as ours:
        warm_up(ours)

        made = calls(ours, "SELECT body FROM t WHERE id = 77")

        made.pop("park", None)
        wal = {"shm_lock": 1, "shm_unlock": 1}
        assert made == (wal if mode == "WAL" else {"file_lock": 1, "file_unlock": 1})
    native.close()


def test_autocommit_write_in_wal_mode_takes_five_calls(database: Path) -> None:
    """A reader's mark is moved and locked, then the writer's lock taken; the WAL is written; all locks are released."""
    native = fill(database, 100)
    native.execute("PRAGMA journal_mode = WAL")
    with Driven(database) as ours:
        ours.sql("PRAGMA synchronous = NORMAL")
        for number in range(5):
            ours.sql("INSERT INTO t (body) VALUES (?)", number)

        made = calls(ours, "INSERT INTO t (body) VALUES (1)")

        del made["bytes_written"]
        made.pop("park", None)
        assert made == {"shm_lock": 3, "file_write": 1, "shm_unlock": 1}
    native.close()


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_mapped_reads_see_every_write(database: Path, mode: str) -> None:
    native = fill(database, 3000)
    native.execute(f"PRAGMA journal_mode = {mode}")
    chance = random.Random(7)
    with Driven(database, timeout_s=5) as ours, Driven(database, timeout_s=5) as writer:
        warm_up(ours)
        for step in range(300):
            row = chance.randrange(1, 3000)
            size = chance.choice([10, 900, 9000])
            if step % 3 == 0:
                native.execute("UPDATE t SET body = randomblob(?) WHERE id = ?", (size, row))
            elif step % 3 == 1:
                writer.sql("INSERT INTO t (body) VALUES (randomblob(?))", size)
            else:
                ours.sql("DELETE FROM t WHERE id = ?", row)
            query = "SELECT count(*), total(length(body)), max(id) FROM t"
            expected = [list(native.execute(query).fetchone())]
            assert ours.sql(query) == expected
            assert writer.sql(query) == expected
        assert ours.sql("PRAGMA integrity_check") == [["ok"]]
        assert ours.imports()["window_map"] > 0
    native.close()


@pytest.mark.parametrize("who", ["ours", "native"])
def test_windows_follow_a_file_that_shrinks_and_grows(database: Path, who: str) -> None:
    """Windows follow a file that is truncated and extended, by this connection or another."""
    native = fill(database, 30_000)
    with Driven(database) as ours:
        warm_up(ours)
        for round_number in range(3):
            if who == "ours":
                ours.sql("DELETE FROM t WHERE id > 100")
                ours.sql("VACUUM")
            else:
                native.execute("DELETE FROM t WHERE id > 100")
                native.execute("VACUUM")
            assert ours.value("SELECT count(*) FROM t") == 100
            assert ours.sql("PRAGMA integrity_check") == [["ok"]]
            native.execute(
                "WITH RECURSIVE n(i) AS (SELECT 101 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"
                " INSERT INTO t SELECT i, randomblob(1000) FROM n"
            )
            assert ours.value("SELECT count(*) FROM t") == 20_000, f"round {round_number}"
            assert ours.sql("PRAGMA integrity_check") == [["ok"]]
    native.close()


@pytest.mark.parametrize("page_size", [512, 1024, 65536])
def test_mapped_reads_work_with_every_page_size(database: Path, page_size: int) -> None:
    """Mapped reads return the same rows as native SQLite for every page size."""
    native = fill(database, 3000, page_size)
    with Driven(database) as ours:
        warm_up(ours)
        assert ours.value("PRAGMA page_size") == page_size
        for query in ("SELECT id, body FROM t WHERE id % 7 = 0", "SELECT sum(length(body)) FROM t"):
            assert ours.sql(query) == [list(row) for row in native.execute(query)]
    native.close()


def test_file_truncated_by_others_breaks_only_the_connection(database: Path) -> None:
    fill(database, 20_000).close()
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from rapsqlite.errors import Error\n"
        "from tests.vfs.driver import Driven\n"
        "path = Path(sys.argv[1])\n"
        "ours = Driven(path)\n"
        "for _ in range(5): ours.sql('SELECT sum(length(body)) FROM t')\n"
        "assert ours.imports()['window_map'] > 0\n"
        "ours.sql('PRAGMA cache_size = 0')\n"
        "ours.sql('BEGIN')\n"
        "ours.sql('SELECT * FROM t WHERE id = 1')\n"
        "os.truncate(path, 65536)\n"
        "try:\n"
        "    ours.sql('SELECT sum(length(body)) FROM t')\n"
        "except Error as error: print(type(error).__name__)\n"
        "ours.close()\n"
        "with Driven(path.with_name('other.db')) as other: print(other.value('SELECT 42'))\n"
    )

    done = run_python("-c", script, database)

    assert (done.returncode, done.stdout.split()[-1:], done.stderr) == (0, ["42"], "")
    assert len(done.stdout.split()) == 2


@pytest.mark.parametrize("obstacle", ["no trial", "network", "turned off"])
def test_host_reads_if_windows_are_off(database: Path, monkeypatch: pytest.MonkeyPatch, obstacle: str) -> None:
    fill(database, 5000).close()
    if obstacle == "no trial":
        monkeypatch.setattr(sigbus, "turns_into_trap", lambda: False)
    elif obstacle == "network":
        monkeypatch.setattr(mapping, "is_shared_by_all", lambda _fd: False)
    files = FileTable(os.fsencode(database), maps_reads=obstacle != "turned off")

    with Driven(database, files=files) as ours:
        warm_up(ours)
        assert ours.value("SELECT count(*) FROM t") == 5000
        assert ours.imports()["window_map"] == 1, "asked once, refused, never again"


def test_closed_connection_leaves_nothing_mapped(database: Path) -> None:
    fill(database, 5000).close()

    def mapped() -> int:
        with open("/proc/self/maps") as maps:
            return sum(str(database) in line for line in maps)

    with Driven(database) as ours:
        warm_up(ours)
        assert mapped() > 0
    assert mapped() == 0

    native = sqlite3.connect(database, timeout=0, isolation_level=None)
    native.execute("BEGIN EXCLUSIVE")
    native.close()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_child_inherits_no_mapping(database: Path) -> None:
    fill(database, 5000).close()
    with Driven(database) as ours:
        warm_up(ours)
        pid = os.fork()
        if not pid:
            try:
                with open("/proc/self/maps") as maps:
                    os._exit(any(str(database) in line for line in maps))
            finally:
                os._exit(2)

        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert ours.value("SELECT count(*) FROM t") == 5000


@pytest.fixture
def table(database: Path, monkeypatch: pytest.MonkeyPatch) -> FileTable:
    monkeypatch.setattr(sigbus, "turns_into_trap", lambda: True)
    return FileTable(os.fsencode(database))


def test_window_ends_with_the_last_page_of_the_file(table: FileTable, database: Path) -> None:
    """Beyond it every load would fault."""
    handle, _ = table.open(os.fsencode(database), DATABASE)
    table.write(handle, b"x" * 5000, 0)
    memory = memoryview(mmap.mmap(-1, 65536))
    memory[8192:] = b"y" * (65536 - 8192)

    table.map_window(handle, memory, 0)

    assert bytes(memory[:5000]) == b"x" * 5000
    assert bytes(memory[8192:]) == b"y" * (65536 - 8192)
    table.unmap_window(memory)
    table.close()


@pytest.mark.parametrize(
    "start,length,offset",
    [
        pytest.param(100, 4096, 0, id="unaligned memory"),
        pytest.param(0, 4096, 100, id="unaligned offset"),
        pytest.param(0, 4096, 1 << 20, id="beyond the end"),
        pytest.param(0, 4096, -4096, id="before the start"),
    ],
)
def test_impossible_windows_are_refused(table: FileTable, database: Path, start: int, length: int, offset: int) -> None:
    handle, _ = table.open(os.fsencode(database), DATABASE)
    table.write(handle, b"x" * 65536, 0)
    memory = memoryview(mmap.mmap(-1, 65536))

    with pytest.raises(FileError) as caught:
        table.map_window(handle, memory[start : start + length], offset)

    assert caught.value.code == sqlite.SQLITE_IOERR_MMAP
    assert bytes(memory) == bytes(65536)
    with pytest.raises(FileError):
        table.unmap_window(memory)
    table.close()


def test_windows_beyond_four_gigabytes_are_mapped(table: FileTable, database: Path) -> None:
    """Window offsets do not wrap at 32 bits."""
    handle, _ = table.open(os.fsencode(database), DATABASE)
    far = 5 << 30
    table.write(handle, b"far away", far)
    memory = memoryview(mmap.mmap(-1, 65536))
    page = bytearray(8)

    table.map_window(handle, memory, far)
    table.read_into(handle, memoryview(page), far)

    assert bytes(memory[:8]) == bytes(page) == b"far away"
    assert table.size(handle) == far + 8
    table.close()


def test_signal_handlers_of_others_are_kept() -> None:
    """Another handler for SIGBUS is not replaced: reads are then no longer mapped."""
    script = (
        "import signal\n"
        "from pathlib import Path\n"
        "from rapsqlite._files import sigbus\n"
        "from tests.vfs.driver import Driven\n"
        "with Driven(':memory:') as ours: pass\n"
        "assert sigbus.arm() and sigbus.arm()\n"
        "signal.signal(signal.SIGBUS, lambda *_: None)\n"
        "assert not sigbus.arm()\n"
    )

    done = run_python("-c", script)

    assert (done.returncode, done.stderr.count("a handler for SIGBUS was installed")) == (0, 1)


def test_fault_outside_of_wasm_still_ends_the_process(tmp_path: Path) -> None:
    """The handler must not swallow faults of native code, which would then loop."""
    script = (
        "import ctypes, mmap, os, sys\n"
        "from rapsqlite._files import sigbus\n"
        "from tests.vfs.driver import Driven\n"
        "with Driven(':memory:') as ours: pass\n"
        "assert sigbus.arm()\n"
        "fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n"
        "os.truncate(fd, 4096)\n"
        "view = mmap.mmap(fd, 4096)\n"
        "os.truncate(fd, 0)\n"
        "view[0]\n"
    )

    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "file")], check=False, timeout=30)

    assert done.returncode == FAULT


def test_statistics_count_hits_and_misses(database: Path) -> None:
    fill(database, 5000).close()
    with Driven(database) as ours:
        warm_up(ours)
        before = ours.statistics()
        ours.sql("PRAGMA cache_size = 0")
        ours.sql("SELECT sum(length(body)) FROM t")

        after = ours.statistics()

        assert after["window_hits"] - before["window_hits"] > 1000
        assert after["window_misses"] == before["window_misses"]


@pytest.mark.parametrize(
    "returncode, output, verdict, is_kept",
    [(0, b"trapped", True, True), (FAULT, b"", False, True), (0, b"", False, True), (1, b"", False, False)],
)
def test_failed_trial_is_repeated_by_the_next_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, returncode: int, output: bytes, verdict: bool, is_kept: bool
) -> None:
    """For example for lack of memory or time. A stored failure would turn mapped reads off on a machine that has
    them.
    """
    trials: list[object] = []

    def run(*command: object, **_: object) -> subprocess.CompletedProcess[bytes]:
        trials.append(command)
        return subprocess.CompletedProcess([], returncode, output)

    monkeypatch.setenv("RAPSQLITE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sigbus, "_library", "a build")

    assert [sigbus._known_verdict() for _ in range(2)] == [verdict, verdict]
    assert len(trials) == (1 if is_kept else 2)
