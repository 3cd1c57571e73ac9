"""How a scenario of CPython's sqlite3 tests is run here: on sqlite3 and on rapsqlite, and the results compared.

A scenario is a coroutine function of a connection; what it returns must be the same on both. The tests then also check
that result, for where the running Python's sqlite3 lacks a feature there is nothing to compare with.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import rapsqlite
from tests.compat.stock import outcome, same

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

NOTHING = ("nothing", "")
"""What `told` returns for a verb that raises nothing."""


async def told(verb: Callable[..., Any], *given: Any, **options: Any) -> tuple[str, str]:
    """Return what a verb raises: the class as sqlite3 or Python calls it, and the message."""
    try:
        result = verb(*given, **options)
        if hasattr(result, "__await__"):
            await result
    except Exception as error:  # noqa: BLE001  the outcome to compare
        return class_of(error), str(error)
    return NOTHING


def class_of(error: BaseException) -> str:
    """Return the name of an exception's class, without what this package derived from it."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ in ("sqlite3", "builtins"))


async def agree(
    scenario: Callable[[Any], Awaitable[Any]],
    *,
    since: tuple[int, int] = (3, 10),
    database: str = ":memory:",
    **options: Any,
) -> Any:
    """Run a scenario on both, or on ours alone before the Python whose sqlite3 can do it; return what it gave."""
    if sys.version_info >= since:
        return await same(scenario, database=database, **options)
    return await outcome(rapsqlite.connect(database, **options), scenario, messages=True)


async def column(connection: Any, sql: str, *parameters: Any) -> list[Any]:
    """Return the first value of each row."""
    cursor = await connection.execute(sql, *parameters)
    return [row[0] for row in await cursor.fetchall()]
