"""Several tasks or connections at once."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

from benchmarks.bench_insert import INSERT, INSERT_NAME, SCHEMA
from benchmarks.bench_select import POINT, WARM_UP
from benchmarks.databases import ITEMS, fresh, item_rows
from benchmarks.figures import Figures, latencies, rate, seconds_of

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.peers import Database, Peer

TASKS = 64
READERS = 4
SHARED_ROWS = 10_000
COUNT_UP = "WITH RECURSIVE c(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM c WHERE x < ?) SELECT sum(x % 7) FROM c"


async def many_tasks(peer: Peer, directory: Path, size: int) -> Figures:
    """``size`` point SELECTs in total, by 64 tasks on one connection."""
    database = await peer.open_database(str(directory / ITEMS), {})
    for _ in range(WARM_UP):
        await database.execute_fetchall(POINT, (1,))
    durations_ns: list[int] = []

    async def reader(first: int) -> None:
        for key in range(first, size, TASKS):
            before = time.perf_counter_ns()
            await database.execute_fetchall(POINT, (key % 1000 + 1,))
            durations_ns.append(time.perf_counter_ns() - before)

    seconds = await seconds_of(asyncio.gather(*(reader(first) for first in range(TASKS))))
    await database.close()
    return {**rate(size, seconds), **latencies(durations_ns)}


async def gathered(peer: Peer, directory: Path, size: int) -> Figures:
    """``size`` ``fetch_one`` calls in one ``asyncio.gather``, on one connection."""
    database = await peer.open_database(str(directory / ITEMS), {})
    for _ in range(WARM_UP):
        await database.fetch_one(POINT, (1,))
    seconds = await seconds_of(asyncio.gather(*(database.fetch_one(POINT, (i % 1000 + 1,)) for i in range(size))))
    await database.close()
    return rate(size, seconds)


async def readers_and_writer(peer: Peer, directory: Path, size: int) -> Figures:
    """Four connections read random rows while a fifth inserts and commits one at a time, for ``size`` ms."""
    path = fresh(directory)
    pragmas = {"journal_mode": "WAL", "synchronous": "NORMAL"}
    writer = await peer.open_database(path, pragmas)
    await writer.execute(SCHEMA)
    await writer.insert_many(INSERT, list(item_rows(SHARED_ROWS)))
    readers = [await peer.open_database(path, pragmas) for _ in range(READERS)]
    end = time.perf_counter() + size / 1000

    async def read(database: Database, seed: int) -> int:
        source = random.Random(seed)
        count = 0
        while time.perf_counter() < end:
            await database.execute_fetchall(POINT, (source.randint(1, SHARED_ROWS),))
            count += 1
        return count

    async def write() -> int:
        count = 0
        while time.perf_counter() < end:
            await writer.execute(INSERT_NAME, ("written",))
            count += 1
        return count

    start = time.perf_counter()
    writes, *reads = await asyncio.gather(write(), *(read(reader, seed) for seed, reader in enumerate(readers)))
    seconds = time.perf_counter() - start
    for database in (*readers, writer):
        await database.close()
    return {**rate(sum(reads), seconds, "reads"), **rate(writes, seconds, "writes")}


async def two_queries(peer: Peer, directory: Path, size: int) -> Figures:
    """Two CPU-heavy queries of ``size`` steps: one after the other, then at once on two connections."""
    databases = [await peer.open_database(str(directory / ITEMS), {}) for _ in range(2)]
    for database in databases:
        await database.fetch_all(COUNT_UP, (1000,))
    apart = 0.0
    for database in databases:
        apart += await seconds_of(database.fetch_all(COUNT_UP, (size,)))
    together = await seconds_of(asyncio.gather(*(database.fetch_all(COUNT_UP, (size,)) for database in databases)))
    for database in databases:
        await database.close()
    return {"speed_up_ratio": apart / together, **rate(2 * size, apart, "steps")}
