"""A WAL index that a writer leaves unreadable is waited for, as in SQLite, and the wait can be interrupted."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

import rapsqlite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# It holds the lock that a reader would need to repair the index.
WRITER = """
import sqlite3, sys
conn = sqlite3.connect(sys.argv[1], isolation_level=None)
conn.execute("PRAGMA journal_mode = WAL")
conn.execute("CREATE TABLE t (v)")
conn.execute("BEGIN IMMEDIATE")
index = open(sys.argv[1] + "-shm", "r+b", buffering=0)
index.write(bytes(96))
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def writer(database: Path) -> Iterator[subprocess.Popen[str]]:
    """Holds the writer's lock of a database whose index has no valid header."""
    command = [sys.executable, "-c", WRITER, str(database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        yield writer
        writer.kill()


async def test_interrupt_ends_the_wait_and_is_reported(database: Path, writer: subprocess.Popen[str]) -> None:
    """SQLite gives up after a hundred tries, which follow each other at once when nobody sleeps between them."""
    async with rapsqlite.connect(database, isolation_level=None) as conn:
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:

                async def read() -> None:
                    with pytest.raises(rapsqlite.OperationalError, match="interrupted"):
                        await conn.fetch_all("SELECT v FROM t")

                tasks.start_soon(read)
                while not conn._state.guest.host.sleeps:
                    await anyio.lowlevel.checkpoint()
                await conn.interrupt()

            writer.kill()
            writer.wait()
            assert await conn.fetch_all("SELECT v FROM t") == []
