"""Databases in memory that connections share by name."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

import rapsqlite
from rapsqlite import connect_memory


def exists(directory: str) -> bool:
    return os.path.isdir(directory)


async def test_same_name_is_the_same_database() -> None:
    async with connect_memory(name="same") as one, connect_memory(name="same") as other:
        await one.execute("CREATE TABLE t (a)")
        await one.execute("INSERT INTO t VALUES (1)")
        await one.commit()

        assert await other.fetch_all("SELECT * FROM t") == [[1]]


async def test_other_name_and_no_name_are_others() -> None:
    async with connect_memory(name="one") as one:
        await one.execute("CREATE TABLE t (a)")
        for options in ({"name": "two"}, {}, {}):
            async with connect_memory(**options) as other:
                assert await other.fetch_all("SELECT name FROM sqlite_schema") == []


async def test_database_goes_with_its_last_connection() -> None:
    async with connect_memory(name="gone") as one:
        await one.execute("CREATE TABLE t (a)")
        directory = os.path.dirname(one.path)
        async with connect_memory(name="gone"):
            pass
        assert exists(directory)

    assert not exists(directory)
    async with connect_memory(name="gone") as again:
        assert await again.fetch_all("SELECT name FROM sqlite_schema") == []


async def test_connection_that_was_never_opened_leaves_nothing() -> None:
    conn = connect_memory(name="never")
    directory = os.path.dirname(conn.path)

    del conn
    gc.collect()

    assert not exists(directory)


async def test_stop_leaves_nothing() -> None:
    conn = await connect_memory(name="stopped")
    directory = os.path.dirname(conn.path)

    ending = conn.stop()
    assert ending is not None
    await ending

    assert not exists(directory)


async def test_wrong_option_leaves_nothing() -> None:
    with pytest.raises(TypeError, match="pool_size"):
        connect_memory(name="wrong", pool_size=1)
    gc.collect()

    async with connect_memory(name="wrong") as conn:
        assert isinstance(conn, rapsqlite.MemoryConnection)
        assert conn.name == "wrong"


def test_process_that_ends_without_closing_leaves_nothing() -> None:
    program = (
        "import asyncio, rapsqlite\n"
        "async def main():\n"
        "    global conn\n"
        "    conn = await rapsqlite.connect_memory(name='x')\n"
        "    print(conn.path)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert not Path(done.stdout.strip()).parent.exists()


async def test_writers_wait_for_each_other() -> None:
    async def add(number: int) -> None:
        async with connect_memory(name="busy", timeout=30) as conn:
            for _ in range(10):
                async with conn.transaction("IMMEDIATE"):
                    await conn.execute("INSERT INTO t VALUES (?)", [number])

    async with connect_memory(name="busy") as conn:
        await conn.execute("CREATE TABLE t (a)")
        await conn.commit()
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(add, number)

        assert await conn.fetch_scalar("SELECT count(*) FROM t") == 50
