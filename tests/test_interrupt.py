"""``interrupt()``: every verb, from any task of any loop in any thread, while it computes, waits or copies."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import rapsqlite
from rapsqlite import connect
from rapsqlite._rings import Rings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from anyio.abc import TaskGroup

    Verb = Callable[[rapsqlite.Connection], Awaitable[object]]

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT begun() UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n"
ENDLESS_ROWS = "WITH RECURSIVE n(i) AS (SELECT begun() UNION ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE i < 1"
VERBS: dict[str, Verb] = {
    "execute": lambda conn: conn.execute(ENDLESS),
    "execute_fetchall": lambda conn: conn.execute_fetchall(ENDLESS),
    "execute_insert": lambda conn: conn.execute_insert(f"INSERT INTO t {ENDLESS}"),
    "executemany": lambda conn: conn.executemany(f"INSERT INTO t SELECT ? FROM ({ENDLESS})", [(1,)] * 5),
    "executescript": lambda conn: conn.executescript(f"SELECT 1; {ENDLESS}; SELECT 2"),
    "fetch_all": lambda conn: conn.fetch_all(ENDLESS_ROWS),
    "fetch_one": lambda conn: conn.fetch_one(ENDLESS),
    "fetch_optional": lambda conn: conn.fetch_optional(ENDLESS),
    "fetch_scalar": lambda conn: conn.fetch_scalar(ENDLESS),
    "fetch_blob": lambda conn: conn.fetch_blob(ENDLESS),
    "execute_iter": lambda conn: conn.execute_iter(ENDLESS_ROWS).__anext__(),
    "stream": lambda conn: conn.stream(ENDLESS_ROWS).__anext__(),
    "prepared": lambda conn: conn.prepare(ENDLESS).fetch_one(),
}


class Begun:
    """An SQL function that says that its statement runs."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self) -> int:
        self.event.set()
        return 1

    async def wait(self) -> None:
        await anyio.to_thread.run_sync(self.event.wait, 30)


@pytest.fixture
async def conn(database: Path) -> AsyncIterator[rapsqlite.Connection]:
    async with connect(database, isolation_level=None) as connection:
        await connection.execute("CREATE TABLE t (a)")
        yield connection


@pytest.fixture
async def begun(conn: rapsqlite.Connection) -> Begun:
    function = Begun()
    await conn.create_function("begun", 0, function)
    return function


async def twenty_wait(conn: rapsqlite.Connection, begun: Begun, tasks: TaskGroup) -> None:
    """Have twenty statements wait for one that does not end; all are to be interrupted."""
    tasks.start_soon(refused, conn.fetch_scalar(ENDLESS))
    await begun.wait()
    for _ in range(20):
        tasks.start_soon(refused, conn.execute("INSERT INTO t VALUES (1)"))
    await anyio.wait_all_tasks_blocked()


async def refused(operation: Awaitable[object]) -> None:
    """Await it and see it interrupted. It is run in tasks: pytest's own ``Failed`` there would end anyio's runner."""
    outcome = None
    try:
        await operation
    except rapsqlite.OperationalError as error:
        outcome = error
    assert outcome is not None
    assert "interrupted" in str(outcome)
    assert outcome.sqlite_errorname == "SQLITE_INTERRUPT"


@pytest.mark.parametrize("verb", sorted(VERBS))
async def test_every_verb_is_interrupted_by_another_task(conn: rapsqlite.Connection, begun: Begun, verb: str) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(refused, VERBS[verb](conn))
        await begun.wait()
        await conn.interrupt()

    assert await conn.fetch_all("SELECT * FROM t") == []
    assert not conn.in_transaction


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
async def test_loop_of_another_thread_interrupts(conn: rapsqlite.Connection, begun: Begun, backend: str) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(refused, conn.fetch_scalar(ENDLESS))
        await begun.wait()
        await anyio.to_thread.run_sync(lambda: anyio.run(conn.interrupt, backend=backend))

    assert await conn.fetch_scalar("SELECT 1") == 1


async def test_plain_thread_interrupts_through_the_loop(conn: rapsqlite.Connection, begun: Begun) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(refused, conn.fetch_scalar(ENDLESS))
        await begun.wait()
        await anyio.to_thread.run_sync(lambda: anyio.from_thread.run(conn.interrupt))


async def test_all_that_wait_their_turn_are_interrupted_and_later_ones_are_not(
    conn: rapsqlite.Connection, begun: Begun
) -> None:
    async with anyio.create_task_group() as tasks:
        await twenty_wait(conn, begun, tasks)
        await conn.interrupt()
        assert await conn.fetch_scalar("SELECT count(*) FROM t") == 0


async def test_none_that_waits_begins_while_the_others_are_being_interrupted(
    conn: rapsqlite.Connection, begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The running statement was marked first: the guest ended it, and began the next ones before they were marked."""
    traffic, host = conn._session.guest._traffic, conn._session.guest.host
    mark = Rings.cancel

    def mark_and_be_preempted(rings: Rings, position: int) -> None:
        mark(rings, position)
        oldest = traffic.oldest()
        if oldest is not None and oldest.position == position:
            # The guest goes as far as it gets: to its end, or to a bell that this thread has to hear.
            while rings.has_unanswered() and not host.ringing:
                time.sleep(0)

    monkeypatch.setattr(Rings, "cancel", mark_and_be_preempted)
    async with anyio.create_task_group() as tasks:
        await twenty_wait(conn, begun, tasks)
        await conn.interrupt()

    assert await conn.fetch_scalar("SELECT count(*) FROM t") == 0


async def test_nothing_to_interrupt(conn: rapsqlite.Connection) -> None:
    for _ in range(100):
        await conn.interrupt()
        assert await conn.fetch_scalar("SELECT 1") == 1
    await conn.close()
    with pytest.raises(rapsqlite.ProgrammingError, match="closed"):
        await conn.interrupt()


async def test_statement_that_waits_for_a_lock_is_interrupted(conn: rapsqlite.Connection, database: Path) -> None:
    waiting = threading.Event()

    async def insert() -> None:
        with pytest.raises(rapsqlite.OperationalError) as caught:
            await conn.execute("INSERT INTO t VALUES (1)")
        assert caught.value.sqlite_errorname in ("SQLITE_INTERRUPT", "SQLITE_BUSY")

    def wait(_attempt: int) -> bool:
        waiting.set()
        return True

    await conn.set_busy_handler(wait)
    async with connect(database) as other, anyio.create_task_group() as tasks:
        await other.begin("IMMEDIATE")
        tasks.start_soon(insert)
        await anyio.to_thread.run_sync(waiting.wait, 30)
        await conn.interrupt()

    assert await conn.fetch_all("SELECT * FROM t") == []


async def test_transaction_goes_on_after_an_interrupt(conn: rapsqlite.Connection, begun: Begun) -> None:
    async with conn.transaction():
        await conn.execute("INSERT INTO t VALUES (1)")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(refused, conn.fetch_scalar(ENDLESS))
            await begun.wait()
            await conn.interrupt()
        assert conn.in_transaction
        await conn.execute("INSERT INTO t VALUES (2)")

    assert await conn.fetch_all("SELECT a FROM t") == [[1], [2]]


async def test_rows_that_are_still_to_come_are_interrupted_only_if_they_are_asked_for(
    conn: rapsqlite.Connection,
) -> None:
    """A cursor with rows left works at nothing, so there is nothing to interrupt."""
    numbers = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 50000) SELECT i FROM n"
    cursor: Any = await conn.execute(numbers)
    await cursor.fetchone()

    await conn.interrupt()

    assert len(await cursor.fetchall()) == 49_999
