"""The result of ``execute()`` and similar methods: await it, or use it in ``async with``."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rapsqlite._values.async_only import AsyncRows

T_co = TypeVar("T_co", covariant=True)


class Operation(AsyncRows, Coroutine[Any, Any, T_co], Generic[T_co]):
    """An operation that begins when it is awaited or entered; it can be awaited once.

    It also works as a coroutine for ``asyncio.create_task``, ``asyncio.gather`` and Trio's nurseries. ``async with``
    yields its result and closes it on exit if it is a cursor.
    """

    __slots__ = ("_coroutine", "_result")

    def __init__(self, coroutine: Coroutine[Any, Any, T_co]) -> None:
        self._coroutine = coroutine
        self._result: T_co | None = None

    def __await__(self) -> Generator[Any, Any, T_co]:
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        """Resume the coroutine."""
        return self._coroutine.send(value)

    def throw(self, *exc_info: Any) -> Any:
        """Raise an exception in the coroutine."""
        return self._coroutine.throw(*exc_info)

    def close(self) -> None:
        """End the coroutine."""
        self._coroutine.close()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            if name == "_result":  # if __init__ was not called
                raise AttributeError(name)
            raise AttributeError(f"await it first, or use it in `async with`: (await ...).{name}")

        def __aiter__(self) -> Any:
            self._coroutine.close()
            raise TypeError("await it first, use it in `async with`, or iterate over conn.stream(sql)")

    async def __aenter__(self) -> T_co:
        result = self._result = await self._coroutine
        return result

    async def __aexit__(self, *exc_info: object) -> None:
        leave = getattr(self._result, "__aexit__", None)
        if leave is not None:
            await leave(*exc_info)
