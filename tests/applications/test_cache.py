"""`SQLiteCache`: get, set and expiry, shared by tasks, connections and processes."""

from __future__ import annotations

import enum
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import rapsqlite
from rapsqlite import SQLiteCache, connect

if TYPE_CHECKING:
    from pathlib import Path

WORKER = """
import asyncio, sys
import rapsqlite
async def main(path, name):
    async with rapsqlite.connect(path, timeout=60, pragmas={'synchronous': 'OFF'}) as conn:
        cache = rapsqlite.SQLiteCache(conn)
        for number in range(20):
            await cache.set(f"{name} {number}", b"own", ttl=3600)
            await cache.set("shared", name.encode() * 1000)
            shared = await cache.get("shared")
            assert len(set(shared)) == 1 and len(shared) == 1000, shared
asyncio.run(main(*sys.argv[1:]))
"""


async def test_value_is_found_until_it_is_replaced_or_deleted(database: Path) -> None:
    async with connect(database) as conn:
        cache = SQLiteCache(conn)
        missing = await cache.get("a"), await cache.delete("a"), await cache.cleanup_expired()
        await cache.set("a", b"1")
        first = await cache.get("a")
        await cache.set("a", b"")
        second = await cache.get("a")
        deleted = await cache.delete("a"), await cache.delete("a")
        await cache.initialize()

        assert missing == (None, False, 0)
        assert (first, second, deleted) == (b"1", b"", (True, False))
        assert await cache.get("a") is None


async def test_expired_entry_is_missing_and_can_be_cleaned_up(database: Path) -> None:
    async with connect(database) as conn:
        cache = SQLiteCache(conn, table_name='odd "name')
        for number in range(5):
            await cache.set(f"gone {number}", b"x", ttl=0)
        await cache.set("kept", b"x", ttl=3600)
        await cache.set("for ever", b"x")

        assert await cache.get("gone 1") is None
        assert await cache.cleanup_expired(limit=3) == 3
        assert await cache.cleanup_expired() == 2
        assert await cache.get("kept") == await cache.get("for ever") == b"x"


async def test_each_set_commits_by_itself(database: Path) -> None:
    """Other processes read it as soon as `set` has returned."""
    async with connect(database) as conn, connect(database) as other:
        await SQLiteCache(conn).set("a", b"1")

        assert not conn.in_transaction
        assert await SQLiteCache(other).get("a") == b"1"


async def test_set_inside_a_transaction_is_part_of_it(database: Path) -> None:
    async with connect(database) as conn:
        cache = SQLiteCache(conn)
        await cache.set("a", b"1")
        with pytest.raises(KeyError):  # noqa: PT012 - the block is what is undone
            async with conn.transaction():
                await cache.set("a", b"2")
                raise KeyError

        assert await cache.get("a") == b"1"


async def test_table_whose_creation_was_rolled_back_is_created_again(database: Path) -> None:
    async with connect(database) as conn:
        cache = SQLiteCache(conn)
        await conn.begin()
        await cache.set("a", b"1")
        await conn.rollback()
        await cache.set("b", b"2")

        assert (await cache.get("a"), await cache.get("b")) == (None, b"2")


async def test_row_and_text_factories_do_not_change_cached_values(database: Path) -> None:
    async with connect(database, row_factory=rapsqlite.Row, text_factory=bytes, detect_types=3) as conn:
        await SQLiteCache(conn).set("a", b"1")

        assert await SQLiteCache(conn).get("a") == b"1"


async def test_adapters_change_neither_keys_nor_values(database: Path) -> None:
    """A value was found under another key if an adapter made the two the same."""

    class Key(str, enum.Enum):
        A = "a"

    async with connect(database) as conn:
        conn.register_adapter(str, str.lower)
        conn.register_adapter(bytes, bytes.hex)
        conn.register_adapter(Key, lambda _: "adapted")
        cache = SQLiteCache(conn)
        await cache.set("A", b"\0")
        await cache.set(Key.A, b"\1")

        assert [await cache.get("A"), await cache.get("a"), await cache.get("adapted")] == [b"\0", b"\1", None]


async def test_tasks_of_one_connection_share_it(database: Path) -> None:
    """They need no lock: each set is one statement."""
    async with connect(database) as conn:
        cache = SQLiteCache(conn)
        async with anyio.create_task_group() as tasks:
            for number in range(30):
                tasks.start_soon(cache.set, f"{number}", b"%d" % number)

        assert [await cache.get(f"{number}") for number in range(30)] == [b"%d" % number for number in range(30)]


@pytest.mark.parametrize("arguments, options, error", [
    ((1, b"x"), {}, TypeError), (("a", "x"), {}, TypeError), (("a", b"x"), {"ttl": -1}, ValueError),
    (("a", b"x"), {"ttl": float("inf")}, ValueError), (("a", b"x"), {"ttl": True}, ValueError),
])  # fmt: skip
async def test_invalid_entries_are_refused(arguments: Any, options: Any, error: type[Exception]) -> None:
    """Before anything is written; a negative lifetime would store an entry that nobody can read."""
    async with connect(":memory:") as conn:
        with pytest.raises(error):
            await SQLiteCache(conn).set(*arguments, **options)
        with pytest.raises(ValueError, match="limit"):
            await SQLiteCache(conn).cleanup_expired(limit=0)
        with pytest.raises(ValueError, match="table_name"):
            SQLiteCache(conn, table_name="")


def test_processes_that_start_together_lose_nothing(database: Path) -> None:
    """They also create the table at the same time."""
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(database), name], stderr=subprocess.PIPE) for name in "abc"
    ]
    errors = [worker.communicate()[1] for worker in workers]

    async def count() -> Any:
        async with connect(database) as conn:
            return await conn.fetch_scalar("SELECT count(*) FROM rapsqlite_cache")

    assert errors == [b"", b"", b""]
    assert anyio.run(count) == 61
