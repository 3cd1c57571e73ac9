"""Many tasks, many event loops, many threads on one connection."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from typing import TYPE_CHECKING

import anyio
import pytest

import rapsqlite
from rapsqlite import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?) SELECT i FROM n"


@pytest.fixture
async def conn(database: Path) -> AsyncIterator[rapsqlite.Connection]:
    async with connect(database) as connection:
        await connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
        yield connection


async def test_statements_run_in_the_order_in_which_they_were_awaited(conn: rapsqlite.Connection) -> None:
    async with anyio.create_task_group() as tasks:
        started = [anyio.Event() for _ in range(201)]

        async def insert(number: int) -> None:
            started[number].set()
            await conn.execute("INSERT INTO t (b) VALUES (?)", [number])

        for number in range(200):
            tasks.start_soon(insert, number)
            await started[number].wait()

    assert await conn.fetch_all("SELECT b FROM t ORDER BY a") == [[number] for number in range(200)]


async def test_two_thousand_gathered_queries_get_their_own_results(conn: rapsqlite.Connection) -> None:
    await conn.executemany("INSERT INTO t VALUES (?, ?)", [(i, i * 7) for i in range(2_000)])
    answers: dict[int, int] = {}

    async def ask(key: int) -> None:
        [answers[key]] = await conn.fetch_one("SELECT b FROM t WHERE a = ?", [key])

    async with anyio.create_task_group() as tasks:
        for key in range(2_000):
            tasks.start_soon(ask, key)

    assert answers == {key: key * 7 for key in range(2_000)}


async def test_commit_runs_after_the_inserts_sent_before_it(conn: rapsqlite.Connection, database: Path) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(conn.execute, "INSERT INTO t (b) VALUES (?)", [number])
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(conn.commit)

    assert not conn.in_transaction
    with sqlite3.connect(database) as stock:
        assert stock.execute("SELECT count(*) FROM t").fetchone() == (100,)
    stock.close()


async def test_cursors_of_several_tasks_advance_independently(conn: rapsqlite.Connection) -> None:
    totals = []

    async def add_up(count: int) -> None:
        total = 0
        async with conn.execute(NUMBERS, [count]) as cursor:
            async for (number,) in cursor:
                total += number
        totals.append(total)

    counts = [10, 1_000, 20_000, 50_000] * 4
    async with anyio.create_task_group() as tasks:
        for count in counts:
            tasks.start_soon(add_up, count)

    assert sorted(totals) == sorted(count * (count + 1) // 2 for count in counts)


async def iterate(cursor: rapsqlite.Cursor) -> AsyncIterator[list[tuple[int]]]:
    async for row in cursor:
        yield [row]


async def fetch_single_rows(cursor: rapsqlite.Cursor) -> AsyncIterator[list[tuple[int]]]:
    while (row := await cursor.fetchone()) is not None:
        yield [row]


async def fetch_seven_rows(cursor: rapsqlite.Cursor) -> AsyncIterator[list[tuple[int]]]:
    while rows := await cursor.fetchmany(7):
        yield rows


async def fetch_the_rest(cursor: rapsqlite.Cursor) -> AsyncIterator[list[tuple[int]]]:
    for _ in range(30):
        row = await cursor.fetchone()
        yield [] if row is None else [row]
    yield await cursor.fetchall()


@pytest.mark.parametrize("waits", [False, True], ids=["busy", "waiting"])
@pytest.mark.parametrize("reader", [iterate, fetch_single_rows, fetch_seven_rows, fetch_the_rest])
async def test_tasks_that_share_a_cursor_get_each_row_once(
    conn: rapsqlite.Connection, reader: Callable[[rapsqlite.Cursor], AsyncIterator[list[tuple[int]]]], waits: bool
) -> None:
    """A task that waits between two rows must find the rest of its batch, although others fetch meanwhile."""
    count = 5_000 if waits else 30_000
    cursor = await conn.execute(NUMBERS, [count])
    seen: list[int] = []

    async def take() -> None:
        async for rows in reader(cursor):
            seen.extend(number for (number,) in rows)
            if waits and len(seen) % 3:
                await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(take)

    assert sorted(seen) == list(range(1, count + 1))


async def test_other_tasks_run_while_a_large_result_is_fetched(conn: rapsqlite.Connection) -> None:
    turns = 0
    done = False

    async def tick() -> None:
        nonlocal turns
        while not done:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        for factory in (None, rapsqlite.Row, "dict"):
            conn.row_factory = factory
            before = turns
            rows = await conn.fetch_all(NUMBERS, [100_000])
            assert len(rows) == 100_000
            assert turns - before >= 5, factory
        done = True


async def test_close_lets_earlier_requests_finish(conn: rapsqlite.Connection, database: Path) -> None:
    conn.isolation_level = None
    await conn.execute("SELECT 1")
    finished = []

    async def insert(number: int) -> None:
        await conn.execute("INSERT INTO t (b) VALUES (?)", [number])
        finished.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(insert, number)
        await anyio.wait_all_tasks_blocked()
        await conn.close()

    assert len(finished) == 50
    with sqlite3.connect(database) as stock:
        assert stock.execute("SELECT count(*) FROM t").fetchone() == (50,)
    stock.close()


async def test_connections_of_one_process_wait_for_the_locks_of_each_other(database: Path) -> None:
    async with connect(database) as conn:
        await conn.execute("CREATE TABLE t (a)")

    async def write(number: int) -> None:
        # Without syncs, and with time for them all, because on a busy machine no turn comes within a given time.
        async with connect(database, timeout=300, pragmas={"synchronous": "OFF"}) as conn:
            for _ in range(5):
                async with conn.transaction("IMMEDIATE"):
                    await conn.execute("INSERT INTO t VALUES (?)", [number])

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(write, number)

    async with connect(database) as conn:
        assert await conn.fetch_scalar("SELECT count(*) FROM t") == 40


async def one_loops_work(conn: rapsqlite.Connection, number: int) -> int:
    """Use the connection in every way from one event loop; return the sum of the values read."""
    total: int = 0
    for key in range(50):
        async with conn.transaction():
            await conn.execute("INSERT INTO t (b) VALUES (?)", [number * 1_000 + key])
        total += int(await conn.fetch_scalar("SELECT ?", [key]))
    async with conn.execute(NUMBERS, [3_000]) as cursor:
        total += sum([int(value) async for (value,) in cursor])
    return total


def test_several_event_loops_in_several_threads_share_a_connection(database: Path) -> None:
    expected = sum(range(50)) + 3_000 * 3_001 // 2
    results: list[int] = []
    errors: list[BaseException] = []

    def run(number: int, backend: str, conn: rapsqlite.Connection) -> None:
        try:
            results.append(anyio.run(one_loops_work, conn, number, backend=backend))
        except BaseException as error:
            errors.append(error)
            raise

    async def main() -> None:
        async with connect(database) as conn:
            await conn.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
            await conn.commit()
            backends = ["asyncio", "trio", "asyncio", "trio"]
            threads = [
                threading.Thread(target=run, args=(number, backend, conn)) for number, backend in enumerate(backends)
            ]
            for thread in threads:
                thread.start()
            results.append(await one_loops_work(conn, len(threads)))
            for thread in threads:
                await asyncio.to_thread(thread.join)
            assert await conn.fetch_scalar("SELECT count(DISTINCT b) FROM t") == 250

    asyncio.run(main())
    assert not errors
    assert results == [expected] * 5


def test_cursor_moves_from_one_event_loop_to_another() -> None:
    async def begin() -> tuple[rapsqlite.Connection, rapsqlite.Cursor, int]:
        conn = await connect(":memory:")
        cursor = await conn.execute(NUMBERS, [100_000])
        return conn, cursor, len(await cursor.fetchmany(20_000))

    async def go_on(conn: rapsqlite.Connection, cursor: rapsqlite.Cursor) -> int:
        rows = await cursor.fetchall()
        await conn.close()
        return len(rows)

    conn, cursor, first = asyncio.run(begin())
    rest = anyio.run(go_on, conn, cursor, backend="trio")

    assert (first, rest) == (20_000, 80_000)


def test_connection_must_be_awaited_in_an_event_loop() -> None:
    coroutine = connect(":memory:").__await__()

    with pytest.raises(RuntimeError, match="event loop"):
        next(coroutine)
