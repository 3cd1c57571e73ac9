"""Requests that undo, end or release always complete, whatever cancels, interrupts or abandons their task meanwhile.

A cancelled task cleans up with statements. If such a statement is cancelled too, before it has run, half a transaction
stays open, which another task's next commit writes.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

import rapsqlite
from rapsqlite import connect
from rapsqlite._guest.request import undoes
from tests.cancellation.disturbing import cancelled_until_done, interrupt_next_wait
from tests.cancellation.verbs import drain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Form = Callable[[rapsqlite.Connection, str], Awaitable[object]]

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n"


async def in_block(conn: rapsqlite.Connection, sql: str) -> None:
    async with conn.execute(sql) as cursor:
        await cursor.fetchall()


async def by_cursor(conn: rapsqlite.Connection, sql: str) -> None:
    async with conn.cursor() as cursor:
        await cursor.execute(sql)


FORMS: dict[str, Form] = {
    "execute": lambda conn, sql: conn.execute(sql),
    "execute in a block": in_block,
    "Cursor.execute": by_cursor,
    "behind comments": lambda conn, sql: conn.execute(f" ;-- off\n/* with * it */\t{sql.lower()} -- now"),
    "execute_fetchall": lambda conn, sql: conn.execute_fetchall(sql),
    "execute_insert": lambda conn, sql: conn.execute_insert(sql),
    "executescript": lambda conn, sql: conn.executescript(sql),
    "executescript that goes on": lambda conn, sql: conn.executescript(f"{sql};{ENDLESS}"),
    "fetch_all": lambda conn, sql: conn.fetch_all(sql),
    "fetch_optional": lambda conn, sql: conn.fetch_optional(sql),
    "fetch_scalar": lambda conn, sql: conn.fetch_scalar(sql),
    "fetch_blob": lambda conn, sql: conn.fetch_blob(sql),
    "stream": lambda conn, sql: drain(conn.stream(sql)),
    "execute_iter": lambda conn, sql: drain(conn.execute_iter(sql)),
    "prepared execute": lambda conn, sql: conn.prepare(sql).execute(),
    "prepared fetch_all": lambda conn, sql: conn.prepare(sql).fetch_all(),
    "prepared stream": lambda conn, sql: drain(conn.prepare(sql).stream()),
}
ROLLBACKS: dict[str, Callable[[rapsqlite.Connection], Awaitable[object]]] = {
    "rollback()": lambda conn: conn.rollback(),
    **{name: lambda conn, form=form: form(conn, "ROLLBACK") for name, form in FORMS.items()},  # type: ignore[misc]
}


@pytest.fixture
async def conn(database: Path) -> AsyncIterator[rapsqlite.Connection]:
    async with connect(database, isolation_level=None, autocommit=rapsqlite.LEGACY_TRANSACTION_CONTROL) as connection:
        await connection.execute("CREATE TABLE t (a)")
        yield connection


@pytest.fixture
async def plain(database: Path, conn: rapsqlite.Connection) -> AsyncIterator[rapsqlite.Connection]:
    """A connection whose scripts do not commit first."""
    async with connect(database, autocommit=True) as connection:
        yield connection


class Occupied:
    """A connection whose guest is busy with another task's statement, so that new requests are queued."""

    def __init__(self, conn: rapsqlite.Connection) -> None:
        self._conn = conn
        self._scope = anyio.CancelScope()

    async def __aenter__(self) -> Occupied:
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._run)
        await anyio.wait_all_tasks_blocked()
        return self

    async def _run(self) -> None:
        with self._scope:
            await self._conn.fetch_one(ENDLESS)

    async def _free_later(self, act: Callable[[], Awaitable[object]] | None) -> None:
        await anyio.wait_all_tasks_blocked()
        if act is not None:
            await act()
        self._scope.cancel()

    def free_later(self, act: Callable[[], Awaitable[object]] | None = None) -> None:
        """Once all tasks are blocked, call ``act`` and end the other task's statement."""
        self._tasks.start_soon(self._free_later, act)

    async def __aexit__(self, *exc_info: object) -> None:
        await self._tasks.__aexit__(*exc_info)  # type: ignore[arg-type]


async def cancelled_in_the_queue(conn: rapsqlite.Connection, act: Callable[[], Awaitable[object]]) -> anyio.CancelScope:
    """Await ``act`` in a cancelled scope, its request behind another task's; return the scope."""
    async with Occupied(conn) as occupied:
        with anyio.CancelScope() as scope:
            occupied.free_later()
            scope.cancel()
            await act()
    return scope


def content(database: Path) -> list[Any]:
    with closing(sqlite3.connect(database)) as stock:
        return [value for (value,) in stock.execute("SELECT a FROM t ORDER BY rowid")]


async def half(conn: rapsqlite.Connection) -> None:
    await conn.execute("BEGIN")
    await conn.execute("INSERT INTO t VALUES ('half')")


async def assert_undone(conn: rapsqlite.Connection, database: Path) -> None:
    """The next committed transaction contains nothing of the half that was to be undone."""
    await conn.execute("BEGIN")
    await conn.execute("INSERT INTO t VALUES ('next')")
    await conn.execute("COMMIT")
    assert content(database) == ["next"]


@pytest.mark.parametrize("rollback", ROLLBACKS)
async def test_rollback_in_a_cancelled_scope_completes(
    database: Path, plain: rapsqlite.Connection, rollback: str
) -> None:
    plain.autocommit = rapsqlite.LEGACY_TRANSACTION_CONTROL if rollback == "rollback()" else True
    await half(plain)

    with anyio.CancelScope() as scope:
        try:
            scope.cancel()
            await anyio.lowlevel.checkpoint()
        finally:
            await ROLLBACKS[rollback](plain)

    await assert_undone(plain, database)


@pytest.mark.parametrize("rollback", ROLLBACKS)
async def test_rollback_cancelled_in_the_queue_completes(
    database: Path, plain: rapsqlite.Connection, rollback: str
) -> None:
    plain.autocommit = rapsqlite.LEGACY_TRANSACTION_CONTROL if rollback == "rollback()" else True
    await half(plain)

    await cancelled_in_the_queue(plain, lambda: ROLLBACKS[rollback](plain))

    assert not plain.in_transaction
    await assert_undone(plain, database)


@pytest.mark.parametrize("rollback", sorted(set(ROLLBACKS) - {"executescript that goes on"}))
async def test_interrupt_does_not_affect_a_queued_rollback(
    database: Path, plain: rapsqlite.Connection, rollback: str
) -> None:
    plain.autocommit = rapsqlite.LEGACY_TRANSACTION_CONTROL if rollback == "rollback()" else True
    await half(plain)
    async with connect(database) as other:  # so that only the interrupt ends the statement in front
        assert await other.fetch_all("SELECT * FROM t") == []

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(interrupted, plain)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(plain.interrupt)
        await ROLLBACKS[rollback](plain)

    await assert_undone(plain, database)


async def interrupted(conn: rapsqlite.Connection) -> None:
    try:
        await conn.fetch_one(ENDLESS)
    except rapsqlite.OperationalError as error:
        assert error.sqlite_errorname == "SQLITE_INTERRUPT"  # noqa: PT017 - in a task, pytest.raises cannot be used


@pytest.mark.parametrize("rollback", sorted(set(ROLLBACKS) - {"executescript that goes on"}))
async def test_rollback_completes_after_an_interrupt_key_ends_the_wait_for_it(
    database: Path, plain: rapsqlite.Connection, rollback: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain.autocommit = rapsqlite.LEGACY_TRANSACTION_CONTROL if rollback == "rollback()" else True
    await half(plain)

    async with Occupied(plain) as occupied:
        interrupt_next_wait(monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            await ROLLBACKS[rollback](plain)
        occupied.free_later()

    await assert_undone(plain, database)


@pytest.mark.parametrize("form", sorted(set(FORMS) - {"executescript that goes on"}))
async def test_savepoint_is_undone_and_released_by_a_cancelled_task(
    database: Path, plain: rapsqlite.Connection, form: str
) -> None:
    await plain.execute("BEGIN")
    await plain.execute("INSERT INTO t VALUES ('before')")
    await plain.execute("SAVEPOINT s")
    await plain.execute("INSERT INTO t VALUES ('undone')")

    await cancelled_in_the_queue(plain, lambda: FORMS[form](plain, "ROLLBACK TO s"))
    with anyio.CancelScope() as scope:
        scope.cancel()
        await FORMS[form](plain, "RELEASE s")

    with pytest.raises(rapsqlite.OperationalError, match="no such savepoint"):
        await plain.execute("RELEASE s")
    await plain.execute("COMMIT")
    assert content(database) == ["before"]


async def test_cancelled_script_stops_after_its_clean_up_statements(
    database: Path, plain: rapsqlite.Connection
) -> None:
    await plain.execute("SAVEPOINT s")
    await plain.execute("INSERT INTO t VALUES ('undone')")

    scope = await cancelled_in_the_queue(
        plain, lambda: plain.executescript("ROLLBACK TO s; RELEASE s; INSERT INTO t VALUES ('not reached')")
    )

    assert scope.cancelled_caught
    assert not plain.in_transaction
    await assert_undone(plain, database)


async def test_cancelled_script_that_would_commit_first_is_not_run(database: Path, conn: rapsqlite.Connection) -> None:
    """sqlite3's executescript commits an open transaction: a ROLLBACK in it would be too late to undo anything."""
    await half(conn)

    scope = await cancelled_in_the_queue(conn, lambda: conn.executescript("ROLLBACK"))

    assert scope.cancelled_caught
    await conn.rollback()
    await assert_undone(conn, database)


@pytest.mark.parametrize("setting", ["isolation_level", "autocommit=True", "autocommit=False"])
async def test_pending_setting_is_applied_although_the_next_statement_is_cancelled(
    database: Path, conn: rapsqlite.Connection, setting: str
) -> None:
    """sqlite3 commits, or begins, when the attribute is set: a later cancellation of the task changes nothing."""
    if setting == "autocommit=False":
        conn.autocommit = False
    else:
        await half(conn)
        if setting == "isolation_level":
            conn.isolation_level = None
        else:
            conn.autocommit = True

    await cancelled_in_the_queue(conn, conn.rollback)

    assert content(database) == ([] if setting == "autocommit=False" else ["half"])
    assert conn.in_transaction == (setting == "autocommit=False")


async def test_cancelled_rollback_begins_the_next_transaction_under_autocommit_false(database: Path) -> None:
    async with connect(database, autocommit=False) as conn:
        await conn.execute("CREATE TABLE t (a)")
        await conn.commit()
        await conn.execute("INSERT INTO t VALUES ('half')")

        await cancelled_in_the_queue(conn, conn.rollback)

        assert await conn.in_transaction_async()
        await conn.execute("INSERT INTO t VALUES ('next')")
        await conn.commit()
    assert content(database) == ["next"]


async def test_commit_cancelled_in_the_queue_does_not_happen(database: Path, conn: rapsqlite.Connection) -> None:
    """A cancellation means that it has not happened; a commit is not clean-up."""
    for commit in (partial(conn.execute, "COMMIT"), partial(conn.execute, "END"), conn.commit):
        await half(conn)
        scope = await cancelled_in_the_queue(conn, commit)
        assert scope.cancelled_caught
        assert content(database) == []
        await conn.rollback()
    await assert_undone(conn, database)


async def test_close_of_a_blob_by_a_cancelled_task_completes_first(database: Path, conn: rapsqlite.Connection) -> None:
    """Closing commits what was written: cancelled in the queue, it still happened, but later."""
    await conn.execute("INSERT INTO t VALUES (zeroblob(3))")
    blob = await conn.blobopen("t", "a", 1)
    await blob.write(b"new")

    async with Occupied(conn) as occupied:
        with anyio.CancelScope() as scope:
            occupied.free_later()
            scope.cancel()
            await blob.close()
            assert content(database) == [b"new"]

    assert content(database) == [b"new"]


async def test_cancellation_is_raised_at_the_next_statement(database: Path, conn: rapsqlite.Connection) -> None:
    await half(conn)
    reached = []

    async with Occupied(conn) as occupied:
        with anyio.CancelScope() as scope:
            occupied.free_later()
            scope.cancel()
            await conn.rollback()
            reached.append("rolled back")
            await conn.execute("INSERT INTO t VALUES ('not reached')")
            await anyio.lowlevel.checkpoint()
            reached.append("went on")

    assert scope.cancelled_caught
    assert "went on" not in reached
    await conn.execute("DELETE FROM t")  # on asyncio a statement that is answered immediately may be done
    await assert_undone(conn, database)


def test_task_cancelled_at_every_turn_still_rolls_back(database: Path) -> None:
    async def main() -> None:
        async with connect(database) as conn:
            await conn.execute("CREATE TABLE t (a)")
            entered = asyncio.Event()

            async def work() -> None:
                await conn.execute("INSERT INTO t VALUES ('half')")
                try:
                    entered.set()
                    await asyncio.sleep(60)
                finally:
                    await conn.rollback()

            for _ in range(30):
                entered.clear()
                await cancelled_until_done(work(), entered)
                assert not conn.in_transaction
            await assert_undone(conn, database)

    asyncio.run(main())


@pytest.mark.parametrize(
    "sql",
    [
        "ROLLBACK",
        "rollback to s",
        "Release s",
        ";\ufeff \n/* a */--b\nROLLBACK;",
        "ROLLBACK/**/",
        "/***/ROLLBACK",
        "RELEASE[s]",
    ],
)
def test_rollback_is_recognised_after_comments_and_blanks(sql: str) -> None:
    assert undoes(sql.encode())


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "COMMIT",
        "EXPLAIN ROLLBACK",
        "ROLLBACKS",
        "ROLLBACK$",
        "rollbacké",
        "-- ROLLBACK",
        "/* ROLLBACK",
        "/*/ROLLBACK",
        "SELECT 1; ROLLBACK",
    ],
)
def test_other_statements_are_not_taken_for_a_rollback(sql: str) -> None:
    assert not undoes(sql.encode())


def test_skipping_comments_takes_linear_time() -> None:
    assert not undoes(b"/* a */ -- b\n" * 50_000 + b"SELECT 1")
    assert not undoes(b"/*" + b"*" * 500_000)
