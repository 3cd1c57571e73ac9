"""A task that takes rows without waiting for the guest lets other tasks run every millisecond, as SQLite's thread does.

Time is played: it passes only where a test says that a row takes so long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest
import sniffio

import rapsqlite
from rapsqlite import cursor as cursors
from rapsqlite._guest.guest import Guest
from tests.played_time import PlayedTime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from rapsqlite import Connection

SLICE = 64  # rows, as documented
ROWS = 5000
NUMBERS = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {ROWS}) SELECT i FROM n"
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> PlayedTime:
    played = PlayedTime()
    monkeypatch.setattr(cursors, "time", played)
    return played


async def stream(conn: Connection) -> AsyncIterator[list[Any]]:
    async for row in conn.stream(NUMBERS):
        yield [row]


async def iteration(conn: Connection) -> AsyncIterator[list[Any]]:
    async for row in await conn.execute(NUMBERS):
        yield [row]


async def made_rows(conn: Connection) -> AsyncIterator[list[Any]]:
    conn.row_factory = rapsqlite.Row
    async for row in await conn.execute(NUMBERS):
        yield [row]


async def fetchone(conn: Connection) -> AsyncIterator[list[Any]]:
    cursor = await conn.execute(NUMBERS)
    while (row := await cursor.fetchone()) is not None:
        yield [row]


async def fetchmany(conn: Connection) -> AsyncIterator[list[Any]]:
    cursor = await conn.execute(NUMBERS)
    while rows := await cursor.fetchmany(10):
        yield rows


async def chunks(conn: Connection) -> AsyncIterator[list[Any]]:
    async for rows in conn.execute_iter(NUMBERS, chunk_size=10):
        yield rows


async def all_after_some(conn: Connection) -> AsyncIterator[list[Any]]:
    cursor = await conn.execute(NUMBERS)
    for _ in range(300):
        yield [await cursor.fetchone()]
    for row in await cursor.fetchall():
        yield [row]
        await anyio.lowlevel.checkpoint()  # what this program does itself


CONSUMERS = [stream, iteration, made_rows, fetchone, fetchmany, chunks, all_after_some]


class Turns:
    """How often other tasks have run."""

    def __init__(self) -> None:
        self.count = 0

    async def take(self) -> None:
        while True:
            self.count += 1
            await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("consumer", CONSUMERS)
@pytest.mark.parametrize("row_s, most", [(0.002, SLICE), (0.00001, 3 * SLICE)])
async def test_other_tasks_run_while_one_works_on_its_rows(
    consumer: Callable[[Connection], AsyncIterator[list[Any]]], row_s: float, most: int, time: PlayedTime
) -> None:
    """An endless result whose reader never waited kept all other tasks of its loop waiting for seconds."""
    if sniffio.current_async_library() == "trio":
        most *= 2  # Trio shuffles the tasks of each turn, so the last of one may be the first of the next
    turns, in_row, longest = Turns(), 0, 0
    numbers = []
    async with rapsqlite.connect(":memory:") as conn, anyio.create_task_group() as tasks:
        tasks.start_soon(turns.take)
        before = 0
        async for rows in consumer(conn):
            numbers += [row[0] for row in rows]
            in_row = in_row + len(rows) if turns.count == before else 0
            before = turns.count
            longest = max(longest, in_row)
            time.now += row_s * len(rows)
        tasks.cancel_scope.cancel()

    assert numbers == list(range(1, ROWS + 1))
    assert longest <= most


@pytest.mark.parametrize("consumer", CONSUMERS[:-1])
async def test_other_tasks_do_not_run_more_often_than_that(
    consumer: Callable[[Connection], AsyncIterator[list[Any]]], monkeypatch: pytest.MonkeyPatch, time: PlayedTime
) -> None:
    gave_way = 0
    give_way = Guest.give_way

    async def counted(self: Any) -> None:
        nonlocal gave_way
        gave_way += 1
        await give_way(self)

    monkeypatch.setattr(Guest, "give_way", counted)
    async with rapsqlite.connect(":memory:") as conn:
        async for rows in consumer(conn):
            time.now += 0.00001 * len(rows)

    assert 0 < gave_way <= ROWS * 0.00001 / 0.001


@pytest.mark.parametrize("form", ["iteration", "fetchone", "fetchmany"])
async def test_cancelled_reader_of_an_endless_result_ends_its_statement(form: str, time: PlayedTime) -> None:
    """Where it lets others run it is cancelled as where it waits, so the same holds of the rows after that."""
    scope = anyio.CancelScope()
    taken = 0

    async def cancel() -> None:
        while taken < 500:
            await anyio.lowlevel.checkpoint()
        scope.cancel()

    async with rapsqlite.connect(":memory:") as conn, anyio.create_task_group() as tasks:
        tasks.start_soon(cancel)
        cursor = await conn.execute(ENDLESS)
        with scope:
            while True:
                if form == "fetchmany":
                    taken += len(await cursor.fetchmany(10))
                else:
                    await (cursor.fetchone() if form == "fetchone" else cursor.__anext__())
                    taken += 1
                time.now += 0.0001

        assert scope.cancelled_caught
        assert taken < 500 + 2 * SLICE
        with pytest.raises(rapsqlite.OperationalError, match="rows not fetched before that are lost"):
            await cursor.fetchone()
        assert await conn.fetch_scalar("SELECT 1") == 1


async def test_cancelled_reader_of_a_result_that_has_ended_loses_no_row(time: PlayedTime) -> None:
    rows = []
    async with rapsqlite.connect(":memory:") as conn, await conn.execute(NUMBERS) as cursor:
        while cursor._batches is not None:
            rows.append(await cursor.fetchone())
        with anyio.CancelScope() as scope:
            scope.cancel()
            while True:
                rows.append(await cursor.fetchone())
                time.now += 0.001
                assert len(rows) < ROWS

        assert scope.cancelled_caught
        rows += await cursor.fetchall()

    assert [row[0] for row in rows] == list(range(1, ROWS + 1))


@pytest.mark.parametrize("rest", [1, ROWS])
async def test_reader_that_is_interrupted_ends_only_its_own_statement(
    rest: int, monkeypatch: pytest.MonkeyPatch, time: PlayedTime
) -> None:
    """Another task may have executed something else on the cursor while this one let it run."""
    async with rapsqlite.connect(":memory:") as conn, await conn.execute(ENDLESS) as cursor:

        async def read_on() -> None:
            while True:
                await cursor.fetchone()
                time.now += 0.001

        async def execute_and_interrupt(_guest: Guest) -> None:
            await cursor.execute(NUMBERS.replace(str(ROWS), str(rest)))
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Guest, "give_way", execute_and_interrupt)
            with pytest.raises(KeyboardInterrupt):
                await read_on()

        assert len(await cursor.fetchall()) == rest


async def test_fetch_takes_no_rows_of_the_next_statement() -> None:
    """A task waits for another one's batch, and meanwhile the cursor executes something else."""
    fetched: list[Any] = []
    async with rapsqlite.connect(":memory:") as conn, await conn.execute(ENDLESS) as cursor:
        await cursor.fetchmany(300)
        batches = cursor._batches
        assert batches is not None
        turn = await batches._lock.acquire()  # as a task does that fetches

        async def fetch() -> None:
            fetched.extend(await cursor.fetchmany(ROWS))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fetch)
            await anyio.wait_all_tasks_blocked()
            await cursor.execute("VALUES ('a'), ('b'), ('c')")
            batches._lock.release(turn)

        assert all(type(number) is int for (number,) in fetched)
        assert await cursor.fetchall() == [("a",), ("b",), ("c",)]
