"""The same statements have the same effect as in native SQLite, in every journal, page size and checkpoint mode."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from tests.vfs.driver import Driven

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[[str], list[Any]]

PAGE_SIZES = [512 << shift for shift in range(8)]
JOURNALS = ["DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF", "WAL"]
CHECKPOINTS = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"]


def work(run: Run, journal: str, page_size: int, checkpoint: str) -> list[list[Any]]:
    """Write and checkpoint; return all results."""
    run("PRAGMA secure_delete = OFF")  # SQLite's build may set another default
    run(f"PRAGMA page_size = {page_size}")
    answers = [run(f"PRAGMA journal_mode = {journal}"), run("PRAGMA page_size")]
    run("CREATE TABLE t (id INTEGER PRIMARY KEY, body)")
    run("CREATE INDEX i ON t (body)")
    for number in range(12):
        run(f"INSERT INTO t (body) VALUES (zeroblob({number * 700})), ('{number}'), ({number})")
        if number % 4 == 3:
            answers.append(run(f"PRAGMA wal_checkpoint({checkpoint})"))
    run("UPDATE t SET body = 'changed' WHERE id % 5 = 0")
    run("DELETE FROM t WHERE id % 7 = 0")
    answers.append(run(f"PRAGMA wal_checkpoint({checkpoint})"))
    answers.append(run("PRAGMA page_count"))
    answers.append(run("PRAGMA freelist_count"))
    answers.append(run("SELECT id, body FROM t ORDER BY id"))
    answers.append(run("PRAGMA integrity_check"))
    return [[list(row) for row in answer] for answer in answers]


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
@pytest.mark.parametrize("journal", JOURNALS)
@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_results_and_files_match_native_sqlite(quick_disk: Path, page_size: int, journal: str, checkpoint: str) -> None:
    for library in ("ours", "native"):
        (quick_disk / library).mkdir()
    with Driven(quick_disk / "ours" / "test.db") as ours:
        answers = work(ours.sql, journal, page_size, checkpoint)
    with closing(sqlite3.connect(quick_disk / "native" / "test.db", isolation_level=None)) as native:
        expected = work(lambda sql: native.execute(sql).fetchall(), journal, page_size, checkpoint)

    assert answers == expected
    assert contents(quick_disk / "ours") == contents(quick_disk / "native")


def contents(directory: Path) -> dict[str, int]:
    """Return the sizes of all files, after native SQLite has read the database."""
    with closing(sqlite3.connect(directory / "test.db")) as native:
        assert native.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert native.execute("SELECT count(*), sum(id) FROM t").fetchone() == (31, 561)
    return {path.name: path.stat().st_size for path in directory.iterdir()}
