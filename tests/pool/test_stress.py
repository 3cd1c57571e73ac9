"""A pool never gets SQLITE_BUSY because of itself and loses nothing while another process's pool does the same."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.pool.stress import COUNTERS, SCHEMA, run

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60 if os.environ.get("RAPSQLITE_LONG") == "1" else 1.5


@pytest.mark.timeout(300)
async def test_pools_of_two_processes_read_and_write_without_errors_or_lost_updates(database: Path) -> None:
    with closing(sqlite3.connect(database)) as stock:
        stock.execute("PRAGMA journal_mode = wal")
        stock.execute(SCHEMA)
        stock.executemany("INSERT INTO counter VALUES (?, 0)", [(f"counter {number}",) for number in range(COUNTERS)])
        stock.commit()
    command = [sys.executable, "-m", "tests.pool.stress", str(database), str(SECONDS)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as other:  # noqa: ASYNC220
        ours = await run(str(database), SECONDS)
        out, err = other.communicate(timeout=200)

    assert other.returncode == 0, err
    with closing(sqlite3.connect(database)) as stock:
        assert stock.execute("SELECT sum(value) FROM counter").fetchone() == (ours + int(out),)
        assert stock.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert ours > 0
