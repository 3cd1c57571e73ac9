"""Adapters: Python objects to values that SQLite stores, before they are encoded.

The module-level registry is that of `sqlite3`, shared, not copied: `sqlite3.register_adapter` and ours are
one function and a program that registered its adapters there finds them here. A connection's own adapters
go before them.

An adapter is looked up by a value's exact type. Values of the plain types go to SQLite as they are and are
not looked up at all, unless an adapter for one of these very types was registered.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite.types import Adapter

__all__ = ["PLAIN_TYPES", "Adapters", "register_adapter"]

PLAIN_TYPES: frozenset[type] = frozenset({int, float, str, bytes, bool, type(None), bytearray, memoryview})
"""Types that MessagePack carries and SQLite binds without help. Exact types: a subclass may mean something
else."""

register_adapter: Callable[[type[Any], Adapter[Any]], None] = sqlite3.register_adapter

# (type, protocol) -> adapter; the very dict that sqlite3 looks into.
_shared = sqlite3.adapters


class Adapters:
    """The adapters one connection uses: its own, then the shared ones."""

    __slots__ = ("_own", "_plain", "_shared_count")

    def __init__(self) -> None:
        self._own: dict[type, Adapter[Any]] = {}
        self._plain = PLAIN_TYPES
        self._shared_count = -1

    def register(self, kind: type, adapter: Adapter[Any]) -> None:
        """Adapt values of exactly this type with ``adapter`` from now on."""
        self._own[kind] = adapter
        self._shared_count = -1

    def plain(self) -> frozenset[type]:
        """Return the types whose values need no adapter.

        This runs for every statement, so it notices a change of the shared registry by its size alone:
        replacing an adapter does not change which types have one.
        """
        if len(_shared) != self._shared_count:
            adapted = self._own.keys() | {kind for kind, _ in _shared}
            self._plain = PLAIN_TYPES - adapted
            self._shared_count = len(_shared)
        return self._plain

    def adapt(self, value: Any) -> Any:
        """Return what is to be bound: an adapter's or ``__conform__``'s answer, else the value itself.

        Raises whatever the adapter raises.
        """
        adapter = self._own.get(type(value))
        if adapter is not None:
            return adapter(value)
        return sqlite3.adapt(value, sqlite3.PrepareProtocol, value)
