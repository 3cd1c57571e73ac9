"""The package's internal queries, on connections whose users have overridden built-in functions or settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from rapsqlite import connect
from rapsqlite._values.pragma import PRAGMAS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Verb = Callable[[rapsqlite.Connection], Awaitable[object]]

SETUP = """
    CREATE TABLE author (id INTEGER PRIMARY KEY, name TEXT UNIQUE);
    CREATE TABLE book (title TEXT, author REFERENCES author, PRIMARY KEY (title, author)) WITHOUT ROWID;
    CREATE VIEW title AS SELECT title FROM book;
    CREATE INDEX by_author ON book (author);
    CREATE TRIGGER by_author AFTER INSERT ON book BEGIN SELECT 1; END;
    INSERT INTO author (name) VALUES ('a'), ('b');
"""


async def pragma(conn: rapsqlite.Connection) -> object:
    await conn.set_pragma("main.User_Version", 7)
    return None


async def copied(conn: rapsqlite.Connection) -> object:
    async with connect(":memory:") as target:
        await conn.backup(target)
        return await target.get_tables()


async def put_back(conn: rapsqlite.Connection) -> object:
    await conn.deserialize(await conn.serialize())
    return await conn.get_tables()


VERBS: dict[str, Verb] = {
    "set_pragma": pragma,
    "get_tables": lambda conn: conn.get_tables(),
    "get_tables of a name": lambda conn: conn.get_tables("AUTHOR"),
    "get_views": lambda conn: conn.get_views(),
    "get_views of a name": lambda conn: conn.get_views("Title"),
    "get_table_info": lambda conn: conn.get_table_info("book"),
    "get_table_xinfo": lambda conn: conn.get_table_xinfo("book"),
    "get_indexes": lambda conn: conn.get_indexes(),
    "get_indexes of a table": lambda conn: conn.get_indexes("Book"),
    "get_index_list": lambda conn: conn.get_index_list("book"),
    "get_index_info": lambda conn: conn.get_index_info("by_author"),
    "get_foreign_keys": lambda conn: conn.get_foreign_keys("book"),
    "get_schema": lambda conn: conn.get_schema(),
    "get_schema of a table": lambda conn: conn.get_schema("book"),
    "changes": lambda conn: conn.changes(),
    "in_transaction_async": lambda conn: conn.in_transaction_async(),
    "total_changes_async": lambda conn: conn.total_changes_async(),
    "last_insert_rowid": lambda conn: conn.last_insert_rowid(),
    "backup": copied,
    "serialize": put_back,
}
SCHEMA = {name for name in VERBS if name.startswith("get_")}


def fail(*_: object) -> Any:
    raise AssertionError("the package asked what the user has put in SQLite's place")


class Failing:
    """An aggregate or window function that must not be called."""

    step = inverse = value = finalize = fail


async def take_functions(conn: rapsqlite.Connection) -> None:
    """Override every function that SQLite has."""
    functions = await conn.fetch_all("SELECT DISTINCT name, narg, type FROM pragma_function_list WHERE builtin")
    assert {("lower", 1), ("changes", 0), ("count", 0)} <= {(name, narg) for name, narg, _ in functions}
    for name, narg, kind in functions:
        if narg < -1:
            continue  # any number, but at least one or two: no user function can be registered like that
        if kind == "s":
            await conn.create_function(name, narg, fail)
        else:
            await conn.create_window_function(name, narg, Failing)


async def take_collations(conn: rapsqlite.Connection) -> None:
    for name in ("BINARY", "NOCASE", "RTRIM"):
        await conn.create_collation(name, fail)


async def take_rows(conn: rapsqlite.Connection) -> None:
    conn.row_factory = lambda cursor, row: fail(cursor, row)


async def take_text(conn: rapsqlite.Connection) -> None:
    conn.text_factory = fail


async def take_types(conn: rapsqlite.Connection) -> None:
    for name in ("", "TEXT", "INTEGER", "INT", "ANY", "BLOB"):
        conn.register_converter(name, fail)


WAYS: dict[str, Callable[[rapsqlite.Connection], Awaitable[None]]] = {
    "functions": take_functions,
    "collations": take_collations,
    "row_factory": take_rows,
    "text_factory": take_text,
    "converters": take_types,
}


@pytest.mark.parametrize("way", sorted(WAYS))
async def test_overrides_change_no_internal_query(way: str, database: Path) -> None:
    """A function named ``lower`` used to make every pragma unknown, and a row factory that raised made setting one
    fail.
    """
    types = rapsqlite.PARSE_DECLTYPES | rapsqlite.PARSE_COLNAMES
    async with (
        connect(database, isolation_level=None, detect_types=types) as conn,
        connect(":memory:", isolation_level=None) as plain,
    ):
        for each in (conn, plain):
            await each.executescript(SETUP)
        await WAYS[way](conn)

        for name, verb in VERBS.items():
            assert await verb(conn) == await verb(plain), name
        if way not in ("functions", "collations"):  # sqlite3's dump calls and compares with the user's overrides
            assert await conn.iterdump() == await plain.iterdump()


async def test_internal_queries_do_not_ask_the_authorizer() -> None:
    """Counters used to be read, and backups' snapshots pinned, with a SELECT that an authorizer could deny."""
    asked: list[int] = []

    def only_pragmas(action: int, *_: object) -> int:
        asked.append(action)
        return rapsqlite.SQLITE_OK if action == rapsqlite.SQLITE_PRAGMA else rapsqlite.SQLITE_DENY

    async with connect(":memory:", isolation_level=None) as conn, connect(":memory:", isolation_level=None) as plain:
        for each in (conn, plain):
            await each.executescript(SETUP)
        await conn.set_authorizer(only_pragmas)

        for name in VERBS.keys() - SCHEMA - {"serialize"}:
            assert await VERBS[name](conn) == await VERBS[name](plain), name
        assert await conn.serialize() == await plain.serialize()
        assert set(asked) == {rapsqlite.SQLITE_PRAGMA}


async def test_internal_queries_are_not_traced_reported_or_interrupted(database: Path) -> None:
    """They are not reported as slow either, and a progress handler that interrupts everything does not end them."""
    told: list[str] = []
    async with connect(database, isolation_level=None) as conn:
        await conn.executescript(SETUP)
        await conn.set_trace_callback(told.append)
        conn.set_slow_query_threshold(0, lambda _, sql: told.append(sql))
        await conn.set_progress_handler(lambda: True, 1)

        for name in VERBS.keys() - SCHEMA - {"set_pragma", "serialize"}:
            await VERBS[name](conn)
        await conn.serialize()

        assert told == []


async def test_row_limit_counts_only_rows_of_the_user() -> None:
    async with connect(":memory:", isolation_level=None, limits={"max_rows": 3}) as conn:
        for number in range(3):
            await conn.execute(f"CREATE TABLE t{number} (a UNIQUE, b UNIQUE)")
            await conn.execute(f"CREATE VIEW v{number} AS SELECT 1")

        assert await conn.get_tables() == ["t0", "t1", "t2"]
        assert await conn.get_views() == ["v0", "v1", "v2"]
        assert len(await conn.get_indexes("t1")) == 2
        with pytest.raises(rapsqlite.DataError):
            await conn.get_indexes()


async def test_counters_are_read_after_a_pending_setting_is_applied() -> None:
    async with connect(":memory:") as conn:
        await conn.execute("CREATE TABLE t (a)")
        await conn.execute("INSERT INTO t VALUES (1), (2)")
        assert await conn.in_transaction_async()
        conn.isolation_level = None  # commits

        assert not await conn.in_transaction_async()
        assert await conn.changes() == 2
        assert await conn.total_changes_async() == 2
        assert await conn.last_insert_rowid() == 2


async def test_settable_pragmas_are_those_that_sqlite_lists() -> None:
    async with connect(":memory:") as conn:
        listed = await conn.fetch_all("SELECT name FROM pragma_pragma_list")

    assert sorted(PRAGMAS) == sorted(name for (name,) in listed)


async def test_names_are_compared_ignoring_only_ascii_case() -> None:
    async with connect(":memory:", isolation_level=None) as conn:
        await conn.executescript('CREATE TABLE "Éa" (a); CREATE TABLE "éa" (a); CREATE INDEX i ON "éa" (a)')
        await conn.create_collation("NOCASE", lambda a, b: (a.lower() > b.lower()) - (a.lower() < b.lower()))

        assert await conn.get_tables("ÉA") == ["Éa"]
        assert await conn.get_tables("éA") == ["éa"]
        assert [index["name"] for index in await conn.get_indexes("éA")] == ["i"]
        assert await conn.get_indexes("ÉA") == []
