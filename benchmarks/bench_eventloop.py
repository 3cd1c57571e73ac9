"""The effect of a large fetch on other tasks, and of other threads on the fetch."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

from benchmarks.bench_select import RANGE
from benchmarks.databases import ITEMS
from benchmarks.figures import Figures, Ticker, rate, seconds_of

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.peers import Peer


async def loop_delay(peer: Peer, directory: Path, size: int) -> Figures:
    """Fetch ``size`` rows next to a 1 ms ticker; then let the loop idle for as long, next to another."""
    database = await peer.open_database(str(directory / ITEMS), {})
    await database.fetch_all(RANGE, (10,))
    async with Ticker() as busy:
        start = time.perf_counter()
        rows = await database.fetch_all(RANGE, (size,))
        seconds = time.perf_counter() - start
    # The rows are freed outside both measurements, because that is up to the program.
    fetched = len(rows)
    del rows
    async with Ticker() as idle:
        await asyncio.sleep(seconds)
    await database.close()
    if fetched != size:
        raise RuntimeError(f"expected {size} rows, got {fetched}")
    return {
        "fetch_largest_ms": busy.largest_ms(),
        "idle_largest_ms": idle.largest_ms(),
        "beyond_idle_ms": busy.largest_ms() - idle.largest_ms(),
        **rate(size, seconds, "rows"),
    }


async def busy_neighbour(peer: Peer, directory: Path, size: int) -> Figures:
    """Fetch ``size`` rows while another thread runs pure Python without a pause."""
    database = await peer.open_database(str(directory / ITEMS), {})
    await database.fetch_all(RANGE, (10,))
    stop = threading.Event()
    started = threading.Event()

    def spin() -> None:
        count = 0
        started.set()
        while not stop.is_set():
            count += 1

    neighbour = threading.Thread(target=spin)
    neighbour.start()
    try:
        started.wait()
        seconds = await seconds_of(database.fetch_all(RANGE, (size,)))
    finally:
        stop.set()
        neighbour.join()
    await database.close()
    return rate(size, seconds, "rows")
