"""One parameter set, value by value: what sqlite3 would bind, in types that MessagePack carries.

This is the slow path of `wire`: adapters, subclasses, buffers, mappings other than dicts, and values that cannot be
bound.

https://docs.python.org/3/library/sqlite3.html#sqlite3-placeholders
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from rapsqlite import _constants
from rapsqlite._values.adapters import PLAIN_TYPES, Adapters
from rapsqlite.errors import unsupported_parameters

__all__ = ["bindable_set", "looks_names_up"]

_INTEGER_MIN = -(2**63)
_ENCODABLE_MAX = 2**64 - 1


def looks_names_up(params: object) -> bool:
    """Return whether a mapping has values for names it does not list, so that the statement's names are needed."""
    return isinstance(params, Mapping) and hasattr(type(params), "__missing__") and type(params) is not dict


def bindable_set(params: Any, adapters: Adapters, names: Iterable[str] | None) -> list[Any] | dict[str, Any]:
    """Return one parameter set with every value made encodable."""
    if isinstance(params, Mapping):
        if names is not None:
            return _looked_up(params, adapters, names)
        return {
            str.__str__(name): _bindable(value, adapters) for name, value in params.items() if isinstance(name, str)
        }
    if not hasattr(type(params), "__getitem__"):
        raise unsupported_parameters()
    # Length and index, not iteration, as sqlite3 uses a sequence.
    return [_bindable(params[index], adapters) for index in range(len(params))]


def _looked_up(params: Mapping[str, Any], adapters: Adapters, names: Iterable[str]) -> dict[str, Any]:
    found = {}
    for name in names:
        try:
            value = params[name]
        except LookupError:
            continue  # The guest reports the missing one, in the order of the statement.
        found[name] = _bindable(value, adapters)
    return found


def _bindable(value: Any, adapters: Adapters) -> Any:
    """Return ``value`` as a plain type that binds to the same, or as a marker that the guest rejects."""
    if type(value) not in adapters.plain():
        value = adapters.adapt(value)
    if isinstance(value, int):
        # int.__index__ and so on strip a subclass without calling its overrides, as sqlite3 does in C.
        integer = int.__index__(value)
        return integer if _INTEGER_MIN <= integer <= _ENCODABLE_MAX else _ENCODABLE_MAX
    if type(value) in PLAIN_TYPES:
        return value
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return str.__str__(value)
    try:
        return memoryview(value)
    except TypeError:
        return msgspec.msgpack.Ext(_constants.EXT_UNSUPPORTED, type(value).__name__.encode())
