"""What services do all day: reads of a database that nobody writes, a few statements and a commit, a few rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.databases import fresh, item_rows
from benchmarks.figures import Figures, latencies, rate, timed_operations

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from benchmarks.peers import Database, Peer

POINT = "SELECT id, name, score, flag FROM items WHERE id = ?"
SORTED = "SELECT id, name, score, flag FROM items WHERE id <= 50 ORDER BY name DESC"
INSERT = "INSERT INTO items (name) VALUES (?)"
ROWS = 1000
WARM_UP = 100


async def _open(peer: Peer, directory: Path, pragmas: dict[str, str], *, anew: bool = False) -> Database:
    """Return a connection to a new table of ``ROWS`` rows; ``anew``: another one than the one that wrote them."""
    path = fresh(directory)
    database = await peer.open_database(path, pragmas)
    await database.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT, score REAL, flag INTEGER)")
    await database.insert_many("INSERT INTO items VALUES (?, ?, ?, ?)", list(item_rows(ROWS)))
    if not anew:
        return database
    await database.close()
    return await peer.open_database(path, pragmas)


async def wal_select(peer: Peer, directory: Path, size: int) -> Figures:
    """``size`` SELECTs by primary key in WAL mode, before anything is written: the log has no frames."""
    database = await _open(peer, directory, {"journal_mode": "WAL"}, anew=True)
    return await _measure(database, lambda i: database.execute_fetchall(POINT, (i % ROWS + 1,)), size)


async def requests(peer: Peer, directory: Path, size: int) -> Figures:
    """``size`` requests of a service: three rows by key, fifty sorted ones, and a transaction that inserts one."""
    database = await _open(peer, directory, {"journal_mode": "WAL", "synchronous": "NORMAL"})

    async def request(number: int) -> None:
        for key in range(3):
            await database.execute_fetchall(POINT, ((number + key) % ROWS + 1,))
        await database.execute_fetchall(SORTED)
        await database.execute("BEGIN IMMEDIATE")
        await database.execute(INSERT, ("name",))
        await database.execute("COMMIT")

    return await _measure(database, request, size)


async def short_batches(peer: Peer, directory: Path, size: int) -> Figures:
    """``size`` transactions that insert ten rows each with ``executemany``; WAL, synchronous=NORMAL."""
    database = await _open(peer, directory, {"journal_mode": "WAL", "synchronous": "NORMAL"})
    rows = [("name",)] * 10
    return await _measure(database, lambda _: database.insert_many(INSERT, rows), size)


async def journal_insert(peer: Peer, directory: Path, size: int) -> Figures:
    """``size`` INSERTs, each its own transaction, with a rollback journal; synchronous=OFF, so without the disk."""
    database = await _open(peer, directory, {"journal_mode": "DELETE", "synchronous": "OFF"})
    return await _measure(database, lambda _: database.execute(INSERT, ("name",)), size)


async def _measure(database: Database, operation: Callable[[int], Awaitable[object]], size: int) -> Figures:
    for number in range(WARM_UP):
        await operation(number)
    seconds, durations_ns = await timed_operations(operation, size)
    await database.close()
    return {**rate(size, seconds), **latencies(durations_ns)}
