"""Adapters: convert Python objects to values that SQLite stores, before encoding.

The module-level registry is `sqlite3`'s own, shared rather than copied: `sqlite3.register_adapter` and this package's
are one function, so adapters registered there are found here. A connection's own adapters take precedence.

An adapter is looked up by a value's exact type. Values of plain types are not looked up unless an adapter for one of
these very types was registered. https://docs.python.org/3/library/sqlite3.html#sqlite3-adapters
"""

from __future__ import annotations

import sqlite3
import sys
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite.types import Adapter

__all__ = ["PLAIN_TYPES", "Adapters", "register_adapter"]

PLAIN_TYPES: frozenset[type] = frozenset({int, float, str, bytes, bool, type(None), bytearray, memoryview})
"""Types that MessagePack carries and SQLite binds without help. Exact types: a subclass may mean something else."""

register_adapter: Callable[[type[Any], Adapter[Any]], None] = sqlite3.register_adapter

# (type, protocol) -> adapter; the dict that sqlite3 itself uses.
_shared = sqlite3.adapters


def _as_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _is_a(module: str, name: str) -> Callable[[Any], bool]:
    """Return a test for instances of a class; if its module has not been imported, there are none."""

    def test(value: Any) -> bool:
        kind = getattr(sys.modules.get(module), name, None)
        return kind is not None and isinstance(value, kind)

    return test


# The families that `Adapters.enable` can switch on: a test for their values, and how they are stored. Enums come first,
# because a member's value may be of any other family.
_FAMILIES: dict[str, tuple[Callable[[Any], bool], Callable[[Any], Any]]] = {
    "enum": (_is_a("enum", "Enum"), lambda value: value.value),
    "uuid": (_is_a("uuid", "UUID"), str),
    "decimal": (_is_a("decimal", "Decimal"), str),
    "struct": (lambda value: isinstance(value, msgspec.Struct), _as_json),
    "dataclass": (lambda value: hasattr(type(value), "__dataclass_fields__"), _as_json),
}


class Adapters:
    """The adapters of one connection: its own, then the shared ones, then the families that are switched on."""

    __slots__ = ("_families", "_own", "_plain", "_shared_count")

    def __init__(self) -> None:
        self._own: dict[type, Adapter[Any]] = {}
        self._families: dict[str, tuple[Callable[[Any], bool], Callable[[Any], Any]]] = {}
        self._plain = PLAIN_TYPES
        self._shared_count = -1

    def register(self, kind: type, adapter: Adapter[Any]) -> None:
        """Adapt values of exactly this type with ``adapter`` from now on."""
        self._own[kind] = adapter
        self._shared_count = -1

    def enable(self, names: tuple[str, ...]) -> None:
        """Switch on the named families, or all if none is named. ValueError, without effect, for an unknown name."""
        unknown = [name for name in names if name not in _FAMILIES]
        if unknown:
            raise ValueError(f"unknown adapter {unknown[0]!r}: choose from {', '.join(sorted(_FAMILIES))}")
        wanted = {*self._families, *(names or _FAMILIES)}
        self._families = {name: family for name, family in _FAMILIES.items() if name in wanted}

    def take_from(self, other: Adapters) -> None:
        """Copy the adapters and families of ``other``."""
        self._own.update(other._own)
        self._families = other._families
        self._shared_count = -1

    def plain(self) -> frozenset[type]:
        """Return the types whose values need no adapter.

        This runs for every statement, so it detects a change of the shared registry only by its size; replacing an
        adapter does not change which types have one.
        """
        if len(_shared) != self._shared_count:
            shared = list(_shared)  # one step: another thread may register an adapter meanwhile
            self._plain = PLAIN_TYPES.difference(self._own, [kind for kind, _ in shared])
            self._shared_count = len(shared)
        return self._plain

    def adapt(self, value: Any) -> Any:
        """Return the value to bind: the result of an adapter or ``__conform__``, otherwise the value itself.

        Raises whatever the adapter raises.
        """
        adapter = self._own.get(type(value))
        if adapter is not None:
            return adapter(value)
        adapted = sqlite3.adapt(value, sqlite3.PrepareProtocol, value)
        if adapted is value:
            for test, convert in self._families.values():
                if test(value):
                    inner = convert(value)
                    return inner if type(inner) in PLAIN_TYPES else self.adapt(inner)
        return adapted
