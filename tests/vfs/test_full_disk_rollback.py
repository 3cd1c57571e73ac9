"""A full disk under the database itself: failed changes are undone immediately, in every journal mode, as in `sqlite3`.

The engine combines writes, so it finds out later than SQLite's own library that a journal or a database cannot grow.
The disk is a small tmpfs, mounted in a namespace of the test's own process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rapsqlite import _constants as sqlite
from rapsqlite._files.file_error import FileError
from rapsqlite._files.file_table import FileTable
from rapsqlite.errors import OperationalError
from tests.processes.full_disk import namespace
from tests.vfs.driver import Driven

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import json, os, sqlite3, sys
import anyio
import rapsqlite
from tests.processes.full_disk import Blocking, fill

library, disk, backend = sys.argv[1:4]
NUMBERS = "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 300) "
GROW = NUMBERS + "INSERT INTO t SELECT i, zeroblob(3000) FROM n"
STATE = "SELECT count(*), sum(a), sum(length(b)), (SELECT group_concat(a) FROM u) FROM t"

async def attempt(conn, sql):
    try:
        return await conn.fetch_all(sql)
    except (sqlite3.Error, rapsqlite.Error) as error:
        return str(error).partition(" (")[0].partition(chr(10))[0]

async def outcomes(settings):
    name = disk + "/t.db"
    conn = Blocking(name) if library == "sqlite3" else await rapsqlite.connect(name, isolation_level=None)
    for sql in (*settings, "CREATE TABLE t (a, b)", "CREATE TABLE u (a)",
                NUMBERS + "INSERT INTO t SELECT i, zeroblob(500) FROM n", "INSERT INTO t SELECT 1, zeroblob(5000)"):
        await conn.fetch_all(sql)
    fill(disk)
    alone, found = [], []
    for sql in (GROW, "UPDATE t SET a = a + 1, b = b || b", "INSERT INTO u VALUES (1)"):
        await attempt(conn, sql)
        alone.append(await attempt(conn, STATE))
    for sql in ("BEGIN", "INSERT INTO u VALUES (2)", GROW, "COMMIT", "ROLLBACK"):
        await attempt(conn, sql)
    found.append(await attempt(conn, STATE))
    os.unlink(disk + "/filling")
    found += [await attempt(conn, "INSERT INTO u VALUES (3)"), await attempt(conn, STATE)]
    found.append(await attempt(conn, "PRAGMA integrity_check"))
    await conn.close()
    for name in os.listdir(disk):
        os.unlink(disk + "/" + name)
    return [alone, found]

async def main():
    print(json.dumps({
        f"{journal} {locking} {pages}": await outcomes(
            [f"PRAGMA locking_mode={locking}", f"PRAGMA journal_mode={journal}", f"PRAGMA cache_size={pages}"]
        )
        for journal in ("DELETE", "TRUNCATE", "PERSIST", "MEMORY", "WAL")
        for locking in ("NORMAL", "EXCLUSIVE")
        for pages in (10, 2000)
    }))

anyio.run(main, backend=backend)
"""


def run(disk: Path, library: str, backend: str) -> dict[str, Any]:
    disk.mkdir()
    script = 'mount -t tmpfs -o size=1m full "$0"; exec "$@"'
    program = [sys.executable, "-c", PROGRAM, library, str(disk), backend]
    command = [*(namespace() or []), "sh", "-ec", script, str(disk), *program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces and tmpfs are Linux's")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_change_stopped_by_a_full_disk_is_undone_and_the_database_readable(tmp_path: Path, backend: str) -> None:
    """The database used to be damaged with ``journal_mode=MEMORY``, and unreadable with ``locking_mode=EXCLUSIVE``."""
    if namespace() is None:
        pytest.skip("mounting is not allowed here")

    ours = run(tmp_path / "ours", "rapsqlite", backend)
    theirs = run(tmp_path / "theirs", "sqlite3", backend)

    for settings, found in ours.items():
        assert found[1][-1] == [["ok"]], settings
        assert found[1][1] == [], settings
        if settings != "MEMORY NORMAL 10":  # where sqlite3 leaves half of a transaction
            assert found == theirs[settings], settings


class FullDisk(FileTable):
    """Files that cannot be written to while ``is_full``."""

    is_full = False

    def write(self, handle: int, data: memoryview | bytes, offset: int) -> None:
        if self.is_full:
            raise FileError(sqlite.SQLITE_FULL, "write", b"", "the disk is full")
        super().write(handle, data, offset)


@pytest.fixture
def disk(database: Path) -> FullDisk:
    return FullDisk(os.fsencode(database))


@pytest.fixture
def ours(database: Path, disk: FullDisk) -> Iterator[Driven]:
    driven = Driven(database, files=disk)
    driven.sql("CREATE TABLE item (number NOT NULL, body)")
    numbers = "WITH n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100)"
    driven.sql(f"{numbers} INSERT INTO item SELECT i, zeroblob(3000) FROM n")
    yield driven
    driven.close()


TOTAL = sum(range(1, 101))


def test_transaction_that_went_back_to_a_savepoint_on_a_full_disk_can_be_undone(ours: Driven, disk: FullDisk) -> None:
    """The journal's records, read from the buffer, were forgotten: ROLLBACK left the changes of after ROLLBACK TO."""
    ours.sql("SAVEPOINT outer")
    ours.sql("UPDATE item SET number = 1000 WHERE rowid <= 20")
    disk.is_full = True
    ours.sql("ROLLBACK TO outer")
    disk.is_full = False
    after_rollback_to = ours.value("SELECT sum(number) FROM item")
    ours.sql("UPDATE item SET number = 2000 WHERE rowid <= 21")

    ours.sql("ROLLBACK")

    assert after_rollback_to == TOTAL
    assert ours.value("SELECT sum(number) FROM item") == TOTAL


def test_transaction_whose_statements_failed_on_a_full_disk_can_be_undone(ours: Driven, disk: FullDisk) -> None:
    """SQLite undoes such a statement alone. The journal's records of those before it were forgotten."""
    ours.sql("BEGIN")
    ours.sql("UPDATE item SET number = 1000 WHERE rowid <= 20")
    disk.is_full = True
    for statement in ("UPDATE item SET number = number + 5", "UPDATE item SET number = number + 7 WHERE rowid > 90"):
        with pytest.raises(OperationalError, match="full"):
            ours.sql(statement)
        assert ours.guest.in_transaction
    disk.is_full = False
    ours.sql("UPDATE item SET number = number + 9 WHERE rowid > 95")

    ours.sql("ROLLBACK")

    assert ours.value("SELECT sum(number) FROM item") == TOTAL
