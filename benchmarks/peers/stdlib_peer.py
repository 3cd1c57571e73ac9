"""Blocking stdlib ``sqlite3`` on the event loop's own thread: the upper limit, not a way to write programs."""

from __future__ import annotations

import sqlite3
import sys
from typing import TYPE_CHECKING, Any

from benchmarks.peers import Parameters, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NAME = "stdlib"
IMPORT = "import sqlite3"
FIRST_ROW = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
print(connection.execute("SELECT id, name FROM items WHERE id = 1").fetchall())
connection.close()
"""


def version() -> str:
    """Return the versions measured."""
    return f"Python {sys.version_info.major}.{sys.version_info.minor}, SQLite {sqlite3.sqlite_version}"


class StdlibDatabase:
    """A blocking connection behind coroutines that never wait."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def execute(self, sql: str, parameters: Parameters = ()) -> None:
        self._connection.execute(sql, parameters)

    async def execute_fetchall(self, sql: str, parameters: Parameters = ()) -> list[Any]:
        return self._connection.execute(sql, parameters).fetchall()

    fetch_all = execute_fetchall

    async def fetch_one(self, sql: str, parameters: Parameters = ()) -> Any:
        return self._connection.execute(sql, parameters).fetchone()

    async def fetch_dicts(self, sql: str, parameters: Parameters = ()) -> list[Any]:
        raise UnsupportedError

    fetch_structs = fetch_dicts

    async def count_rows(self, sql: str, parameters: Parameters = ()) -> int:
        count = 0
        for _ in self._connection.execute(sql, parameters):
            count += 1
        return count

    async def insert_many(self, sql: str, rows: Iterable[Parameters]) -> None:
        self._connection.execute("BEGIN")
        self._connection.executemany(sql, rows)
        self._connection.execute("COMMIT")

    async def create_function(self, name: str, narg: int, func: Any, *, deterministic: bool = False) -> None:
        self._connection.create_function(name, narg, func, deterministic=deterministic)

    async def create_aggregate(self, name: str, narg: int, cls: Any) -> None:
        self._connection.create_aggregate(name, narg, cls)

    async def close(self) -> None:
        self._connection.close()


async def open_database(path: str, pragmas: Mapping[str, str]) -> StdlibDatabase:
    """Open a connection in autocommit mode."""
    connection = sqlite3.connect(path, isolation_level=None)
    for name, value in pragmas.items():
        connection.execute(f"PRAGMA {name}={value}")
    return StdlibDatabase(connection)
