"""The databases that the workloads read, created once with the stdlib and kept between runs."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ITEMS = "items.db"
LARGE = "large.db"
LARGE_ROW_BYTES = 200

Item = tuple[int, str, float, int]


def item_rows(count: int) -> Iterator[Item]:
    """Yield rows of four columns: id, a short name, a float, a small integer."""
    for number in range(1, count + 1):
        yield number, f"item number {number}", number * 0.37, number % 7


def _large_rows(count: int) -> Iterator[tuple[int, bytes]]:
    source = random.Random(1)
    for number in range(1, count + 1):
        yield number, source.randbytes(LARGE_ROW_BYTES)


def _create(path: Path, schema: str, insert: str, rows: Iterator[tuple[object, ...]], count: int) -> None:
    if path.exists():
        with closing(sqlite3.connect(path)) as connection:
            table = schema.split()[2]
            if connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (count,):
                return
        path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(schema)
        connection.executemany(insert, rows)
        connection.commit()


def create_items(directory: Path, count: int) -> None:
    """Create ``items.db`` with ``count`` rows."""
    schema = "CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT, score REAL, flag INTEGER)"
    _create(directory / ITEMS, schema, "INSERT INTO items VALUES (?, ?, ?, ?)", iter(item_rows(count)), count)


def create_large(directory: Path, megabytes: int) -> None:
    """Create ``large.db`` of about ``megabytes`` MB; it has ``large_row_count(megabytes)`` rows."""
    count = large_row_count(megabytes)
    schema = "CREATE TABLE large (id INTEGER PRIMARY KEY, payload BLOB)"
    _create(directory / LARGE, schema, "INSERT INTO large VALUES (?, ?)", _large_rows(count), count)


def large_row_count(megabytes: int) -> int:
    """Return the number of rows of ``large.db``: header, id and page overhead add 10 bytes to each."""
    return megabytes * 1_000_000 // (LARGE_ROW_BYTES + 10)


def fresh(directory: Path) -> str:
    """Return the path of a database that does not exist yet, for workloads that write."""
    path = directory / "written.db"
    for suffix in ("", "-journal", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return str(path)
