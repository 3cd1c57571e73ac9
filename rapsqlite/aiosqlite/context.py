"""Results that can be awaited or used in ``async with``, as ``aiosqlite.context``."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

from rapsqlite._client.operation import Operation as Result

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

__all__ = ["Result", "contextmanager"]


def contextmanager(method: Callable[..., Coroutine[Any, Any, T]]) -> Callable[..., Result[T]]:
    """Return an async method's wrapper whose result can also be used in ``async with``."""

    @wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Result[T]:
        return Result(method(self, *args, **kwargs))

    return wrapper
