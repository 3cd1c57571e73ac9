"""Transactions that are retried while the database is busy, or that have a time limit.

https://sqlite.org/rescode.html#busy
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, TypeVar

from rapsqlite import _constants as abi
from rapsqlite.errors import OperationalError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rapsqlite.connection import Connection

T = TypeVar("T")

_TRANSIENT = {abi.SQLITE_BUSY, abi.SQLITE_LOCKED}


async def transaction_retry(
    connection: Connection,
    work: Callable[[], Awaitable[T]],
    max_retries: int = 5,
    initial_delay: float = 0.01,
    max_delay: float = 1.0,
) -> T:
    """Run ``work`` in an IMMEDIATE transaction; return its result.

    If the database is busy or locked, roll back and call ``work`` again, for at most ``max_retries`` attempts in all.
    The delay between attempts is random, at most ``initial_delay`` seconds at first; that maximum doubles each time,
    up to ``max_delay``. Each attempt also waits for locks up to the connection's ``timeout``. Other errors are raised
    immediately.
    """
    _check_work("transaction_retry", work)
    if max_retries < 1:
        raise ValueError("max_retries must be at least 1")
    from anyio import sleep

    delay_s = initial_delay
    for attempts_left in reversed(range(max_retries)):
        try:
            async with connection.transaction("IMMEDIATE"):
                return await work()
        except OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _TRANSIENT or not attempts_left:
                raise
        await sleep(random.uniform(0, min(delay_s, max_delay)))  # noqa: S311 - spreads writers, no secret
        delay_s *= 2
    raise AssertionError("the last attempt returns or raises")


async def transaction_with_timeout(
    connection: Connection, work: Callable[[], Awaitable[T]], timeout_secs: float = 30.0
) -> T:
    """Run ``work`` in a transaction and return its result; roll back and raise TimeoutError if it takes longer.

    The limit includes the time spent waiting for other transactions on the connection.
    """
    _check_work("transaction_with_timeout", work)
    from anyio import fail_after

    with fail_after(timeout_secs):
        async with connection.transaction():
            return await work()


def _check_work(verb: str, work: Any) -> None:
    if not callable(work):
        if hasattr(work, "close"):
            work.close()  # a coroutine that is not awaited would warn
        raise TypeError(f"{verb}() needs an async function to call: pass work, not work()")
