"""Errors are the same as in sqlite3: class, message, code and name."""

from __future__ import annotations

import sqlite3
import sys
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from tests.compat.stock import Stock, rows_of, same

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = """
    CREATE TABLE parent (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, age INT CHECK (age > 0));
    CREATE TABLE child (parent REFERENCES parent DEFERRABLE, strictly REFERENCES parent);
    CREATE TABLE strict_one (a INTEGER) STRICT;
    CREATE TABLE pairs (a, b, PRIMARY KEY (a, b)) WITHOUT ROWID;
    CREATE VIEW names AS SELECT name FROM parent;
    CREATE TRIGGER guard BEFORE DELETE ON parent BEGIN SELECT RAISE(ABORT, 'kept by the trigger'); END;
    INSERT INTO parent VALUES (1, 'a', 5);
    INSERT INTO pairs VALUES (1, 2);
    PRAGMA foreign_keys = ON;
"""

STATEMENTS = [
    "", "   ", "-- a comment", "/* another */", ";", "nonsense", "SELECT", "SELECT 1 FROM", "SELECT * FROM missing",
    "SELECT missing FROM parent", "SELECT missing()", "SELECT abs()", "SELECT abs(1, 2)", "SELECT 'open",
    "SELECT 1; SELECT 2", "SELECT 1; -- comment", "SELECT 1;", "SELECT 1; garbage",
    "SELECT \x00", "SELECT 1 \x00",
    "INSERT INTO parent VALUES (1, 'b', 1)", "INSERT INTO parent VALUES (2, 'a', 1)",
    "INSERT INTO parent VALUES (2, NULL, 1)", "INSERT INTO parent VALUES (2, 'b', 0)",
    "INSERT INTO parent VALUES (2, 'b')", "INSERT INTO parent (nothing) VALUES (1)",
    "INSERT INTO parent VALUES ('text', 'b', 1)", "INSERT INTO child VALUES (NULL, 99)",
    "INSERT INTO strict_one VALUES ('text')", "INSERT INTO pairs VALUES (1, 2)", "INSERT INTO pairs VALUES (1, NULL)",
    "INSERT INTO names VALUES (1)", "UPDATE parent SET name = NULL", "UPDATE missing SET a = 1", "DELETE FROM parent",
    "DELETE FROM missing", "CREATE TABLE parent (a)", "CREATE TABLE t (a, a)", "CREATE INDEX i ON missing (a)",
    "DROP TABLE missing", "DROP VIEW parent", "ALTER TABLE missing ADD COLUMN a", "ALTER TABLE parent ADD COLUMN name",
    "COMMIT", "ROLLBACK", "RELEASE missing", "SAVEPOINT", "BEGIN; BEGIN", "VACUUM INTO", "ATTACH ':memory:' AS main",
    "DETACH missing", "DETACH main", "REINDEX missing", "PRAGMA", "EXPLAIN", "SELECT zeroblob(1 << 40)",
    "SELECT abs(-9223372036854775808)", "SELECT json('{')", "SELECT 'a' LIKE 'b' ESCAPE 'long'", "SELECT sum(sum(1))",
    "SELECT count(*) OVER w", "SELECT 1 UNION SELECT 1, 2", "SELECT * FROM parent ORDER BY 99",
    "SELECT * FROM parent, parent", "SELECT id FROM parent JOIN child ON id", "SELECT name FROM parent a JOIN parent b",
    "WITH RECURSIVE n(i) AS (SELECT 1) SELECT j FROM n", "SELECT ?", "SELECT :name",
    "VALUES (1), (2, 3)", "SELECT 1 LIMIT 'text'", "SELECT CAST(x'ff' AS TEXT) = 1 COLLATE missing",
    "INSERT INTO parent DEFAULT VALUES", "REPLACE INTO missing VALUES (1)", "ANALYZE missing",
    "SELECT raise(ABORT, 'x')",
]  # fmt: skip


# Python 3.10's exception for several statements in one string is a ProgrammingError from 3.11 on, and here.
RENAMED_IN_311 = {"Warning": "ProgrammingError"}
SINCE_311 = pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 differs from later ones")


def told(error: BaseException) -> tuple[Any, ...]:
    """Return what programs check in an exception."""
    code = (getattr(error, "sqlite_errorcode", None), getattr(error, "sqlite_errorname", None))
    return type(error).__name__, str(error), *code


async def failure(connection: Any, sql: str) -> Any:
    """Return a statement's result, or the details of its error."""
    try:
        return await rows_of(connection, sql)
    except Exception as error:  # noqa: BLE001  the outcome to compare
        return told(error)


@pytest.mark.parametrize("sql", STATEMENTS)
async def test_error_is_the_same_as_in_sqlite3(sql: str) -> None:
    async with Stock(":memory:") as stock, rapsqlite.connect(":memory:") as connection:
        await stock.executescript(SCHEMA)
        await connection.executescript(SCHEMA)
        theirs, ours = await failure(stock, sql), await failure(connection, sql)

        if isinstance(theirs, list):
            assert ours == theirs
            return
        name, message, code, code_name = theirs
        if sys.version_info < (3, 11):
            name = RENAMED_IN_311.get(name, name)
        assert (ours[0], ours[1]) == (name, message)
        # An error that the module itself found has no code in sqlite3.
        if code is not None:
            assert ours[2] == code
            assert ours[3] == code_name or code_name == "unknown"
        assert await rows_of(connection, "SELECT 1") == [(1,)]


# Deliberate differences, and ones that depend on how sqlite3's SQLite was built.
DIFFERENT = {
    "SELECT ?100000": "variable number must be between ?1 and ?32766",  # a build may raise that limit
}


@pytest.mark.parametrize("sql", DIFFERENT)
async def test_difference_from_sqlite3_is_the_documented_one(sql: str) -> None:
    async with rapsqlite.connect(":memory:") as connection:
        with pytest.raises(rapsqlite.OperationalError) as caught:
            await connection.execute(sql)

    assert str(caught.value).startswith(DIFFERENT[sql])


async def test_trailing_semicolons_are_not_a_second_statement() -> None:
    """sqlite3 accepts one semicolon, not two."""
    async with rapsqlite.connect(":memory:") as connection:
        assert await rows_of(connection, "SELECT 1;; ; -- comment") == [(1,)]


@SINCE_311
@pytest.mark.parametrize("method", ["execute", "executemany", "executescript"])
@pytest.mark.parametrize("sql", [None, 5, b"SELECT 1", ["SELECT 1"]])
async def test_statement_must_be_a_string(method: str, sql: Any) -> None:
    async def scenario(connection: Any) -> Any:
        arguments = (sql, []) if method == "executemany" else (sql,)
        return await getattr(connection, method)(*arguments)

    raised = await same(scenario, messages=False)

    assert raised[0] == "TypeError"


@SINCE_311
@pytest.mark.parametrize("sql", ["SELECT 1", "CREATE TABLE t (a)", "PRAGMA user_version", "BEGIN"])
async def test_executemany_accepts_only_statements_that_change_data(sql: str) -> None:
    async def scenario(connection: Any) -> Any:
        await connection.executemany(sql, [()])
        return connection.in_transaction

    await same(scenario)


@pytest.mark.parametrize("parameters", [5, None, object()])
async def test_executemany_needs_an_iterable(parameters: Any) -> None:
    async def scenario(connection: Any) -> Any:
        await connection.execute("CREATE TABLE t (a)")
        return await connection.executemany("INSERT INTO t VALUES (?)", parameters)

    raised = await same(scenario)

    assert raised[0] == "TypeError"


@pytest.mark.parametrize("bad", [5, (1, 2), (), {"a": 1}, None])
async def test_executemany_raises_at_the_invalid_set(bad: Any) -> None:
    async def scenario(connection: Any) -> Any:
        await connection.execute("CREATE TABLE t (a)")
        raised = None
        try:
            await connection.executemany("INSERT INTO t VALUES (?)", [(1,), (2,), bad, (3,)])
        except (sqlite3.Error, ValueError) as error:
            raised = type(error).__name__, str(error)
        return raised, connection.in_transaction, await rows_of(connection, "SELECT a FROM t")

    raised, in_transaction, rows = await same(scenario)

    assert raised is not None
    assert in_transaction
    assert rows == [(1,), (2,)]


async def test_script_stops_at_its_first_error() -> None:
    async def scenario(connection: Any) -> Any:
        raised = None
        try:
            await connection.executescript(
                "CREATE TABLE t (a); INSERT INTO t VALUES (1); nonsense; INSERT INTO t VALUES (2);"
            )
        except sqlite3.Error as error:
            raised = type(error).__name__, str(error)
        return raised, await rows_of(connection, "SELECT a FROM t")

    assert (await same(scenario))[1] == [(1,)]


@pytest.mark.parametrize(
    "content", [b"", b"short", b"this is not a database" * 100, b"SQLite format 3\0" + b"\xff" * 5_000]
)
async def test_file_that_is_not_a_database_raises_as_in_sqlite3(tmp_path: Path, content: bytes) -> None:
    """The error's class and code are sqlite3's."""
    (tmp_path / "file.db").write_bytes(content)

    async def scenario(connection: Any) -> Any:
        return (await failure(connection, "SELECT * FROM sqlite_schema"))[:2]

    await same(scenario, database=str(tmp_path / "file.db"))


@pytest.mark.parametrize(
    "sql, offset",
    [("SELECT nonsense", 7), ("SELECT 'ä', nonsense", 13), ("SELECT * FROM missing", None), ("SELEKT", 0)],
)
async def test_offset_counts_bytes_of_the_statement(sql: str, offset: int | None) -> None:
    """sqlite3 has no such attribute; https://sqlite.org/c3ref/errcode.html says what it is."""
    async with rapsqlite.connect(":memory:") as connection:
        with pytest.raises(rapsqlite.OperationalError) as caught:
            await connection.execute(sql)

    assert caught.value.sql == sql
    assert caught.value.sqlite_offset == offset


async def test_message_contains_no_parameter_values() -> None:
    secret = "hunter2"
    async with rapsqlite.connect(":memory:") as connection:
        await connection.execute("CREATE TABLE t (a UNIQUE, b CHECK (b <> ?1))".replace("?1", "'x'"))
        await connection.execute("INSERT INTO t VALUES (?, 1)", (secret,))
        for parameters in ((secret, 1), (secret, object()), (2**64, secret), {"a": secret}, (secret, "x")):
            with pytest.raises((rapsqlite.Error, OverflowError)) as caught:
                await connection.execute("INSERT INTO t VALUES (?, ?)", parameters)

            notes = getattr(caught.value, "__notes__", [])
            assert secret not in " ".join([str(caught.value), repr(caught.value), *notes])
