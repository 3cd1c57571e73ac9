"""Print how fast rapsqlite is beside aiosqlite on this machine: ``python scripts/platforms/ratios.py [SECONDS]``.

For platforms that are emulated, where absolute times mean nothing. Each measurement runs with both packages in turn,
several times; the ratio is of the medians, and above 1 rapsqlite is faster.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiosqlite

import rapsqlite

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ROUNDS = 7
ROWS = 10_000


async def point_select(conn: Any, number: int) -> None:
    """One row by its key."""
    async with conn.execute("SELECT v FROM t WHERE id = ?", (number % ROWS + 1,)) as cursor:
        assert await cursor.fetchone() is not None


async def fetch_all(conn: Any, _number: int) -> None:
    """Ten thousand rows of two columns."""
    assert len(await conn.execute_fetchall("SELECT id, v FROM t")) == ROWS


async def commit(conn: Any, number: int) -> None:
    """One inserted row, committed in WAL mode with synchronous = NORMAL."""
    await conn.execute("INSERT INTO u VALUES (?)", (number,))
    await conn.commit()


async def open_database(package: Any, path: Path) -> Any:
    conn = await package.connect(path)
    await conn.execute("PRAGMA journal_mode = WAL")
    await conn.execute("PRAGMA synchronous = NORMAL")
    await conn.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
    await conn.execute("CREATE TABLE u (v)")
    await conn.executemany("INSERT INTO t (v) VALUES (?)", ((f"value {number}",) for number in range(ROWS)))
    await conn.commit()
    return conn


async def rate(action: Callable[[Any, int], Awaitable[None]], conn: Any, seconds: float) -> float:
    """Return how often a second the action runs."""
    count, started = 0, time.perf_counter()
    while (took_s := time.perf_counter() - started) < seconds:
        await action(conn, count)
        count += 1
    return count / took_s


async def main(seconds: float) -> None:
    """Measure everything."""
    with tempfile.TemporaryDirectory() as directory:
        packages = [rapsqlite, aiosqlite]
        conns = [await open_database(each, Path(directory, f"{each.__name__}.db")) for each in packages]
        for action in (point_select, fetch_all, commit):
            rates: list[list[float]] = [[], []]
            for _ in range(ROUNDS):
                for taken, conn in zip(rates, conns, strict=True):
                    taken.append(await rate(action, conn, seconds / ROUNDS))
            ours, theirs = map(statistics.median, rates)
            print(f"{action.__name__:12} {ours:10.0f} /s  aiosqlite {theirs:10.0f} /s  ratio {ours / theirs:.2f}")
        for conn in conns:
            await conn.close()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 2.0))
