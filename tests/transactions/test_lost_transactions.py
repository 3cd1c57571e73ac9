"""Blocks whose transaction SQLite has rolled back by itself: nothing after that is kept, and they report it.

SQLite ends a transaction on some errors. If a program caught such an error and continued, the second half of its block
would be committed without the first.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import rapsqlite
from rapsqlite import connect
from rapsqlite._loops import current_loop
from tests.cancellation.disturbing import interrupt_next_wait
from tests.played_time import play_time_limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
    from pathlib import Path

    from anyio.abc import TaskGroup

    Work = Callable[[rapsqlite.Connection], Coroutine[Any, Any, object]]
    Act = Callable[[rapsqlite.Connection], Awaitable[object]]

NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
SCHEMA = """
CREATE TABLE t (a UNIQUE, b BLOB);
INSERT INTO t VALUES ('old', zeroblob(3));
CREATE TABLE refusing (a);
CREATE TRIGGER r BEFORE INSERT ON refusing BEGIN SELECT RAISE(ROLLBACK, 'not here'); END;
CREATE TABLE parent (a INTEGER PRIMARY KEY);
CREATE TABLE child (p REFERENCES parent (a) DEFERRABLE INITIALLY DEFERRED);
"""


@pytest.fixture(params=["", None], ids=["implicit", "none"])
async def conn(database: Path, request: pytest.FixtureRequest) -> AsyncIterator[rapsqlite.Connection]:
    """After the loss, the next statement begins a transaction by itself, or commits immediately."""
    with closing(sqlite3.connect(database)) as stock:
        stock.executescript(SCHEMA)
    # Statements are sent by tasks that a block has started.
    async with connect(database, isolation_level=request.param, transaction_scope="children") as connection:
        yield connection


def content(database: Path) -> list[Any]:
    with closing(sqlite3.connect(database)) as stock:
        return [value for (value,) in stock.execute("SELECT a FROM t ORDER BY rowid")]


# -- how a transaction gets lost -------------------------------------------------------------------


async def begin_endless_insert(conn: rapsqlite.Connection, tasks: TaskGroup, insert: Work) -> None:
    """Run ``insert`` in a task, and return once SQLite is executing it."""
    begun = threading.Event()
    await conn.create_function("begun", 0, begun.set)
    tasks.start_soon(insert, conn)
    await anyio.to_thread.run_sync(begun.wait, 5)


ENDLESS = "INSERT INTO t (a) WITH RECURSIVE n(i) AS (SELECT begun() UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"


async def cancelled(conn: rapsqlite.Connection) -> None:
    async with anyio.create_task_group() as tasks:
        await begin_endless_insert(conn, tasks, lambda conn: conn.execute(ENDLESS))
        tasks.cancel_scope.cancel()


async def interrupted(conn: rapsqlite.Connection) -> None:
    async def insert(conn: rapsqlite.Connection) -> None:
        with pytest.raises(rapsqlite.OperationalError, match="interrupted"):
            await conn.execute(ENDLESS)

    async with anyio.create_task_group() as tasks:
        await begin_endless_insert(conn, tasks, insert)
        await conn.interrupt()


async def interrupted_with_rows_left(conn: rapsqlite.Connection) -> None:
    cursor = await conn.execute(f"INSERT INTO t (a) {NUMBERS} LIMIT 1000 RETURNING a")
    await conn.interrupt()
    with pytest.raises(rapsqlite.OperationalError, match="interrupted"):
        await cursor.fetchall()


async def raised_by_a_trigger(conn: rapsqlite.Connection) -> None:
    with pytest.raises(rapsqlite.IntegrityError, match="not here"):
        await conn.execute("INSERT INTO refusing VALUES (1)")


async def on_conflict_rollback(conn: rapsqlite.Connection) -> None:
    with pytest.raises(rapsqlite.IntegrityError, match="UNIQUE"):
        await conn.execute("INSERT OR ROLLBACK INTO t (a) VALUES ('old')")


async def many_on_conflict_rollback(conn: rapsqlite.Connection) -> None:
    with pytest.raises(rapsqlite.IntegrityError, match="UNIQUE"):
        await conn.executemany("INSERT OR ROLLBACK INTO t (a) VALUES (?)", [("new",), ("old",), ("newer",)])


async def returning_on_conflict_rollback(conn: rapsqlite.Connection) -> None:
    with pytest.raises(rapsqlite.IntegrityError, match="UNIQUE"):
        await conn.fetch_all("INSERT OR ROLLBACK INTO t (a) VALUES ('old') RETURNING a")


async def prepared_on_conflict_rollback(conn: rapsqlite.Connection) -> None:
    statement = conn.prepare("INSERT OR ROLLBACK INTO t (a) VALUES (?)")
    with pytest.raises(rapsqlite.IntegrityError, match="UNIQUE"):
        await statement.execute(["old"])
    await statement.close()


async def full(conn: rapsqlite.Connection) -> None:
    await conn.fetch_scalar("PRAGMA max_page_count = 20")
    with pytest.raises(rapsqlite.OperationalError, match="full"):
        await conn.execute("INSERT INTO t VALUES ('large', zeroblob(1000000))")
    await conn.fetch_scalar("PRAGMA max_page_count = 100000")


async def a_collation_that_raises(conn: rapsqlite.Connection) -> None:
    def compare(_left: str, _right: str) -> int:
        raise ValueError

    await conn.create_collation("broken", compare)
    with pytest.raises(rapsqlite.OperationalError, match="collation"):
        await conn.execute("UPDATE t SET a = 'x' WHERE a = 'y' COLLATE broken OR a = 'old' COLLATE broken")


async def a_refused_commit(conn: rapsqlite.Connection) -> None:
    await conn.set_commit_hook(lambda: 1)
    with pytest.raises(rapsqlite.IntegrityError):
        await conn.execute("COMMIT")
    await conn.set_commit_hook(None)


@contextmanager
def failing_once(call: str, code: int) -> Iterator[None]:
    """Let one system call of the guest's fail; SQLite rolls back at once, and needs the calls after it."""
    real = getattr(os, call)
    failed: list[str] = []

    def fail(*arguments: Any) -> Any:
        if not failed and threading.current_thread().name.startswith("rapsqlite"):
            failed.append(call)
            raise OSError(code, os.strerror(code))
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, call, fail)
        yield
    assert failed


async def insert_more_than_the_cache(conn: rapsqlite.Connection, error: str) -> None:
    await conn.execute("PRAGMA cache_size = 1")
    with pytest.raises(rapsqlite.OperationalError, match=error):
        await conn.execute(f"INSERT INTO t SELECT i, zeroblob(10000) FROM ({NUMBERS} LIMIT 100)")


async def io_error(conn: rapsqlite.Connection) -> None:
    with failing_once("pwrite", errno.EIO):
        await insert_more_than_the_cache(conn, "I/O")


async def full_disk(conn: rapsqlite.Connection) -> None:
    with failing_once("pwrite", errno.ENOSPC):
        await insert_more_than_the_cache(conn, "full")


async def io_error_at_the_commit(conn: rapsqlite.Connection) -> None:
    with failing_once("pwrite", errno.EIO), pytest.raises(rapsqlite.OperationalError, match="I/O"):
        await conn.execute("COMMIT")


async def a_progress_handler(conn: rapsqlite.Connection) -> None:
    await conn.set_progress_handler(lambda: True, 1000)
    await insert_endlessly(conn)
    await conn.set_progress_handler(None, 0)


async def insert_endlessly(conn: rapsqlite.Connection) -> None:
    with pytest.raises(rapsqlite.DatabaseError, match=r"interrupted|took"):
        await conn.execute(f"INSERT INTO t (a) {NUMBERS}")


async def insert_too_much(conn: rapsqlite.Connection) -> None:
    with pytest.raises(rapsqlite.DatabaseError, match=r"full|memory"):
        await conn.execute("INSERT INTO t VALUES ('large', hex(zeroblob(15000000)))")


LOSSES = [
    io_error,
    full_disk,
    io_error_at_the_commit,
    a_progress_handler,
    cancelled,
    interrupted,
    interrupted_with_rows_left,
    raised_by_a_trigger,
    on_conflict_rollback,
    many_on_conflict_rollback,
    returning_on_conflict_rollback,
    prepared_on_conflict_rollback,
    full,
    a_collation_that_raises,
    a_refused_commit,
]


async def lose(conn: rapsqlite.Connection) -> None:
    await on_conflict_rollback(conn)


# -- what follows ----------------------------------------------------------------------------------


async def write_blob(conn: rapsqlite.Connection) -> None:
    async with conn.blobopen("t", "b", 1) as blob:
        await blob.write(b"new")


async def in_savepoint(conn: rapsqlite.Connection) -> None:
    async with conn.savepoint():
        await conn.execute("INSERT INTO t (a) VALUES ('late')")


INSERT = "INSERT INTO t (a) VALUES ('late')"
LATE: dict[str, Act] = {
    "execute": lambda conn: conn.execute(INSERT),
    "execute_insert": lambda conn: conn.execute_insert(INSERT),
    "execute_fetchall": lambda conn: conn.execute_fetchall(f"{INSERT} RETURNING a"),
    "executemany": lambda conn: conn.executemany("INSERT INTO t (a) VALUES (?)", [("late",)]),
    "executescript": lambda conn: conn.executescript(f"SELECT 1; {INSERT}"),
    "fetch_all": lambda conn: conn.fetch_all(f"{INSERT} RETURNING a"),
    "prepared": lambda conn: conn.prepare(INSERT).execute(),
    "update": lambda conn: conn.execute("UPDATE t SET a = 'late'"),
    "delete": lambda conn: conn.execute("DELETE FROM t"),
    "create": lambda conn: conn.execute("CREATE TABLE late (a)"),
    "pragma": lambda conn: conn.execute("PRAGMA user_version = 5"),
    "begin()": lambda conn: conn.begin(),
    "BEGIN": lambda conn: conn.execute("BEGIN IMMEDIATE"),
    "SAVEPOINT": lambda conn: conn.execute("SAVEPOINT s"),
    "COMMIT": lambda conn: conn.execute("COMMIT"),
    "commit()": lambda conn: conn.commit(),
    "savepoint()": in_savepoint,
    "blob": write_blob,
}


def is_lost(error: BaseException) -> bool:
    return isinstance(error, rapsqlite.OperationalError) and error.sqlite_errorname == "SQLITE_ABORT_ROLLBACK"


async def check_nothing_is_kept(conn: rapsqlite.Connection, database: Path, loss: Act) -> None:
    """Lose the transaction of a block; neither the block nor what follows the loss is kept, and the next one is."""
    with pytest.raises(rapsqlite.OperationalError, match="has rolled back the transaction of this block") as caught:  # noqa: PT012
        async with conn.transaction():
            await conn.execute("INSERT INTO t (a) VALUES ('half')")
            await loss(conn)
            assert not conn.in_transaction
            with pytest.raises(rapsqlite.OperationalError, match="has rolled back the transaction of this block"):
                await conn.execute(INSERT)

    assert is_lost(caught.value)
    assert content(database) == ["old"]
    async with conn.transaction():
        await conn.execute("INSERT INTO t (a) VALUES ('next')")
    assert content(database) == ["old", "next"]


@pytest.mark.parametrize("loss", LOSSES)
async def test_block_that_lost_its_transaction_keeps_nothing(
    conn: rapsqlite.Connection, database: Path, loss: Act
) -> None:
    await check_nothing_is_kept(conn, database, loss)


LIMITS: list[tuple[rapsqlite.Limits, Act]] = [
    ({"statement_seconds": 0.05}, insert_endlessly),
    ({"statement_steps": 100_000}, insert_endlessly),
    ({"file_bytes": 1_000_000}, insert_too_much),
    ({"memory_bytes": 20_000_000}, insert_too_much),
]


@pytest.mark.parametrize("journal", ["delete", "wal", "memory"])
@pytest.mark.parametrize("limits, loss", LIMITS, ids=lambda value: next(iter(value), "") if type(value) is dict else "")
async def test_block_whose_transaction_a_limit_ended_keeps_nothing(
    database: Path, limits: rapsqlite.Limits, loss: Act, journal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = play_time_limits(monkeypatch)

    async def lose_in_time(conn: rapsqlite.Connection) -> None:
        with clock.running():
            await loss(conn)

    with closing(sqlite3.connect(database)) as stock:
        stock.executescript(SCHEMA)
    async with connect(database, limits=limits, pragmas={"journal_mode": journal}) as conn:
        await check_nothing_is_kept(conn, database, lose_in_time)


@pytest.mark.parametrize("late", LATE)
async def test_changes_are_refused_after_the_loss(conn: rapsqlite.Connection, database: Path, late: str) -> None:
    async def late_in_block() -> None:
        async with conn.transaction():
            await lose(conn)
            with pytest.raises(rapsqlite.OperationalError) as refused:
                await LATE[late](conn)
            assert is_lost(refused.value)

    with closing(sqlite3.connect(database)) as stock:
        before = list(stock.iterdump())
    with pytest.raises(rapsqlite.OperationalError) as caught:
        await late_in_block()

    assert is_lost(caught.value)
    assert not await conn.in_transaction_async()
    with closing(sqlite3.connect(database)) as stock:
        assert list(stock.iterdump()) == before
        assert stock.execute("PRAGMA user_version").fetchone() == (0,)


async def test_reading_and_rolling_back_work_after_the_loss(conn: rapsqlite.Connection, database: Path) -> None:
    reads = []
    with pytest.raises(rapsqlite.OperationalError, match="has rolled back"):  # noqa: PT012 - the block is what is tested
        async with conn.transaction():
            await lose(conn)
            reads.append(await conn.fetch_scalar("SELECT count(*) FROM t"))
            await conn.rollback()
            with pytest.raises(rapsqlite.OperationalError, match="has rolled back"):
                await conn.execute(INSERT)

    assert reads == [1]
    assert content(database) == ["old"]


async def test_exception_that_leaves_a_lost_block_is_propagated_unchanged(
    conn: rapsqlite.Connection, database: Path
) -> None:
    with pytest.raises(KeyError):  # noqa: PT012 - the block is what is tested
        async with conn.transaction():
            await lose(conn)
            raise KeyError
    with pytest.raises(rapsqlite.IntegrityError, match="UNIQUE"):
        async with conn.transaction():
            await conn.execute("INSERT OR ROLLBACK INTO t (a) VALUES ('old')")

    await conn.execute("INSERT INTO t (a) VALUES ('next')")
    await conn.commit()
    assert content(database) == ["old", "next"]


async def test_statements_already_sent_when_the_transaction_is_lost_are_refused(
    conn: rapsqlite.Connection, database: Path
) -> None:
    """A block's tasks send at once; the host learns of the loss when all of them have run."""
    errors: list[BaseException] = []

    async def insert(sql: str) -> None:
        try:
            await conn.execute(sql)
        except rapsqlite.Error as error:
            errors.append(error)

    with pytest.raises(rapsqlite.OperationalError, match="has rolled back"):  # noqa: PT012 - the block is what is tested
        async with conn.transaction(), anyio.create_task_group() as tasks:
            tasks.start_soon(insert, "INSERT OR ROLLBACK INTO t (a) VALUES ('old')")
            for number in range(20):
                tasks.start_soon(insert, f"INSERT INTO t (a) VALUES ('late {number}')")

    assert content(database) == ["old"]
    assert [str(error) for error in errors if not is_lost(error)] == ["UNIQUE constraint failed: t.a"]


# -- savepoints ------------------------------------------------------------------------------------


async def test_loss_caught_around_a_savepoint_still_fails_the_block(conn: rapsqlite.Connection, database: Path) -> None:
    with pytest.raises(rapsqlite.OperationalError, match="has rolled back"):  # noqa: PT012 - the block is what is tested
        async with conn.transaction():
            await conn.execute("INSERT INTO t (a) VALUES ('half')")
            with pytest.raises(rapsqlite.IntegrityError, match="UNIQUE"):
                async with conn.savepoint(), conn.savepoint():
                    await conn.execute("INSERT OR ROLLBACK INTO t (a) VALUES ('old')")
            with pytest.raises(rapsqlite.OperationalError, match="has rolled back"):
                async with conn.savepoint():
                    pytest.fail("there is no transaction to nest in")

    assert content(database) == ["old"]


async def test_loss_caught_in_a_savepoint_fails_all_enclosing_blocks(
    conn: rapsqlite.Connection, database: Path
) -> None:
    told = []
    with pytest.raises(rapsqlite.OperationalError, match="has rolled back"):  # noqa: PT012 - the block is what is tested
        async with conn.transaction():
            try:
                async with conn.savepoint():
                    await lose(conn)
            except rapsqlite.OperationalError as error:
                told.append(is_lost(error))

    assert told == [True]
    assert content(database) == ["old"]


async def test_statement_cancelled_in_a_savepoint_ends_the_whole_block(
    conn: rapsqlite.Connection, database: Path
) -> None:
    """SQLite rolls back the whole transaction, not only the savepoint."""
    with pytest.raises(rapsqlite.OperationalError, match="interrupted"):  # noqa: PT012 - the block is what is tested
        async with conn.transaction():
            await conn.execute("INSERT INTO t (a) VALUES ('half')")
            async with conn.savepoint():
                await cancelled(conn)
            await conn.fetch_all("SELECT * FROM t")

    assert content(database) == ["old"]


async def test_savepoint_without_a_transaction_counts_as_a_block(conn: rapsqlite.Connection, database: Path) -> None:
    with pytest.raises(rapsqlite.OperationalError, match="has rolled back"):  # noqa: PT012 - the block is what is tested
        async with conn.savepoint():
            await conn.execute("INSERT INTO t (a) VALUES ('half')")
            await lose(conn)
            with pytest.raises(rapsqlite.OperationalError, match="has rolled back"):
                await conn.execute(INSERT)

    assert not await conn.in_transaction_async()
    assert content(database) == ["old"]
    async with conn.savepoint():
        await conn.execute("INSERT INTO t (a) VALUES ('next')")
    assert content(database) == ["old", "next"]


async def test_savepoint_object_that_is_entered_within_itself_nests(conn: rapsqlite.Connection, database: Path) -> None:
    savepoint = conn.savepoint("s")
    async with savepoint:
        await conn.execute("INSERT INTO t (a) VALUES (1)")
        with pytest.raises(KeyError):  # noqa: PT012 - the block is what is tested
            async with savepoint:
                await conn.execute("INSERT INTO t (a) VALUES (2)")
                raise KeyError
        assert conn.in_transaction

    assert not conn.in_transaction
    assert content(database) == ["old", 1]


# -- what is no loss -------------------------------------------------------------------------------

OWN_ENDS: dict[str, Act] = {
    "commit()": lambda conn: conn.commit(),
    "rollback()": lambda conn: conn.rollback(),
    "COMMIT": lambda conn: conn.execute("COMMIT"),
    "ROLLBACK": lambda conn: conn.execute("ROLLBACK"),
    "script": lambda conn: conn.executescript("SELECT 1"),  # commits first
}


@pytest.mark.parametrize("end", OWN_ENDS)
async def test_block_that_ends_its_transaction_itself_continues(
    conn: rapsqlite.Connection, database: Path, end: str
) -> None:
    async with conn.transaction():
        await conn.execute("INSERT INTO t (a) VALUES ('first')")
        await OWN_ENDS[end](conn)
        with pytest.raises(rapsqlite.IntegrityError):
            await conn.execute("INSERT INTO t (a) VALUES ('old')")
        await conn.execute("INSERT INTO t (a) VALUES ('second')")

    assert content(database) == (
        ["old", "second"] if end.lower().startswith("rollback") else ["old", "first", "second"]
    )


async def test_script_that_commits_and_then_fails_has_committed(database: Path) -> None:
    async with connect(database, autocommit=True) as conn:
        await conn.execute("CREATE TABLE t (a)")
        async with conn.transaction():
            await conn.execute("INSERT INTO t (a) VALUES ('first')")
            with pytest.raises(rapsqlite.OperationalError, match="no such table"):
                await conn.executescript("COMMIT; SELECT * FROM nowhere")
            await conn.execute("INSERT INTO t (a) VALUES ('second')")

    assert content(database) == ["first", "second"]


async def test_commit_that_is_refused_for_now_loses_nothing(conn: rapsqlite.Connection, database: Path) -> None:
    await conn.execute("PRAGMA foreign_keys = ON")
    async with conn.transaction():
        await conn.execute("INSERT INTO child VALUES (1)")
        with pytest.raises(rapsqlite.IntegrityError, match="FOREIGN KEY"):
            await conn.commit()
        assert conn.in_transaction
        await conn.execute("INSERT INTO parent VALUES (1)")
        await conn.execute("INSERT INTO t (a) VALUES ('kept')")

    assert content(database) == ["old", "kept"]


@pytest.mark.parametrize("error", ["UNIQUE", "no such table"])
async def test_error_that_leaves_the_transaction_open_loses_nothing(
    conn: rapsqlite.Connection, database: Path, error: str
) -> None:
    wrong = "INSERT INTO t (a) VALUES ('old')" if error == "UNIQUE" else "INSERT INTO nowhere VALUES (1)"
    async with conn.transaction():
        await conn.execute("INSERT INTO t (a) VALUES ('first')")
        with pytest.raises(rapsqlite.Error, match=error):
            await conn.execute(wrong)
        await conn.execute("INSERT INTO t (a) VALUES ('second')")

    assert content(database) == ["old", "first", "second"]


async def test_without_a_block_sqlite_decides(conn: rapsqlite.Connection, database: Path) -> None:
    """As in sqlite3: a program that executes BEGIN is responsible for its transaction."""
    await conn.execute("BEGIN")
    await conn.execute("INSERT INTO t (a) VALUES ('half')")
    await lose(conn)
    await conn.execute("INSERT INTO t (a) VALUES ('next')")
    await conn.commit()

    assert content(database) == ["old", "next"]


async def test_block_commits_under_autocommit(database: Path) -> None:
    """``commit()`` does nothing there, as in sqlite3, so the block's transaction stayed open."""
    async with connect(database, autocommit=True) as conn:
        await conn.execute("CREATE TABLE t (a)")
        async with conn.transaction():
            await conn.execute("INSERT INTO t VALUES ('kept')")
        assert not conn.in_transaction
        with pytest.raises(KeyError):  # noqa: PT012 - the block is what is tested
            async with conn.transaction():
                await conn.execute("INSERT INTO t VALUES ('undone')")
                raise KeyError
        assert not conn.in_transaction

    assert content(database) == ["kept"]


async def test_interrupt_key_while_a_block_begins_leaves_no_transaction(
    conn: rapsqlite.Connection, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing awaits the reply any more, and the BEGIN may have run."""
    monkeypatch.setattr(type(current_loop()), "allows_polling", False)
    interrupt_next_wait(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        async with conn.transaction("IMMEDIATE"):
            pytest.fail("it was entered")

    async with conn.transaction():
        await conn.execute("INSERT INTO t (a) VALUES ('next')")
    assert content(database) == ["old", "next"]
