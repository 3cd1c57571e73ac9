"""Many tasks search and write at once, while a ticker checks that the event loop keeps running."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from statistics import quantiles
from typing import TYPE_CHECKING

import anyio

import rapsqlite
from examples.stdlib_search.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SEARCH = """
SELECT document.module, document.name, snippet(search, 1, '[', ']', '...', 12)
FROM search JOIN document ON document.id = search.rowid
WHERE search MATCH ? ORDER BY rank LIMIT 5
"""
RECORD = "INSERT INTO visit (loop, term, hits) VALUES (?, ?, ?)"
TERMS = """
SELECT term FROM temp.vocabulary WHERE doc BETWEEN 3 AND 300 AND term GLOB '[a-z]*' AND length(term) > 3
ORDER BY (doc * 7919) % 1009, term LIMIT ?
"""
SEARCHING_TASKS = 64
WRITING_TASKS = 8
TICK_S = 0.001


@dataclass
class Measured:
    """Results of one event loop: counts, seconds, and the latencies of its searches in seconds."""

    loop: str
    writes: int = 0
    empty: int = 0
    elapsed_s: float = 0.0
    largest_delay_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        """Searches and writes per second."""
        return (len(self.latencies_s) + self.writes) / self.elapsed_s

    def percentile_ms(self, percent: int) -> float:
        """Return a percentile of the searches' latencies."""
        return quantiles(self.latencies_s, n=100)[percent - 1] * 1000


async def serve(database: Path, loop: str, searches: int, writes: int) -> Measured:
    """Run searches on one connection and writes on another, all tasks at once, and measure."""
    measured = Measured(loop)
    async with rapsqlite.connect(database) as reader, rapsqlite.connect(database, timeout=60) as writer:
        terms = await search_terms(reader, 500)
        progress = Progress(f"searching, {loop}", searches + writes)
        async with anyio.create_task_group() as ticking:
            ticking.start_soon(watch_loop, measured)
            jobs = iter(range(searches))
            visits = iter(range(writes))
            async with anyio.create_task_group() as working:
                for _ in range(SEARCHING_TASKS):
                    working.start_soon(search, reader, terms, jobs, measured, progress)
                for _ in range(WRITING_TASKS):
                    working.start_soon(write, writer, terms, visits, measured, progress)
            ticking.cancel_scope.cancel()
        measured.elapsed_s = progress.elapsed_s
    return measured


async def search_terms(conn: rapsqlite.Connection, count: int) -> list[str]:
    """Return words that some documents contain, but not too many."""
    await conn.execute("CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab(main, search, 'row')")
    return [term for (term,) in await conn.fetch_all(TERMS, (count,))]


async def search(
    conn: rapsqlite.Connection, terms: list[str], jobs: Iterator[int], measured: Measured, progress: Progress
) -> None:
    """Take jobs until none are left; each is one ranked full-text search."""
    for number in jobs:
        started = time.perf_counter()
        rows = await conn.fetch_all(SEARCH, (f'"{terms[number % len(terms)]}"',))
        measured.latencies_s.append(time.perf_counter() - started)
        measured.empty += not rows
        progress.step()


async def write(
    conn: rapsqlite.Connection,
    terms: list[str],
    visits: Iterator[int],
    measured: Measured,
    progress: Progress,
) -> None:
    """Take visits until none are left; each is a separate transaction, on disk when it returns."""
    for number in visits:
        async with conn.transaction("IMMEDIATE"):
            await conn.execute(RECORD, (measured.loop, terms[number % len(terms)], number))
        measured.writes += 1
        progress.step()


async def watch_loop(measured: Measured) -> None:
    """Sleep for a millisecond repeatedly; any extra time is a delay of the event loop."""
    while True:
        before = time.perf_counter()
        await anyio.sleep(TICK_S)
        measured.largest_delay_s = max(measured.largest_delay_s, time.perf_counter() - before - TICK_S)
