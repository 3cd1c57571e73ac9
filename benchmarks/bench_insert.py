"""Writing: many rows in one transaction, and one transaction per row."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks.databases import fresh, item_rows
from benchmarks.figures import Figures, latencies, rate, seconds_of, timed_operations

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.peers import Peer

SCHEMA = "CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT, score REAL, flag INTEGER)"
INSERT = "INSERT INTO items VALUES (?, ?, ?, ?)"
INSERT_NAME = "INSERT INTO items (name) VALUES (?)"


async def insert_many(peer: Peer, directory: Path, size: int) -> Figures:
    """``executemany`` of ``size`` rows of four columns, one transaction, commit included; default journal."""
    database = await peer.open_database(fresh(directory), {})
    await database.execute(SCHEMA)
    rows = list(item_rows(size))
    seconds = await seconds_of(database.insert_many(INSERT, rows))
    stored = (await database.fetch_all("SELECT count(*) FROM items"))[0][0]
    await database.close()
    if stored != size:
        raise RuntimeError(f"expected {size} rows, found {stored}")
    return rate(size, seconds, "rows")


async def executemany_wal(peer: Peer, directory: Path, size: int) -> Figures:
    """``executemany`` of ``size`` rows of three columns, one transaction in WAL mode, commit included."""
    database = await peer.open_database(fresh(directory), {"journal_mode": "WAL", "synchronous": "NORMAL"})
    await database.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT, score REAL)")
    rows = [row[:3] for row in item_rows(size)]
    cpu = time.process_time()
    seconds = await seconds_of(database.insert_many("INSERT INTO items VALUES (?, ?, ?)", rows))
    cpu = time.process_time() - cpu
    await database.close()
    return {**rate(size, seconds, "rows"), "cpu_ms": cpu * 1000}


async def _autocommit(peer: Peer, directory: Path, size: int, synchronous: str) -> Figures:
    pragmas = {"journal_mode": "WAL", "synchronous": synchronous}
    database = await peer.open_database(fresh(directory), pragmas)
    await database.execute(SCHEMA)
    for _ in range(20):
        await database.execute(INSERT_NAME, ("warm-up",))
    seconds, durations_ns = await timed_operations(lambda i: database.execute(INSERT_NAME, (f"name {i}",)), size)
    mode = (await database.fetch_all("PRAGMA journal_mode"))[0][0]
    await database.close()
    if mode != "wal":
        raise RuntimeError(f"the journal mode is {mode}, not wal: the figures would not compare")
    return {**rate(size, seconds), **latencies(durations_ns)}


async def autocommit_normal(peer: Peer, directory: Path, size: int) -> Figures:
    """``size`` INSERTs, one task, each its own transaction; WAL, synchronous=NORMAL."""
    return await _autocommit(peer, directory, size, "NORMAL")


async def autocommit_full(peer: Peer, directory: Path, size: int) -> Figures:
    """The same with synchronous=FULL: one sync of the WAL per row."""
    return await _autocommit(peer, directory, size, "FULL")
