"""Adapters: convert Python objects to values that SQLite stores, before encoding.

The module-level registry is `sqlite3`'s own, shared rather than copied: `sqlite3.register_adapter` and this package's
are one function, so adapters registered there are found here. A connection's own adapters take precedence.

An adapter is looked up by a value's exact type. Values of plain types are not looked up unless an adapter for one of
these very types was registered. https://docs.python.org/3/library/sqlite3.html#sqlite3-adapters
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite.types import Adapter

__all__ = ["PLAIN_TYPES", "Adapters", "register_adapter"]

PLAIN_TYPES: frozenset[type] = frozenset({int, float, str, bytes, bool, type(None), bytearray, memoryview})
"""Types that MessagePack carries and SQLite binds without help. Exact types: a subclass may mean something else."""

register_adapter: Callable[[type[Any], Adapter[Any]], None] = sqlite3.register_adapter

# (type, protocol) -> adapter; the dict that sqlite3 itself uses.
_shared = sqlite3.adapters


class Adapters:
    """The adapters of one connection: its own, then the shared ones."""

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

        This runs for every statement, so it detects a change of the shared registry only by its size; replacing an
        adapter does not change which types have one.
        """
        if len(_shared) != self._shared_count:
            adapted = self._own.keys() | {kind for kind, _ in _shared}
            self._plain = PLAIN_TYPES - adapted
            self._shared_count = len(_shared)
        return self._plain

    def adapt(self, value: Any) -> Any:
        """Return the value to bind: the result of an adapter or ``__conform__``, otherwise the value itself.

        Raises whatever the adapter raises.
        """
        adapter = self._own.get(type(value))
        if adapter is not None:
            return adapter(value)
        return sqlite3.adapt(value, sqlite3.PrepareProtocol, value)
