"""Cursors and streams that several tasks use, while one of them is inside a block that holds the others back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

import rapsqlite
from rapsqlite import _constants as abi
from rapsqlite._guest.guest import Guest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rapsqlite._wasm.rings import Reply, Request

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


async def test_task_inside_a_block_takes_over_a_batch_that_was_requested_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another task requests it just as the block begins, which holds it back; the block waited for it for ever."""
    has_reply, has_entered = anyio.Event(), anyio.Event()
    call = Guest.call
    found: list[Any] = []

    async def late(self: Guest, request: Request) -> Reply:
        reply = await call(self, request)
        if request.op == abi.OP_NEXT and not has_reply.is_set():
            has_reply.set()
            await has_entered.wait()
        return reply

    async with rapsqlite.connect(":memory:") as conn:
        cursor = await conn.execute(SQL)

        async def fetch() -> None:
            found.extend(await cursor.fetchmany(300))

        monkeypatch.setattr(Guest, "call", late)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fetch)
            await has_reply.wait()
            async with conn.transaction():
                has_entered.set()
                await anyio.wait_all_tasks_blocked()
                assert len(found) == 300
                await fetch()
        await fetch()

    assert found == [(number,) for number in range(1, 901)]
