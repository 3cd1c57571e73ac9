"""APSW's async mode: its own SQLite, a worker thread per connection, rows prefetched in batches of 64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import apsw

from benchmarks.peers import Parameters, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NAME = "apsw"
IMPORT = "import apsw, apsw.aio"
FIRST_ROW = """
import asyncio, sys, apsw, apsw.aio
async def main():
    async with await apsw.Connection.as_async(sys.argv[1]) as connection:
        print(await (await connection.execute("SELECT id, name FROM items WHERE id = 1")).fetchall())
asyncio.run(main())
"""


def version() -> str:
    """Return the versions measured."""
    return f"{apsw.apsw_version()}, SQLite {apsw.sqlite_lib_version()}"


class ApswDatabase:
    """An ``apsw.AsyncConnection``; autocommit is APSW's only mode."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.execute = connection.execute
        self.close = connection.aclose

    async def execute_fetchall(self, sql: str, parameters: Parameters = ()) -> list[Any]:
        rows: list[Any] = await (await self._connection.execute(sql, parameters)).fetchall()
        return rows

    fetch_all = execute_fetchall

    async def fetch_one(self, sql: str, parameters: Parameters = ()) -> Any:
        return await (await self._connection.execute(sql, parameters)).fetchone()

    async def fetch_dicts(self, sql: str, parameters: Parameters = ()) -> list[Any]:
        raise UnsupportedError

    fetch_structs = fetch_dicts

    async def count_rows(self, sql: str, parameters: Parameters = ()) -> int:
        count = 0
        async for _ in await self._connection.execute(sql, parameters):
            count += 1
        return count

    async def insert_many(self, sql: str, rows: Iterable[Parameters]) -> None:
        await self._connection.execute("BEGIN")
        await self._connection.executemany(sql, rows)
        await self._connection.execute("COMMIT")


async def open_database(path: str, pragmas: Mapping[str, str]) -> ApswDatabase:
    """Open a connection; waits for locks as sqlite3 does by default."""
    connection = await apsw.Connection.as_async(path)
    await connection.set_busy_timeout(5000)
    for name, value in pragmas.items():
        await connection.pragma(name, value)
    return ApswDatabase(connection)
