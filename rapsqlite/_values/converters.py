"""Converters: convert stored values to Python objects, chosen by a column's declared type or its name.

The semantics are `sqlite3`'s: https://docs.python.org/3/library/sqlite3.html#sqlite3-converters. The module-level
registry is `sqlite3`'s own, shared, with its default converters for ``date`` and ``timestamp``. A connection's own
converters take precedence.
"""

from __future__ import annotations

import math
import sqlite3
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite.types import Converter, TextFactory

__all__ = ["Converters", "UncheckedText", "column_name", "conversion", "register_converter", "stored_bytes"]

register_converter: Callable[[str, Converter], None] = sqlite3.register_converter

# Upper-case name -> converter; the dict that sqlite3 itself uses.
_shared = sqlite3.converters


class Converters:
    """The converters of one connection: its own, then the shared ones. Type names are case-insensitive."""

    __slots__ = ("_own",)

    def __init__(self) -> None:
        self._own: dict[str, Converter] = {}

    def register(self, type_name: str, converter: Converter) -> None:
        """Convert the values of columns of this type with ``converter``, from the next statement on."""
        self._own[type_name.upper()] = converter

    def take_from(self, other: Converters) -> None:
        """Copy the converters of ``other``."""
        self._own.update(other._own)

    def for_column(self, name: str, declared_type: str | None, detect_types: int) -> Converter | None:
        """Return the converter for a column, or None; a type in its name takes precedence over its declared type."""
        found = None
        if detect_types & sqlite3.PARSE_COLNAMES:
            found = self._get(_type_in_name(name))
        if found is None and detect_types & sqlite3.PARSE_DECLTYPES:
            found = self._get(_type_in_declaration(declared_type))
        return found

    def _get(self, type_name: str | None) -> Converter | None:
        if type_name is None:
            return None
        key = type_name.upper()
        return self._own.get(key) or _shared.get(key)


def column_name(name: str, detect_types: int) -> str:
    """Return the name of a column, without a trailing ``[type]`` if that is parsed."""
    bracket = name.find("[") if detect_types & sqlite3.PARSE_COLNAMES else -1
    if bracket < 0:
        return name
    # sqlite3 removes one space before the bracket, but never the name's first character.
    return name[: bracket - 1] if bracket > 0 and name[bracket - 1] == " " else name[:bracket]


def stored_bytes(value: int | float | str | bytes) -> bytes:
    """Return a value as the bytes that SQLite returns for it: numbers as ASCII text.

    https://sqlite.org/c3ref/column_blob.html
    """
    if isinstance(value, bytes):
        return bytes(value)  # Copies only UncheckedText; bytes itself is returned as it is.
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, float):
        return _real_text(value).encode()
    return b"%d" % value


def _type_in_name(name: str) -> str | None:
    _, bracket, rest = name.partition("[")
    type_name, closing, _ = rest.partition("]")
    return type_name if bracket and closing else None


def _type_in_declaration(declared_type: str | None) -> str | None:
    """Return the first word of a declared type: ``number`` of ``number(10)``."""
    return declared_type.partition("(")[0].partition(" ")[0] if declared_type is not None else None


def _real_text(value: float) -> str:
    """Return the text that SQLite makes of a REAL: https://sqlite.org/floatingpoint.html.

    It has 17 significant digits, or fewer if 17 would end in a run of nines or zeros that fewer avoid. This is not
    always the shortest text that reads back as the same number, which is Python's repr. The last of 17 digits may be
    off by one: SQLite does not always round them correctly.
    """
    if math.isinf(value):
        return "Inf" if value > 0 else "-Inf"
    eighteen, exponent = _digits(value, 18)
    fewer = 14 if eighteen[14:16] == "99" else 13 if eighteen[13:16] == "000" or exponent >= 17 else 0
    digits, exponent = _digits(value, fewer) if fewer else ("", 0)
    if not fewer or float(f"{digits[0]}.{digits[1:]}e{exponent}") != abs(value):
        digits, exponent = _rounded_up(*_digits(value, 18))
    digits = digits.rstrip("0") or "0"
    sign = "-" if value < 0 else ""
    return sign + (_exponential(digits, exponent) if exponent < -4 or exponent > 16 else _positional(digits, exponent))


def _digits(value: float, count: int) -> tuple[str, int]:
    """Return so many significant digits of a number, correctly rounded, and its exponent."""
    mantissa, _, exponent = f"{abs(value):.{count - 1}e}".partition("e")
    return mantissa.replace(".", ""), int(exponent)


def _rounded_up(digits: str, exponent: int) -> tuple[str, int]:
    """Return digits without the last one, rounded half up by it alone: SQLite rounds twice."""
    rounded = str((int(digits) + 5) // 10)
    return rounded, exponent + (len(rounded) == len(digits))


def _exponential(digits: str, exponent: int) -> str:
    return f"{digits[0]}.{digits[1:] or '0'}e{exponent:+03d}"


def _positional(digits: str, exponent: int) -> str:
    if exponent < 0:
        return f"0.{'0' * (-exponent - 1)}{digits}"
    whole = digits[: exponent + 1].ljust(exponent + 1, "0")
    return f"{whole}.{digits[exponent + 1 :] or '0'}"


class UncheckedText(bytes):
    """The bytes of a TEXT value, as distinct from a BLOB."""

    __slots__ = ()


def conversion(
    chosen: list[Converter | None], text_factory: TextFactory | None
) -> Callable[[list[Any]], list[Any]] | None:
    """Return a function that converts a decoded row in place and returns it; None if nothing needs converting.

    ``chosen`` has one entry per column. Text that arrived as `UncheckedText` and has no converter goes to
    ``text_factory``.
    """
    converters = [(index, converter) for index, converter in enumerate(chosen) if converter is not None]

    def convert(row: list[Any]) -> list[Any]:
        for index, converter in converters:
            value = row[index]
            if value is not None:
                # SQLite returns no bytes for an empty value, and sqlite3 treats it as NULL.
                row[index] = converter(stored) if (stored := stored_bytes(value)) else None
        return row

    if text_factory is None:
        return convert if converters else None
    make_text = text_factory
    plain = [index for index, converter in enumerate(chosen) if converter is None]

    def convert_with_text(row: list[Any]) -> list[Any]:
        for index in plain:
            if type(row[index]) is UncheckedText:
                row[index] = make_text(bytes(row[index]))
        return convert(row)

    return convert_with_text
