"""Errors for objects used without ``await`` or ``async``; they say what to write instead."""

from __future__ import annotations

from typing import NoReturn


class AsyncBlock:
    """Base of objects for ``async with`` alone."""

    __slots__ = ()

    def __enter__(self) -> NoReturn:
        raise TypeError(f"use `async with` for a {type(self).__name__}, not `with`")

    def __exit__(self, *exc_info: object) -> None:
        """Never called; without it, Python would report this method as missing."""


class AsyncRows(AsyncBlock):
    """Base of objects for ``async for`` as well; their rows arrive while they are awaited."""

    __slots__ = ()

    def __iter__(self) -> NoReturn:
        raise TypeError(f"use `async for` with a {type(self).__name__}, not `for`")
