"""PRAGMA integrity_check: it lists damage, in virtual tables too, and does not raise."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from rapsqlite import connect

if TYPE_CHECKING:
    from pathlib import Path

TREE = """
    CREATE VIRTUAL TABLE box USING rtree (id, low, high);
    WITH n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 300) INSERT INTO box SELECT i, i, i + 1 FROM n;
"""
DAMAGE = [
    "DELETE FROM box_node WHERE nodeno = 1",
    "DELETE FROM box_node WHERE nodeno = 2",
    "UPDATE box_node SET data = substr(data, 1, 30) WHERE nodeno = 1",
    "UPDATE box_node SET data = x'00000000' WHERE nodeno = 1",
    "UPDATE box_node SET data = x'00' WHERE nodeno = 2",
    "UPDATE box_node SET data = x'00ff' || substr(data, 3) WHERE nodeno = 1",
    "DELETE FROM box_rowid WHERE rowid = 5",
    "DELETE FROM box_parent",
]


@pytest.mark.parametrize("damage", DAMAGE)
async def test_damaged_rtree_is_described(damage: str, database: Path) -> None:
    """SQLite's check ignores SQLITE_CORRUPT, but extended codes such as SQLITE_CORRUPT_VTAB used to end it with an
    error.
    """
    stock = sqlite3.connect(database, isolation_level=None)
    try:
        stock.executescript(TREE)
    except sqlite3.OperationalError:
        pytest.skip("this sqlite3 has no R*Tree")
    async with connect(database, isolation_level=None) as conn:
        # Both libraries have loaded the table: they do not load a damaged one.
        assert await conn.fetch_scalar("SELECT count(*) FROM box") == 300
        stock.execute(damage)
        (report,) = stock.execute("SELECT rtreecheck('box')").fetchone()

        assert await conn.fetch_scalar("SELECT rtreecheck('box')") == report
        assert await conn.fetch_all("PRAGMA integrity_check") == [[f"In RTree main.box:\n{report}"]]
    stock.close()


async def test_damaged_fts5_index_is_described() -> None:
    """FTS5 has its own check."""
    async with connect(":memory:", isolation_level=None) as conn:
        await conn.execute("CREATE VIRTUAL TABLE note USING fts5 (body)")
        await conn.execute("INSERT INTO note VALUES ('some words')")
        await conn.execute("DELETE FROM note_content")

        assert await conn.fetch_all("PRAGMA integrity_check") == [["malformed inverted index for FTS5 table main.note"]]
