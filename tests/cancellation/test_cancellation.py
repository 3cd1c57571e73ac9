"""Cancelled tasks: the statement stops, the connection stays usable, and the reported outcome is the true one."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import sqlite3
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

import rapsqlite
from rapsqlite import connect
from rapsqlite._guest.request import PendingRequest
from rapsqlite._loops import current_loop
from rapsqlite._loops.ticket import wait_shielded
from tests.callbacks.lingering import Blocked, started
from tests.cancellation.disturbing import cancelled_until_done
from tests.cancellation.verbs import verbs
from tests.threads import threads_but_trios

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
    from pathlib import Path

    from tests.cancellation.verbs import Verb

    Work = Callable[[rapsqlite.Connection, list[int]], Coroutine[Any, Any, None]]

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n"
SLOW_ROWS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE i % 100000 = 0"
NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?) SELECT i FROM n"

PROMPTLY_S = 0.05  # for how long a cancelled statement uses a processor


@pytest.fixture
async def conn() -> AsyncIterator[rapsqlite.Connection]:
    async with connect(":memory:") as connection:
        await connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
        yield connection


async def fetch_slow_rows(conn: rapsqlite.Connection) -> None:
    async with conn.execute(SLOW_ROWS) as cursor:
        await cursor.fetchall()


VERBS: dict[str, Verb] = {
    **verbs(ENDLESS, SLOW_ROWS),
    "fetchall": fetch_slow_rows,
}


@pytest.mark.parametrize("verb", VERBS)
async def test_every_verb_stops_and_leaves_the_connection_usable(conn: rapsqlite.Connection, verb: str) -> None:
    """A connection whose statement does not stop is not usable."""
    with anyio.move_on_after(0.02) as scope:
        await VERBS[verb](conn)

    assert scope.cancelled_caught
    assert await conn.fetch_scalar("SELECT 1") == 1
    await conn.rollback()
    assert await conn.fetch_scalar("SELECT count(*) FROM t") == 0


async def test_statement_stops_promptly(conn: rapsqlite.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """In processor time: how long others use the processors meanwhile does not count."""
    cancelled_at = 0.0
    on_cancel = PendingRequest.on_cancel

    def noted(request: PendingRequest) -> None:
        nonlocal cancelled_at
        cancelled_at = time.process_time()
        on_cancel(request)

    monkeypatch.setattr(PendingRequest, "on_cancel", noted)
    used = []
    for _ in range(20):
        with anyio.move_on_after(0.01):
            await conn.fetch_one(ENDLESS)
        used.append(time.process_time() - cancelled_at)

    assert sorted(used)[len(used) // 2] < PROMPTLY_S


async def test_queued_statement_is_not_run(conn: rapsqlite.Connection) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(conn.fetch_one, ENDLESS)
        await anyio.wait_all_tasks_blocked()
        with anyio.move_on_after(0.01) as scope:
            await conn.execute("INSERT INTO t (b) VALUES (1)")
            pytest.fail("the statement overtook the one before it")
        tasks.cancel_scope.cancel()

    assert scope.cancelled_caught
    assert await conn.fetch_scalar("SELECT count(*) FROM t") == 0


async def test_cancelling_one_task_does_not_affect_others(conn: rapsqlite.Connection) -> None:
    results = []

    async def count() -> None:
        results.append(await conn.fetch_scalar(f"SELECT count(*) FROM ({NUMBERS})", [200_000]))

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(count)
        await anyio.wait_all_tasks_blocked()
        with anyio.move_on_after(0):
            await conn.fetch_one(ENDLESS)
        tasks.start_soon(count)

    assert results == [200_000] * 4


async def test_fetch_after_a_cancelled_fetch_raises_instead_of_returning_part(conn: rapsqlite.Connection) -> None:
    cursor = await conn.execute(NUMBERS + " WHERE i < 300 OR i % 1000000 = 0", [1_000_000_000])
    await cursor.fetchmany(10)
    with anyio.move_on_after(0.02) as scope:
        await cursor.fetchall()
    assert scope.cancelled_caught

    with pytest.raises(rapsqlite.OperationalError, match="interrupted"):
        await cursor.fetchall()

    await cursor.execute("SELECT 1")
    assert await cursor.fetchall() == [(1,)]


STREAMS: dict[str, Callable[[rapsqlite.Connection], Any]] = {
    "stream": lambda conn: conn.stream(ENDLESS),
    "execute_iter": lambda conn: conn.execute_iter(ENDLESS),
    "prepared": lambda conn: conn.prepare(ENDLESS).stream(),
}


@pytest.mark.parametrize("name", STREAMS)
async def test_stream_that_was_cancelled_before_its_first_row_is_not_an_empty_result(
    conn: rapsqlite.Connection, name: str
) -> None:
    rows = STREAMS[name](conn)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anext, rows)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()

    for _ in range(2):
        with pytest.raises(rapsqlite.OperationalError, match="lost") as caught:
            await anext(rows)
        assert caught.value.sqlite_errorname == "SQLITE_INTERRUPT"


async def test_interrupt_stops_the_running_statement(conn: rapsqlite.Connection) -> None:
    caught: list[rapsqlite.OperationalError] = []

    async def run() -> None:
        with pytest.raises(rapsqlite.OperationalError, match="interrupted") as error:
            await conn.fetch_one(ENDLESS)
        caught.append(error.value)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await anyio.wait_all_tasks_blocked()
        await conn.interrupt()

    assert caught[0].sqlite_errorname == "SQLITE_INTERRUPT"
    assert await conn.fetch_scalar("SELECT 1") == 1


async def test_transaction_block_that_is_cancelled_is_rolled_back(conn: rapsqlite.Connection) -> None:
    with anyio.move_on_after(0.02) as scope:
        async with conn.transaction():
            await conn.execute("INSERT INTO t (b) VALUES (1)")
            await anyio.sleep_forever()

    assert scope.cancelled_caught
    assert not conn.in_transaction
    async with conn.transaction():
        assert await conn.fetch_scalar("SELECT count(*) FROM t") == 0


async def test_savepoint_block_that_is_cancelled_is_undone(conn: rapsqlite.Connection) -> None:
    async with conn.transaction():
        await conn.execute("INSERT INTO t (b) VALUES ('kept')")
        with anyio.move_on_after(0.02):
            async with conn.savepoint():
                await conn.execute("INSERT INTO t (b) VALUES ('undone')")
                await anyio.sleep_forever()

    assert await conn.fetch_all("SELECT b FROM t") == [["kept"]]


async def test_connection_block_that_is_cancelled_rolls_back_and_closes(database: Path) -> None:
    async with connect(database) as conn:
        await conn.execute("CREATE TABLE t (a)")

    with anyio.move_on_after(0.05) as scope:
        async with connect(database) as conn:
            await conn.execute("INSERT INTO t VALUES (1)")
            await anyio.sleep_forever()

    assert scope.cancelled_caught
    assert not conn.is_alive()
    async with connect(database) as conn:
        assert await conn.fetch_scalar("SELECT count(*) FROM t") == 0


async def test_opening_can_be_cancelled(database: Path) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with connect(database):
            pytest.fail("it was opened")

    assert scope.cancelled_caught
    for thread in threading.enumerate():
        if thread.name == f"rapsqlite {database}":
            thread.join(10)
            assert not thread.is_alive()


async def test_cancelled_commit_is_reported_truthfully(tmp_path: Path) -> None:
    """Cancelled at random points of a commit: committed if it returned, not committed if it raised."""
    database = tmp_path / "commits.db"
    randomness = random.Random(4)
    told: dict[int, bool] = {}
    async with connect(database) as conn:
        await conn.execute("PRAGMA synchronous = OFF")
        await conn.execute("CREATE TABLE t (a INTEGER PRIMARY KEY)")
        for number in range(300):
            await conn.execute("INSERT INTO t VALUES (?)", [number])
            told[number] = False
            with anyio.move_on_after(randomness.random() * 0.0006):
                await conn.commit()
                told[number] = True
            await conn.rollback()

    with sqlite3.connect(database) as stock:
        committed = {number for (number,) in stock.execute("SELECT a FROM t")}
    stock.close()
    assert committed == {number for number, done in told.items() if done}
    assert any(told.values())


async def test_row_exists_if_and_only_if_the_insert_returned(conn: rapsqlite.Connection) -> None:
    conn.isolation_level = None
    randomness = random.Random(5)
    done = []
    for number in range(1_000):
        with anyio.move_on_after(randomness.random() * 0.0002):
            await conn.execute("INSERT INTO t VALUES (?, 1)", [number])
            done.append([number])

    assert await conn.fetch_all("SELECT a FROM t") == done


OPERATIONS = 10_000


@pytest.mark.timeout(300)
async def test_ten_thousand_random_cancellations_leak_nothing(conn: rapsqlite.Connection) -> None:
    randomness = random.Random(6)
    await conn.executemany("INSERT INTO t VALUES (?, ?)", [(i, str(i)) for i in range(1_000)])
    await conn.commit()
    statements = (await conn.statistics())["open_statements"]
    threads = threads_but_trios()
    wrong: list[object] = []
    finished = 0

    async def point(key: int) -> None:
        if await conn.fetch_one("SELECT b FROM t WHERE a = ?", [key]) != [str(key)]:
            wrong.append(key)

    async def stream(key: int) -> None:
        async with conn.execute(NUMBERS, [700]) as cursor:
            expected = 1
            async for (number,) in cursor:
                if number != expected:
                    wrong.append(("stream", number, expected))
                expected += 1

    async def whole(key: int) -> None:
        if len(await conn.fetch_all("SELECT * FROM t")) != 1_000:
            wrong.append("whole")

    async def write(key: int) -> None:
        async with conn.transaction():
            await conn.execute("UPDATE t SET b = b WHERE a = ?", [key])

    async def one(verb: Callable[[int], Awaitable[None]], key: int, delay_s: float) -> None:
        nonlocal finished
        with anyio.move_on_after(delay_s):
            await verb(key)
            finished += 1

    verbs = [point, point, point, stream, whole, write]
    for _ in range(OPERATIONS // 50):
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                verb, key = randomness.choice(verbs), randomness.randrange(1_000)
                tasks.start_soon(one, verb, key, randomness.random() * 0.02)
    gc.collect()

    assert not wrong
    assert 0 < finished < OPERATIONS
    assert (await conn.statistics())["open_statements"] == statements
    assert threads_but_trios() <= threads  # earlier tests' threads may have ended
    assert not conn.in_transaction
    assert await conn.fetch_all("SELECT * FROM t") == [[i, str(i)] for i in range(1_000)]


# -- asyncio's own ways to cancel ------------------------------------------------------------------


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout is new in 3.11")
def test_asyncio_timeout_stops_the_statement() -> None:
    async def main() -> None:
        async with connect(":memory:") as conn:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):  # type: ignore[attr-defined, unused-ignore]
                    await conn.fetch_one(ENDLESS)
            assert await conn.fetch_scalar("SELECT 1") == 1

    asyncio.run(main())


def test_wait_for_and_task_cancel_stop_the_statement() -> None:
    async def main() -> None:
        async with connect(":memory:") as conn:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(conn.fetch_one(ENDLESS), 0.02)
            task = asyncio.create_task(conn.execute(ENDLESS))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await conn.fetch_scalar("SELECT 1") == 1

    asyncio.run(main())


def test_task_cancelled_again_and_again_still_rolls_back() -> None:
    async def main() -> None:
        async with connect(":memory:") as conn:
            await conn.execute("CREATE TABLE t (a)")
            inside = asyncio.Event()

            async def work() -> None:
                async with conn.transaction():
                    await conn.execute("INSERT INTO t VALUES (1)")
                    inside.set()
                    await asyncio.sleep(60)

            await cancelled_until_done(work(), inside)
            assert not conn.in_transaction
            assert await conn.fetch_scalar("SELECT count(*) FROM t") == 0

    asyncio.run(main())


def test_task_cancelled_twice_waits_for_its_rollback_beyond_the_grace_period() -> None:
    """A second cancellation used to end the wait with the grace period: the transaction was still open."""

    async def main() -> None:
        async with connect(":memory:", isolation_level=None) as conn:
            blocked, is_late = Blocked(1), asyncio.Event()
            await conn.create_function("f", 0, blocked)
            await conn.execute("BEGIN")
            queue = conn._state.guest._queue
            queue.grace_period_s = 0.01
            queue.force_answer = lambda _pending: is_late.set()
            running = asyncio.create_task(conn.fetch_scalar("SELECT f()"))
            await started(blocked)
            task = asyncio.create_task(conn.rollback())
            for _ in range(2):
                await asyncio.sleep(0)
                task.cancel()

            await asyncio.wait({task, asyncio.create_task(is_late.wait())}, return_when=asyncio.FIRST_COMPLETED)
            ended_early = task.done()
            blocked.let_go.set()
            await asyncio.gather(running, task, return_exceptions=True)

            assert not ended_early
            assert not conn.in_transaction

    asyncio.run(main())


class Late:
    """A ticket that is ready once its time is over."""

    grace_period_s = 30.0

    def __init__(self) -> None:
        self.waiter: Any = None
        self.cancellation: BaseException | None = None
        self.cancellation_count = 0
        self.is_late = False

    def is_ready(self) -> bool:
        return self.is_late

    def on_cancel(self) -> None:
        """Nothing to interrupt."""

    def on_timeout(self) -> None:
        self.is_late = True


@pytest.mark.parametrize("is_first", [True, False])
def test_cancellation_together_with_the_end_of_the_grace_period_does_not_end_the_wait(
    is_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scopes: list[anyio.CancelScope] = []

    def noted(*arguments: Any, **options: Any) -> anyio.CancelScope:
        scopes.append(move_on_after(*arguments, **options))
        return scopes[-1]

    async def main() -> None:
        ticket = Late()
        task = asyncio.create_task(wait_shielded(current_loop(), ticket))
        await asyncio.sleep(0)  # it waits
        for cancel in (task.cancel, scopes[0].cancel) if is_first else (scopes[0].cancel, task.cancel):
            cancel()
        await task

        assert ticket.is_late
        assert isinstance(ticket.cancellation, asyncio.CancelledError) or sys.version_info < (3, 11)

    move_on_after = anyio.move_on_after
    monkeypatch.setattr(anyio, "move_on_after", noted)
    asyncio.run(main())


def test_cancellation_of_a_finished_statement_is_raised_later() -> None:
    """The statement has finished when the task is cancelled, although the task does not know yet."""

    async def main() -> None:
        async with connect(":memory:", isolation_level=None) as conn:
            await conn.execute("CREATE TABLE t (a)")
            results: list[int] = []

            async def work() -> None:
                for number in itertools.count():
                    await conn.execute("INSERT INTO t VALUES (?)", [number])
                    results.append(number)

            for _ in range(50):
                task = asyncio.create_task(work())
                await asyncio.sleep(0.002)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert await conn.fetch_scalar("SELECT count(*) FROM t") == len(results)

    asyncio.run(main())


@pytest.fixture
def guest_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every statement finishes just before it would be interrupted."""
    monkeypatch.setattr(PendingRequest, "on_cancel", lambda _request: None)


async def execute_many(conn: rapsqlite.Connection, begun: list[int]) -> None:
    for number in range(MANY):
        begun.append(number)
        await conn.execute("SELECT 1")


async def fetch_many(conn: rapsqlite.Connection, begun: list[int]) -> None:
    for number in range(MANY):
        begun.append(number)
        await conn.fetch_all("SELECT 1")


async def stream_many(conn: rapsqlite.Connection, begun: list[int]) -> None:
    async for chunk in conn.execute_iter(NUMBERS, [2_000_000], chunk_size=40_000):  # more than a batch
        begun.append(len(chunk))  # noqa: PERF401 - it does not get to the end


async def insert_many(conn: rapsqlite.Connection, begun: list[int]) -> None:
    def chunks() -> Iterator[tuple[int]]:
        for number in range(2_000_000):
            if number % 20_000 == 0:  # more than fits one request
                begun.append(number)
            yield (number,)

    await conn.executemany("INSERT INTO t (b) VALUES (?)", chunks())


async def begin_many(conn: rapsqlite.Connection, begun: list[int]) -> None:
    for number in range(MANY):
        begun.append(number)
        async with conn.transaction():
            pass


MANY = 2_000
WORK = [execute_many, fetch_many, stream_many, insert_many, begin_many]


@pytest.mark.usefixtures("guest_is_faster")
@pytest.mark.parametrize("work", WORK)
async def test_task_whose_statements_always_finish_is_cancelled_after_the_next_one(
    conn: rapsqlite.Connection, work: Work
) -> None:
    """Otherwise a task that only runs short statements could outrun its cancellation to the end."""
    begun: list[int] = []

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work, conn, begun)
        while not begun:
            await anyio.lowlevel.checkpoint()
        so_far = len(begun)
        tasks.cancel_scope.cancel()

    assert len(begun) <= so_far + 2  # the reply may have been on its way: then the task learns of it in the next
    assert not conn.in_transaction or work is insert_many
    assert await conn.fetch_scalar("SELECT 1") == 1


@pytest.mark.usefixtures("guest_is_faster")
@pytest.mark.parametrize("work", WORK)
def test_cancelled_asyncio_task_whose_statements_always_finish_ends_before_the_next_one(
    work: Work,
) -> None:
    async def main() -> None:
        async with connect(":memory:") as conn:
            await conn.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
            begun: list[int] = []
            task = asyncio.create_task(work(conn, begun))
            await asyncio.sleep(0)
            so_far = len(begun)
            task.cancel("enough")
            with pytest.raises(asyncio.CancelledError, match="enough" if sys.version_info >= (3, 11) else None):
                await task
            assert len(begun) <= so_far + 1
            assert await conn.fetch_scalar("SELECT 1") == 1

    asyncio.run(main())


@pytest.mark.usefixtures("guest_is_faster")
@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout is new in 3.11")
def test_timeout_that_spared_a_finished_statement_ends_with_its_block() -> None:
    async def main() -> None:
        async with connect(":memory:") as conn:
            for number in range(100):
                async with asyncio.timeout(0):  # type: ignore[attr-defined, unused-ignore]
                    value = await conn.fetch_scalar("SELECT ?", [number])
                assert value == number
                assert await conn.fetch_scalar("SELECT 'next'") == "next"
                await asyncio.sleep(0)

    asyncio.run(main())


async def test_interrupt_key_while_a_statement_is_sent_leaves_no_statement_running(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C can arrive between writing a request and waiting for it: an endless request would block all later ones."""
    async with rapsqlite.connect(":memory:") as conn:
        await conn.execute("SELECT 1")
        host = conn._state.guest.host
        unpark = host.unpark

        def interrupted() -> None:
            monkeypatch.setattr(host, "unpark", unpark)
            unpark()
            raise KeyboardInterrupt

        monkeypatch.setattr(host, "unpark", interrupted)
        with pytest.raises(KeyboardInterrupt):
            await conn.fetch_all(
                "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
            )

        with anyio.fail_after(30):
            assert await conn.fetch_scalar("SELECT 42") == 42
