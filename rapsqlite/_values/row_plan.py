"""How rows are returned: row factories, text factories and converters, resolved before a statement runs.

Lists, tuples and dicts, with text as str or bytes, are decoded in C and cost nothing more per row. Everything else
becomes one function that takes a decoded row and returns the user's row.

| row factory | rows |
|---|---|
| None | the default of the method |
| "list", list; "tuple", tuple; "dict", dict | of that type |
| Row, sqlite3.Row, or a subclass of either | of that class; see `rows.Row` |
| a callable with one required argument | its results for the row as a list |
| any other callable | its results for the cursor and the row as a tuple, as in sqlite3 |
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rapsqlite import _constants
from rapsqlite._values.converters import UncheckedText, column_name, conversion
from rapsqlite._values.wire import (
    decode_columns,
    decode_declared_columns,
    decode_dicts,
    decode_lists,
    decode_tuples,
    text_decoder,
)
from rapsqlite.rows import row_maker

if TYPE_CHECKING:
    from rapsqlite._values.converters import Converters
    from rapsqlite.types import CursorLike, RowFactory, TextFactory

__all__ = ["FactoryRowDecoder", "RowFunction", "row_decoder"]

RowFunction = Callable[[Any], Any]
_Maker = Callable[["CursorLike", tuple[str, ...]], RowFunction]


# A statement's columns arrive as the same bytes each time it runs. The caches must not grow large.
_MOST_KEPT_BYTES = 16_384
_known_names = lru_cache(maxsize=256)(decode_columns)
_known_declared = lru_cache(maxsize=256)(decode_declared_columns)


def _names(columns: bytes) -> tuple[str, ...]:
    return (_known_names if len(columns) <= _MOST_KEPT_BYTES else decode_columns)(columns)


def _declared(columns: bytes) -> tuple[tuple[str, str | None], ...]:
    return (_known_declared if len(columns) <= _MOST_KEPT_BYTES else decode_declared_columns)(columns)


_SHAPES: dict[Any, type] = {"list": list, "tuple": tuple, "dict": dict, list: list, tuple: tuple, dict: dict}
_DECODERS: dict[type, Callable[[bytes], list[Any]]] = {
    list: decode_lists,
    tuple: decode_tuples,
    dict: decode_dicts,
}
_TYPES: dict[type, Any] = {list: list[list[Any]], tuple: list[tuple[Any, ...]], dict: list[dict[str, Any]]}


class FactoryRowDecoder:
    """What to request from the guest, how to decode it, and how to convert each row.

    ``format``         bits for the request: shape of the rows, form of the text, columns if `row_function` needs them
    ``decode``         one batch to a list of rows
    ``needs_columns``  whether `row_function` can be anything but None
    """

    __slots__ = ("_converters", "_detect_types", "_make", "_shape", "_text", "decode", "format", "needs_columns")

    def __init__(
        self, shape: type, make: _Maker | None, text_factory: TextFactory, detect_types: int, converters: Converters
    ) -> None:
        self._shape = shape
        self._make = make
        self._detect_types = detect_types
        self._converters = converters
        self._text: TextFactory | None = None
        # Converters work on lists, in place; the requested type is made of them afterwards.
        wire_shape = list if detect_types else shape
        self.format = _constants.FORMAT_MAPS if wire_shape is dict else _constants.FORMAT_ARRAYS
        self.decode = _DECODERS[wire_shape]
        if text_factory is bytes:
            self.format |= _constants.FORMAT_TEXT_AS_BYTES
        elif text_factory is not str:
            self.format |= _constants.FORMAT_TEXT_AS_EXTENSION
            self._text = text_factory
            self.decode = text_decoder(_TYPES[wire_shape], UncheckedText if detect_types else text_factory)
        self.needs_columns = detect_types != 0 or make is not None
        if self.needs_columns:
            self.format |= _constants.FORMAT_COLUMNS
        if detect_types:
            self.format |= _constants.FORMAT_DECLARED_TYPES

    def names(self, columns: bytes) -> tuple[str, ...]:
        """Return the names of the columns, from a reply to this ``format`` with FORMAT_COLUMNS."""
        if not self._detect_types:
            return _names(columns)
        return tuple(column_name(name, self._detect_types) for name, _ in _declared(columns))

    def row_function(self, columns: bytes, cursor: CursorLike) -> RowFunction | None:
        """Return the function that makes the user's row of a decoded one; None if there is nothing to do.

        ``columns`` is the columns part of the reply; ``cursor`` is passed to factories with two arguments. Called once
        per result. The function raises whatever a factory or converter raises.
        """
        if not self.needs_columns:
            return None
        names = self.names(columns)
        convert = self._conversion(columns) if self._detect_types else None
        reshape = self._reshaping(names) if self._detect_types else None
        make = self._make(cursor, names) if self._make is not None else None
        return _chained([step for step in (convert, reshape, make) if step is not None])

    def _conversion(self, columns: bytes) -> RowFunction | None:
        converters = self._converters
        chosen = [converters.for_column(name, kind, self._detect_types) for name, kind in _declared(columns)]
        return conversion(chosen, self._text)

    def _reshaping(self, names: tuple[str, ...]) -> RowFunction | None:
        if self._shape is dict:
            return lambda row: dict(zip(names, row, strict=True))
        return tuple if self._shape is tuple else None


def row_decoder(
    row_factory: RowFactory, *, default: type, text_factory: TextFactory, detect_types: int, converters: Converters
) -> FactoryRowDecoder:
    """Return the decoder for a cursor's settings.

    ``default`` is the type for ``row_factory=None``: list or tuple. Raises ValueError for a row factory that is not
    listed above.
    """
    shape, make = _resolved(row_factory, default)
    return FactoryRowDecoder(shape, make, text_factory, detect_types, converters)


def _resolved(factory: Any, default: type) -> tuple[type, _Maker | None]:
    if factory is None:
        return default, None
    if isinstance(factory, str | type) and factory in _SHAPES:
        return _SHAPES[factory], None
    if isinstance(factory, type) and issubclass(factory, sqlite3.Row):
        return tuple, lambda _cursor, names: row_maker(factory, names)
    if isinstance(factory, str):
        raise ValueError(f"row_factory: {_WANTED}, not {factory!r}")  # noqa: TRY004  as documented
    if not callable(factory):
        raise ValueError(f"row_factory: {_WANTED}, not {type(factory).__name__}")  # noqa: TRY004  as documented
    if _takes_row_alone(factory):
        return list, lambda _cursor, _names: factory
    return tuple, lambda cursor, _names: lambda row: factory(cursor, row)


_WANTED = '"list", "tuple", "dict", Row, or a callable that takes the row, or the cursor and the row'


def _takes_row_alone(factory: Callable[..., Any]) -> bool:
    """Return whether a factory takes only the row; raises ValueError if it takes neither one nor two arguments."""
    import inspect  # slow to import, and most programs have no such factory

    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return False  # A builtin without a signature: called as in sqlite3.
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    takes_more = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if len(required) > 2 or (len(positional) == 0 and not takes_more):
        raise ValueError(f"row_factory: {_WANTED}, not one that takes {len(required)} arguments")
    return len(required) == 1 or (len(positional) == 1 and not takes_more)


def _chained(steps: list[RowFunction]) -> RowFunction | None:
    """Return one function for up to three."""
    if not steps:
        return None
    if len(steps) == 1:
        return steps[0]
    first, second, *rest = steps
    return _chained([lambda row: second(first(row)), *rest])
