"""`transaction_retry` and `transaction_with_timeout`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from rapsqlite import OperationalError, connect, transaction_retry, transaction_with_timeout

if TYPE_CHECKING:
    from pathlib import Path


async def test_transaction_is_retried_until_the_lock_is_free(database: Path) -> None:
    async with connect(database, timeout=0) as conn, connect(database) as other:
        await conn.execute("CREATE TABLE t (a)")
        await other.begin("IMMEDIATE")
        attempts = 0

        async def work() -> str:
            nonlocal attempts
            attempts += 1
            await conn.execute("INSERT INTO t VALUES (1)")
            return "done"

        async def release() -> None:
            await anyio.sleep(0.02)
            await other.rollback()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(release)
            result = await transaction_retry(conn, work, max_retries=1000, initial_delay=0.002, max_delay=0.01)

        assert (result, attempts > 0) == ("done", True)  # a commit is refused while the other one still reads
        assert not conn.in_transaction
        assert await other.fetch_scalar("SELECT count(*) FROM t") == 1


async def test_busy_error_inside_the_function_runs_it_again(database: Path) -> None:
    async with connect(database) as conn:
        await conn.execute("CREATE TABLE t (a)")
        attempts = 0

        async def work() -> None:
            nonlocal attempts
            attempts += 1
            await conn.execute("INSERT INTO t VALUES (?)", [attempts])
            if attempts < 3:
                error = OperationalError("database is locked")
                error.sqlite_errorcode = 517  # SQLITE_BUSY_SNAPSHOT
                raise error

        await transaction_retry(conn, work, initial_delay=0)

        assert await conn.fetch_all("SELECT * FROM t") == [[3]]


async def test_last_failure_and_other_errors_are_raised(database: Path) -> None:
    async with connect(database, timeout=0) as conn, connect(database) as other:
        await other.execute("CREATE TABLE t (a UNIQUE)")
        await other.begin("EXCLUSIVE")

        async def never() -> None:
            raise AssertionError

        with pytest.raises(OperationalError, match="locked"):
            await transaction_retry(conn, never, max_retries=2, initial_delay=0)
        await other.rollback()
        with pytest.raises(AssertionError):
            await transaction_retry(conn, never)
        assert not conn.in_transaction


async def test_transaction_that_takes_too_long_is_rolled_back(database: Path) -> None:
    async with connect(database) as conn:
        await conn.execute("CREATE TABLE t (a)")

        async def slow() -> None:
            await conn.execute("INSERT INTO t VALUES (1)")
            await anyio.sleep_forever()

        async def quick() -> str:
            await conn.execute("INSERT INTO t VALUES (2)")
            return "done"

        with pytest.raises(TimeoutError):
            await transaction_with_timeout(conn, slow, 0.05)
        result = await transaction_with_timeout(conn, quick)

        assert result == "done"
        assert await conn.fetch_all("SELECT * FROM t") == [[2]]


@pytest.mark.parametrize("verb", [transaction_retry, transaction_with_timeout])
async def test_awaitable_instead_of_a_function_is_refused(verb: Any) -> None:
    """It could not be run a second time."""

    async def work() -> None:
        pass

    async with connect(":memory:") as conn:
        with pytest.raises(TypeError, match=r"pass work, not work\(\)"):
            await verb(conn, work())
    with pytest.raises(ValueError, match="max_retries"):
        await transaction_retry(conn, work, max_retries=0)
