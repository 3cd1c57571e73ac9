"""Double-quoted names are strings if no name matches, as in stock SQLite, unless strict_strings=True."""

from __future__ import annotations

import shutil
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from rapsqlite import connect

if TYPE_CHECKING:
    from pathlib import Path

DML = rapsqlite.SQLITE_DBCONFIG_DQS_DML
DDL = rapsqlite.SQLITE_DBCONFIG_DQS_DDL

# A schema as older programs have left it in files.
OLD_SCHEMA = """
    CREATE TABLE item (id INTEGER PRIMARY KEY, state TEXT DEFAULT "new", CHECK (state <> "gone"));
    CREATE TABLE log (what, id);
    CREATE INDEX item_open ON item (id) WHERE state = "open";
    CREATE VIEW open_item AS SELECT id, "open" AS label FROM item WHERE state = "open";
    CREATE TRIGGER item_insert AFTER INSERT ON item BEGIN INSERT INTO log VALUES ("inserted", new.id); END;
"""
ON_OLD_SCHEMA = [
    "INSERT INTO item (id) VALUES (1)",
    "INSERT INTO item VALUES (2, \"open\")",
    "UPDATE item SET state = \"done\" WHERE id = 1",
    "ALTER TABLE log ADD COLUMN at DEFAULT \"today\"",
    "ALTER TABLE log RENAME COLUMN what TO event",
    "ALTER TABLE item RENAME TO thing",
    "VACUUM",
    "REINDEX",
    "SELECT * FROM open_item",
    "SELECT * FROM log",
    "SELECT * FROM thing WHERE state = \"done\"",
    "SELECT type, name, sql FROM sqlite_schema ORDER BY name",
    "PRAGMA integrity_check",
]  # fmt: skip


@pytest.fixture
def old_file(database: Path) -> Path:
    with sqlite3.connect(database) as stock:
        stock.executescript(OLD_SCHEMA)
    stock.close()
    return database


async def test_files_with_double_quoted_strings_work_as_in_sqlite3(old_file: Path, tmp_path: Path) -> None:
    """Such a schema used to break every INSERT, VACUUM and RENAME."""
    copy = tmp_path / "copy.db"
    shutil.copy(old_file, copy)
    stock = sqlite3.connect(copy, isolation_level=None)
    expected = [stock.execute(sql).fetchall() for sql in ON_OLD_SCHEMA]
    stock.close()

    async with connect(old_file, isolation_level=None) as conn:
        answers = [await conn.execute_fetchall(sql) for sql in ON_OLD_SCHEMA]

    assert answers == expected


@pytest.mark.parametrize("statement", [sql for sql in OLD_SCHEMA.split("\n    ") if sql.strip()])
async def test_statements_that_create_such_a_schema_work(statement: str) -> None:
    async with connect(":memory:") as conn:
        await conn.execute(
            "CREATE TABLE IF NOT EXISTS item (id, state)" if "TABLE item" not in statement else "SELECT 1"
        )
        await conn.executescript("CREATE TABLE IF NOT EXISTS log (what, id);" if "TABLE log" not in statement else "")
        await conn.executescript(statement)


async def test_double_quoted_text_that_matches_a_name_is_a_name() -> None:
    async with connect(":memory:") as conn:
        assert await conn.fetch_all('SELECT "a", "b" FROM (SELECT 1 AS a)') == [[1, "b"]]


@pytest.mark.parametrize("flag", [DML, DDL])
@pytest.mark.parametrize("strict", [False, True])
async def test_getconfig_returns_what_strict_strings_set(flag: int, strict: bool) -> None:
    async with connect(":memory:", strict_strings=strict) as conn:
        assert await conn.getconfig(flag) is not strict

        await conn.setconfig(flag, strict)

        assert await conn.getconfig(flag) is strict


@pytest.mark.parametrize(
    "statement, flag",
    [
        ('SELECT "text"', DML),
        ('INSERT INTO item (state) VALUES ("text")', DML),
        ('CREATE INDEX i ON item (state) WHERE state = "text"', DDL),
        ('CREATE INDEX i ON item (state || "text")', DDL),
        ('CREATE TABLE t (a, CHECK (a <> "text"))', DDL),
    ],
)
async def test_each_flag_refuses_its_kind_of_double_quoted_string(statement: str, flag: int) -> None:
    """One flag is for statements, the other for what goes into the schema."""
    async with connect(":memory:", strict_strings=True) as conn:
        await conn.execute("CREATE TABLE item (id, state)")
        with pytest.raises(rapsqlite.OperationalError, match="no such column"):
            await conn.execute(statement)

        await conn.setconfig(DDL if flag == DML else DML, True)
        with pytest.raises(rapsqlite.OperationalError, match="no such column"):
            await conn.execute(statement)

        await conn.setconfig(flag, True)
        await conn.execute(statement)


async def test_strict_strings_apply_to_pragmas_and_init_hook() -> None:
    """They are set first, so nothing that runs while opening escapes them."""
    refused = []

    async def prepare(conn: Any) -> None:
        with pytest.raises(rapsqlite.OperationalError, match="no such column"):
            await conn.execute('SELECT "text"')
        refused.append(True)

    async with connect(":memory:", strict_strings=True, init_hook=prepare):
        assert refused


async def test_strict_connection_reads_a_file_with_double_quoted_strings(old_file: Path) -> None:
    """SQLite accepts them in an existing schema where it parses it itself, and rejects the rest."""
    async with connect(old_file, strict_strings=True, isolation_level=None) as conn:
        assert await conn.fetch_all("SELECT * FROM item") == []
        with pytest.raises(rapsqlite.OperationalError, match="no such column"):
            await conn.execute("INSERT INTO item (id) VALUES (1)")


async def test_internal_queries_are_not_affected_by_double_quoted_strings(database: Path) -> None:
    """The package's own queries quote names so that they cannot become strings, and strings as strings."""
    async with connect(database, isolation_level=None) as conn:
        await conn.executescript(
            'CREATE TABLE "select" ("from" PRIMARY KEY, "unique", "a""b", "x y");'
            'CREATE TABLE child (p REFERENCES "select"("from"));'
            'CREATE INDEX "where" ON "select"("a""b");'
            "INSERT INTO \"select\" VALUES (1, 'u', 'v', 'w');"
        )
        lax = [[*map(tuple, await conn.get_table_info("select"))], await conn.get_schema(), await conn.iterdump()]
    async with connect(database, isolation_level=None, strict_strings=True) as conn:
        strict = [[*map(tuple, await conn.get_table_info("select"))], await conn.get_schema(), await conn.iterdump()]

    assert strict == lax
