"""Temporary directories on a full disk: what needs them fails as with `sqlite3`, and the connection stays usable.

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

PROGRAM = '''
import json, os, sqlite3, sys
import anyio
import rapsqlite
from tests.processes.full_disk import Blocking, fill

library, full, database = sys.argv[1:4]
outcomes, told = {}, []

async def state(conn):
    rows = await conn.fetch_all("SELECT count(*), sum(a), sum(length(b)) FROM t")
    rows += await conn.fetch_all("SELECT count(*), sum(a), sum(length(b)) FROM kept")
    return [*rows, *await conn.fetch_all("PRAGMA temp.integrity_check")]

async def attempt(conn, name, sql, parameters=()):
    try:
        outcome = len(await conn.fetch_all(sql, parameters))
    except (sqlite3.Error, rapsqlite.Error) as error:
        told.append(str(error))
        outcome = str(error).partition(" (")[0].partition(chr(10))[0]
    outcomes[name] = [outcome, await state(conn)]

NUMBERS = "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?) "

async def statements(conn, when):
    await attempt(conn, when + " temporary table", "CREATE TEMP TABLE u AS SELECT * FROM t")
    await attempt(conn, when + " more rows", "INSERT INTO kept SELECT a, b FROM t")
    await attempt(conn, when + " changed rows", "UPDATE kept SET b = b || b || b || b || b || b || b || b")
    await attempt(conn, when + " sort", "SELECT * FROM t ORDER BY b, a DESC")
    await attempt(conn, when + " group", "SELECT b || a, count(*) FROM t GROUP BY 1")
    await attempt(conn, when + " distinct", "SELECT DISTINCT b || a FROM t")
    await attempt(conn, when + " index", "CREATE INDEX i ON t (b, a)")
    await attempt(conn, when + " vacuum", "VACUUM")
    await attempt(conn, when + " a copy", "VACUUM INTO ?", [full + "/" + when + ".db"])
    await attempt(conn, when + " small", "SELECT a FROM t WHERE a < 10 ORDER BY b, a")

async def more(conn):
    """What sqlite3 does otherwise: images, backups."""
    for name, call in {
        "serialize": conn.serialize,
        "backup": lambda: backup(conn),
    }.items():
        try:
            await call()  # may find another directory
        except rapsqlite.Error as error:
            told.append(str(error))
        outcomes["after " + name] = [0, await state(conn)]

async def backup(conn):
    async with rapsqlite.connect(":memory:") as target:
        await conn.backup(target)

async def main():
    conn = Blocking(database) if library == "sqlite3" else await rapsqlite.connect(database, isolation_level=None)
    for setting in ("cache_size = 10", "temp.cache_size = 10", "temp_store = 1"):
        await conn.execute("PRAGMA " + setting)
    await conn.execute("CREATE TABLE t (a, b)")
    await conn.execute(NUMBERS + "INSERT INTO t SELECT i * 7919 % 10007, hex(zeroblob(150)) FROM n", [10_000])
    await conn.execute("CREATE TEMP TABLE kept (a, b)")
    await conn.execute(NUMBERS + "INSERT INTO kept SELECT i, hex(zeroblob(150)) FROM n", [1000])
    await statements(conn, "small")
    fill(full)
    await statements(conn, "full")
    if library != "sqlite3":
        await more(conn)
    for name in os.listdir(full):
        if os.path.isfile(full + "/" + name):
            os.unlink(full + "/" + name)
    await attempt(conn, "room again", "INSERT INTO kept SELECT a, b FROM t LIMIT 500")
    await attempt(conn, "sorted again", "SELECT * FROM t WHERE a < 500 ORDER BY b, a")
    await conn.close()

anyio.run(main, backend=sys.argv[4])
print(json.dumps([outcomes, told]))
'''

MOUNTS = {
    "the directory": 'mount -t tmpfs -o size=1m full "$FULL"; export TMPDIR="$FULL" SQLITE_TMPDIR="$FULL"',
    "/tmp": "mount -t tmpfs -o size=1m full /tmp; mount --bind /tmp /var/tmp; mount -t tmpfs -o size=64m room /mnt",
}


def run(directory: Path, kind: str, library: str, backend: str = "asyncio") -> tuple[dict[str, Any], list[str]]:
    """Run the program with a small disk for temporary files; return the statements' outcomes, and the messages."""
    directory.mkdir()
    full, room = (str(directory), str(directory.parent)) if kind == "the directory" else ("/tmp", "/mnt")
    script = f'{MOUNTS[kind]}; export RAPSQLITE_CACHE_DIR="$FULL/cache"; exec "$@"'
    program = [sys.executable, "-c", PROGRAM, library, full, f"{room}/{directory.name}.db", backend]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "FULL": full, "PYTHONPATH": str(ROOT)}
    command = [*(namespace() or []), "sh", "-ec", script, "sh", *program]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    if library == "rapsqlite":
        assert "the compiled module cannot be kept" in done.stderr
        assert "No space left on device" in done.stderr
    outcomes, told = json.loads(done.stdout)
    return outcomes, told


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces and tmpfs are Linux's")
@pytest.mark.parametrize("kind, backend", [("the directory", "asyncio"), ("/tmp", "trio")])
def test_statements_that_need_a_full_disk_fail_as_with_sqlite3(tmp_path: Path, kind: str, backend: str) -> None:
    """After the first of them, every statement that read a temporary table used to fail until the connection was
    closed.
    """
    if namespace() is None:
        pytest.skip("mounting is not allowed here")
    if kind == "/tmp" and any(path.startswith("/tmp/") for path in (sys.executable, str(ROOT))):
        pytest.skip("Python or the tests are in /tmp themselves")

    ours, told = run(tmp_path / "ours", kind, "rapsqlite", backend)
    theirs, _ = run(tmp_path / "theirs", kind, "sqlite3")

    assert {name: ours[name] for name in theirs} == theirs
    assert {name: states for name, (_, states) in ours.items() if states[-1] != ["ok"]} == {}
    assert [message for message in told if "No space left on device" not in message] == []
    assert ours["full sort"][0] == "database or disk is full"
    assert isinstance(ours["sorted again"][0], int)
