"""Blobs shared by several tasks, how they are closed, and what closing reports."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

import rapsqlite
from rapsqlite import connect
from tests.callbacks.lingering import cancelled_too_late, refused_in_a_callback

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

DATA = bytes(range(100))
LARGE = 5_000_000


@pytest.fixture
async def conn(database: Path) -> AsyncIterator[rapsqlite.Connection]:
    async with connect(database, isolation_level=None) as connection:
        await connection.execute("CREATE TABLE t (b)")
        await connection.execute("INSERT INTO t VALUES (?)", (DATA,))
        yield connection


async def test_each_of_many_tasks_reads_its_own_part(conn: rapsqlite.Connection) -> None:
    """The position used to move only with the reply, so tasks read the same bytes and skipped others."""
    parts: list[bytes] = []
    async with conn.blobopen("t", "b", 1) as blob, anyio.create_task_group() as tasks:

        async def read() -> None:
            parts.append(await blob.read(10))

        for _ in range(10):
            tasks.start_soon(read)

    assert b"".join(sorted(parts)) == DATA


async def test_each_of_many_tasks_writes_its_own_part(conn: rapsqlite.Connection) -> None:
    async with conn.blobopen("t", "b", 1) as blob:
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(blob.write, bytes([number]) * 10)
        assert await blob.tell() == 100

    written = await conn.fetch_scalar("SELECT b FROM t")
    assert sorted(written[start : start + 10] for start in range(0, 100, 10)) == [bytes([n]) * 10 for n in range(10)]


async def test_position_stays_where_it_was_when_reading_or_writing_fails(conn: rapsqlite.Connection) -> None:
    async with conn.blobopen("t", "b", 1, readonly=True) as blob:
        await blob.seek(40)
        with pytest.raises(rapsqlite.OperationalError, match="readonly"):
            await blob.write(b"x")
        with pytest.raises(ValueError, match="longer"):
            await blob.write(bytes(61))
        assert await blob.tell() == 40

        await conn.execute("UPDATE t SET b = 'other'")
        with pytest.raises(rapsqlite.OperationalError):
            await blob.read(5)
        assert await blob.tell() == 40


async def test_large_value_is_read_as_one_snapshot(conn: rapsqlite.Connection) -> None:
    """It was read in pieces, and some contained what other tasks wrote in between."""
    await conn.execute("UPDATE t SET b = zeroblob(?)", (LARGE,))
    seen: list[set[int]] = []
    async with conn.blobopen("t", "b", 1) as blob, conn.blobopen("t", "b", 1) as same:

        async def write() -> None:
            for number in range(1, 8):
                await same.seek(0)
                await same.write(bytes([number]) * LARGE)

        async def read() -> None:
            for _ in range(8):
                await blob.seek(0)
                data = await blob.read()
                assert len(data) == LARGE
                seen.append(set(data[::4096]))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            tasks.start_soon(read)

    assert [len(values) for values in seen] == [1] * 8


async def test_bytes_between_the_steps_of_a_slice_are_not_written(conn: rapsqlite.Connection) -> None:
    """They were read and written back, which undid another task's writes in between."""
    async with conn.blobopen("t", "b", 1) as blob, anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(blob.set, slice(0, 100, 2), b"e" * 50)
            tasks.start_soon(blob.set, slice(99, None, -2), b"o" * 50)
            tasks.start_soon(blob.set, slice(1, 2), b"!")

    written = await conn.fetch_scalar("SELECT b FROM t")
    assert written[::2] == b"e" * 50
    assert written[3::2] == b"o" * 49
    assert written[1:2] in (b"o", b"!")


@pytest.mark.parametrize("key", [slice(0, 100, 7), slice(99, 3, -11), slice(-1, -50, -1), slice(2, 3, 50)])
async def test_slices_with_steps_match_a_bytearray(conn: rapsqlite.Connection, key: slice) -> None:
    expected = bytearray(DATA)
    data = bytes(range(200, 200 + len(expected[key])))
    expected[key] = data
    async with conn.blobopen("t", "b", 1) as blob:
        await blob.set(key, data)

        assert await blob.get(key) == data
    assert await conn.fetch_scalar("SELECT b FROM t") == bytes(expected)


async def test_cancelled_read_of_a_large_value_leaves_the_blob_usable(conn: rapsqlite.Connection) -> None:
    await conn.execute("UPDATE t SET b = zeroblob(?)", (LARGE,))
    async with conn.blobopen("t", "b", 1) as blob:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await blob.read()
            await anyio.lowlevel.checkpoint()
        assert scope.cancelled_caught

        await blob.seek(0)
        assert await blob.read() == bytes(LARGE)


# -- closing -----------------------------------------------------------------------------------------


async def test_closing_reports_a_commit_that_failed(conn: rapsqlite.Connection) -> None:
    """Outside a transaction closing the last blob commits; sqlite3 does not report it when that fails."""
    blob = await conn.blobopen("t", "b", 1)
    await blob.write(b"lost")
    await conn.set_commit_hook(lambda: True)

    with pytest.raises(rapsqlite.IntegrityError) as caught:
        await blob.close()

    assert caught.value.sqlite_errorname == "SQLITE_CONSTRAINT_COMMITHOOK"
    await blob.close()
    await conn.set_commit_hook(None)
    assert await conn.fetch_scalar("SELECT b FROM t") == DATA


async def test_exception_in_the_commit_hook_is_the_cause(conn: rapsqlite.Connection) -> None:
    def fail() -> bool:
        raise ZeroDivisionError("on purpose")

    await conn.set_commit_hook(fail)
    with pytest.raises(rapsqlite.IntegrityError) as caught:
        async with conn.blobopen("t", "b", 1) as blob:
            await blob.write(b"lost")

    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert await conn.fetch_scalar("SELECT b FROM t") == DATA


async def test_error_that_was_raised_is_not_raised_again_by_close(conn: rapsqlite.Connection) -> None:
    blob = await conn.blobopen("t", "b", 1, readonly=True)
    with pytest.raises(rapsqlite.OperationalError, match="readonly"):
        await blob.write(b"x")

    await blob.close()

    expired = await conn.blobopen("t", "b", 1)
    await conn.execute("UPDATE t SET b = 1")
    with pytest.raises(rapsqlite.OperationalError):
        await expired.read()
    await expired.close()


async def test_cancelled_close_releases_the_row(conn: rapsqlite.Connection) -> None:
    blob = await conn.blobopen("t", "b", 1)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await blob.close()

    await conn.execute("DROP TABLE t")


async def test_close_after_a_late_cancellation_releases_the_row(conn: rapsqlite.Connection) -> None:
    """The cancellation of a finished request is raised at the task's next request, but not before that request is
    sent.
    """
    blob = await conn.blobopen("t", "b", 1)

    await cancelled_too_late(conn, blob.close)

    await conn.execute("DROP TABLE t")


async def test_blob_stays_open_if_a_callback_tries_to_close_it(conn: rapsqlite.Connection) -> None:
    blob = await conn.blobopen("t", "b", 1)

    await refused_in_a_callback(conn, blob.close)

    assert await blob.read() == DATA
    await blob.close()
    await conn.execute("DROP TABLE t")


async def test_blob_opened_while_its_connection_closes_can_be_closed_and_dropped() -> None:
    """They arrive after the connection has lost its guest, whose state both operations used to check."""
    conn = await connect(":memory:")
    await conn.execute("CREATE TABLE t (b)")
    await conn.execute("INSERT INTO t VALUES (x'00')")
    await conn.commit()
    opened: list[rapsqlite.Blob] = []

    async def open_it() -> None:
        opened.append(await conn.blobopen("t", "b", 1))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(open_it)
        tasks.start_soon(open_it)
        while len(opened) + len(conn._state.guest._queue._pending) < 2:
            await anyio.lowlevel.checkpoint()
        await conn.close()

    with pytest.raises(rapsqlite.ProgrammingError, match="Connection closed"):
        await opened[0].read()
    await opened.pop().close()
    opened.clear()  # an exception here would be a warning, and that an error
    gc.collect()


# -- arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, options, error",
    [
        ((b"t", "b", 1), {}, TypeError),
        (("t", None, 1), {}, TypeError),
        (("t", "b", "1"), {}, TypeError),
        (("t", "b", 1.0), {}, TypeError),
        (("t", "b", None), {}, TypeError),
        (("t", "b", 1), {"name": 5}, TypeError),
        (("t\0", "b", 1), {}, ValueError),
        (("t", "b\0", 1), {}, ValueError),
        (("t", "b", 1), {"name": "main\0"}, ValueError),
        (("\ud800", "b", 1), {}, UnicodeEncodeError),
        (("t", "b", -(1 << 63) - 1), {}, OverflowError),
    ],
)
async def test_invalid_name_or_row_id_is_refused_as_by_sqlite3(
    conn: rapsqlite.Connection, arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await conn.blobopen(*arguments, **options)

    assert await conn.fetch_scalar("SELECT b FROM t") == DATA
