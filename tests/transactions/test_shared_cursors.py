"""Cursors and streams that several tasks use, while one of them is inside a block that holds the others back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

import rapsqlite

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ROWS = 100_000
SQL = f"WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n LIMIT {ROWS}) SELECT i FROM n"


async def fetch_from_a_cursor(conn: rapsqlite.Connection) -> Callable[[], Awaitable[Any]]:
    cursor = await conn.execute(SQL)
    assert await cursor.fetchone() == (1,)
    return lambda: cursor.fetchmany(9_999)


async def fetch_from_a_stream(conn: rapsqlite.Connection) -> Callable[[], Awaitable[Any]]:
    return conn.execute_iter(SQL, chunk_size=9_999).__anext__


@pytest.mark.parametrize("made", [fetch_from_a_cursor, fetch_from_a_stream])
async def test_fetching_inside_a_block_what_a_task_outside_fetches_is_refused(
    made: Callable[[rapsqlite.Connection], Awaitable[Callable[[], Awaitable[Any]]]],
) -> None:
    """Each task waited for the other."""
    async with rapsqlite.connect(":memory:") as conn, anyio.create_task_group() as tasks:
        fetch, may_begin, found = await made(conn), anyio.Event(), []

        async def outside() -> None:
            await may_begin.wait()
            found.append(await fetch())

        tasks.start_soon(outside)
        await anyio.wait_all_tasks_blocked()
        async with conn.transaction():
            may_begin.set()
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(rapsqlite.ProgrammingError, match="each would wait for the other"):
                await fetch()
        await anyio.wait_all_tasks_blocked()
        found.append(await fetch())

    assert [len(rows) for rows in found] == [9_999, 9_999]


@pytest.mark.parametrize("made", [fetch_from_a_cursor, fetch_from_a_stream])
async def test_tasks_of_one_block_take_turns(
    made: Callable[[rapsqlite.Connection], Awaitable[Callable[[], Awaitable[Any]]]],
) -> None:
    found: list[Any] = []
    async with rapsqlite.connect(":memory:") as conn, conn.transaction(scope="children"):
        fetch = await made(conn)

        async def inside() -> None:
            found.extend(await fetch())

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(inside)

    assert len({tuple(row) for row in found}) == 5 * 9_999
