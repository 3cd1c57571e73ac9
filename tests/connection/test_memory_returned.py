"""Memory used for a large value is released at the end of its statement, not when the connection closes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.programs import run_python

if TYPE_CHECKING:
    from pathlib import Path

VALUE_BYTES = 40 << 20  # smaller ones may stay in the C library's heap, up to twice 32 MB
MOST_BYTES = 30 << 20  # less than a single copy; buffers for pieces of blobs, small blocks and cached pages stay

PROGRAM = """
import gc, sys
import anyio
import rapsqlite

SIZE, MAPS = int(sys.argv[2]), sys.argv[4] == "with mapped files"

def resident():
    gc.collect()
    with open("/proc/self/status") as status:
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in status if "kB" in line}
    return sizes["VmRSS"] if MAPS else sizes["RssAnon"]

async def write(conn):
    await conn.execute("REPLACE INTO t VALUES (1, ?)", [bytes(SIZE)])
    await conn.commit()

async def read(conn):
    assert len(await conn.fetch_scalar("SELECT value FROM t")) == SIZE

async def read_by_cursor(conn):
    cursor = await conn.execute("SELECT value FROM t")
    assert len((await cursor.fetchall())[0][0]) == SIZE

async def read_many(conn):
    async for row in conn.stream("SELECT value FROM t, (VALUES (1), (2), (3))"):
        assert len(row[0]) == SIZE

async def insert_many(conn):
    await conn.executemany("REPLACE INTO t VALUES (2, ?)", [[bytes(SIZE)], [bytes(SIZE)]])
    await conn.execute("DELETE FROM t WHERE id = 2")
    await conn.commit()

async def concatenate(conn):
    numbers = "WITH n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n LIMIT ?)"
    sql = f"{numbers} SELECT length(group_concat(hex(zeroblob(500)))) FROM n"
    assert await conn.fetch_scalar(sql, [SIZE // 1000]) > SIZE

async def call(conn):
    await conn.create_function("repeated", 1, lambda value: value)
    assert await conn.fetch_scalar("SELECT length(repeated(value)) FROM t") == SIZE

async def blob(conn):
    async with conn.blobopen("t", "value", 1) as opened:
        assert len(await opened.read()) == SIZE
        await opened.seek(0)
        await opened.write(bytes(SIZE))
    await conn.commit()

async def sorted_values(conn):
    assert len(await conn.fetch_scalar("SELECT value FROM t ORDER BY length(value)")) == SIZE

async def text(conn):
    await conn.execute("REPLACE INTO t VALUES (3, ?)", ["\u0101" * (SIZE // 2)])
    assert len(await conn.fetch_scalar("SELECT value FROM t WHERE id = 3")) == SIZE // 2
    await conn.execute("DELETE FROM t WHERE id = 3")
    await conn.commit()

async def image(conn):
    data = await conn.serialize()
    assert len(data) > SIZE
    await conn.execute("ATTACH ':memory:' AS copy")
    await conn.deserialize(data, name="copy")
    assert await conn.fetch_scalar("SELECT length(value) FROM copy.t") == SIZE
    await conn.execute("DETACH copy")

async def backup(conn):
    async with rapsqlite.connect(":memory:") as target:
        await conn.backup(target)
        assert await target.fetch_scalar("SELECT length(value) FROM t") == SIZE

async def shrink(conn):
    await conn.execute("UPDATE t SET value = value || zeroblob(0)")
    await conn.rollback()
    await conn.execute("PRAGMA shrink_memory")

async def fail(conn):
    try:
        await conn.execute("INSERT INTO t VALUES (1, ?)", [bytes(SIZE)])
    except rapsqlite.IntegrityError:
        await conn.rollback()

async def main():
    async with rapsqlite.connect(sys.argv[1], limits={"memory_bytes": 400 << 20}) as conn:
        await conn.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, value)")
        await conn.fetch_all("SELECT 1")
        before = resident()
        steps = (write, read, read_by_cursor, read_many, insert_many, concatenate, call, blob, sorted_values, text)
        for step in steps[:4] if MAPS else (*steps, image, backup, shrink, fail):
            await step(conn)
            await conn.fetch_all("SELECT 1")
            print(step.__name__, resident() - before)

anyio.run(main, backend=sys.argv[3])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system takes no pages back")
@pytest.mark.parametrize("kind, steps", [("of its own", 14), ("with mapped files", 4)])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_memory_of_large_values_is_returned_after_each_statement(
    tmp_path: Path, backend: str, kind: str, steps: int
) -> None:
    """A value of 150 MB used to keep 470 MB until the connection was closed, and the same amount of mapped files."""

    output = run_python("-c", PROGRAM, tmp_path / "test.db", VALUE_BYTES, backend, kind, check=True, timeout=120).stdout

    grown = {name: int(size) for name, size in map(str.split, output.splitlines())}
    assert len(grown) == steps
    assert {name: size for name, size in grown.items() if size > MOST_BYTES} == {}
