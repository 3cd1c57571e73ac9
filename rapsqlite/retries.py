"""Transactions that are retried while the database is busy, or that must end in time."""

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
    """Run ``work`` in a transaction that begins IMMEDIATE; return its result.

    If the database is busy or locked, the transaction is rolled back and ``work`` called again, at most
    ``max_retries`` times in all, after a random delay of up to ``initial_delay`` seconds that doubles each time, up to
    ``max_delay``. Each attempt also waits for locks as long as the connection's ``timeout``. Other errors are raised
    at once.
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
        await sleep(random.uniform(0, min(delay_s, max_delay)))  # noqa: S311 - it keeps writers apart, no secrets
        delay_s *= 2
    raise AssertionError("the last attempt returns or raises")


async def transaction_with_timeout(
    connection: Connection, work: Callable[[], Awaitable[T]], timeout_secs: float = 30.0
) -> T:
    """Run ``work`` in a transaction and return its result; TimeoutError, after a rollback, if it takes longer.

    The time includes the waiting for other transactions of the connection.
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
