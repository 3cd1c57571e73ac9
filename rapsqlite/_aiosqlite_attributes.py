"""Private attributes of aiosqlite's connections that other programs use, SQLAlchemy's ``sqlite+aiosqlite`` above all.

aiosqlite has a thread with a queue of functions to call, and a `sqlite3` connection in it. Here both are the
`Connection` itself: its settings can be changed from any thread, and a function put into the queue is called
immediately.

https://github.com/omnilib/aiosqlite
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class _Thread:
    """The thread that a program marks as daemon; ours always is one."""

    __slots__ = ("daemon",)

    def __init__(self) -> None:
        self.daemon = True


class _Queue:
    """A queue that is always empty: functions put into it are called immediately."""

    __slots__ = ()

    @staticmethod
    def put_nowait(item: tuple[Any, Callable[[], Any]]) -> None:
        """Call the function of a pair and set the future to its result or exception."""
        future, function = item
        try:
            result = function()
        except Exception as error:  # noqa: BLE001 - it is the future's
            future.set_exception(error)
        else:
            future.set_result(result)

    @staticmethod
    def empty() -> bool:
        """Return True."""
        return True


class DriverAttributes:
    """The private attributes of aiosqlite's connections: attributes of `Connection`."""

    _tx = _Queue()
    _thread = _Thread()

    @property
    def _conn(self) -> Any:
        return self
