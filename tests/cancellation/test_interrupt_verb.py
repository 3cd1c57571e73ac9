"""``interrupt()``: every method, from any task of any loop in any thread, while it computes, waits or copies."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import rapsqlite
from rapsqlite import connect
from rapsqlite._wasm.rings import Rings
from tests.cancellation.interrupting import Interrupter
from tests.cancellation.verbs import verbs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable
    from pathlib import Path

    from anyio.abc import TaskGroup

    from tests.cancellation.verbs import Verb

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT begun() UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n"
ENDLESS_ROWS = "WITH RECURSIVE n(i) AS (SELECT begun() UNION ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE i < 1"
VERBS: dict[str, Verb] = {
    **verbs(ENDLESS, ENDLESS_ROWS),
    "execute_iter": lambda conn: conn.execute_iter(ENDLESS_ROWS).__anext__(),
    "stream": lambda conn: conn.stream(ENDLESS_ROWS).__anext__(),
}


class Begun:
    """An SQL function that signals that its statement is running."""

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
        await connection.execute("CREATE TABLE t (b)")
        yield connection


@pytest.fixture
async def begun(conn: rapsqlite.Connection) -> Begun:
    function = Begun()
    await conn.create_function("begun", 0, function)
    return function


async def twenty_wait(conn: rapsqlite.Connection, begun: Begun, tasks: TaskGroup) -> None:
    """Queue twenty statements behind an endless one; all are to be interrupted."""
    tasks.start_soon(refused, conn.fetch_scalar(ENDLESS))
    await begun.wait()
    for _ in range(20):
        tasks.start_soon(refused, conn.execute("INSERT INTO t VALUES (1)"))
    await anyio.wait_all_tasks_blocked()


async def refused(operation: Awaitable[object]) -> None:
    """Await it and check that it is interrupted. In tasks, where pytest's own ``Failed`` would end anyio's runner."""
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


async def test_signal_handler_can_interrupt_whatever_its_thread_does(conn: rapsqlite.Connection, begun: Begun) -> None:
    """As in sqlite3. It waited for the queue's lock, which the thread that it runs in may hold."""
    guest = conn._state.guest
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(refused, conn.fetch_scalar(ENDLESS))
        await begun.wait()
        with guest._queue.afterwards, guest._queue.lock:
            guest.interrupt()


async def test_interrupt_that_could_not_be_done_at_once_does_not_affect_a_later_statement(
    conn: rapsqlite.Connection,
) -> None:
    """It was done when the statement had been sent, which another task's block held back."""
    guest = conn._state.guest
    entered, interrupted = anyio.Event(), anyio.Event()

    async def block() -> None:
        async with conn.transaction():
            entered.set()
            await interrupted.wait()
            await anyio.wait_all_tasks_blocked()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(block)
        await entered.wait()
        with guest._queue.lock:  # another thread has it, and is late to see what was posted
            guest.interrupt()
        interrupted.set()
        assert await conn.fetch_scalar("SELECT 1") == 1


async def test_queued_statements_are_interrupted_and_later_ones_are_not(
    conn: rapsqlite.Connection, begun: Begun
) -> None:
    async with anyio.create_task_group() as tasks:
        await twenty_wait(conn, begun, tasks)
        await conn.interrupt()
        assert await conn.fetch_scalar("SELECT count(*) FROM t") == 0


async def test_interrupt_key_during_an_interrupt_forgets_no_statement_that_waits_for_a_block(
    conn: rapsqlite.Connection,
) -> None:
    """What is held back was removed before its task was woken: a KeyboardInterrupt in between left the task waiting."""
    guest = conn._state.guest
    held = guest._queue.blocks.held
    place, was_raised = 0, True

    async def insert_after(entered: anyio.Event) -> None:
        await entered.wait()
        await refused(conn.execute("INSERT INTO t VALUES (1)"))

    while was_raised:
        entered = anyio.Event()
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(insert_after, entered)  # outside the block
                async with conn.savepoint():
                    entered.set()
                    while not held:
                        await anyio.lowlevel.checkpoint()
                    interrupter = Interrupter(place)
                    with suppress(KeyboardInterrupt), interrupter:
                        guest.interrupt()
                    if held:  # the exception came before anything was posted
                        guest.interrupt()
        was_raised = bool(interrupter.where)
        place += 1
    assert place > 10
    assert await conn.fetch_scalar("SELECT count(*) FROM t") == 0


async def test_no_queued_statement_begins_during_an_interrupt(
    conn: rapsqlite.Connection, begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The running statement used to be marked first: the guest ended it, and began the next ones before they were
    marked.
    """
    queue, host = conn._state.guest._queue, conn._state.guest.host
    mark = Rings.cancel

    def mark_and_be_preempted(rings: Rings, position: int) -> None:
        mark(rings, position)
        oldest = next(iter(queue._pending.values()), None)
        if oldest is not None and oldest.position == position:
            # The guest proceeds as far as it can: to its end, or to a bell that this thread has to hear.
            while rings.has_unanswered() and not host.ringing:
                time.sleep(0)

    monkeypatch.setattr(Rings, "cancel", mark_and_be_preempted)
    async with anyio.create_task_group() as tasks:
        await twenty_wait(conn, begun, tasks)
        await conn.interrupt()

    assert await conn.fetch_scalar("SELECT count(*) FROM t") == 0


async def test_interrupt_without_a_statement_does_not_affect_the_next(conn: rapsqlite.Connection) -> None:
    """There is nothing to interrupt, and no flag may stay set."""
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


async def test_transaction_continues_after_an_interrupt(conn: rapsqlite.Connection, begun: Begun) -> None:
    async with conn.transaction(scope="children"):
        await conn.execute("INSERT INTO t VALUES (1)")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(refused, conn.fetch_scalar(ENDLESS))
            await begun.wait()
            await conn.interrupt()
        assert conn.in_transaction
        await conn.execute("INSERT INTO t VALUES (2)")

    assert await conn.fetch_all("SELECT b FROM t") == [[1], [2]]


# -- statements with rows left: SQLite counts them as running --------------------------------------

NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"


async def a_cursor(conn: rapsqlite.Connection, _kept: list[object]) -> Any:
    return await conn.execute(NUMBERS)


async def a_prepared_cursor(conn: rapsqlite.Connection, kept: list[object]) -> Any:
    statement = conn.prepare(NUMBERS)
    kept.append(statement)  # if dropped, it would be closed, and its rows with it
    return await statement.execute()


async def a_cursor_of_dicts(conn: rapsqlite.Connection, _kept: list[object]) -> Any:
    conn.row_factory = "dict"
    return await conn.execute(NUMBERS)


async def a_stream(conn: rapsqlite.Connection, _kept: list[object]) -> Any:
    return conn.stream(NUMBERS)


async def chunks(conn: rapsqlite.Connection, _kept: list[object]) -> Any:
    return conn.execute_iter(NUMBERS, chunk_size=7)


async def a_prepared_stream(conn: rapsqlite.Connection, _kept: list[object]) -> Any:
    return conn.prepare(NUMBERS).stream()


OPEN = [a_cursor, a_prepared_cursor, a_cursor_of_dicts, a_stream, chunks, a_prepared_stream]


@pytest.mark.parametrize("begin", OPEN)
@pytest.mark.parametrize("read", [1, 300])
async def test_statement_with_rows_left_is_interrupted(conn: rapsqlite.Connection, begin: Any, read: int) -> None:
    """No fetch is in flight, and the result has no end: fetching the rest would never finish."""
    kept: list[object] = []
    rows = await begin(conn, kept)
    for _ in range(read):
        await rows.__anext__()

    await conn.interrupt()

    with pytest.raises(rapsqlite.OperationalError, match="interrupted") as caught:  # noqa: PT012 - it is a loop
        while True:
            await rows.__anext__()
    assert caught.value.sqlite_errorname == "SQLITE_INTERRUPT"
    with pytest.raises(rapsqlite.OperationalError, match="interrupted"):
        await rows.__anext__()


@pytest.mark.parametrize("begin", [a_cursor, a_prepared_cursor])
async def test_rest_of_an_interrupted_result_is_an_error_until_the_cursor_executes_again(
    conn: rapsqlite.Connection, begin: Any
) -> None:
    kept: list[object] = []
    cursor = await begin(conn, kept)
    await cursor.fetchone()

    await conn.interrupt()

    for _ in range(2):
        with pytest.raises(rapsqlite.OperationalError, match="interrupted"):
            await cursor.fetchall()
    await cursor.execute("SELECT 1")
    assert await cursor.fetchall() == [(1,)]


async def test_prepared_statement_whose_rows_were_interrupted_is_executed_again(conn: rapsqlite.Connection) -> None:
    statement = conn.prepare(NUMBERS + " LIMIT ?")
    cursor = await statement.execute([1_000])
    await conn.interrupt()
    with pytest.raises(rapsqlite.OperationalError, match="interrupted"):
        await cursor.fetchall()

    cursor = await statement.execute([1_000])

    assert len(await cursor.fetchall()) == 1_000


async def test_all_statements_with_rows_left_are_interrupted_and_later_ones_are_not(
    conn: rapsqlite.Connection, begun: Begun
) -> None:
    cursors = [await conn.execute(NUMBERS) for _ in range(5)]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(refused, conn.fetch_scalar(ENDLESS))
        await begun.wait()
        await conn.interrupt()
        later = await conn.execute(NUMBERS + " LIMIT 1000")

    for cursor in cursors:
        with pytest.raises(rapsqlite.OperationalError, match="interrupted"):
            await cursor.fetchall()
    assert len(await later.fetchall()) == 1_000


async def test_interrupted_rows_hold_no_lock(conn: rapsqlite.Connection, database: Path) -> None:
    await conn.execute(f"INSERT INTO t {NUMBERS} LIMIT 1000")
    cursor = await conn.execute("SELECT b FROM t")

    await conn.interrupt()

    async with connect(database, timeout=0, isolation_level=None) as other:
        await other.execute("DELETE FROM t")
    with pytest.raises(rapsqlite.OperationalError, match="interrupted"):
        await cursor.fetchall()


def returning(rows: int) -> str:
    return f"INSERT INTO t {NUMBERS} LIMIT {rows} RETURNING b"


@pytest.mark.parametrize("rows", [0, 1, 10, 1_000])
@pytest.mark.parametrize("within", [False, True])
async def test_change_that_is_interrupted_before_its_last_row_is_undone_as_in_sqlite3(
    conn: rapsqlite.Connection, database: Path, rows: int, within: bool
) -> None:
    """Ten rows arrive with the reply, and sqlite3 has stepped past a single one: then nothing is left to interrupt."""
    with closing(sqlite3.connect(database, isolation_level=None)) as stock:
        if within:
            stock.execute("BEGIN")
        old = stock.execute(returning(rows))
        old.fetchone()
        stock.interrupt()
        with suppress(sqlite3.OperationalError):
            old.fetchall()
        expected = stock.in_transaction, stock.execute("SELECT count(*) FROM t").fetchone()
        if stock.in_transaction:
            stock.execute("ROLLBACK")
        stock.execute("DELETE FROM t")

    if within:
        await conn.execute("BEGIN")
    cursor = await conn.execute(returning(rows))
    await cursor.fetchone()
    await conn.interrupt()
    with suppress(rapsqlite.OperationalError):
        await cursor.fetchall()

    result = await conn.in_transaction_async(), await conn.execute_fetchall("SELECT count(*) FROM t")
    if rows == 10:  # everything computed has arrived
        assert result == (within, [(10,)])
    else:
        assert result == (expected[0], [expected[1]])


async def test_open_blob_does_not_keep_interrupting_statements(conn: rapsqlite.Connection) -> None:
    """SQLite interrupts every statement as long as one is running, and an open blob counts as running."""
    await conn.execute("INSERT INTO t VALUES (zeroblob(3))")
    async with conn.blobopen("t", "b", 1) as blob:
        cursor = await conn.execute(NUMBERS)

        await conn.interrupt()

        with pytest.raises(rapsqlite.OperationalError, match="interrupted"):
            await cursor.fetchall()
        await blob.write(b"new")
        assert await conn.fetch_scalar("SELECT count(*) FROM t") == 1

    assert await conn.fetch_scalar("SELECT b FROM t") == b"new"
