"""Fixtures for tests of pools."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from rapsqlite import Pool, create_pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
def wal(database: Path) -> Path:
    """A database in WAL mode with an empty table ``t (a)``."""
    with closing(sqlite3.connect(database)) as stock:
        stock.execute("PRAGMA journal_mode = wal")
        stock.execute("CREATE TABLE t (a)")
    return database


@pytest.fixture
async def pool(wal: Path) -> AsyncIterator[Pool]:
    async with create_pool(wal, max_size=3) as pool:
        yield pool
