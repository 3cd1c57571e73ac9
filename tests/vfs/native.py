"""A native connection that does not wait, and that any lock of this package would stop."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def create(database: Path, journal_mode: str) -> Path:
    """Make a database with one row to change, and return its path."""
    with closing(sqlite3.connect(database, isolation_level=None)) as native:
        native.execute(f"PRAGMA journal_mode = {journal_mode}")
        native.execute("CREATE TABLE t (v)")
        native.execute("INSERT INTO t VALUES (0)")
    return database


def impatient(path: Path, timeout: float = 0) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)


def take_everything(native: sqlite3.Connection) -> None:
    """Take every lock; any lock of this package would make that fail."""
    native.execute("BEGIN EXCLUSIVE")
    native.execute("UPDATE t SET v = v + 1")
    native.execute("COMMIT")
    if native.execute("PRAGMA journal_mode").fetchone() == ("wal",):
        assert native.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
