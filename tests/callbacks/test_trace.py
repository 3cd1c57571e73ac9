"""SQLite's own trace: every statement that begins, with values filled in, including the package's own."""

from __future__ import annotations

import sqlite3
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SETUP = """CREATE TABLE t (a, b); CREATE TABLE log (x); CREATE TABLE last (x);
    CREATE TRIGGER noted AFTER INSERT ON t BEGIN INSERT INTO log VALUES (new.a); UPDATE log SET x = x + 1; END;
    CREATE TRIGGER kept AFTER INSERT ON log BEGIN DELETE FROM last; INSERT INTO last VALUES (new.x || '?'); END;"""
IN_TRIGGERS = [
    "-- TRIGGER noted", "-- INSERT INTO log VALUES (new.a)", "-- TRIGGER kept", "-- DELETE FROM last",
    "-- INSERT INTO last VALUES (new.x || '?')", "-- UPDATE log SET x = x + 1",
]  # fmt: skip
STATEMENTS: list[tuple[str, tuple[Any, ...]]] = [
    ("INSERT INTO t VALUES (?, ?)", (1, "it's")),
    ("INSERT INTO t VALUES (?1, ?1)", (b"\0\xff",)),
    ("SELECT '?', ?", (None,)),
    ("-- a comment first\nSELECT ?, x FROM log", (1.5,)),
    ("--\nINSERT INTO t VALUES (?, ?)", (3, "four")),
    ("/* another */ WITH c AS (SELECT ? AS n) SELECT n FROM c", ("é",)),
    ("UPDATE t SET b = ? WHERE a = ?", ("", 1)),
    ("PRAGMA user_version", ()),
]


async def streamed(rows: Any) -> None:
    async for _ in rows:
        pass


async def prepared(conn: rapsqlite.Connection, sql: str, parameters: Any) -> None:
    async with conn.prepare(sql) as statement:
        await statement.fetch_all(parameters)


VERBS: dict[str, Callable[[rapsqlite.Connection, str, Any], Awaitable[object]]] = {
    "execute": lambda conn, sql, parameters: conn.execute(sql, parameters),
    "executemany": lambda conn, sql, parameters: conn.executemany(sql, [parameters, parameters]),
    "execute_fetchall": lambda conn, sql, parameters: conn.execute_fetchall(sql, parameters),
    "execute_insert": lambda conn, sql, parameters: conn.execute_insert(sql, parameters),
    "fetch_all": lambda conn, sql, parameters: conn.fetch_all(sql, parameters),
    "fetch_optional": lambda conn, sql, parameters: conn.fetch_optional(sql, parameters),
    "stream": lambda conn, sql, parameters: streamed(conn.stream(sql, parameters)),
    "execute_iter": lambda conn, sql, parameters: streamed(conn.execute_iter(sql, parameters)),
    "prepared": prepared,
}


# Python 3.12.0 to 3.12.3 warn for numbers as for names.
@pytest.mark.filterwarnings("ignore:Binding .* is a named parameter:DeprecationWarning")
@pytest.mark.parametrize("sql, parameters", STATEMENTS)
async def test_statements_are_traced_as_by_sqlite3_followed_by_those_of_their_triggers(
    sql: str, parameters: tuple[Any, ...]
) -> None:
    """A statement beginning with a comment used to be mistaken for a trigger's, and its values were left out."""
    theirs: list[str] = []
    ours: list[str] = []
    native = sqlite3.connect(":memory:", isolation_level=None)
    native.executescript(SETUP)
    native.set_trace_callback(theirs.append)
    native.execute(sql, parameters).fetchall()
    native.close()
    async with rapsqlite.connect(":memory:", isolation_level=None) as conn:
        await conn.executescript(SETUP)
        await conn.set_trace_callback(ours.append)
        await conn.fetch_all(sql, parameters)

    # For a statement in a trigger, sqlite3 repeats the one that fired it.
    assert [statement for statement, _ in groupby(theirs)] == ours[:1]
    assert ours[1:] == (IN_TRIGGERS if "INTO t" in sql else [])
    assert "?," not in ours[0]


@pytest.mark.parametrize("verb", sorted(VERBS))
async def test_every_verb_is_traced_with_its_values(verb: str) -> None:
    sql = "INSERT INTO t VALUES (?, 'x')" + " RETURNING a" * (verb != "executemany")
    seen: list[str] = []
    async with rapsqlite.connect(":memory:", isolation_level=None) as conn:
        await conn.executescript(SETUP)
        await conn.set_trace_callback(seen.append)

        await VERBS[verb](conn, sql, (7,))

    times = 2 if verb == "executemany" else 1
    assert [statement for statement in seen if not statement.startswith("--")] == [sql.replace("?", "7")] * times
    assert [statement for statement in seen if statement.startswith("--")] == IN_TRIGGERS * times


async def test_statements_of_a_script_and_their_triggers_are_traced() -> None:
    script = "BEGIN; INSERT INTO t VALUES (5, 6); -- between\n SELECT 1 ; CREATE TABLE more (a); COMMIT"
    theirs: list[str] = []
    ours: list[str] = []
    native = sqlite3.connect(":memory:", isolation_level=None)
    native.executescript(SETUP)
    native.set_trace_callback(theirs.append)
    native.executescript(script)
    native.close()
    async with rapsqlite.connect(":memory:", isolation_level=None) as conn:
        await conn.executescript(SETUP)
        await conn.set_trace_callback(ours.append)
        await conn.executescript(script)

    assert [statement for statement in ours if statement not in IN_TRIGGERS] == [
        statement for statement, _ in groupby(theirs)
    ]
    assert ours[2:8] == IN_TRIGGERS


async def test_statements_sent_by_the_package_are_traced() -> None:
    seen: list[str] = []
    async with rapsqlite.connect(":memory:") as conn:
        await conn.execute("CREATE TABLE t (a)")
        await conn.set_trace_callback(seen.append)

        async with conn.transaction("IMMEDIATE"):
            await conn.execute("INSERT INTO t VALUES (1)")
            async with conn.savepoint("s"):
                await conn.execute("INSERT INTO t VALUES (2)")
        await conn.execute("INSERT INTO t VALUES (3)")
        await conn.rollback()

    assert [statement.strip() for statement in seen] == [
        "BEGIN IMMEDIATE", "INSERT INTO t VALUES (1)", 'SAVEPOINT "s"', "INSERT INTO t VALUES (2)", 'RELEASE "s"',
        "COMMIT", "BEGIN", "INSERT INTO t VALUES (3)", "ROLLBACK",
    ]  # fmt: skip
