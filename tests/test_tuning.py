"""Pragmas, limits, flags and query plans."""

from __future__ import annotations

import sqlite3
import sys
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from rapsqlite import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def conn(database: Path) -> AsyncIterator[rapsqlite.Connection]:
    async with connect(database, isolation_level=None) as connection:
        yield connection


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("user_version", 7, 7),
        ("main.user_version", 8, 8),
        ("cache_size", -500, -500),
        ("foreign_keys", True, 1),
        ("Journal_Mode", "wal", "wal"),
        ("encoding", "UTF-8", "UTF-8"),
    ],
)
async def test_pragma_is_set(conn: rapsqlite.Connection, name: str, value: Any, expected: Any) -> None:
    await conn.set_pragma(name, value)

    assert await conn.fetch_scalar(f"PRAGMA {name}") == expected


@pytest.mark.parametrize(
    "name, value, error",
    [
        ("user_version", "7; DROP TABLE t", ValueError),
        ("user_version", "'", ValueError),
        ("user_version", "", ValueError),
        ("user_version", float("nan"), ValueError),
        ("user_version", None, TypeError),
        ("user_version", [7], TypeError),
        ("user_version = 7; DROP TABLE t; PRAGMA x", 1, ValueError),
        ("no_such_pragma", 1, rapsqlite.OperationalError),
        (5, 1, TypeError),
    ],
)
async def test_pragma_that_is_none_is_refused(
    conn: rapsqlite.Connection, name: Any, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await conn.set_pragma(name, value)


async def test_limits_are_read_and_set(conn: rapsqlite.Connection) -> None:
    before = await conn.getlimit(rapsqlite.SQLITE_LIMIT_SQL_LENGTH)

    assert await conn.setlimit(rapsqlite.SQLITE_LIMIT_SQL_LENGTH, 50) == before
    assert await conn.getlimit(rapsqlite.SQLITE_LIMIT_SQL_LENGTH) == 50
    with pytest.raises(rapsqlite.DataError):
        await conn.execute("SELECT 1 -- " + "x" * 50)
    with pytest.raises(rapsqlite.ProgrammingError, match="category"):
        await conn.getlimit(1_111)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sqlite3 has it since 3.12")
async def test_flags_are_those_of_sqlite3(conn: rapsqlite.Connection) -> None:
    stock = sqlite3.connect(":memory:")
    for op in (rapsqlite.SQLITE_DBCONFIG_ENABLE_FKEY, rapsqlite.SQLITE_DBCONFIG_ENABLE_TRIGGER):
        assert await conn.getconfig(op) == stock.getconfig(op)  # type: ignore[attr-defined, unused-ignore]
    stock.close()


async def test_flag_is_set(conn: rapsqlite.Connection) -> None:
    await conn.setconfig(rapsqlite.SQLITE_DBCONFIG_ENABLE_FKEY)
    assert await conn.getconfig(rapsqlite.SQLITE_DBCONFIG_ENABLE_FKEY)
    assert await conn.fetch_scalar("PRAGMA foreign_keys") == 1

    await conn.setconfig(rapsqlite.SQLITE_DBCONFIG_ENABLE_FKEY, False)
    assert not await conn.getconfig(rapsqlite.SQLITE_DBCONFIG_ENABLE_FKEY)


async def test_query_plan_names_the_index(conn: rapsqlite.Connection) -> None:
    await conn.execute("CREATE TABLE t (a)")
    await conn.execute("CREATE INDEX by_a ON t (a)")

    [[*_, plan]] = await conn.explain_query_plan("SELECT * FROM t WHERE a = ?", [1])

    assert "by_a" in plan


async def test_timeout_can_be_changed(conn: rapsqlite.Connection, database: Path) -> None:
    assert conn.timeout == 5.0
    await conn.execute("CREATE TABLE t (a)")
    async with connect(database) as other:
        await other.begin("IMMEDIATE")

        conn.timeout = 0
        with pytest.raises(rapsqlite.OperationalError, match="locked"):
            await conn.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(ValueError, match="negative"):
        conn.timeout = -1
