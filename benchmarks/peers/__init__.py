"""One adapter per measured library: the same few methods, each the way the library documents it.

An adapter module defines ``NAME``, ``IMPORT`` and ``FIRST_ROW`` (source text for new interpreters), ``version()`` and
``open_database()``. Every connection is in autocommit mode; ``insert_many`` opens its own transaction. Where the
library's method already has the right shape the adapter uses that very method, so that no code of ours is timed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Mapping

NAMES = ("ours", "aiosqlite", "pyo3", "apsw", "stdlib")

Parameters = tuple[Any, ...]


class UnsupportedError(Exception):
    """The library has no such method: the workload is skipped for it."""


class Database(Protocol):
    """One open connection of a peer."""

    def execute(self, sql: str, parameters: Parameters = ()) -> Awaitable[Any]:
        """Run one statement and discard its rows."""

    def execute_fetchall(self, sql: str, parameters: Parameters = ()) -> Awaitable[Any]:
        """Run one statement and return its rows, with the method for small results."""

    def fetch_all(self, sql: str, parameters: Parameters = ()) -> Awaitable[Any]:
        """The same with the method for large results."""

    def fetch_one(self, sql: str, parameters: Parameters = ()) -> Awaitable[Any]:
        """Return the first row."""

    def fetch_dicts(self, sql: str, parameters: Parameters = ()) -> Awaitable[Any]:
        """Return all rows as dicts."""

    def fetch_structs(self, sql: str, parameters: Parameters = ()) -> Awaitable[Any]:
        """Return all rows as instances of a class with fields id, name, score and flag."""

    def count_rows(self, sql: str, parameters: Parameters = ()) -> Awaitable[int]:
        """Iterate over the rows with ``async for`` and return their number."""

    def insert_many(self, sql: str, rows: Iterable[Parameters]) -> Awaitable[Any]:
        """Insert all rows in one transaction."""

    def create_function(self, name: str, narg: int, func: Any, *, deterministic: bool = False) -> Awaitable[Any]:
        """Register an SQL function."""

    def create_aggregate(self, name: str, narg: int, cls: Any) -> Awaitable[Any]:
        """Register an aggregate."""

    def close(self) -> Awaitable[Any]:
        """Close the connection."""


def first_row_of(module: str) -> str:
    """Return the program ``FIRST_ROW`` for a module with aiosqlite's interface."""
    return f"""
import asyncio, sys, {module}
async def main():
    async with {module}.connect(sys.argv[1]) as connection:
        print(await connection.execute_fetchall("SELECT id, name FROM items WHERE id = 1"))
asyncio.run(main())
"""


class WithCursors:
    """What connections of aiosqlite's shape have in common."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.execute = connection.execute
        self.execute_fetchall = connection.execute_fetchall
        self.close = connection.close

    async def fetch_dicts(self, sql: str, parameters: Parameters = ()) -> list[Any]:
        raise UnsupportedError

    async def fetch_structs(self, sql: str, parameters: Parameters = ()) -> list[Any]:
        raise UnsupportedError

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


class WithFetchMethods(WithCursors):
    """What both packages called rapsqlite have in common."""

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self.fetch_all = connection.fetch_all
        self.fetch_one = connection.fetch_one

    async def fetch_dicts(self, sql: str, parameters: Parameters = ()) -> list[Any]:
        self._connection.row_factory = "dict"
        try:
            rows: list[Any] = await self._connection.fetch_all(sql, parameters)
        finally:
            self._connection.row_factory = None
        return rows


class Peer(Protocol):
    """An adapter module."""

    NAME: str
    IMPORT: str
    FIRST_ROW: str

    def version(self) -> str:
        """Return the library's version and SQLite's."""

    async def open_database(self, path: str, pragmas: Mapping[str, str]) -> Database:
        """Open a connection to ``path`` and apply the pragmas to it."""


def load(name: str) -> Peer:
    """Import the adapter called ``name``, and with it the library."""
    if name not in NAMES:
        raise ValueError(f"unknown peer {name!r}; known: {', '.join(NAMES)}")
    return cast("Peer", importlib.import_module(f"{__name__}.{name}_peer"))
