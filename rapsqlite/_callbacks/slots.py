"""Host functions in the guest's table, one slot for each callback that is called often.

The import shared by all callbacks has to look up each call. A function in the table is bound to one callback at a time.
The guest requests it with the callback's first call (docs/abi.md, "Callbacks"). Slots of released callbacks are reused,
because a table only grows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rapsqlite._constants import NO_FUNCTION

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite._callbacks.trampoline import Bind, Enter


class Slots:
    """The slots of one guest: table indexes, and the functions they call. Use on the guest's thread."""

    __slots__ = ("_add_to_table", "_free", "_make", "_shared", "_used")

    _make: Callable[[], tuple[Enter, Bind]]
    _add_to_table: Callable[[Enter], int]
    _shared: tuple[Enter, Bind]

    def __init__(self) -> None:
        self._used: dict[int, tuple[int, Bind]] = {}  # by kind and handle
        self._free: list[tuple[int, Bind]] = []

    def attach(self, make: Callable[[], tuple[Enter, Bind]], add_to_table: Callable[[Enter], int]) -> None:
        """``make`` returns a new entrance, ``add_to_table`` its table index, 0 if there is no space."""
        self._make = make
        self._add_to_table = add_to_table
        self._shared = make()

    def call(self, function: Callable[..., Any]) -> int:
        """Call it without a slot; return the result of its entrance."""
        enter, bind = self._shared
        bind(function)
        return enter()

    def open(self, key: int, function: Callable[..., Any]) -> int:
        """Return the table index at which ``function`` can be called from now on, NO_FUNCTION if there is none."""
        slot = self._used.get(key) or (self._free.pop() if self._free else self._new())
        if slot is None:
            return NO_FUNCTION
        self._used[key] = slot
        index, bind = slot
        bind(function)
        return index

    def _new(self) -> tuple[int, Bind] | None:
        enter, bind = self._make()
        index = self._add_to_table(enter)
        return (index, bind) if index else None

    def close(self, key: int) -> None:
        """Unbind and drop the function of a slot, if it has one."""
        slot = self._used.pop(key, None)
        if slot is not None:
            slot[1](None)
            self._free.append(slot)

    def clear(self) -> None:
        """Drop all functions."""
        for key in list(self._used):
            self.close(key)
        if hasattr(self, "_shared"):
            self._shared[1](None)
