"""Reports of statements that take longer than a threshold."""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from rapsqlite import connect
from rapsqlite.prepared import PreparedStatement

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LONG = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) SELECT count(*) FROM n"


async def test_every_verb_is_reported() -> None:
    seen: list[str] = []
    async with connect(":memory:") as conn:
        await conn.execute("CREATE TABLE t (a)")
        conn.set_slow_query_threshold(0, lambda seconds, sql: seen.append(sql))

        await conn.execute("INSERT INTO t VALUES (1)")
        await conn.executemany("INSERT INTO t VALUES (?)", [(1,), (2,)])
        await conn.executescript("SELECT 1; SELECT 2")
        await conn.fetch_all("SELECT a FROM t")
        await conn.fetch_one("SELECT max(a) FROM t")
        async for _ in conn.stream("SELECT a + 1 FROM t"):
            pass
        async with conn.prepare("SELECT ?") as statement:
            await statement.fetch_all((1,))
            await statement.fetch_all((2,))
        with pytest.raises(rapsqlite.OperationalError):
            await conn.fetch_all("SELECT nothing")
        await conn.commit()

        for sql in (
            "INSERT INTO t VALUES (1)",
            "INSERT INTO t VALUES (?)",
            "SELECT 1; SELECT 2",
            "SELECT a FROM t",
            "SELECT max(a) FROM t",
            "SELECT a + 1 FROM t",
            "SELECT nothing",
            "COMMIT",
        ):
            assert sql in seen
        assert seen.count("SELECT ?") >= 2

        seen.clear()
        conn.set_slow_query_threshold(None)
        await conn.fetch_all("SELECT 1")
        assert seen == []


async def drained(rows: Any) -> None:
    async for _ in rows:
        pass


async def by_cursor(conn: rapsqlite.Connection, verb: str, *arguments: Any) -> None:
    async with conn.cursor() as cursor:
        await getattr(cursor, verb)(*arguments)


async def prepared(conn: rapsqlite.Connection, verb: str, sql: str) -> None:
    async with conn.prepare(sql) as statement:
        await getattr(statement, verb)()


async def streamed(conn: rapsqlite.Connection, sql: str) -> None:
    async with conn.prepare(sql) as statement:
        await drained(statement.stream())


async def begun(conn: rapsqlite.Connection, verb: str, *arguments: Any) -> None:
    """Begin a transaction for the statement."""
    await conn.execute("BEGIN DEFERRED")
    await getattr(conn, verb)(*arguments)


async def entered(block: Any) -> None:
    async with block:
        pass


SELECT, INSERT = "SELECT a || 'this one' FROM t", "INSERT INTO t VALUES ('this one')"
VERBS: dict[str, tuple[str, Callable[[rapsqlite.Connection, str], Awaitable[object]]]] = {
    "execute": (INSERT, lambda conn, sql: conn.execute(sql)),
    "executemany": (INSERT, lambda conn, sql: conn.executemany(sql, [()])),
    "execute_many": (INSERT, lambda conn, sql: conn.execute_many(sql, [()])),
    "executescript": (INSERT, lambda conn, sql: conn.executescript(sql)),
    "execute_insert": (INSERT, lambda conn, sql: conn.execute_insert(sql)),
    "execute_fetchall": (SELECT, lambda conn, sql: conn.execute_fetchall(sql)),
    "fetch_all": (SELECT, lambda conn, sql: conn.fetch_all(sql)),
    "fetch_one": (SELECT, lambda conn, sql: conn.fetch_one(sql)),
    "fetch_optional": (SELECT, lambda conn, sql: conn.fetch_optional(sql)),
    "fetch_scalar": (SELECT, lambda conn, sql: conn.fetch_scalar(sql)),
    "fetch_blob": ("SELECT x'00' AS this_one", lambda conn, sql: conn.fetch_blob(sql)),
    "execute_iter": (SELECT, lambda conn, sql: drained(conn.execute_iter(sql))),
    "stream": (SELECT, lambda conn, sql: drained(conn.stream(sql))),
    "explain_query_plan": ("EXPLAIN QUERY PLAN SELECT 1", lambda conn, sql: conn.explain_query_plan(sql[19:])),
    "set_pragma": ("PRAGMA user_version=5", lambda conn, _: conn.set_pragma("user_version", 5)),
    "begin": ("BEGIN IMMEDIATE", lambda conn, _: conn.begin("IMMEDIATE")),
    "commit": ("COMMIT", lambda conn, _: begun(conn, "commit")),
    "rollback": ("ROLLBACK", lambda conn, _: begun(conn, "rollback")),
    "transaction": ("BEGIN EXCLUSIVE", lambda conn, _: entered(conn.transaction("EXCLUSIVE"))),
    "savepoint": ('SAVEPOINT "this one"', lambda conn, _: entered(conn.savepoint("this one"))),
    "cursor execute": (SELECT, lambda conn, sql: by_cursor(conn, "execute", sql)),
    "cursor executemany": (INSERT, lambda conn, sql: by_cursor(conn, "executemany", sql, [()])),
    "cursor executescript": (INSERT, lambda conn, sql: by_cursor(conn, "executescript", sql)),
    "prepared execute": (INSERT, lambda conn, sql: prepared(conn, "execute", sql)),
    "prepared fetch_all": (SELECT, lambda conn, sql: prepared(conn, "fetch_all", sql)),
    "prepared fetch_one": (SELECT, lambda conn, sql: prepared(conn, "fetch_one", sql)),
    "prepared fetch_optional": (SELECT, lambda conn, sql: prepared(conn, "fetch_optional", sql)),
    "prepared fetch_scalar": (SELECT, lambda conn, sql: prepared(conn, "fetch_scalar", sql)),
    "prepared fetch_blob": ("SELECT x'00' AS this_one", lambda conn, sql: prepared(conn, "fetch_blob", sql)),
    "prepared stream": (SELECT, lambda conn, sql: streamed(conn, sql)),
}


SCHEMA = {name for name in dir(rapsqlite.Connection) if name.startswith("get_")}  # statements of the package's own
OTHERS = {  # they run no user statement
    "Connection": {
        "close", "stop", "is_alive", "interrupt", "statistics", "cursor", "prepare",
        "in_transaction_async", "total_changes_async", "changes", "last_insert_rowid",
        "create_function", "create_aggregate", "create_window_function", "create_collation", "set_authorizer",
        "set_progress_handler", "set_trace_callback", "set_update_hook", "set_preupdate_hook", "set_commit_hook",
        "set_rollback_hook", "set_wal_hook", "set_busy_handler", "register_adapter", "register_converter",
        "enable_adapters",
        "backup", "restore", "iterdump", "serialize", "deserialize", "blobopen", "session", "apply_changeset",
        "invert_changeset", "combine_changesets", "data_version", "getlimit", "setlimit", "getconfig", "setconfig",
        "enable_load_extension", "load_extension", "set_slow_query_threshold", *SCHEMA,
    },
    "Cursor": {"close", "fetchone", "fetchmany", "fetchall", "setinputsizes", "setoutputsize"},
    "PreparedStatement": {"close"},
}  # fmt: skip
PREPARING = {name for name in VERBS if name.startswith("prepared ")} - {"prepared stream"}  # reported, too


@pytest.mark.parametrize("verb", sorted(VERBS))
async def test_each_verb_is_reported_once_with_its_time(verb: str) -> None:
    seen: list[tuple[float, str]] = []
    sql, run = VERBS[verb]
    async with connect(":memory:", isolation_level=None) as conn:
        await conn.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (1), (2)")
        conn.set_slow_query_threshold(0, lambda *slow: seen.append(slow))

        await run(conn, sql)

        about_it = [seconds for seconds, reported in seen if reported == sql]
        assert len(about_it) == (2 if verb in PREPARING else 1)
        assert min(about_it) > 0


@pytest.mark.parametrize(
    "kind, prefix", [(rapsqlite.Connection, ""), (rapsqlite.Cursor, "cursor"), (PreparedStatement, "prepared")]
)
def test_every_method_is_tested_for_slow_statements(kind: type, prefix: str) -> None:
    """A new method of one of these classes must be added to one of the tables above."""
    methods = {
        name for name in dir(kind) if not name.startswith("_") and inspect.isroutine(inspect.getattr_static(kind, name))
    }
    verbs = {name.rpartition(" ")[2] for name in VERBS if name.rpartition(" ")[0] == prefix}

    assert methods == verbs | OTHERS[kind.__name__]
    assert not verbs & OTHERS[kind.__name__]


@pytest.mark.parametrize("again", [False, True])
async def test_statement_prepared_before_reporting_is_reported_with_its_sql(again: bool) -> None:
    """It used to be reported as COMMIT, whose request has no text either."""
    seen: list[str] = []
    async with connect(":memory:") as conn, conn.prepare("SELECT 'this one'") as statement:
        if again:
            conn.set_slow_query_threshold(3600)
        await statement.fetch_all()
        conn.set_slow_query_threshold(0, lambda _, sql: seen.append(sql))

        await statement.fetch_all()
        await statement.execute()

        assert seen == ["SELECT 'this one'"] * 2


async def test_threshold_applies_to_a_statement_prepared_at_its_first_use() -> None:
    """The setting at the object's creation used to apply to its preparation."""
    seen: list[str] = []
    async with connect(":memory:") as conn:
        early = conn.prepare("SELECT 'early'")
        conn.set_slow_query_threshold(0, lambda _, sql: seen.append(sql))
        await early.fetch_all()
        late = conn.prepare("SELECT 'late'")
        conn.set_slow_query_threshold(None)
        await late.fetch_all()

    assert seen == ["SELECT 'early'"] * 2


async def test_only_slow_statements_are_reported() -> None:
    seen: list[tuple[float, str]] = []
    async with connect(":memory:") as conn:
        conn.set_slow_query_threshold(3600, lambda *slow: seen.append(slow))
        await conn.fetch_all("SELECT 1")
        assert seen == []

        conn.set_slow_query_threshold(1e-9, lambda *slow: seen.append(slow))
        await conn.fetch_all(LONG)

    assert [sql for _, sql in seen[:1]] == [LONG]
    assert seen[0][0] > 0


async def test_slow_statements_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail(seconds: float, sql: str) -> None:
        raise RuntimeError("the callback's own")

    async with connect(":memory:") as conn:
        conn.set_slow_query_threshold(0)
        with caplog.at_level(logging.WARNING, "rapsqlite"):
            await conn.fetch_all("SELECT 'logged'")
        assert "SELECT 'logged'" in caplog.text

        conn.set_slow_query_threshold(0, fail)
        with caplog.at_level(logging.ERROR, "rapsqlite"):
            assert await conn.fetch_all("SELECT 1") == [[1]]
        assert "the callback's own" in caplog.text


async def test_invalid_threshold_is_refused() -> None:
    conn = connect(":memory:")
    with pytest.raises(rapsqlite.ProgrammingError):
        conn.set_slow_query_threshold(1)
    async with conn:
        for bad in (-1, float("nan")):
            with pytest.raises(ValueError, match="threshold_secs"):
                conn.set_slow_query_threshold(bad)
        with pytest.raises(TypeError):
            conn.set_slow_query_threshold(1, 5)  # type: ignore[arg-type]
    with pytest.raises(rapsqlite.ProgrammingError):
        conn.set_slow_query_threshold(1)
