"""Many writers in many processes, this package's and native ones; some are killed, some fork, and some run out of
space.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from rapsqlite._files import descriptors
from rapsqlite.errors import Error, OperationalError
from tests.programs import run_python
from tests.systems import not_on_windows
from tests.vfs import worker
from tests.vfs.driver import Driven

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONG = os.environ.get("RAPSQLITE_LONG") == "1"
ROUNDS = 20 if LONG else 1
KILLED = 1 if sys.platform == "win32" else -signal.SIGKILL


def start(library: str, database: Path, number: int, transactions: int, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.vfs.worker", library, str(database), str(number), str(transactions)]
    return subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> int:
    """Wait for the end; return how many transactions it acknowledged."""
    out, errors = process.communicate()
    assert (process.returncode, errors) in ((0, ""), (KILLED, ""))
    return len(out.split())


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
@pytest.mark.parametrize("libraries", ["ours ours ours", "ours native ours", "native native ours"])
@pytest.mark.timeout(1800 if LONG else 120)
def test_mixed_writers_lose_nothing(quick_disk: Path, mode: str, libraries: str) -> None:
    database = quick_disk / "test.db"
    worker.prepare(str(database), mode)
    transactions = 60 * ROUNDS

    processes = [
        start(library, database, number, transactions, "truncate", "reopen")
        for number, library in enumerate(libraries.split())
    ]

    assert [finish(process) for process in processes] == [transactions] * 3
    assert worker.check(str(database)) == dict.fromkeys(range(3), transactions)


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
@pytest.mark.timeout(1800 if LONG else 120)
def test_killed_writers_leave_whole_transactions(quick_disk: Path, mode: str) -> None:
    """A killed process loses nothing that it acknowledged, and locks no one out."""
    database = quick_disk / "test.db"
    worker.prepare(str(database), mode)
    chance = random.Random(3)
    acknowledged: dict[int, int] = {}

    for number in range(6 * ROUNDS):
        process = start("ours", database, number, 1_000_000, "truncate")
        assert process.stdout
        for _ in range(chance.randrange(1, 40)):
            process.stdout.readline()
        lines = threading.Timer(chance.random() * 0.01, process.kill)
        lines.start()
        acknowledged[number] = finish(process)  # beyond the lines that were read
        lines.join()

        logged = worker.check(str(database))
        assert logged.get(number, 0) >= acknowledged[number]
        with sqlite3.connect(database, timeout=0, isolation_level=None) as native:
            native.execute("BEGIN EXCLUSIVE")
        native.close()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # it has threads: that is the point
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_children_of_multiprocessing_open_their_own_connections(database: Path, method: str) -> None:
    """While the parent has one open, which continues."""
    worker.prepare(str(database), "WAL")
    children: Any = multiprocessing.get_context(method)
    with Driven(database, timeout_s=60) as ours:
        ours.sql("BEGIN")
        assert ours.value("SELECT count(*) FROM log") == 0
        several = [
            children.Process(target=worker.work, args=("ours", str(database), number, 20, ["reopen"]))
            for number in range(2)
        ]
        for child in several:
            child.start()
        for child in several:
            child.join()

        assert [child.exitcode for child in several] == [0, 0]
        assert ours.value("SELECT count(*) FROM log") == 0, "its snapshot is from before"
        ours.sql("COMMIT")
        assert ours.value("SELECT count(*) FROM log") == 40
    assert worker.check(str(database)) == {0: 20, 1: 20}


@pytest.mark.timeout(3600 if LONG else 120)
def test_sixty_four_connections_with_truncating_checkpoints_lose_nothing(quick_disk: Path) -> None:
    """The index must never be a copy: a copying VFS corrupted databases in this test."""
    database = quick_disk / "test.db"
    worker.prepare(str(database), "WAL")
    writers, transactions = 64, 2000 if LONG else 12

    def write(number: int) -> None:
        chance = random.Random(number)
        ours = worker.Ours(str(database))
        ours.run("PRAGMA synchronous = OFF")
        for step in range(transactions):
            worker.transfer(ours, number, step, chance)
            if chance.random() < 0.3:
                with contextlib.suppress(OperationalError):  # busy: another client reads
                    ours.run("PRAGMA wal_checkpoint(TRUNCATE)")
        ours.close()

    with ThreadPoolExecutor(writers) as threads:
        list(threads.map(write, range(writers)))

    assert worker.check(str(database)) == dict.fromkeys(range(writers), transactions)


@not_on_windows("nothing tells there who holds a lock")
def test_native_connection_in_the_same_process_keeps_its_locks(database: Path) -> None:
    """Opening and closing connections of ours around a native transaction must not unlock it."""
    worker.prepare(str(database), "WAL")
    inside = sqlite3.connect(database, isolation_level=None)
    inside.execute("BEGIN IMMEDIATE")
    inside.execute("UPDATE account SET amount = amount - 1 WHERE id = 0")
    for _ in range(3):
        with Driven(database) as ours:
            assert ours.value("SELECT sum(amount) FROM account") == worker.TOTAL

    code = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
    outside = run_python("-c", code, database)

    assert "database is locked" in outside.stderr
    inside.execute("UPDATE account SET amount = amount + 1 WHERE id = 1")
    inside.execute("COMMIT")
    inside.close()
    worker.check(str(database))


@not_on_windows("there is no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # it has threads: that is the point
@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_fork_in_the_middle_of_work_harms_neither_process(database: Path, mode: str) -> None:
    """The child can use none of the parent's connections, and harms none; it may open its own."""
    worker.prepare(str(database), mode)
    # With a timeout, because a guest that has answered may keep its read lock until it sleeps.
    idle, reading, writing = (Driven(database, timeout_s=20) for _ in range(3))
    idle.sql("SELECT * FROM account")
    reading.sql("BEGIN")
    reading.sql("SELECT * FROM account")
    writing.sql("BEGIN IMMEDIATE")
    writing.sql("UPDATE account SET amount = amount + 5 WHERE id = 0")
    to_child, from_parent = os.pipe()
    to_parent, from_child = os.pipe()

    pid = os.fork()
    if not pid:
        try:
            for parents in (idle, reading, writing):
                with contextlib.suppress(Error):
                    parents.sql("SELECT 1")
                    os._exit(3)
            with Driven(database) as own:
                if own.value("SELECT sum(amount) FROM account") != worker.TOTAL:
                    os._exit(4)
                with contextlib.suppress(OperationalError):
                    own.sql("BEGIN IMMEDIATE")
                    os._exit(5)
            os.write(from_child, b"x")
            os.close(from_parent)
            os.read(to_child, 1)
            os._exit(0)
        finally:
            os._exit(6)

    os.close(from_child)
    assert os.read(to_parent, 1) == b"x", "the child has ended early"
    reading.sql("COMMIT")
    writing.sql("UPDATE account SET amount = amount - 5 WHERE id = 1")
    writing.sql("COMMIT")
    for connection in (idle, reading, writing):
        connection.close()
    native = sqlite3.connect(database, timeout=0, isolation_level=None)
    native.execute("BEGIN IMMEDIATE")  # although the child lives
    native.close()
    for pipe in (from_parent, to_child, to_parent):
        os.close(pipe)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    worker.check(str(database))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, check=False, capture_output=True)
    except OSError as error:
        pytest.skip(f"cannot mount: {error}")
    if done.returncode:
        pytest.skip("only root may mount a small file system")
    try:
        yield folder
    finally:
        descriptors.sweep()
        subprocess.run(["umount", str(folder)], check=True)


def fill_up(ours: Driven) -> int:
    """Insert until the disk is full; return how many rows were acknowledged."""
    stored = 0
    with pytest.raises(OperationalError, match="full"):  # noqa: PT012 - whichever insert it is
        while stored < 1000:
            ours.sql("INSERT INTO t VALUES (randomblob(20000))")
            stored += 1
    return stored


@pytest.mark.parametrize("mode", ["WAL", "DELETE", "TRUNCATE"])
def test_full_disk_keeps_acknowledged_data(small_disk: Path, mode: str) -> None:
    """Acknowledged data stays; when there is space again, the connection continues."""
    database = small_disk / "test.db"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(300_000))
    with Driven(database) as ours:
        ours.sql(f"PRAGMA journal_mode = {mode}")
        ours.sql("CREATE TABLE t (x)")
        stored = fill_up(ours)
        for _ in range(3):
            with contextlib.suppress(OperationalError):
                ours.sql("INSERT INTO t VALUES (randomblob(50000))")
                stored += 1
        assert ours.value("SELECT count(*) FROM t") == stored
        assert ours.sql("PRAGMA integrity_check") == [["ok"]]

        ballast.unlink()
        ours.sql("INSERT INTO t VALUES (randomblob(20000))")
        assert ours.value("SELECT count(*) FROM t") == stored + 1

    native = sqlite3.connect(database)
    assert native.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert native.execute("SELECT count(*) FROM t").fetchone() == (stored + 1,)
    native.close()


@pytest.mark.parametrize("copied", ["-wal", ""], ids=["log", "database"])
def test_full_disk_under_sparse_or_shared_blocks_keeps_acknowledged_data(small_disk: Path, copied: str) -> None:
    """A copy with holes, or with shared blocks, needs space for overwritten data."""
    database = small_disk / "test.db"
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as native:
        native.execute("PRAGMA journal_mode = WAL")
        native.execute("CREATE TABLE t (x)")
        native.execute("INSERT INTO t VALUES (1)")
        os.truncate(f"{database}{copied}", 700_000)
        with Driven(database) as ours:
            (small_disk / "ballast").write_bytes(bytes(700_000))

            stored = fill_up(ours)

            assert ours.value("SELECT count(*) FROM t") == 1 + stored
            (small_disk / "ballast").unlink()
            ours.sql("INSERT INTO t VALUES (2)")
            assert ours.value("SELECT count(*) FROM t") == 2 + stored
            assert ours.sql("PRAGMA integrity_check") == [["ok"]]
        assert native.execute("SELECT count(*) FROM t").fetchone() == (2 + stored,)
