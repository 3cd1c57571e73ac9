"""Runs a scenario of CPython's sqlite3 tests on sqlite3 and on rapsqlite, and compares the results.

A scenario is a coroutine function of a connection; its result must be the same on both. The tests then also check that
result, because where the running Python's sqlite3 lacks a feature there is nothing to compare with.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import rapsqlite
from tests.compat.stock import outcome, same

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

NOTHING = ("nothing", "")
"""The result of `told` for a call that raises nothing."""


async def told(verb: Callable[..., Any], *given: Any, **options: Any) -> tuple[str, str]:
    """Return what a call raises: the class by its sqlite3 or Python name, and the message."""
    try:
        result = verb(*given, **options)
        if hasattr(result, "__await__"):
            await result
    except Exception as error:  # noqa: BLE001  the outcome to compare
        return class_of(error), str(error)
    return NOTHING


def class_of(error: BaseException) -> str:
    """Return the name of an exception's class, ignoring this package's subclass."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ in ("sqlite3", "builtins"))


async def agree(
    scenario: Callable[[Any], Awaitable[Any]],
    *,
    since: tuple[int, int] = (3, 10),
    database: str = ":memory:",
    **options: Any,
) -> Any:
    """Run a scenario on both, or only on ours if the running Python's sqlite3 cannot do it; return its result."""
    if sys.version_info >= since:
        return await same(scenario, database=database, **options)
    return await outcome(rapsqlite.connect(database, **options), scenario, messages=True)


async def column(connection: Any, sql: str, *parameters: Any) -> list[Any]:
    """Return the first value of each row."""
    cursor = await connection.execute(sql, *parameters)
    return [row[0] for row in await cursor.fetchall()]
