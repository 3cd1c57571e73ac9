"""CPython's scenarios for transactions: when they begin and end, and what other connections see."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from tests.compat.cpython.scenario import NOTHING, agree, column, told
from tests.compat.stock import Stock
from tests.programs import run_python

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

LEGACY = rapsqlite.LEGACY_TRANSACTION_CONTROL
INSERT = "INSERT INTO t VALUES (1)"


async def on_two_connections(
    step: Callable[[Any, Any], Awaitable[Any]], directory: Path, *, timeout: float = 5.0
) -> Any:
    """Run a step with two connections to one file, on both libraries, and return our result.

    CPython's tests have no timeout. Here a lock may outlive its read for a few milliseconds: docs/durability.md.
    """
    answers = []
    for name, connect in (("stock", Stock), ("ours", rapsqlite.connect)):
        database = str(directory / name)
        connecting: Any = connect
        async with connecting(database, timeout=timeout) as first, connecting(database, timeout=timeout) as second:
            answers.append(await step(first, second))
            await first.rollback()
            await second.rollback()

    assert answers[0] == answers[1]
    return answers[1]


@pytest.mark.parametrize("sql, seen", [
    ("INSERT INTO test VALUES (6)", [5]), ("UPDATE test SET i = 6", [5]), ("DELETE FROM test", [5]),
    ("REPLACE INTO test VALUES (6)", [5]),
])  # fmt: skip
async def test_statement_that_changes_data_begins_a_transaction(sql: str, seen: Any, tmp_path: Path) -> None:
    async def step(first: Any, second: Any) -> Any:
        await first.execute("CREATE TABLE test (i)")
        await first.execute("INSERT INTO test VALUES (5)")
        before = await column(second, "SELECT i FROM test")
        await first.commit()
        await first.execute(sql)
        return before, await column(second, "SELECT i FROM test"), first.in_transaction

    assert await on_two_connections(step, tmp_path) == ([], seen, True)


async def test_ddl_does_not_commit(tmp_path: Path) -> None:
    async def step(first: Any, second: Any) -> Any:
        await first.execute("CREATE TABLE test (i)")
        await first.execute("INSERT INTO test VALUES (5)")
        await first.execute("CREATE TABLE test2 (j)")
        return await column(second, "SELECT i FROM test")

    assert await on_two_connections(step, tmp_path) == []


async def test_isolation_level_none_commits_the_open_transaction(tmp_path: Path) -> None:
    """Here with the next statement: setting an attribute cannot be awaited."""

    async def step(first: Any, second: Any) -> Any:
        await first.execute("CREATE TABLE test (i)")
        await first.execute("INSERT INTO test VALUES (5)")
        first.isolation_level = None
        await column(first, "SELECT 1")
        seen = [await column(second, "SELECT i FROM test")]
        first.isolation_level = "DEFERRED"
        await first.execute("INSERT INTO test VALUES (6)")
        return [*seen, await column(second, "SELECT i FROM test")]

    assert await on_two_connections(step, tmp_path) == [[5], [5]]


async def test_writer_that_finds_a_lock_gives_up_and_the_other_commits(tmp_path: Path) -> None:
    async def step(first: Any, second: Any) -> Any:
        await first.execute("CREATE TABLE test (i)")
        await first.execute("INSERT INTO test VALUES (5)")
        refused = await told(second.execute, "INSERT INTO test VALUES (5)")
        return refused, await told(first.commit)

    answer = await on_two_connections(step, tmp_path, timeout=0.1)

    assert answer == (("OperationalError", "database is locked"), NOTHING)


async def test_kept_cursors_do_not_hide_commits_of_others(tmp_path: Path) -> None:
    async def step(first: Any, second: Any) -> Any:
        kept = []

        async def run(connection: Any, sql: str, *given: Any) -> Any:
            kept.append(await connection.execute(sql, given))
            return kept[-1]

        await first.execute("CREATE TABLE t (t)")
        await run(first, "INSERT INTO t VALUES (?), (?), (?)", "u1", "u2", "u3")
        await first.commit()
        seen = [await (await run(second, "SELECT count(*) FROM t")).fetchone()]
        seen.append((await run(second, "DELETE FROM t")).rowcount)
        await second.commit()
        await run(first, "INSERT INTO t VALUES (?)", "u4")
        await run(first, "INSERT INTO t VALUES (?)", "u5")
        seen.append(await (await run(second, "SELECT count(*) FROM t")).fetchone())
        seen.append(await (await run(first, "SELECT count(*) FROM t")).fetchone())
        await first.commit()
        seen.append(await (await run(second, "SELECT count(*) FROM t")).fetchone())
        return seen

    assert await on_two_connections(step, tmp_path) == [(3,), 3, (0,), (2,), (2,)]


async def test_cursor_keeps_its_rows_over_a_rollback() -> None:
    async def scenario(connection: Any) -> Any:
        await connection.execute("CREATE TABLE test (x)")
        await connection.execute("INSERT INTO test VALUES (5)")
        cursor = await connection.execute("SELECT 1 UNION SELECT 2 UNION SELECT 3")
        await connection.rollback()
        return await cursor.fetchall()

    assert await agree(scenario, since=(3, 11)) == [(1,), (2,), (3,)]


@pytest.mark.parametrize("leave", ["drop", "close", "execute"])
async def test_no_row_comes_twice_after_a_rollback(leave: str) -> None:
    async def scenario(connection: Any) -> Any:
        await connection.executescript("CREATE TABLE t (c); INSERT INTO t VALUES (0), (1), (2)")
        await connection.commit()
        first, second = await connection.cursor(), await connection.cursor()
        await first.execute("BEGIN")
        await first.execute("SELECT c FROM t")
        await connection.rollback()
        await second.execute("SELECT c FROM t")
        if leave == "close":
            await first.close()
        elif leave == "execute":
            await first.execute("SELECT c FROM t WHERE c = 1")
        del first
        return await second.fetchall()

    assert await agree(scenario, since=(3, 11)) == [(0,), (1,), (2,)]


async def test_reading_continues_across_commits() -> None:
    async def scenario(connection: Any) -> Any:
        await connection.executescript("CREATE TABLE t (c); CREATE TABLE t2 (c); INSERT INTO t VALUES (0), (1), (2)")
        cursor = await connection.execute("SELECT c FROM t")
        seen = []
        while (row := await cursor.fetchone()) is not None:
            seen.append(row[0])
            await connection.execute("INSERT INTO t2 VALUES (?)", row)
            await connection.commit()
        return seen

    assert await agree(scenario) == [0, 1, 2]


@pytest.mark.parametrize("sql", ["DROP TABLE test", "PRAGMA count_changes = 1", "PRAGMA page_size"])
async def test_statement_without_implicit_begin_runs_in_an_open_transaction(sql: str) -> None:
    async def scenario(connection: Any) -> Any:
        await connection.execute("CREATE TABLE test (i)")
        await connection.execute("INSERT INTO test VALUES (5)")
        return await told(connection.execute, sql)

    assert await agree(scenario) == NOTHING


@pytest.mark.parametrize("begin, expected", [(None, NOTHING), ("BEGIN", None), ("BEGIN IMMEDIATE", None)])
async def test_ddl_is_part_of_an_explicit_transaction(begin: str | None, expected: Any) -> None:
    async def scenario(connection: Any) -> Any:
        if begin:
            await connection.execute(begin)
        await connection.execute("CREATE TABLE test (i)")
        await connection.rollback()
        return await told(connection.execute, "SELECT * FROM test")

    assert await agree(scenario) == (expected or ("OperationalError", "no such table: test"))


async def test_conflict_that_rolls_back_ends_the_transaction() -> None:
    async def scenario(connection: Any) -> Any:
        await connection.execute("CREATE TABLE foo (x, UNIQUE (x) ON CONFLICT ROLLBACK)")
        await connection.execute("INSERT INTO foo VALUES (1)")
        raised = await told(connection.execute, "INSERT INTO foo VALUES (1)")
        await connection.execute("INSERT INTO foo VALUES (2)")
        return raised[0], await told(connection.commit), await column(connection, "SELECT x FROM foo")

    assert await agree(scenario) == ("IntegrityError", NOTHING, [2])


# -- what is sent ----------------------------------------------------------------------------------


async def traced(connection: Any, *steps: Any) -> list[str]:
    """Return the statements that SQLite saw during the steps, methods with arguments."""
    statements: list[str] = []
    await connection.set_trace_callback(statements.append)
    for verb, *given in steps:
        await verb(*given)
    await connection.set_trace_callback(None)
    return statements


@pytest.mark.parametrize("level, begin", [
    ("", ["BEGIN "]), ("DEFERRED", ["BEGIN DEFERRED"]), ("IMMEDIATE", ["BEGIN IMMEDIATE"]),
    ("EXCLUSIVE", ["BEGIN EXCLUSIVE"]), (None, []),
])  # fmt: skip
@pytest.mark.parametrize("is_set", [False, True])
async def test_isolation_level_is_the_mode_of_begin(level: Any, begin: list[str], is_set: bool) -> None:
    async def scenario(connection: Any) -> Any:
        await connection.execute("CREATE TABLE t (t)")
        connection.isolation_level = level
        await connection.commit()
        return await traced(connection, (connection.execute, INSERT), (connection.commit,))

    options = {} if is_set else {"isolation_level": level}
    assert await agree(scenario, **options) == [*begin, INSERT, *(["COMMIT"] if begin else [])]


async def test_executemany_is_traced_with_its_values() -> None:
    async def scenario(connection: Any) -> Any:
        await connection.execute("CREATE TABLE t (t)")
        many = connection.executemany, "INSERT INTO t VALUES (?)", [(0,), (1,), (2,)]
        return await traced(connection, many, (connection.commit,))

    assert await agree(scenario) == ["BEGIN ", *(f"INSERT INTO t VALUES ({n})" for n in range(3)), "COMMIT"]


async def test_autocommit_returns_what_was_set() -> None:
    for mode in (True, False, LEGACY):
        connection = rapsqlite.connect(":memory:", autocommit=mode)
        assert connection.autocommit is mode
        other = rapsqlite.connect(":memory:")
        assert other.autocommit == LEGACY
        other.autocommit = mode
        assert other.autocommit is mode


@pytest.mark.parametrize("mode", ["a", 12, (), None])
def test_invalid_autocommit_is_refused(mode: Any) -> None:
    with pytest.raises(ValueError, match=r"autocommit must be True, False, or.*LEGACY"):
        rapsqlite.connect(":memory:", autocommit=mode)


@pytest.mark.parametrize("mode, verbs, expected", [
    (False, ["SELECT 1", "commit", "rollback"], ["SELECT 1", "COMMIT", "BEGIN", "ROLLBACK", "BEGIN"]),
    (True, ["CREATE TABLE u (u)", INSERT], ["CREATE TABLE u (u)", INSERT]),
    (True, ["commit"], []), (True, ["rollback"], []), (False, ["commit"], ["COMMIT", "BEGIN"]),
    (LEGACY, [INSERT, "commit"], ["BEGIN ", INSERT, "COMMIT"]),
    (True, ["BEGIN", "script"], ["BEGIN", "SELECT 1"]), (False, ["script"], ["SELECT 1"]),
    (LEGACY, ["BEGIN", "script"], ["BEGIN", "COMMIT", "SELECT 1"]),
])  # fmt: skip
async def test_autocommit_decides_which_statements_are_sent(mode: Any, verbs: list[str], expected: list[str]) -> None:
    async def scenario(connection: Any) -> Any:
        await connection.execute("CREATE TABLE t (t)")
        await connection.commit()
        before = connection.in_transaction
        steps = {
            "commit": (connection.commit,), "rollback": (connection.rollback,),
            "script": (connection.executescript, "SELECT 1"),
        }  # fmt: skip
        sent = await traced(connection, *(steps.get(verb, (connection.execute, verb)) for verb in verbs))
        return before, sent, connection.in_transaction

    before, sent, after = await agree(scenario, since=(3, 12), autocommit=mode)

    assert (before, sent) == (mode is False, expected)
    assert after == (mode is False or (verbs == ["BEGIN", "script"] and mode is True))


@pytest.mark.parametrize("before, after, begin, expected", [
    (False, True, None, ["COMMIT"]), (True, False, None, ["BEGIN"]),
    (True, False, "BEGIN DEFERRED", ["BEGIN DEFERRED"]),
])  # fmt: skip
async def test_changing_autocommit_commits_or_begins(before: bool, after: bool, begin: Any, expected: Any) -> None:
    """Here with the next statement: setting an attribute cannot be awaited."""
    statements: list[str] = []
    async with rapsqlite.connect(":memory:", autocommit=before) as connection:
        await connection.set_trace_callback(statements.append)
        if begin:
            await connection.execute(begin)
        connection.autocommit = after
        await connection.execute("SELECT 1")
        in_transaction = connection.in_transaction
        await connection.set_trace_callback(None)

    assert statements == [*expected, "SELECT 1"]
    assert in_transaction is not after


async def test_closing_rolls_back_under_autocommit_false(database: Path) -> None:
    async with rapsqlite.connect(database, autocommit=True) as connection:
        await connection.execute("CREATE TABLE t (t)")
    connection = await rapsqlite.connect(database, autocommit=False)
    await connection.execute(INSERT)

    await connection.close()

    async with rapsqlite.connect(database) as reader:
        assert await column(reader, "SELECT count(*) FROM t") == [0]


def test_rollback_at_interpreter_exit_calls_no_callback() -> None:
    code = """
import asyncio, warnings
import rapsqlite
warnings.simplefilter("ignore", ResourceWarning)
async def main():
    global connection
    connection = await rapsqlite.connect(":memory:", autocommit=False)
    await connection.set_trace_callback(print)
asyncio.run(main())
"""
    ended = run_python("-c", code)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


# -- two processes ---------------------------------------------------------------------------------

HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
connection.executescript("CREATE TABLE IF NOT EXISTS t (t); BEGIN")
connection.execute("SELECT * FROM t").fetchall()
print("reading", flush=True)
sys.stdin.readline()
connection.execute("ROLLBACK")
connection.execute("BEGIN EXCLUSIVE")  # refused if the other still holds a lock
print("locked", flush=True)
"""


@pytest.fixture
def holder(database: Path) -> subprocess.Popen[str]:
    """A process with a sqlite3 connection that reads."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


async def test_block_that_cannot_commit_releases_its_lock(database: Path, holder: subprocess.Popen[str]) -> None:
    assert holder.stdout is not None
    assert holder.stdin is not None
    with holder, holder.stdout, holder.stdin:
        assert holder.stdout.readline() == "reading\n"
        connection = await rapsqlite.connect(database, timeout=0)
        with pytest.raises(rapsqlite.OperationalError, match="database is locked"):
            async with connection.transaction():
                await connection.execute("INSERT INTO t VALUES ('test')")
        holder.stdin.write("go on\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "locked\n"
        await connection.close()
        holder.stdin.close()
        assert holder.wait() == 0
