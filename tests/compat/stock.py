"""sqlite3 with the same methods as rapsqlite, so that one scenario runs on both and the results are compared."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import rapsqlite

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class StockCursor:
    """A sqlite3 cursor with awaitable methods."""

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self.cursor = cursor

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cursor, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "cursor":
            object.__setattr__(self, name, value)
        else:
            setattr(self.cursor, name, value)

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

    async def fetchmany(self, *given: Any, **options: Any) -> Any:
        return self.cursor.fetchmany(*given, **options)

    async def fetchall(self) -> Any:
        return self.cursor.fetchall()

    async def close(self) -> None:
        self.cursor.close()


class StockBlob:
    """A sqlite3 blob with awaitable methods, whose indexing is ``get`` and ``set``."""

    def __init__(self, blob: Any) -> None:
        self.blob = blob

    def __len__(self) -> int:
        return len(self.blob)

    def __getattr__(self, name: str) -> Any:
        return awaited(getattr(self.blob, name))

    async def get(self, key: Any) -> Any:
        return self.blob[key]

    async def set(self, key: Any, value: Any) -> None:
        self.blob[key] = value

    async def __aenter__(self) -> StockBlob:
        self.blob.__enter__()
        return self

    async def __aexit__(self, *raised: Any) -> None:
        self.blob.__exit__(*raised)


class Stock:
    """A sqlite3 connection with awaitable methods: the ones below, and all others that are called like ours."""

    def __init__(self, database: str, **options: Any) -> None:
        row_factory, text_factory = options.pop("row_factory", None), options.pop("text_factory", str)
        object.__setattr__(self, "connection", sqlite3.connect(database, **options))
        self.connection.row_factory = row_factory
        self.connection.text_factory = text_factory

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.connection, name)
        return awaited(value) if callable(value) and not isinstance(value, type) else value

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.connection, name, value)

    async def __aenter__(self) -> Stock:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.connection.close()

    async def iterdump(self, **options: Any) -> list[str]:
        return list(self.connection.iterdump(**options))

    async def backup(self, target: Any, **options: Any) -> None:
        self.connection.backup(target.connection if isinstance(target, Stock) else target, **options)

    async def blobopen(self, *given: Any, **options: Any) -> StockBlob:
        blobopen: Any = getattr(self.connection, "blobopen")  # noqa: B009 - Python 3.10 has none
        return StockBlob(blobopen(*given, **options))

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


def awaited(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """Return an asynchronous version of ``function``."""

    async def verb(*given: Any, **options: Any) -> Any:
        return function(*given, **options)

    return verb


async def rows_of(connection: Any, sql: str, *parameters: Any) -> list[Any]:
    """Return all rows of a statement, whatever the row factory."""
    cursor = await connection.execute(sql, *parameters)
    rows: list[Any] = await cursor.fetchall()
    return rows


async def outcome(connecting: Any, scenario: Callable[[Any], Awaitable[Any]], *, messages: bool) -> Any:
    """Return a scenario's result, or the name of its exception's class, with the message if requested."""
    async with connecting as connection:
        try:
            return await scenario(connection)
        except Exception as error:  # noqa: BLE001  the outcome to compare
            return type(error).__name__, str(error) if messages else ""


async def same(
    scenario: Callable[[Any], Awaitable[Any]], *, messages: bool = True, database: str = ":memory:", **options: Any
) -> Any:
    """Run a scenario on sqlite3 and on rapsqlite, check that they agree, and return the result."""
    theirs = await outcome(Stock(database, **options), scenario, messages=messages)
    ours = await outcome(rapsqlite.connect(database, **options), scenario, messages=messages)

    assert comparable(ours) == comparable(theirs), f"rapsqlite: {ours!r:.2000}\nsqlite3:   {theirs!r:.2000}"
    return ours


def comparable(result: Any) -> Any:
    """Return a result in a form in which 1 differs from 1.0 and True, and NaN equals NaN."""
    if isinstance(result, list | tuple):
        return [type(result).__name__, *map(comparable, result)]
    if isinstance(result, dict):
        return ["dict", *((name, comparable(value)) for name, value in result.items())]
    if isinstance(result, sqlite3.Row):
        return ["Row", *result.keys(), *map(comparable, result)]
    return type(result).__name__, repr(result)
