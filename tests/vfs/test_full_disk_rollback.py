"""A full disk under the database itself: failed changes are undone immediately, in every journal mode, as in `sqlite3`.

The engine combines writes, so it finds out later than SQLite's own library that a journal or a database cannot grow.
The disk is a small tmpfs, mounted in a namespace of the test's own process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.processes.full_disk import namespace

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
