"""Engines used wrongly, or whose database or connection goes away: a clear error, nobody waits, nothing leaks."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

if TYPE_CHECKING:
    from pathlib import Path

    import rapsqlite


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """SQLAlchemy's own classes need asyncio."""
    return "asyncio", {"use_uvloop": request.param}


def url_of(database: Path) -> str:
    return f"sqlite+rapsqlite:///{database}"


async def use(engine: AsyncEngine) -> Any:
    async with engine.begin() as connection:
        await connection.execute(sa.text("CREATE TABLE IF NOT EXISTS t (a)"))
        await connection.execute(sa.text("INSERT INTO t VALUES (1)"))
        return await connection.scalar(sa.text("SELECT count(*) FROM t"))


def threads_left(before: int) -> int:
    """Return how many threads there are more than before, once those that end have ended."""
    for _ in range(1000):
        if threading.active_count() <= before:
            break
        time.sleep(0.01)
    return threading.active_count() - before


async def test_disposed_engine_opens_anew_and_leaks_nothing(database: Path) -> None:
    """As with every dialect: ``dispose`` replaces the pool. Twice at once too."""
    threads, tasks = threading.active_count(), len(asyncio.all_tasks())
    engine = create_async_engine(url_of(database))
    for number in (1, 2):
        assert await use(engine) == number
        await asyncio.gather(engine.dispose(), engine.dispose())

    assert threads_left(threads) <= 0
    assert len(asyncio.all_tasks()) == tasks


async def test_connection_used_after_it_was_returned_is_refused_and_may_be_closed_twice(database: Path) -> None:
    engine = create_async_engine(url_of(database))
    connection = await engine.connect()
    await connection.close()
    await connection.close()
    with pytest.raises(sa.exc.ResourceClosedError):
        await connection.execute(sa.text("SELECT 1"))
    await engine.dispose()


async def test_init_hook_that_raises_is_the_error_of_each_connect_and_leaks_nothing(database: Path) -> None:
    async def fail(_: rapsqlite.Connection) -> None:
        raise KeyError("no")

    threads = threading.active_count()
    engine = create_async_engine(url_of(database), connect_args={"init_hook": fail}, pool_size=1, max_overflow=0)
    for _ in range(3):  # a place that was lost would make the next one wait
        with pytest.raises(KeyError):
            await asyncio.wait_for(use(engine), 50)
    await engine.dispose()

    assert threads_left(threads) <= 0


async def test_connection_that_breaks_while_out_is_reported_as_lost_and_replaced(database: Path) -> None:
    engine = create_async_engine(url_of(database), pool_size=1, max_overflow=0)
    connection = await engine.connect()
    raw: Any = await connection.get_raw_connection()
    raw.driver_connection.stop()
    with pytest.raises(DBAPIError) as caught:
        await connection.execute(sa.text("SELECT 1"))
    assert caught.value.connection_invalidated
    await connection.close()

    assert await asyncio.wait_for(use(engine), 50) == 1
    await engine.dispose()


async def test_database_that_goes_away_is_an_error_until_it_can_be_opened_again(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    engine = create_async_engine(url_of(folder / "test.db"), pool_size=1, max_overflow=0)
    for _ in range(2):
        with pytest.raises(OperationalError, match="unable to open"):
            await asyncio.wait_for(use(engine), 50)
    folder.mkdir()
    assert await asyncio.wait_for(use(engine), 50) == 1
    await engine.dispose()


@pytest.mark.parametrize("options", [{"pool_size": "two"}, {"no_such_option": 1}], ids=str)
def test_impossible_options_of_an_engine_are_refused_when_it_is_made(database: Path, options: dict[str, Any]) -> None:
    """SQLAlchemy's own rule for sizes: 0 means no limit, so no number is impossible."""
    with pytest.raises(TypeError):
        create_async_engine(url_of(database), **options)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork()")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_engine_of_the_parent_is_reported_as_lost_in_a_child_and_then_opens_its_own(database: Path) -> None:
    engine = create_async_engine(url_of(database), pool_size=1, max_overflow=0)
    assert asyncio.run(use(engine)) == 1
    child = os.fork()
    if child == 0:
        try:
            os._exit(asyncio.run(asyncio.wait_for(in_child(engine), 50)))
        except BaseException:  # noqa: BLE001 - reported by the exit code
            os._exit(9)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert asyncio.run(use(engine)) == 3
    asyncio.run(engine.dispose())


async def in_child(engine: AsyncEngine) -> int:
    try:
        await use(engine)
        return 1
    except DBAPIError as error:
        if not error.connection_invalidated:
            return 2
    return 0 if await use(engine) == 2 else 3
