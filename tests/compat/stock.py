"""sqlite3 behind the same verbs as rapsqlite, so that one scenario runs on both and the results are compared."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import rapsqlite

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class StockCursor:
    """A cursor of sqlite3 whose verbs are awaited."""

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self.cursor = cursor

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cursor, name)

    async def execute(self, *given: Any) -> StockCursor:
        self.cursor.execute(*given)
        return self

    async def executemany(self, *given: Any) -> StockCursor:
        self.cursor.executemany(*given)
        return self

    async def executescript(self, sql: str) -> StockCursor:
        self.cursor.executescript(sql)
        return self

    async def fetchone(self) -> Any:
        return self.cursor.fetchone()

    async def fetchmany(self, *given: Any) -> Any:
        return self.cursor.fetchmany(*given)

    async def fetchall(self) -> Any:
        return self.cursor.fetchall()

    async def close(self) -> None:
        self.cursor.close()


class Stock:
    """A connection of sqlite3 whose verbs are awaited."""

    def __init__(self, database: str, **options: Any) -> None:
        row_factory, text_factory = options.pop("row_factory", None), options.pop("text_factory", str)
        self.connection = sqlite3.connect(database, **options)
        self.connection.row_factory = row_factory
        self.connection.text_factory = text_factory

    async def __aenter__(self) -> Stock:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.connection.close()

    async def cursor(self) -> StockCursor:
        return StockCursor(self.connection.cursor())

    async def execute(self, *given: Any) -> StockCursor:
        return StockCursor(self.connection.execute(*given))

    async def executemany(self, *given: Any) -> StockCursor:
        return StockCursor(self.connection.executemany(*given))

    async def executescript(self, sql: str) -> StockCursor:
        return StockCursor(self.connection.executescript(sql))

    async def commit(self) -> None:
        self.connection.commit()

    async def rollback(self) -> None:
        self.connection.rollback()

    @property
    def in_transaction(self) -> bool:
        return bool(self.connection.in_transaction)

    @property
    def total_changes(self) -> int:
        return int(self.connection.total_changes)


async def rows_of(connection: Any, sql: str, *parameters: Any) -> list[Any]:
    """Return all rows of a statement, however the connection makes them."""
    cursor = await connection.execute(sql, *parameters)
    rows: list[Any] = await cursor.fetchall()
    return rows


async def outcome(connecting: Any, scenario: Callable[[Any], Awaitable[Any]], *, messages: bool) -> Any:
    """Return what a scenario gives, or the name of the class of what it raises, with the message if asked."""
    async with connecting as connection:
        try:
            return await scenario(connection)
        except Exception as error:  # noqa: BLE001  the outcome to compare
            return type(error).__name__, str(error) if messages else ""


async def same(
    scenario: Callable[[Any], Awaitable[Any]], *, messages: bool = True, database: str = ":memory:", **options: Any
) -> Any:
    """Run a scenario on sqlite3 and on rapsqlite, check that they agree, and return what it gave."""
    theirs = await outcome(Stock(database, **options), scenario, messages=messages)
    ours = await outcome(rapsqlite.connect(database, **options), scenario, messages=messages)

    assert comparable(ours) == comparable(theirs), f"rapsqlite: {ours!r:.2000}\nsqlite3:   {theirs!r:.2000}"
    return ours


def comparable(result: Any) -> Any:
    """Return a result so that 1 differs from 1.0 and True, and NaN equals NaN."""
    if isinstance(result, list | tuple):
        return [type(result).__name__, *map(comparable, result)]
    if isinstance(result, dict):
        return ["dict", *((name, comparable(value)) for name, value in result.items())]
    if isinstance(result, sqlite3.Row):
        return ["Row", *result.keys(), *map(comparable, result)]
    return type(result).__name__, repr(result)
