"""Two connections that differ only in whether function calls are deferred. Users must see no difference."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import rapsqlite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

ROWS = 300
TABLES = f"""
CREATE TABLE t (id INTEGER PRIMARY KEY, k, v);
INSERT INTO t (k, v) WITH n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
    SELECT i % 5, i * 7 % 211 FROM n;
CREATE TABLE u (id INTEGER PRIMARY KEY, name TEXT) WITHOUT ROWID;
INSERT INTO u SELECT id, 'name ' || v FROM t WHERE id % 2;
CREATE INDEX by_v ON t (v);
CREATE VIEW seen AS SELECT id, f(v) AS y FROM t;
"""
SCAN = "SELECT id, f(v) FROM t ORDER BY id"
Log = list[tuple[Any, ...]]


def logged(log: Log, function: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """Return a function that records its arguments and returns the first one, or the result of ``function``."""

    def f(*arguments: Any) -> Any:
        log.append(arguments)
        if function is not None:
            return function(*arguments)
        return arguments[0] if arguments else None

    return f


async def crossings(conn: rapsqlite.Connection) -> int:
    """The number of times the connection has called Python."""
    count: int = (await conn.statistics())["callbacks"]
    return count


@asynccontextmanager
async def opened(function: Callable[..., Any], **options: Any) -> AsyncIterator[rapsqlite.Connection]:
    """A connection with `TABLES` and ``f`` of up to two arguments."""
    async with rapsqlite.connect(":memory:", **options) as conn:
        for number in range(3):
            await conn.create_function("f", number, function)
        await conn.executescript(TABLES)
        yield conn


async def keep_calls_single(conn: rapsqlite.Connection) -> None:
    """Prevent deferring from now on: a progress handler, even one that is never called, would come in between."""
    await conn.set_progress_handler(lambda: 0, 2_000_000_000)


async def outcome(operation: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    """The result of an operation, or everything visible of its failure."""
    try:
        return repr(await operation(*arguments))
    except rapsqlite.Error as error:
        names = ("sqlite_errorcode", "sqlite_errorname", "sql")
        seen = [getattr(error, name, None) for name in names]
        return type(error), str(error), seen, repr(error.__cause__)


async def both(
    function: Callable[..., Any],
    use: Callable[[rapsqlite.Connection], Awaitable[Any]],
    **options: Any,
) -> tuple[Any, Log]:
    """Return the outcome of ``use`` and the calls it made; they must not depend on whether calls are deferred."""
    seen = []
    for single in (False, True):
        log: Log = []
        async with opened(logged(log, function), **options) as conn:
            if single:
                await keep_calls_single(conn)
            before = await crossings(conn)
            result = await outcome(use, conn)
            calls = list(log)
            count = await crossings(conn) - before
            assert (count == len(calls)) if single else (count < len(calls) / 2), (count, len(calls))
            seen.append((result, calls))
            assert await conn.fetch_scalar("SELECT 1") == 1
    assert seen[0] == seen[1]
    return seen[0]
