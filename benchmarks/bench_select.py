"""Reading: point SELECTs, whole results in each row shape, streaming, a database beyond the page cache."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from benchmarks.databases import ITEMS, LARGE
from benchmarks.figures import Figures, latencies, rate, seconds_of, timed_operations

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.peers import Database, Peer

POINT = "SELECT id, name, score, flag FROM items WHERE id = ?"
RANGE = "SELECT id, name, score, flag FROM items WHERE id <= ?"
LARGE_POINT = "SELECT payload FROM large WHERE id = ?"
WARM_UP = 200
KEYS = 50


async def point_select(peer: Peer, directory: Path, size: int) -> Figures:
    """``size`` SELECTs by primary key, one task, one after the other."""
    database = await peer.open_database(str(directory / ITEMS), {})
    for _ in range(WARM_UP):
        await database.execute_fetchall(POINT, (1,))
    seconds, durations_ns = await timed_operations(lambda i: database.execute_fetchall(POINT, (i % 1000 + 1,)), size)
    await database.close()
    return {**rate(size, seconds), **latencies(durations_ns)}


async def fetch_all(peer: Peer, directory: Path, size: int) -> Figures:
    """``size`` rows of four columns in one call."""
    database = await peer.open_database(str(directory / ITEMS), {})
    await database.fetch_all(RANGE, (10,))
    seconds = await seconds_of(database.fetch_all(RANGE, (size,)))
    await database.close()
    return rate(size, seconds, "rows")


async def fetch_dicts(peer: Peer, directory: Path, size: int) -> Figures:
    """The same rows as dicts."""
    database = await peer.open_database(str(directory / ITEMS), {})
    try:
        await database.fetch_dicts(RANGE, (10,))
        seconds = await seconds_of(database.fetch_dicts(RANGE, (size,)))
    finally:
        await database.close()
    return rate(size, seconds, "rows")


async def fetch_structs(peer: Peer, directory: Path, size: int) -> Figures:
    """The same rows decoded into a class."""
    database = await peer.open_database(str(directory / ITEMS), {})
    try:
        await database.fetch_structs(RANGE, (10,))
        seconds = await seconds_of(database.fetch_structs(RANGE, (size,)))
    finally:
        await database.close()
    return rate(size, seconds, "rows")


async def async_for(peer: Peer, directory: Path, size: int) -> Figures:
    """The same rows through a cursor, one at a time."""
    database = await peer.open_database(str(directory / ITEMS), {})
    await database.count_rows(RANGE, (10,))
    seconds = await seconds_of(_count(database, size))
    await database.close()
    return rate(size, seconds, "rows")


async def _count(database: Database, size: int) -> None:
    counted = await database.count_rows(RANGE, (size,))
    if counted != size:
        raise RuntimeError(f"expected {size} rows, got {counted}")


async def large_reads(peer: Peer, directory: Path, size: int) -> Figures:
    """``size`` random point reads with the default page cache: one task, then 64 on the same connection."""
    database = await peer.open_database(str(directory / LARGE), {})
    row_count = (await database.fetch_all("SELECT max(id) FROM large"))[0][0]
    source = random.Random(2)
    keys = [source.randint(1, row_count) for _ in range(size)]
    await database.execute_fetchall(LARGE_POINT, (1,))
    alone, durations_ns = await timed_operations(lambda i: database.execute_fetchall(LARGE_POINT, (keys[i],)), size)

    async def reader(first: int) -> None:
        for key in keys[first::64]:
            await database.execute_fetchall(LARGE_POINT, (key,))

    together = await seconds_of(asyncio.gather(*(reader(first) for first in range(64))))
    await database.close()
    return {
        **rate(size, alone, "one_task_reads"),
        **rate(size, together, "many_tasks_reads"),
        **latencies(durations_ns),
    }


async def random_keys(peer: Peer, directory: Path, size: int) -> Figures:
    """``size`` random keys of the large table, 50 a statement."""
    database = await peer.open_database(str(directory / LARGE), {})
    row_count = (await database.fetch_all("SELECT max(id) FROM large"))[0][0]
    source = random.Random(3)
    statements = [tuple(source.sample(range(1, row_count + 1), KEYS)) for _ in range(size // KEYS)]
    sql = f"SELECT payload FROM large WHERE id IN ({', '.join('?' * KEYS)})"
    for keys in statements[:20]:
        await database.execute_fetchall(sql, keys)
    seconds, _ = await timed_operations(lambda i: database.execute_fetchall(sql, statements[i]), len(statements))
    await database.close()
    return rate(len(statements) * KEYS, seconds, "lookups")


async def large_scan(peer: Peer, directory: Path, size: int) -> Figures:
    """A scan of every page, ``size`` times, after one that warms the system's cache; one row comes back."""
    database = await peer.open_database(str(directory / LARGE), {})
    sql = "SELECT count(*), sum(length(payload)), max(substr(payload, -1)) FROM large"
    await database.fetch_all(sql)
    seconds = 0.0
    for _ in range(size):
        seconds += await seconds_of(database.fetch_all(sql))
    await database.close()
    return rate(size, seconds, "scans")
