"""64 tasks that read, write, and read before they write through one pool: ``python -m tests.pool.stress DATABASE S``.

Prints how many increments were acknowledged, as a line of its own. Any error ends it.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time

import anyio

import rapsqlite

SCHEMA = "CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID"
TASKS = 64
COUNTERS = 8


async def work(pool: rapsqlite.Pool, end: float, acknowledged: list[int], seed: int) -> None:
    """Read, write, and read before writing, until ``end``."""
    chance = random.Random(seed)
    while time.monotonic() < end:
        name = f"counter {chance.randrange(COUNTERS)}"
        kind = chance.randrange(4)
        if kind == 0:
            await pool.execute("UPDATE counter SET value = value + 1 WHERE name = ?", [name])
            acknowledged[0] += 1
        elif kind == 1:
            async with pool.transaction() as conn:
                value = await conn.fetch_scalar("SELECT value FROM counter WHERE name = ?", [name])
                await anyio.lowlevel.checkpoint()
                await conn.execute("UPDATE counter SET value = ? WHERE name = ?", [value + 1, name])
            acknowledged[0] += 1
        elif kind == 2:
            async with pool.transaction(read_only=True) as conn:
                first = await conn.fetch_scalar("SELECT sum(value) FROM counter")
                await anyio.lowlevel.checkpoint()
                assert await conn.fetch_scalar("SELECT sum(value) FROM counter") == first
        else:
            await pool.fetch_all("SELECT * FROM counter")


async def run(database: str, seconds: float) -> int:
    """Return how many increments were acknowledged."""
    acknowledged = [0]
    async with rapsqlite.create_pool(database, max_size=4, acquire_timeout=60, timeout=30) as pool:
        end = time.monotonic() + seconds
        async with anyio.create_task_group() as tasks:
            for seed in range(TASKS):
                tasks.start_soon(work, pool, end, acknowledged, seed)
    return acknowledged[0]


if __name__ == "__main__":
    print(asyncio.run(run(sys.argv[1], float(sys.argv[2]))))
