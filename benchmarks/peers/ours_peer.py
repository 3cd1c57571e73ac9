"""This project, from the checkout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

import rapsqlite

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from benchmarks.peers import Parameters

NAME = "ours"
IMPORT = "import rapsqlite"
FIRST_ROW = """
import asyncio, sys, rapsqlite
async def main():
    async with rapsqlite.connect(sys.argv[1]) as connection:
        print(await connection.execute_fetchall("SELECT id, name FROM items WHERE id = 1"))
asyncio.run(main())
"""


class Item(msgspec.Struct):
    """A row of the table ``items``."""

    id: int
    name: str
    score: float
    flag: int


def version() -> str:
    """Return the versions measured."""
    return f"{rapsqlite.__version__}, SQLite {rapsqlite.sqlite_version}"


class OurDatabase:
    """A connection of this project in autocommit mode."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.execute = connection.execute
        self.execute_fetchall = connection.execute_fetchall
        self.fetch_all = connection.fetch_all
        self.fetch_one = connection.fetch_one
        self.create_function = connection.create_function
        self.create_aggregate = connection.create_aggregate
        self.close = connection.close

    async def fetch_dicts(self, sql: str, parameters: Parameters = ()) -> list[Any]:
        self._connection.row_factory = "dict"
        try:
            rows: list[Any] = await self._connection.fetch_all(sql, parameters)
        finally:
            self._connection.row_factory = None
        return rows

    async def fetch_structs(self, sql: str, parameters: Parameters = ()) -> list[Any]:
        rows: list[Any] = await self._connection.fetch_all(sql, parameters, into=Item)
        return rows

    async def count_rows(self, sql: str, parameters: Parameters = ()) -> int:
        count = 0
        async with self._connection.execute(sql, parameters) as cursor:
            async for _ in cursor:
                count += 1
        return count

    async def insert_many(self, sql: str, rows: Iterable[Parameters]) -> None:
        await self._connection.execute("BEGIN")
        await self._connection.executemany(sql, rows)
        await self._connection.commit()


async def open_database(path: str, pragmas: Mapping[str, str]) -> OurDatabase:
    """Open a connection in autocommit mode."""
    connection = await rapsqlite.connect(path, isolation_level=None)
    for name, value in pragmas.items():
        await connection.execute(f"PRAGMA {name}={value}")
    return OurDatabase(connection)
