"""Sessions and cancelled tasks: whatever a task was doing, no session stays open.

While a session is open SQLite has no slot for a preupdate hook: being able to set one proves that no session is open.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import rapsqlite
from rapsqlite import _constants as abi
from rapsqlite import connect
from tests.callbacks.lingering import cancelled_too_late, refused_in_a_callback

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from rapsqlite._wasm.rings import Request


@pytest.fixture
async def conn(database: Path) -> AsyncIterator[rapsqlite.Connection]:
    async with connect(database, isolation_level=None) as connection:
        await connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
        yield connection


async def assert_none_is_open(conn: rapsqlite.Connection) -> None:
    await conn.set_preupdate_hook(lambda *_: None)
    await conn.set_preupdate_hook(None)


async def test_cancelled_close_ends_the_recording(conn: rapsqlite.Connection) -> None:
    session = await conn.session()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await session.close()

    await assert_none_is_open(conn)


async def test_cancelled_block_ends_the_recording(conn: rapsqlite.Connection) -> None:
    with anyio.CancelScope() as scope:
        async with conn.session():
            scope.cancel()
            await anyio.sleep_forever()

    assert scope.cancelled_caught
    await assert_none_is_open(conn)


async def test_close_after_a_late_cancellation_ends_the_recording(conn: rapsqlite.Connection) -> None:
    """The cancellation of a finished request used to be raised by ``close``, before its request was sent."""
    session = await conn.session()

    await cancelled_too_late(conn, session.close)

    await assert_none_is_open(conn)


async def test_session_stays_open_if_a_callback_tries_to_close_it(conn: rapsqlite.Connection) -> None:
    """It used to be forgotten while still open, and could never be closed."""
    session = await conn.session()

    await refused_in_a_callback(conn, session.close)

    await conn.execute("INSERT INTO t VALUES (1)")
    assert not await session.is_empty()
    await session.close()
    await assert_none_is_open(conn)


async def test_session_that_cannot_be_attached_to_its_tables_does_not_stay_open(conn: rapsqlite.Connection) -> None:
    """It used to stay open for as long as the error was referenced."""
    with pytest.raises(rapsqlite.ProgrammingError) as caught:
        await conn.session("t", "t\0")

    await assert_none_is_open(conn)
    assert "null" in str(caught.value)


async def test_cancellation_between_opening_and_attaching_leaves_no_session(
    conn: rapsqlite.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = conn._state.guest
    call = guest.call
    held: list[BaseException] = []  # with everything that its traceback refers to

    async def cancelled_before_it_is_attached(request: Request) -> Any:
        if request.op == abi.OP_SESSION:
            scope.cancel()
            await anyio.sleep_forever()
        return await call(request)

    monkeypatch.setattr(guest, "call", cancelled_before_it_is_attached)
    with anyio.CancelScope() as scope:
        try:
            await conn.session("t")
        except BaseException as error:
            held.append(error)
            raise

    monkeypatch.undo()
    assert held
    await assert_none_is_open(conn)


async def test_session_can_be_closed_by_several_tasks(conn: rapsqlite.Connection) -> None:
    session = await conn.session()
    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(session.close)

    await assert_none_is_open(conn)


async def test_dropped_session_ends_the_recording(conn: rapsqlite.Connection) -> None:
    session = await conn.session()
    del session
    gc.collect()

    await assert_none_is_open(conn)
