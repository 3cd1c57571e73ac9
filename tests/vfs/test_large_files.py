"""Databases beyond four gigabytes and beyond what can be mapped at once, shared with native SQLite.

They are sparse: nearly all pages are on the free list (https://sqlite.org/fileformat2.html#the_freelist), and the test
chooses which free pages are used next.
"""

from __future__ import annotations

import os
import random
import sqlite3
import struct
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.systems import not_on_windows
from tests.vfs.clients import Client, connect, sql
from tests.vfs.driver import Driven

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PAGE = 65_536
FOUR_GIB = 1 << 32
PAGES = (FOUR_GIB + (1 << 29)) // PAGE
LOCK_PAGE = 0x4000_0000 // PAGE + 1  # SQLite never uses the page that contains its locks
LEAVES = 16_000  # that a trunk page may hold, minus a few
MOST_WINDOWS = 64  # MOST_WINDOWS in wasm/src/vfs/mapped_reads.rs
WINDOW_PAGES = (16 << 20) // PAGE


def make(path: Path, use_next: Sequence[int]) -> None:
    """Create a database of ``PAGES`` pages, with an empty table ``t``; new pages are taken from ``use_next`` first."""
    with closing(sqlite3.connect(path, isolation_level=None)) as native:
        native.execute(f"PRAGMA page_size = {PAGE}")
        native.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body)")
    used = path.stat().st_size // PAGE
    rest = sorted(set(range(used + 1, PAGES + 1)) - set(use_next) - {LOCK_PAGE})
    trunks = [list(use_next), *(rest[start : start + LEAVES] for start in range(0, len(rest), LEAVES))]
    with path.open("r+b") as file:
        for (number, *leaves), following in zip(trunks, [*trunks[1:], [0]], strict=True):
            file.seek((number - 1) * PAGE)
            file.write(struct.pack(f">{len(leaves) + 2}I", following[0], len(leaves), *leaves))
        file.truncate(PAGES * PAGE)
        file.seek(28)
        file.write(struct.pack(">3I", PAGES, use_next[0], len(rest) + len(use_next)))
    check(path)


def check(path: Path) -> None:
    """Let native SQLite check all of it, including the free list."""
    with closing(sqlite3.connect(path)) as native:
        assert native.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def data_beyond(path: Path, offset: int) -> bool:
    """Whether anything but holes follows ``offset``."""
    with path.open("rb") as file:
        try:
            return os.lseek(file.fileno(), offset, os.SEEK_DATA) >= offset
        except OSError:
            return False


FAR = range(FOUR_GIB // PAGE + 100, PAGES - 100, 7)
NUMBERED = (
    "SELECT i, randomblob(60000) FROM"
    " (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?) SELECT i FROM n)"
)
CONTENT = "SELECT id, length(body), hex(substr(body, 1, 4)), hex(substr(body, -4)) FROM t ORDER BY id"


@not_on_windows("nothing tells there where a file has data")
@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_pages_beyond_four_gigabytes_are_read_and_written(quick_disk: Path, mode: str) -> None:
    """Page offsets do not wrap at 32 bits, here as in native SQLite."""
    database = quick_disk / "large.db"
    make(database, FAR)
    far = (FAR[1] - 1) * PAGE
    assert not data_beyond(database, far)

    with (
        Driven(database, timeout_s=20) as ours,
        closing(sqlite3.connect(database, timeout=20, isolation_level=None)) as native,
    ):

        def both_see_the_same() -> int:
            rows = [list(row) for row in native.execute(CONTENT)]
            assert ours.sql(CONTENT) == rows
            return len(rows)

        assert ours.value("PRAGMA page_count") == PAGES
        ours.script(f"PRAGMA journal_mode = {mode}; PRAGMA cache_size = 5")
        for _ in range(30):
            ours.sql("INSERT INTO t (body) VALUES (randomblob(60000))")
        ours.sql("PRAGMA wal_checkpoint")
        assert data_beyond(database, far)
        assert both_see_the_same() == 30

        native.execute("UPDATE t SET body = randomblob(61000) WHERE id % 3 = 0")
        assert both_see_the_same() == 30
        ours.sql("BEGIN")
        ours.sql("UPDATE t SET body = randomblob(62000)")
        ours.sql("DELETE FROM t WHERE id < 10")
        ours.sql("ROLLBACK")
        assert both_see_the_same() == 30
        ours.sql("DELETE FROM t WHERE id % 2")
        assert both_see_the_same() == 15

        # The file grows at its end, and shrinks by gigabytes.
        for _ in range(3):
            assert ours.value("PRAGMA page_count") == PAGES
            ours.sql("INSERT INTO t (body) VALUES (randomblob(50000))")
        check(database)
        ours.sql("VACUUM")
        ours.sql("PRAGMA wal_checkpoint(TRUNCATE)")
        assert both_see_the_same() == 18

    assert database.stat().st_size < 100 * PAGE
    check(database)


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_killed_writer_is_rolled_back_beyond_four_gigabytes(quick_disk: Path, mode: str) -> None:
    """The journal, or the WAL, contains page numbers, from which offsets are computed."""
    database = quick_disk / "large.db"
    make(database, FAR)
    with Driven(database) as ours:
        ours.script(f"PRAGMA journal_mode = {mode}; PRAGMA cache_size = 5")
        for _ in range(20):
            ours.sql("INSERT INTO t (body) VALUES (randomblob(60000))")
        before = ours.sql(CONTENT)
    writer = Client("ours")
    writer.send(
        connect(database),
        sql("PRAGMA cache_size = 5"),
        sql("BEGIN"),
        sql("UPDATE t SET body = randomblob(61000)"),
        ["die"],
    )
    writer.wait_for_death()
    with Driven(database) as ours:
        assert ours.sql(CONTENT) == before

    check(database)


@not_on_windows("no file is mapped there")
def test_more_pages_than_can_be_mapped_at_once_are_read(quick_disk: Path) -> None:
    """Every row lies in its own window, and there are more rows than windows allowed."""
    database = quick_disk / "large.db"
    spread = [number for number in range(WINDOW_PAGES, PAGES, WINDOW_PAGES) if number != LOCK_PAGE]
    rows = 200
    assert len(spread) > rows > 3 * MOST_WINDOWS
    make(database, spread)
    with closing(sqlite3.connect(database, isolation_level=None)) as native:
        native.execute(f"INSERT INTO t {NUMBERED}", (rows,))
        expected = [list(row) for row in native.execute(CONTENT)]
    chance = random.Random(5)

    with Driven(database) as ours:
        ours.sql("PRAGMA cache_size = 3")
        for _ in range(4):
            assert ours.sql(CONTENT) == expected
        for _ in range(2000):
            # Some rows far more often than others, so that their windows are worth keeping.
            row = min(chance.randrange(1, rows + 1), chance.randrange(1, rows + 1))
            assert ours.sql(CONTENT.replace("ORDER", "WHERE id = ? ORDER"), row) == [expected[row - 1]]
        with open("/proc/self/maps") as maps:
            mapped = sum(str(database) in line for line in maps)
        counters = ours.statistics()

    assert 0 < mapped <= MOST_WINDOWS
    assert counters["window_hits"] > 0
    assert counters["window_misses"] > rows
