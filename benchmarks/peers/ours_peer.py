"""This project, from the checkout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

import rapsqlite
from benchmarks.peers import WithFetchMethods, first_row_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.peers import Parameters

NAME = "ours"
IMPORT = "import rapsqlite"
FIRST_ROW = first_row_of("rapsqlite")


class Item(msgspec.Struct):
    """A row of the table ``items``."""

    id: int
    name: str
    score: float
    flag: int


def version() -> str:
    """Return the versions measured."""
    return f"{rapsqlite.__version__}, SQLite {rapsqlite.sqlite_version}"


class OurDatabase(WithFetchMethods):
    """A connection of this project in autocommit mode."""

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self.create_function = connection.create_function
        self.create_aggregate = connection.create_aggregate

    async def fetch_structs(self, sql: str, parameters: Parameters = ()) -> list[Any]:
        rows: list[Any] = await self._connection.fetch_all(sql, parameters, into=Item)
        return rows


async def open_database(path: str, pragmas: Mapping[str, str]) -> OurDatabase:
    """Open a connection in autocommit mode."""
    connection = await rapsqlite.connect(path, isolation_level=None)
    for name, value in pragmas.items():
        await connection.execute(f"PRAGMA {name}={value}")
    return OurDatabase(connection)
