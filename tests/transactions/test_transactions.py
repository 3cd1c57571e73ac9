"""Transactions: implicit ones as in sqlite3, blocks, savepoints, and their queue."""

# mypy: disable-error-code="unreachable"
# mypy assumes that no statement changes in_transaction.

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import rapsqlite
from rapsqlite import LEGACY_TRANSACTION_CONTROL, connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SCHEMA = "CREATE TABLE t (a INTEGER PRIMARY KEY, b)"


@pytest.fixture
async def conn(database: Path) -> AsyncIterator[rapsqlite.Connection]:
    async with connect(database) as connection:
        await connection.execute(SCHEMA)
        yield connection


async def values(conn: rapsqlite.Connection) -> list[Any]:
    return [value for (value,) in await conn.execute_fetchall("SELECT b FROM t ORDER BY a")]


# -- transaction control, compared with sqlite3 ----------------------------------------------------

STEPS = [
    "SELECT 1",
    "INSERT INTO t (b) VALUES (1)",
    "SELECT * FROM t",
    "COMMIT",
    "REPLACE INTO t VALUES (1, 2)",
    "commit()",
    "commit()",
    "UPDATE t SET b = 3",
    "rollback()",
    "rollback()",
    "DELETE FROM t WHERE a = 99",
    "CREATE TABLE u (x)",
    "ROLLBACK",
    "BEGIN IMMEDIATE",
    "INSERT INTO t (b) VALUES (4)",
    "END",
    "PRAGMA user_version = 5",
    "SAVEPOINT s",
    "INSERT INTO t (b) VALUES (5)",
    "RELEASE s",
    "commit()",
    "  /* a comment */ INSERT INTO t (b) VALUES (6)",
    "executemany",
    "executescript",
    "EXPLAIN INSERT INTO t (b) VALUES (7)",
    "commit()",
]

COMMENT_STEP = "  /* a comment */ INSERT INTO t (b) VALUES (6)"


async def step_ours(conn: rapsqlite.Connection, step: str) -> str | None:
    """Do one step and return the name of the error."""
    try:
        if step == "commit()":
            await conn.commit()
        elif step == "rollback()":
            await conn.rollback()
        elif step == "executemany":
            await conn.executemany("INSERT INTO t (b) VALUES (?)", [(8,), (9,)])
        elif step == "executescript":
            await conn.executescript("INSERT INTO t (b) VALUES (10); SELECT 1;")
        else:
            async with conn.execute(step) as cursor:
                await cursor.fetchall()
    except rapsqlite.Error as error:
        return error.sqlite_errorname
    return None


def step_stock(conn: sqlite3.Connection, step: str) -> str | None:
    try:
        if step == "commit()":
            conn.commit()
        elif step == "rollback()":
            conn.rollback()
        elif step == "executemany":
            conn.executemany("INSERT INTO t (b) VALUES (?)", [(8,), (9,)])
        elif step == "executescript":
            conn.executescript("INSERT INTO t (b) VALUES (10); SELECT 1;")
        else:
            conn.execute(step).fetchall()
    except sqlite3.Error as error:
        return getattr(error, "sqlite_errorname", "SQLITE_ERROR")  # Python 3.10 has no such attribute
    return None


MODES: list[dict[str, Any]] = [
    {},
    {"isolation_level": "IMMEDIATE"},
    {"isolation_level": "EXCLUSIVE"},
    {"isolation_level": "deferred"},
    {"isolation_level": None},
]
if sys.version_info >= (3, 12):
    MODES += [{"autocommit": True}, {"autocommit": False}, {"autocommit": LEGACY_TRANSACTION_CONTROL}]


@pytest.mark.parametrize("options", MODES, ids=str)
async def test_transactions_begin_and_end_as_in_sqlite3(tmp_path: Path, options: dict[str, Any]) -> None:
    with closing(sqlite3.connect(tmp_path / "stock.db", **options)) as stock:
        await compare_step_by_step(tmp_path / "ours.db", stock, options)


async def compare_step_by_step(database: Path, stock: sqlite3.Connection, options: dict[str, Any]) -> None:
    conn = await connect(database, **options)
    await conn.execute(SCHEMA)
    stock.execute(SCHEMA)
    await conn.commit()
    stock.commit()

    for step in STEPS:
        if step == COMMENT_STEP and sys.version_info < (3, 11):
            continue  # 3.10 does not see past the comment
        assert await step_ours(conn, step) == step_stock(stock, step), step
        assert conn.in_transaction == stock.in_transaction, step
        assert conn.total_changes == stock.total_changes, step
        assert await conn.execute_fetchall("SELECT * FROM t") == stock.execute("SELECT * FROM t").fetchall(), step
        assert str(conn.isolation_level) == str(stock.isolation_level).replace("deferred", "DEFERRED")  # 3.10
    await conn.close()


@pytest.mark.parametrize(
    "sql",
    [
        "REPLACE INTO t VALUES (1, 1)",
        "WITH v AS (SELECT 1) INSERT INTO t (b) SELECT * FROM v",
        "INSERT INTO t (b) VALUES (1) RETURNING a",
        "WITH v AS (SELECT 1) UPDATE t SET b = 1",
        "DELETE FROM t",
    ],
)
async def test_statement_kind_comes_from_sqlite(conn: rapsqlite.Connection, sql: str) -> None:
    await conn.execute(sql)

    assert conn.in_transaction


async def test_row_that_a_select_locks_opens_no_transaction(conn: rapsqlite.Connection) -> None:
    await conn.execute("SELECT 'INSERT INTO t'")

    assert not conn.in_transaction


async def test_isolation_level_none_commits_before_the_next_statement(conn: rapsqlite.Connection) -> None:
    await conn.execute("INSERT INTO t (b) VALUES (1)")

    conn.isolation_level = None
    await conn.execute("SELECT 1")

    assert not conn.in_transaction
    await conn.rollback()
    assert await values(conn) == [1]


async def test_error_of_a_deferred_commit_is_raised_by_the_next_statement(conn: rapsqlite.Connection) -> None:
    await conn.execute("PRAGMA foreign_keys = ON")
    await conn.execute("CREATE TABLE child (p REFERENCES t (a) DEFERRABLE INITIALLY DEFERRED)")
    await conn.execute("INSERT INTO child VALUES (99)")

    conn.isolation_level = None
    with pytest.raises(rapsqlite.IntegrityError, match="FOREIGN KEY"):
        await conn.execute("SELECT 1")

    assert conn.in_transaction
    await conn.rollback()
    assert not conn.in_transaction
    assert await conn.fetch_scalar("SELECT count(*) FROM child") == 0


async def test_autocommit_can_be_switched(conn: rapsqlite.Connection) -> None:
    conn.autocommit = False
    await conn.fetch_scalar("SELECT 1")
    assert conn.in_transaction
    await conn.execute("INSERT INTO t (b) VALUES (1)")
    await conn.commit()
    assert conn.in_transaction
    await conn.execute("INSERT INTO t (b) VALUES (2)")

    conn.autocommit = True
    await conn.fetch_scalar("SELECT 1")

    assert not conn.in_transaction
    await conn.rollback()
    assert await values(conn) == [1, 2]


async def test_raw_begin_and_end_show_in_the_property(conn: rapsqlite.Connection) -> None:
    await conn.execute("BEGIN")
    assert conn.in_transaction
    assert await conn.in_transaction_async()

    await conn.execute("END")
    assert not conn.in_transaction


async def test_counters_match_sqlite(conn: rapsqlite.Connection) -> None:
    """SQLite counts them; a SELECT in between changes none."""
    await conn.execute("INSERT INTO t VALUES (41, 1), (42, 2)")
    await conn.execute("SELECT 1")

    assert await conn.changes() == 2
    assert await conn.last_insert_rowid() == 42
    assert conn.total_changes == await conn.total_changes_async() == 2


# -- begin, commit, rollback -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", [None, "DEFERRED", "immediate", "EXCLUSIVE"])
async def test_begin_in_every_mode_can_be_rolled_back(conn: rapsqlite.Connection, mode: str | None) -> None:
    """Every mode begins a transaction, and ``rollback`` undoes what was done in it."""
    await conn.begin(mode)
    assert conn.in_transaction
    await conn.execute("INSERT INTO t (b) VALUES (1)")

    await conn.rollback()

    assert not conn.in_transaction
    assert await values(conn) == []


@pytest.mark.parametrize("mode", ["SOMETIMES", "IMMEDIATE; DROP TABLE t", 5])
async def test_unknown_mode_is_refused(conn: rapsqlite.Connection, mode: Any) -> None:
    with pytest.raises(ValueError, match="mode"):
        await conn.begin(mode)
    with pytest.raises(ValueError, match="mode"):
        conn.transaction(mode)


async def test_second_begin_is_refused(conn: rapsqlite.Connection) -> None:
    await conn.begin()

    with pytest.raises(rapsqlite.OperationalError, match="within a transaction"):
        await conn.begin()


async def test_immediate_begin_waits_for_the_lock_and_gives_up(database: Path) -> None:
    async with connect(database) as first, connect(database, timeout=0.05) as second:
        await first.begin("IMMEDIATE")

        with pytest.raises(rapsqlite.OperationalError, match="locked") as caught:
            await second.begin("IMMEDIATE")

        assert caught.value.sqlite_errorname == "SQLITE_BUSY"
        assert not second.in_transaction


# -- transaction blocks ----------------------------------------------------------------------------


async def test_block_commits(conn: rapsqlite.Connection) -> None:
    """On a clean exit; `rollback()` afterwards undoes nothing."""
    async with conn.transaction() as inside:
        assert inside is conn
        assert conn.in_transaction
        await conn.execute("INSERT INTO t (b) VALUES (1)")

    assert not conn.in_transaction
    await conn.rollback()
    assert await values(conn) == [1]


async def test_block_rolls_back_on_an_exception(conn: rapsqlite.Connection) -> None:
    with pytest.raises(KeyError):  # noqa: PT012 - the block is what is tested
        async with conn.transaction():
            await conn.execute("INSERT INTO t (b) VALUES (1)")
            raise KeyError

    assert not conn.in_transaction
    assert await values(conn) == []


async def test_block_rolls_back_if_its_commit_fails(conn: rapsqlite.Connection) -> None:
    await conn.execute("PRAGMA foreign_keys = ON")
    await conn.execute("CREATE TABLE child (p REFERENCES t (a) DEFERRABLE INITIALLY DEFERRED)")

    with pytest.raises(rapsqlite.IntegrityError, match="FOREIGN KEY"):
        async with conn.transaction():
            await conn.execute("INSERT INTO child VALUES (99)")

    assert not conn.in_transaction
    async with conn.transaction():
        assert await conn.fetch_scalar("SELECT count(*) FROM child") == 0


async def test_block_may_end_its_transaction_itself(conn: rapsqlite.Connection) -> None:
    async with conn.transaction():
        await conn.execute("INSERT INTO t (b) VALUES (1)")
        await conn.commit()

    assert await values(conn) == [1]


async def test_block_inside_a_block_of_the_same_task_is_refused(conn: rapsqlite.Connection) -> None:
    async with conn.transaction():
        with pytest.raises(rapsqlite.OperationalError, match="savepoint"):
            async with conn.transaction():
                pytest.fail("the inner block was entered")
        await conn.execute("INSERT INTO t (b) VALUES (1)")

    assert await values(conn) == [1]


async def test_block_object_can_be_entered_only_once(conn: rapsqlite.Connection) -> None:
    block = conn.transaction()
    async with block:
        pass

    with pytest.raises(rapsqlite.ProgrammingError, match="already used"):
        await block.__aenter__()
    async with conn.transaction():
        pass


async def test_block_that_cannot_begin_does_not_block_the_next_one(conn: rapsqlite.Connection) -> None:
    await conn.begin()
    with pytest.raises(rapsqlite.OperationalError, match="within a transaction"):
        async with conn.transaction():
            pytest.fail("the block was entered")
    await conn.rollback()

    async with conn.transaction():
        assert conn.in_transaction


async def test_blocks_run_in_the_order_in_which_tasks_asked(conn: rapsqlite.Connection) -> None:
    order: list[int] = []
    inside = 0

    async def work(number: int, asked: anyio.Event) -> None:
        nonlocal inside
        block = conn.transaction("IMMEDIATE")
        asked.set()
        async with block:
            inside += 1
            assert inside == 1
            order.append(number)
            await conn.execute("INSERT INTO t (b) VALUES (?)", [number])
            await anyio.lowlevel.checkpoint()
            inside -= 1

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            asked = anyio.Event()
            tasks.start_soon(work, number, asked)
            await asked.wait()

    assert order == list(range(20))
    assert await values(conn) == order


async def test_block_gives_up_after_its_timeout(conn: rapsqlite.Connection) -> None:
    entered, tried = anyio.Event(), anyio.Event()

    async def hold() -> None:
        async with conn.transaction():
            entered.set()
            await tried.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold)
        await entered.wait()
        with pytest.raises(rapsqlite.OperationalError, match="longer than") as caught:
            async with conn.transaction(timeout=0.01):
                pytest.fail("the block was entered")
        tried.set()

    assert caught.value.sqlite_errorname == "SQLITE_BUSY"
    async with conn.transaction(timeout=0.01):
        pass


async def test_block_is_entered_within_its_timeout(conn: rapsqlite.Connection) -> None:
    async with conn.transaction(timeout=30):
        await conn.execute("INSERT INTO t (b) VALUES (1)")

    assert await values(conn) == [1]


async def test_waiting_block_that_is_cancelled_leaves_the_queue(conn: rapsqlite.Connection) -> None:
    entered, release = anyio.Event(), anyio.Event()
    reached = []

    async def hold() -> None:
        async with conn.transaction():
            entered.set()
            await release.wait()

    async def wait_in_vain(scope: anyio.CancelScope) -> None:
        with scope:
            async with conn.transaction():
                reached.append("cancelled one")

    async def wait_to_the_end() -> None:
        async with conn.transaction():
            reached.append("next one")

    async with anyio.create_task_group() as tasks:
        scope = anyio.CancelScope()
        tasks.start_soon(hold)
        await entered.wait()
        tasks.start_soon(wait_in_vain, scope)
        tasks.start_soon(wait_to_the_end)
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        release.set()

    assert reached == ["next one"]


# -- blocks in tasks that a block has started ------------------------------------------------------


async def insert_in_block(conn: rapsqlite.Connection, value: object) -> None:
    async with conn.transaction(timeout=30):
        await conn.execute("INSERT INTO t (b) VALUES (?)", [value])


async def refused_in_block(conn: rapsqlite.Connection) -> None:
    with pytest.raises(rapsqlite.ProgrammingError, match="started inside the open transaction"):
        await insert_in_block(conn, "refused")


async def test_block_in_a_task_that_its_block_waits_for_is_refused(conn: rapsqlite.Connection) -> None:
    """Each would wait for the other, forever."""

    async def grandchild() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(refused_in_block, conn)

    async def in_savepoint() -> None:
        async with conn.savepoint():
            await refused_in_block(conn)

    async with conn.transaction(scope="children"):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(refused_in_block, conn)
            tasks.start_soon(grandchild)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(in_savepoint)
        await conn.execute("INSERT INTO t (b) VALUES ('kept')")

    assert await values(conn) == ["kept"]


async def test_thread_started_by_a_block_is_refused_a_block(conn: rapsqlite.Connection) -> None:
    async def refused() -> None:
        with pytest.raises(rapsqlite.Error, match="inside"):  # on Trio it runs in the block's own task
            await insert_in_block(conn, "refused")

    async with conn.transaction():
        await anyio.to_thread.run_sync(lambda: anyio.from_thread.run(refused))


async def test_savepoint_in_a_task_started_by_a_block_is_part_of_the_block(conn: rapsqlite.Connection) -> None:
    async def nest(value: str) -> None:
        async with conn.savepoint(), conn.savepoint():
            await conn.execute("INSERT INTO t (b) VALUES (?)", [value])

    with pytest.raises(KeyError):  # noqa: PT012 - the block is what is tested
        async with conn.transaction(scope="children"):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(nest, "undone")
            raise KeyError

    assert await values(conn) == []


async def test_task_started_by_a_block_may_enter_blocks_after_it(conn: rapsqlite.Connection) -> None:
    """Even if another block is open by then: only the one it was started in could cause a deadlock."""
    over, held, release = anyio.Event(), anyio.Event(), anyio.Event()

    async def later() -> None:
        await over.wait()
        await insert_in_block(conn, "later")

    async def hold() -> None:
        async with conn.transaction():
            held.set()
            await release.wait()
            await conn.execute("INSERT INTO t (b) VALUES ('before')")

    async with anyio.create_task_group() as tasks:
        async with conn.transaction():
            tasks.start_soon(later)
            await anyio.wait_all_tasks_blocked()
        tasks.start_soon(hold)
        await held.wait()
        over.set()
        await anyio.wait_all_tasks_blocked()
        release.set()

    assert await values(conn) == ["before", "later"]


async def test_task_started_by_a_block_may_enter_blocks_of_other_connections(
    conn: rapsqlite.Connection, tmp_path: Path
) -> None:
    async with connect(tmp_path / "other.db") as other:
        await other.execute(SCHEMA)
        async with conn.transaction(), anyio.create_task_group() as tasks:
            tasks.start_soon(insert_in_block, other, "there")

        assert await values(other) == ["there"]


async def test_task_started_before_a_block_waits_for_it(conn: rapsqlite.Connection) -> None:
    entered = anyio.Event()

    async def wait() -> None:
        await entered.wait()
        await insert_in_block(conn, "second")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        async with conn.transaction():
            entered.set()
            await anyio.wait_all_tasks_blocked()
            await conn.execute("INSERT INTO t (b) VALUES ('first')")

    assert await values(conn) == ["first", "second"]


# -- savepoints ------------------------------------------------------------------------------------


async def test_nested_savepoints_are_undone_separately(conn: rapsqlite.Connection) -> None:
    async with conn.transaction():
        await conn.execute("INSERT INTO t (b) VALUES ('kept')")
        with pytest.raises(KeyError):  # noqa: PT012 - the block is what is tested
            async with conn.savepoint():
                await conn.execute("INSERT INTO t (b) VALUES ('undone')")
                async with conn.savepoint():
                    await conn.execute("INSERT INTO t (b) VALUES ('undone too')")
                raise KeyError
        async with conn.savepoint() as savepoint:
            assert savepoint.name
            await conn.execute("INSERT INTO t (b) VALUES ('kept too')")

    assert await values(conn) == ["kept", "kept too"]


@pytest.mark.parametrize("name", ["plain", "with space", 'with "quotes"', "x; DROP TABLE t", "select", "", "é"])
async def test_savepoint_may_have_any_name(conn: rapsqlite.Connection, name: str) -> None:
    with pytest.raises(KeyError):  # noqa: PT012 - the block is what is tested
        async with conn.savepoint(name):
            await conn.execute("INSERT INTO t (b) VALUES (1)")
            raise KeyError
    async with conn.savepoint(name):
        await conn.execute("INSERT INTO t (b) VALUES (2)")

    assert await values(conn) == [2]


async def test_savepoint_name_with_a_null_character_is_refused(conn: rapsqlite.Connection) -> None:
    with pytest.raises(ValueError, match="null character"):
        conn.savepoint("a\0b")


async def test_savepoint_outside_a_transaction_begins_one(conn: rapsqlite.Connection) -> None:
    async with conn.savepoint():
        assert conn.in_transaction
        await conn.execute("INSERT INTO t (b) VALUES (1)")

    assert not conn.in_transaction


async def test_savepoint_survives_the_end_of_its_transaction(conn: rapsqlite.Connection) -> None:
    """SQLite ends a transaction by itself on some errors; the error must reach the caller."""
    with pytest.raises(rapsqlite.IntegrityError, match="all of it"):  # noqa: PT012 - the block is what is tested
        async with conn.transaction(), conn.savepoint():
            await conn.execute("CREATE TRIGGER tr BEFORE INSERT ON t BEGIN SELECT RAISE(ROLLBACK, 'all of it'); END")
            await conn.execute("INSERT INTO t (b) VALUES (1)")

    assert not conn.in_transaction
    async with conn.transaction():
        assert await values(conn) == []
