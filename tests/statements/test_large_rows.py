"""Many rows, or many replies, each too large for the reply ring: they are queued like small ones."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

import rapsqlite

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SIZE, COUNT = 150_000, 40
ROWS = f"""WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {COUNT})
    SELECT zeroblob({SIZE} + i) FROM n"""


async def streamed(rows: Any) -> list[Any]:
    return [row async for row in rows]


async def by_cursor(conn: rapsqlite.Connection) -> list[Any]:
    async with conn.execute(ROWS) as cursor:
        return list(await cursor.fetchall())


async def prepared(conn: rapsqlite.Connection) -> list[Any]:
    async with conn.prepare(ROWS) as statement:
        return await statement.fetch_all()


async def chunked(conn: rapsqlite.Connection) -> list[Any]:
    return [row for chunk in await streamed(conn.execute_iter(ROWS, chunk_size=7)) for row in chunk]


VERBS: dict[str, Callable[[rapsqlite.Connection], Awaitable[Any]]] = {
    "fetch_all": lambda conn: conn.fetch_all(ROWS),
    "execute_fetchall": lambda conn: conn.execute_fetchall(ROWS),
    "cursor": by_cursor,
    "prepared": prepared,
    "stream": lambda conn: streamed(conn.stream(ROWS)),
    "execute_iter": chunked,
}


@pytest.mark.parametrize("verb", sorted(VERBS))
async def test_result_of_only_large_rows_arrives(verb: str) -> None:
    """More than four that the event loop had not yet taken used to be an error: "the host rejected a reply of that
    size".
    """
    async with rapsqlite.connect(":memory:") as conn:
        rows = await VERBS[verb](conn)

        assert [len(row[0]) for row in rows] == [SIZE + number for number in range(1, COUNT + 1)]


async def test_slow_event_loop_finds_few_large_rows_waiting() -> None:
    """Back-pressure: the guest continues once its earlier bodies were taken."""
    rows: list[Any] = []
    async with rapsqlite.connect(":memory:") as conn:

        async def fetch() -> None:
            rows.extend(await conn.fetch_all(ROWS))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fetch)
            await anyio.lowlevel.checkpoint()
            for _ in range(50):
                time.sleep(0.001)  # noqa: ASYNC251 - the event loop is late on purpose
                spilled = conn._state.guest.host.rings
                assert spilled is None or len(spilled.spilled) <= 4

    assert len(rows) == COUNT


async def test_large_replies_of_many_requests_arrive() -> None:
    async with rapsqlite.connect(":memory:") as conn:
        sizes: set[int] = set()

        async def ask(number: int) -> None:
            sizes.add(len(await conn.fetch_scalar("SELECT zeroblob(?)", (SIZE + number,))))

        async with anyio.create_task_group() as tasks:
            for number in range(COUNT):
                tasks.start_soon(ask, number)

        assert sizes == {SIZE + number for number in range(COUNT)}


async def test_cancelled_while_large_rows_wait_leaves_the_connection_usable() -> None:
    async with rapsqlite.connect(":memory:") as conn:
        for _ in range(20):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(conn.fetch_all, ROWS)
                await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()

        assert len(await conn.fetch_all(ROWS)) == COUNT


async def test_connection_closes_while_large_rows_wait() -> None:
    conn = await rapsqlite.connect(":memory:")
    async with anyio.create_task_group() as tasks:

        async def fetch() -> None:
            with pytest.raises((rapsqlite.Error, anyio.get_cancelled_exc_class())):
                await conn.fetch_all(ROWS.replace(f"i < {COUNT}", "i < 100000"))

        tasks.start_soon(fetch)
        await anyio.sleep(0.01)
        conn.stop()
    await conn.close()


@pytest.mark.parametrize("name_bytes, value_bytes", [(10, 200_000), (150, 10), (150, 200_000), (48, 0)])
async def test_column_names_arrive_with_large_rows(name_bytes: int, value_bytes: int) -> None:
    """They travel with the reply, or with its rows if they are large themselves."""
    names = [f"{number:x<{name_bytes}}" for number in range(2000)]
    columns = ", ".join(f'? AS "{name}"' if name == names[0] else f'1 AS "{name}"' for name in names)
    async with rapsqlite.connect(":memory:") as conn:
        cursor = await conn.execute(f"SELECT {columns}", [bytes(value_bytes)])

        assert [column[0] for column in cursor.description or ()] == names
        assert await cursor.fetchone() == (bytes(value_bytes), *[1] * 1999)
