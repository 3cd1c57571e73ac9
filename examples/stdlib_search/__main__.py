"""Index the standard library's documentation, then search it from asyncio and from Trio.

Run it from the checkout: python -m examples.stdlib_search [--database FILE]
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import anyio

import rapsqlite
from examples.stdlib_search.index import build
from examples.stdlib_search.traffic import Measured, serve


async def make_index(database: Path) -> int:
    """Write a new database and return its number of documents."""
    async with rapsqlite.connect(database) as conn:
        return await build(conn)


def is_index(database: Path) -> bool:
    """Return True if the file is a database of an earlier run, perhaps one that did not get far."""
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as conn:
            names = {name for (name,) in conn.execute("SELECT name FROM sqlite_schema")}
    except sqlite3.DatabaseError:
        return False
    return not names or {"document", "visit"} <= names


def remove_old(database: Path) -> None:
    """Delete the files of an earlier run; refuse to delete any other."""
    if database.exists() and not is_index(database):
        raise SystemExit(f"{database} exists and was not written by this program: name another file")
    for suffix in ("", "-journal", "-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)


def check(database: Path, documents: int, writes: int) -> str:
    """Read the file with the interpreter's own SQLite: every acknowledged row is there, and it is intact."""
    with closing(sqlite3.connect(database)) as conn:
        verdict: str = conn.execute("PRAGMA integrity_check").fetchone()[0]
        counts = [conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("document", "visit")]
    if verdict != "ok" or counts != [documents, writes]:
        raise SystemExit(f"{database}: {verdict}; {counts} rows instead of {[documents, writes]}")
    return f"intact, says sqlite3 {sqlite3.sqlite_version}"


def table(results: list[Measured]) -> str:
    """Return the figures of each event loop, side by side."""
    lines = [
        ("", [result.loop for result in results]),
        ("searches", [f"{len(result.latencies_s)}" for result in results]),
        ("  without a hit", [f"{result.empty}" for result in results]),
        ("writes, each synced", [f"{result.writes}" for result in results]),
        ("queries per second", [f"{result.per_second:.0f}" for result in results]),
        ("search p50", [f"{result.percentile_ms(50):.1f} ms" for result in results]),
        ("search p99", [f"{result.percentile_ms(99):.1f} ms" for result in results]),
        ("largest event-loop delay", [f"{result.largest_delay_s * 1000:.1f} ms" for result in results]),
    ]
    return "\n".join(f"{name:<26}" + "".join(f"{value:>14}" for value in values) for name, values in lines)


def main() -> None:
    """Run both halves and print the table."""
    parser = argparse.ArgumentParser(prog="stdlib_search", description=__doc__)
    parser.add_argument("--database", type=Path, default=Path("stdlib-docs.db"))
    parser.add_argument("--searches", type=int, default=3000, help="per event loop")
    parser.add_argument("--writes", type=int, default=200, help="per event loop")
    options = parser.parse_args()
    database: Path = options.database.absolute()

    remove_old(database)
    started = time.perf_counter()
    documents = anyio.run(make_index, database)
    indexed_s = time.perf_counter() - started
    results = [
        anyio.run(partial(serve, database, loop, options.searches, options.writes), backend=loop)
        for loop in ("asyncio", "trio")
    ]

    verdict = check(database, documents, sum(result.writes for result in results))
    size_mb = database.stat().st_size / 1e6
    sys.stdout.write(
        f"\n{documents} documents of Python {sys.version.split()[0]} indexed in {indexed_s:.1f} s\n"
        f"{table(results)}\n{database} ({size_mb:.1f} MB, {verdict})\n"
    )


if __name__ == "__main__":
    main()
