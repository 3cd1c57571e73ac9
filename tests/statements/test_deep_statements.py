"""Statements nested as deeply as SQLite allows: they get a result or SQLite's error, and never overflow the stack."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, NamedTuple

import pytest

import rapsqlite
from rapsqlite import connect

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The stack is the guest's, whatever the event loop."""
    return "asyncio"


class Deep(NamedTuple):
    """The statement for the schema, the deep one, and one that shows that it ran."""

    schema: list[str]
    statement: str
    check: str = "SELECT 1"


def matched(operator: str, wildcard: str, count: int) -> Deep:
    return Deep([], f"SELECT '{'a' * count}' {operator} '{(wildcard + 'a') * count}'")


def triggers(count: int) -> Deep:
    tables = [f"CREATE TABLE t{number} (a)" for number in range(count + 1)]
    chain = [
        f"CREATE TRIGGER r{number} AFTER INSERT ON t{number} BEGIN INSERT INTO t{number + 1} VALUES (new.a + 1); END"
        for number in range(count)
    ]
    return Deep([*tables, *chain], "INSERT INTO t0 VALUES (0)", f"SELECT a FROM t{count}")


def upserts(count: int) -> Deep:
    tables = [f"CREATE TABLE t{number} (a PRIMARY KEY, b)" for number in range(count + 1)]
    rows = [f"INSERT INTO t{number} VALUES (1, 0)" for number in range(count + 1)]
    chain = [
        f"CREATE TRIGGER r{number} AFTER UPDATE ON t{number} BEGIN"
        f" INSERT INTO t{number + 1} VALUES (1, 1) ON CONFLICT (a) DO UPDATE SET b = new.b + 1; END"
        for number in range(count)
    ]
    return Deep([*tables, *rows, *chain], "UPDATE t0 SET b = 1", f"SELECT b FROM t{count}")


def cascades(count: int) -> Deep:
    tables = [
        f"CREATE TABLE t{number} (a PRIMARY KEY REFERENCES t{number - 1} ON DELETE CASCADE)"
        for number in range(1, count + 1)
    ]
    rows = [f"INSERT INTO t{number} VALUES (1)" for number in range(count + 1)]
    return Deep(["CREATE TABLE t0 (a PRIMARY KEY)", *tables, *rows], "DELETE FROM t0", f"SELECT count(*) FROM t{count}")


def generated(count: int) -> Deep:
    columns = ", ".join(f"c{number} AS (c{number - 1} + 1)" for number in range(1, count))
    return Deep([f"CREATE TABLE t (c0, {columns})", "INSERT INTO t VALUES (1)"], f"SELECT c{count - 1} FROM t")


def views(count: int) -> Deep:
    chain = [f"CREATE VIEW v{number} AS SELECT a + 1 AS a FROM v{number - 1} LIMIT 9" for number in range(1, count)]
    return Deep(["CREATE TABLE v0 (a)", "INSERT INTO v0 VALUES (1)", *chain], f"SELECT a FROM v{count - 1}")


WITHIN_LIMITS = {
    "like": matched("LIKE", "%", 24_950),
    "glob": matched("GLOB", "*", 24_950),
    "triggers": triggers(999),
    "upserts": upserts(999),
    "cascades": cascades(999),
    "generated": generated(1_000),
    "views": views(1_000),
    "sums": Deep([], "SELECT 1" + " + 1" * 990),
    "unions": Deep([], "SELECT count(*) FROM (SELECT 1" + " UNION ALL SELECT 1" * 499 + ")"),
    "json": Deep([], f"SELECT length(json('{'[' * 990 + ']' * 990}'))"),
}
BEYOND_LIMITS = {
    "like": matched("LIKE", "%", 25_001),
    "triggers": triggers(1_001),
    "cascades": cascades(1_200),
    "views": views(2_500),
    "parentheses": Deep([], "SELECT " + "(" * 100_000 + "1" + ")" * 100_000),
    "minus": Deep([], "SELECT " + "- " * 100_000 + "1"),
    "sums": Deep([], "SELECT 1" + " + 1" * 100_000),
    "selects": Deep([], "SELECT " + "(SELECT " * 100_000 + "1" + ")" * 100_000),
    "json": Deep([], f"SELECT json('{'[' * 100_000 + ']' * 100_000}')"),
}


@pytest.mark.parametrize("deep", WITHIN_LIMITS.values(), ids=WITHIN_LIMITS)
async def test_statement_as_deep_as_sqlite_allows_returns_its_result(deep: Deep, tmp_path: Path) -> None:
    """Chains of triggers, views and patterns need a stack of 1 to 8 MiB, which native programs have."""
    stock = sqlite3.connect(tmp_path / "stock.db", isolation_level=None)
    async with connect(tmp_path / "ours.db", isolation_level=None, pragmas={"foreign_keys": True}) as conn:
        stock.execute("PRAGMA foreign_keys = 1")
        for each in ("BEGIN", *deep.schema):
            stock.execute(each)
            await conn.execute(each)

        for each in (deep.statement, deep.check):
            assert await conn.execute_fetchall(each) == stock.execute(each).fetchall()
    stock.close()


@pytest.mark.parametrize("deep", BEYOND_LIMITS.values(), ids=BEYOND_LIMITS)
async def test_statement_that_is_too_deep_raises_sqlites_error(deep: Deep) -> None:
    async with connect(":memory:", isolation_level=None, pragmas={"foreign_keys": True}) as conn:
        await conn.executescript("BEGIN;" + ";".join(deep.schema))
        with pytest.raises(rapsqlite.DatabaseError) as caught:
            await conn.execute_fetchall(deep.statement)

        assert caught.value.sqlite_errorname in ("SQLITE_ERROR", "SQLITE_TOOBIG")
        assert await conn.execute_fetchall("SELECT 1") == [(1,)]
