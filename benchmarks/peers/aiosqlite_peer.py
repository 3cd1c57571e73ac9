"""aiosqlite: the stdlib module in a separate thread."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import aiosqlite

from benchmarks.peers import Parameters, WithCursors, first_row_of

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "aiosqlite"
IMPORT = "import aiosqlite"
FIRST_ROW = first_row_of("aiosqlite")


def version() -> str:
    """Return the versions measured."""
    return f"{aiosqlite.__version__}, SQLite {sqlite3.sqlite_version}"


class AiosqliteDatabase(WithCursors):
    """An aiosqlite connection in autocommit mode."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        super().__init__(connection)
        self.fetch_all = connection.execute_fetchall

    async def fetch_one(self, sql: str, parameters: Parameters = ()) -> Any:
        async with self._connection.execute(sql, parameters) as cursor:
            return await cursor.fetchone()


async def open_database(path: str, pragmas: Mapping[str, str]) -> AiosqliteDatabase:
    """Open a connection in autocommit mode."""
    connection = await aiosqlite.connect(path, isolation_level=None)
    for name, value in pragmas.items():
        await connection.execute_fetchall(f"PRAGMA {name}={value}")
    return AiosqliteDatabase(connection)
