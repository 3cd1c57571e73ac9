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
async def test_set_pragma_sets_the_pragma(conn: rapsqlite.Connection, name: str, value: Any, expected: Any) -> None:
    """SQLite itself reports the value that ``set_pragma`` was given."""
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
async def test_invalid_pragma_is_refused(
    conn: rapsqlite.Connection, name: Any, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await conn.set_pragma(name, value)


async def test_limits_can_be_read_and_set(conn: rapsqlite.Connection) -> None:
    before = await conn.getlimit(rapsqlite.SQLITE_LIMIT_SQL_LENGTH)

    assert await conn.setlimit(rapsqlite.SQLITE_LIMIT_SQL_LENGTH, 50) == before
    assert await conn.getlimit(rapsqlite.SQLITE_LIMIT_SQL_LENGTH) == 50
    with pytest.raises(rapsqlite.DataError):
        await conn.execute("SELECT 1 -- " + "x" * 50)
    with pytest.raises(rapsqlite.ProgrammingError, match="category"):
        await conn.getlimit(1_111)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sqlite3 has it since 3.12")
async def test_flag_constants_match_sqlite3(conn: rapsqlite.Connection) -> None:
    stock = sqlite3.connect(":memory:")
    for op in (rapsqlite.SQLITE_DBCONFIG_ENABLE_FKEY, rapsqlite.SQLITE_DBCONFIG_ENABLE_TRIGGER):
        assert await conn.getconfig(op) == stock.getconfig(op)  # type: ignore[attr-defined, unused-ignore]
    stock.close()


async def test_setconfig_sets_the_flag(conn: rapsqlite.Connection) -> None:
    """``getconfig`` and SQLite agree on what ``setconfig`` did."""
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


LIMITS = [name for name in dir(rapsqlite) if name.startswith("SQLITE_LIMIT_")]
FLAGS = [
    name for name in dir(rapsqlite)
    if name.startswith("SQLITE_DBCONFIG_ENABLE_")
    and name not in ("SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER", "SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION")
]  # fmt: skip


@pytest.mark.skipif(sys.version_info < (3, 11), reason="sqlite3 has limits since 3.11")
@pytest.mark.parametrize("arguments", [("x",), (1.5,), (None,), (1 << 40,), (-1,), (99,)])
async def test_invalid_limit_is_refused_as_by_sqlite3(conn: rapsqlite.Connection, arguments: tuple[Any]) -> None:
    stock: Any = sqlite3.connect(":memory:")
    for verb, given in (("getlimit", arguments), ("setlimit", (*arguments, 5))):
        with pytest.raises((TypeError, OverflowError, sqlite3.Error)) as expected:
            getattr(stock, verb)(*given)
        with pytest.raises(expected.type):
            await getattr(conn, verb)(*given)
    for limit in ("x", 1.5, None, 1 << 40):
        with pytest.raises((TypeError, OverflowError)) as refused:
            stock.setlimit(0, limit)
        with pytest.raises(refused.type):
            await conn.setlimit(0, limit)  # type: ignore[arg-type]
    stock.close()


@pytest.mark.parametrize("name", LIMITS)
async def test_every_limit_can_be_lowered_and_raised_again(conn: rapsqlite.Connection, name: str) -> None:
    category = getattr(rapsqlite, name)
    highest = await conn.getlimit(category)

    assert await conn.setlimit(category, 30) == highest  # no less for SQLITE_LIMIT_LENGTH
    assert await conn.setlimit(category, -1) == min(30, highest)
    await conn.setlimit(category, (1 << 31) - 1)
    assert await conn.getlimit(category) == highest


LIMITED = {
    "SQLITE_LIMIT_COLUMN": (5, "SELECT 1, 2, 3, 4, 5, 6"),
    "SQLITE_LIMIT_EXPR_DEPTH": (3, "SELECT 1 + 2 + 3 + 4 + 5"),
    "SQLITE_LIMIT_COMPOUND_SELECT": (2, "SELECT 1 UNION SELECT 2 UNION SELECT 3"),
    "SQLITE_LIMIT_FUNCTION_ARG": (2, "SELECT max(1, 2, 3)"),
    "SQLITE_LIMIT_ATTACHED": (0, "ATTACH ':memory:' AS more"),
    "SQLITE_LIMIT_LIKE_PATTERN_LENGTH": (3, "SELECT 'a' LIKE '%%%%%'"),
    "SQLITE_LIMIT_VARIABLE_NUMBER": (2, "SELECT ?3"),
    "SQLITE_LIMIT_LENGTH": (100, "SELECT length(randomblob(1000))"),
}


@pytest.mark.parametrize("name", sorted(LIMITED))
async def test_statement_beyond_a_limit_leaves_the_connection_usable(conn: rapsqlite.Connection, name: str) -> None:
    limit, sql = LIMITED[name]
    category = getattr(rapsqlite, name)
    parameters = (1, 2, 3) if "?" in sql else ()
    before = await conn.setlimit(category, limit)

    with pytest.raises((rapsqlite.OperationalError, rapsqlite.DataError)):
        await conn.execute(sql, parameters)

    await conn.setlimit(category, before)
    await conn.execute(sql, parameters)


@pytest.mark.parametrize("name", FLAGS)
async def test_every_flag_can_be_switched_and_read(conn: rapsqlite.Connection, name: str) -> None:
    op = getattr(rapsqlite, name)
    for enable in (False, True, False):
        await conn.setconfig(op, enable)
        assert await conn.getconfig(op) is enable


@pytest.mark.parametrize(
    "op, error", [(0, ValueError), (1000, ValueError), (99_999, ValueError), ("x", TypeError), (1 << 40, OverflowError)]
)
async def test_invalid_flag_is_refused(conn: rapsqlite.Connection, op: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        await conn.getconfig(op)
    with pytest.raises(error):
        await conn.setconfig(op, False)


async def test_flags_take_effect(conn: rapsqlite.Connection) -> None:
    """A flag does what SQLite's page says; it does not only report itself as set."""
    await conn.executescript("""CREATE TABLE t (a); CREATE TABLE log (a); CREATE VIEW v AS SELECT 1;
        CREATE TRIGGER g AFTER INSERT ON t BEGIN INSERT INTO log VALUES (new.a); END""")
    await conn.setconfig(rapsqlite.SQLITE_DBCONFIG_ENABLE_TRIGGER, False)
    await conn.execute("INSERT INTO t VALUES (1)")
    assert await conn.fetch_all("SELECT * FROM log") == []
    await conn.setconfig(rapsqlite.SQLITE_DBCONFIG_ENABLE_VIEW, False)
    with pytest.raises(rapsqlite.OperationalError, match="view"):
        await conn.fetch_all("SELECT * FROM v")
    await conn.setconfig(rapsqlite.SQLITE_DBCONFIG_DEFENSIVE)
    with pytest.raises(rapsqlite.OperationalError, match="may not be"):
        await conn.executescript("PRAGMA writable_schema = 1; UPDATE sqlite_schema SET sql = ''")


@pytest.mark.parametrize(
    "sql, error",
    [
        ("", rapsqlite.OperationalError),
        ("; DROP TABLE t", rapsqlite.OperationalError),
        ("SELECT 1; DROP TABLE t", rapsqlite.ProgrammingError),
        ("SELECT * FROM nowhere", rapsqlite.OperationalError),
        ("SELECT ?", rapsqlite.ProgrammingError),
        (5, TypeError),
    ],
)
async def test_query_plan_of_invalid_sql_is_an_error(
    conn: rapsqlite.Connection, sql: Any, error: type[Exception]
) -> None:
    await conn.execute("CREATE TABLE t (a)")
    with pytest.raises(error):
        await conn.explain_query_plan(sql)

    assert await conn.get_tables() == ["t"]


async def test_query_plan_changes_nothing() -> None:
    async with connect(":memory:") as conn:
        await conn.execute("CREATE TABLE t (a)")
        await conn.commit()
        for sql in ("INSERT INTO t VALUES (1)", "DROP TABLE t", "DELETE FROM t WHERE a > 1", "PRAGMA user_version = 5"):
            await conn.explain_query_plan(sql)
            assert not conn.in_transaction

        assert await conn.fetch_all("SELECT count(*) FROM t") == [[0]]
        assert await conn.fetch_scalar("PRAGMA user_version") == 0
        named = await conn.explain_query_plan("SELECT * FROM t AS x, t AS y WHERE x.a = :a", {"a": 1})
        assert [type(part) for part in named[0]] == [int, int, int, str]


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


async def test_data_version_changes_when_others_write(database: Path) -> None:
    """As PRAGMA data_version does: it counts changes by other connections, of any library, but not the connection's
    own.
    """
    async with connect(database) as conn:
        await conn.execute("CREATE TABLE t (a)")
        before = await conn.data_version()
        await conn.execute("INSERT INTO t VALUES (1)")
        await conn.commit()
        own = await conn.data_version()
        other = sqlite3.connect(database)
        other.execute("INSERT INTO t VALUES (2)")
        other.commit()
        other.close()

        assert own == before
        assert await conn.data_version("main") != before
        assert await conn.data_version() == await conn.fetch_scalar("PRAGMA data_version")


async def test_data_version_of_attached_and_unknown_databases(conn: rapsqlite.Connection, tmp_path: Path) -> None:
    await conn.execute("ATTACH ? AS other", [str(tmp_path / "other.db")])

    assert await conn.data_version("other") == await conn.fetch_scalar("PRAGMA other.data_version")
    with pytest.raises(rapsqlite.OperationalError, match="unknown database"):
        await conn.data_version("missing")
