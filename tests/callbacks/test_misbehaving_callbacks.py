"""Callbacks of every kind that raise, return invalid results, or never return, and what this affects.

After each the connection continues, no transaction is open, and the file holds what was committed before.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

import rapsqlite
from tests.callbacks.lingering import Blocked, Endless, impatient, impatient_once, started
from tests.callbacks.misbehaviour import KINDS, NEW, ROWS, Kind, prepared, stored, use

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

LOGGED = ("trace", "rollback")
EVERY = pytest.mark.parametrize("name", sorted(KINDS))


def fail(*_: object) -> Any:
    raise ZeroDivisionError("on purpose")


class Undecided:
    """An object that is neither true nor false."""

    def __bool__(self) -> bool:
        raise ZeroDivisionError("neither")


def sparse(path: Path, size: int) -> memoryview:
    """A buffer of any size that takes no memory: a sparse file."""
    with path.open("w+b") as file:
        file.truncate(size)
        return memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))


@contextlib.asynccontextmanager
async def connected(
    database: Path, name: str, callback: Callable[..., Any], **options: Any
) -> AsyncIterator[tuple[rapsqlite.Connection, Kind]]:
    """Open a connection with this callback to a file as `prepared`."""
    with prepared(database, name) as kind:
        async with rapsqlite.connect(database, isolation_level=None, **options) as conn:
            await kind.register(conn, callback)
            yield conn, kind


async def failure_of(conn: rapsqlite.Connection, kind: Kind) -> rapsqlite.Error | None:
    """Return the error of the statement that calls the callback, or None if it succeeds."""
    try:
        await use(conn, kind)
    except rapsqlite.Error as error:
        return error
    return None


async def assert_usable(conn: rapsqlite.Connection, name: str, database: Path, expected: list[list[Any]]) -> None:
    """No transaction is left open, the callback can be removed, and no data is lost."""
    assert not conn.in_transaction
    await KINDS[name].register(conn, None)
    assert len(conn._state.guest.callbacks) == 0
    assert await conn.fetch_all("SELECT a, b FROM t ORDER BY a") == expected
    assert stored(database) == expected
    if name != "busy":  # whose lock is still held
        await conn.execute("INSERT INTO t VALUES (9, 'nine')")
        assert stored(database) == [*expected, [9, "nine"]]


@EVERY
async def test_exception_is_the_cause_of_the_statements_error_or_is_logged(
    database: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The exception is the cause of the statement's error; where SQLite cannot report one, it is logged."""
    async with connected(database, name, fail) as (conn, kind):
        with caplog.at_level(logging.ERROR, logger="rapsqlite"):
            error = await failure_of(conn, kind)

        if kind.words:
            assert type(error) is kind.error
            assert str(error).startswith(kind.words)
            assert isinstance(error.__cause__, ZeroDivisionError)
        else:
            assert error is None
        assert ("ZeroDivisionError" in caplog.text) is (name in LOGGED)
        await assert_usable(conn, name, database, [*ROWS, NEW] if kind.keeps else ROWS)


@EVERY
async def test_cancellation_ends_an_endless_callback(database: Path, name: str) -> None:
    endless = Endless()
    async with connected(database, name, endless) as (conn, kind):
        impatient_once(conn)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(use, conn, kind)
            await started(endless)
            tasks.cancel_scope.cancel()

        assert conn.is_alive()
        await assert_usable(conn, name, database, [*ROWS, NEW] if kind.keeps else ROWS)


@EVERY
async def test_interrupted_callback_fails_its_statement_like_one_that_raises(database: Path, name: str) -> None:
    """The error is the same as for a callback that raises, and its cause says what happened."""
    endless = Endless()
    async with connected(database, name, endless) as (conn, kind):
        impatient_once(conn)
        errors: list[rapsqlite.Error | None] = []

        async def run() -> None:
            errors.append(await failure_of(conn, kind))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await started(endless)
            await conn.interrupt()

        [error] = errors
        if kind.words:
            assert type(error) is kind.error
            assert str(error).startswith("interrupted" if name == "busy" else kind.words)
            assert type(error.__cause__).__name__ == "CallbackInterrupted"
        else:
            assert error is None
        await assert_usable(conn, name, database, [*ROWS, NEW] if kind.keeps else ROWS)


RESULTS = ["function", "deterministic function", "aggregate finalize", "window value"]
TOO_LARGE = "string or blob too big"


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("value", [object(), [1], 1j, "\ud800"], ids=["object", "list", "complex", "surrogate"])
async def test_result_that_cannot_be_stored_fails_the_statement(database: Path, name: str, value: object) -> None:
    async with connected(database, name, lambda *_: value) as (conn, kind):
        error = await failure_of(conn, kind)

        assert type(error) is kind.error
        assert str(error).startswith(kind.words)
        assert isinstance(error.__cause__, UnicodeEncodeError if isinstance(value, str) else rapsqlite.Error)
        await assert_usable(conn, name, database, ROWS)


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("what", ["integer", "longer than allowed", "longer than SQLite counts", "beyond 32 bits"])
async def test_result_beyond_the_limits_fails_the_statement(
    database: Path, tmp_path: Path, name: str, what: str
) -> None:
    """A result beyond SQLite's limits fails the statement, as in sqlite3, and never overflows a length of 32 bits."""
    huge = sparse(tmp_path / "sparse", (1 << 32) + 5)
    value: object = {
        "integer": 1 << 63,
        "longer than allowed": "x" * 100_001,
        "longer than SQLite counts": huge[: 1 << 31],
        "beyond 32 bits": huge,
    }[what]
    async with connected(database, name, lambda *_: value) as (conn, kind):
        await conn.setlimit(rapsqlite.SQLITE_LIMIT_LENGTH, 100_000)
        error = await failure_of(conn, kind)

        assert type(error) is rapsqlite.DataError
        assert str(error) == TOO_LARGE
        assert isinstance(error.__cause__, OverflowError) == (what != "longer than allowed")
        await assert_usable(conn, name, database, ROWS)


@pytest.mark.parametrize("name", RESULTS)
async def test_result_larger_than_memory_fails_the_statement(database: Path, name: str) -> None:
    async with connected(database, name, lambda *_: bytes(64 << 20), limits={"memory_bytes": 32 << 20}) as (conn, kind):
        error = await failure_of(conn, kind)

        assert type(error) is rapsqlite.OutOfMemoryError
        assert "memory" in str(error)
        await assert_usable(conn, name, database, ROWS)


ANSWERS: dict[str, tuple[object, type[Exception]]] = {
    "collation": ("1", TypeError),
    "authorizer": (1 << 40, OverflowError),
    "progress": (Undecided(), ZeroDivisionError),
    "busy": (Undecided(), ZeroDivisionError),
    "commit": (Undecided(), ZeroDivisionError),
}


@pytest.mark.parametrize("name", sorted(ANSWERS))
async def test_invalid_result_counts_as_an_exception(database: Path, name: str) -> None:
    """An invalid result counts as an exception."""
    answer, cause = ANSWERS[name]
    async with connected(database, name, lambda *_: answer) as (conn, kind):
        error = await failure_of(conn, kind)

        assert type(error) is kind.error
        assert str(error).startswith(kind.words)
        assert type(error.__cause__) is cause
        await assert_usable(conn, name, database, ROWS)


@pytest.mark.parametrize(
    "name", ["trace", "update", "preupdate", "rollback", "wal", "aggregate step", "window inverse"]
)
async def test_result_that_sqlite_does_not_use_is_ignored(database: Path, name: str) -> None:
    async with connected(database, name, lambda *_: Undecided()) as (conn, kind):
        assert await failure_of(conn, kind) is None
        await assert_usable(conn, name, database, ROWS if name == "rollback" else [*ROWS, NEW])


@EVERY
async def test_uninterruptible_callback_costs_only_its_connection(database: Path, name: str) -> None:
    blocked = Blocked(0)
    with prepared(database, name) as kind:
        conn = await rapsqlite.connect(database, isolation_level=None)
        impatient(conn)
        await kind.register(conn, blocked)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(use, conn, kind)
            await started(blocked)
            tasks.cancel_scope.cancel()

        with pytest.raises(rapsqlite.OperationalError, match="a callback of its statement has not returned"):
            await conn.fetch_scalar("SELECT 1")
        guest = conn._state.guest
        await conn.close()
        blocked.let_go.set()
        await anyio.to_thread.run_sync(guest.join, 30)
        assert not guest.is_running()

    assert stored(database) == ([*ROWS, NEW] if name == "wal" else ROWS)
