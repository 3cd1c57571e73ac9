"""What programs written for aiosqlite take from inside of its connections, SQLAlchemy's ``sqlite+aiosqlite`` above all.

aiosqlite has a thread with a queue of functions to call, and a connection of `sqlite3` in it. Here both are the
`Connection` itself: its own settings can be set from anywhere, and a function given to the queue is called at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class _Thread:
    """The thread that a program makes a daemon, as ours always are."""

    __slots__ = ("daemon",)

    def __init__(self) -> None:
        self.daemon = True


class _Queue:
    """A queue that is always empty: what is put into it is done."""

    __slots__ = ()

    @staticmethod
    def put_nowait(item: tuple[Any, Callable[[], Any]]) -> None:
        """Call the function of a pair and give the future what came of it."""
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
    """What of `Connection` stands for the private attributes of aiosqlite's."""

    _tx = _Queue()
    _thread = _Thread()

    @property
    def _conn(self) -> Any:
        return self
