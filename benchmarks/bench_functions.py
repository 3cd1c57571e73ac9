"""SQL that calls Python: a function of one argument, the same declared deterministic, a condition, an aggregate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.figures import Figures, rate, seconds_of

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.peers import Database, Peer

ROWS = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?) SELECT {} FROM n"


class Total:
    """An aggregate."""

    def __init__(self) -> None:
        self.total = 0

    def step(self, value: int) -> None:
        self.total += value

    def finalize(self) -> int:
        return self.total


def successor(number: int) -> int:
    """Compute the result for each row."""
    return number + 1


def contains(part: str, text: str) -> bool:
    """Compute a condition on texts."""
    return part in text


async def _register(database: Database) -> None:
    await database.create_function("f", 1, successor)
    await database.create_function("d", 1, successor, deterministic=True)
    await database.create_function("contains", 2, contains)
    await database.create_aggregate("total_of", 1, Total)


async def _measure(peer: Peer, size: int, called: str, built_in: str, *, rows: bool = False) -> Figures:
    """Return calls per second, and the cost of a call beyond one of SQLite's own functions, in microseconds.

    ``rows``: there is a row for each call, and all are fetched.
    """
    database = await peer.open_database(":memory:", {})
    fetch = database.fetch_all if rows else database.fetch_one
    try:
        await _register(database)
        await fetch(ROWS.format(called), (10,))
        with_ours = await seconds_of(fetch(ROWS.format(called), (size,)))
        with_theirs = await seconds_of(fetch(ROWS.format(built_in), (size,)))
    finally:
        await database.close()  # a worker with an open connection might never end
    return {**rate(size, with_ours, "calls"), "beyond_built_in_us": (with_ours - with_theirs) / size * 1e6}


async def function_calls(peer: Peer, _directory: Path, size: int) -> Figures:
    """A function called with a different argument for each of ``size`` rows."""
    return await _measure(peer, size, "sum(f(i))", "sum(abs(i))")


async def function_rows(peer: Peer, _directory: Path, size: int) -> Figures:
    """As `function_calls`, but the results are fetched."""
    return await _measure(peer, size, "f(i)", "abs(i)", rows=True)


async def deterministic_calls(peer: Peer, _directory: Path, size: int) -> Figures:
    """A deterministic function, called with one of 50 arguments for each of ``size`` rows."""
    return await _measure(peer, size, "sum(d(i % 50))", "sum(abs(i % 50))")


async def condition_calls(peer: Peer, _directory: Path, size: int) -> Figures:
    """A condition on two texts, as REGEXP is, for each of ``size`` rows."""
    return await _measure(peer, size, "sum(contains('9', 'row ' || i))", "sum(instr('row ' || i, '9') > 0)")


async def aggregate_steps(peer: Peer, _directory: Path, size: int) -> Figures:
    """An aggregate over ``size`` rows."""
    return await _measure(peer, size, "total_of(i)", "sum(i)")
