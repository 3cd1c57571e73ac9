"""Row, and cursor descriptions."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from rapsqlite._identifiers import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rapsqlite.types import CursorLike, Description

__all__ = ["Row", "describe", "row_maker"]


class Row(sqlite3.Row):
    """A `sqlite3.Row` with a few more methods.

    Values are accessible by index, slice, case-insensitive name and iteration; rows compare and hash by names and
    values. Use it as ``row_factory``, or create one from a cursor and a tuple.
    https://docs.python.org/3/library/sqlite3.html#sqlite3.Row
    """

    __slots__ = ()

    def __new__(cls, cursor: CursorLike, values: tuple[Any, ...], /) -> Row:
        """Make a row with the columns that ``cursor`` describes."""
        try:
            description = cursor.description
        except AttributeError:
            raise TypeError(f"Row() argument 1 must be a cursor, not {type(cursor).__name__}") from None
        if description is None:
            raise ValueError("the cursor has no columns: its statement returns no rows")
        return _restored_row(cls, tuple(column[0] for column in description), values)

    def values(self) -> tuple[Any, ...]:
        """Return the values in the order of the columns."""
        return tuple(self)

    def items(self) -> Iterator[tuple[str, Any]]:
        """Yield pairs of column name and value, including columns with the same name."""
        return zip(self.keys(), self, strict=True)

    def as_dict(self) -> dict[str, Any]:
        """Return the values by column name; if columns share a name, the last one wins."""
        return dict(zip(self.keys(), self, strict=True))

    def __repr__(self) -> str:
        """Show names and values."""
        return f"Row({', '.join(f'{name}={value!r}' for name, value in self.items())})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy by names and values."""
        return _restored_row, (type(self), tuple(self.keys()), tuple(self))


_new_row: Any = sqlite3.Row.__new__


def _restored_row(kind: type[Row], names: tuple[str, ...], values: tuple[Any, ...]) -> Row:
    row: Row = _new_row(kind, _described(names), values)
    return row


@lru_cache(maxsize=256)
def _described(names: tuple[str, ...]) -> sqlite3.Cursor:
    """Return a cursor that only describes these columns.

    sqlite3.Row takes its names only from a sqlite3 cursor. This one's in-memory database is already closed; the
    description remains.
    """
    columns = ", ".join(f"NULL AS {quoted(name)}" for name in names)
    with closing(sqlite3.connect(":memory:")) as connection:
        return connection.execute(f"SELECT {columns}")


def row_maker(kind: type[sqlite3.Row], names: tuple[str, ...]) -> Callable[[tuple[Any, ...]], sqlite3.Row]:
    """Return a function that makes rows with these columns, of sqlite3.Row or a subclass."""
    described = _described(names)
    if kind.__new__ is Row.__new__:
        return partial(_new_row, kind, described)  # Bypasses our __new__, which is for other callers.
    return partial(kind, described)


def describe(names: tuple[str, ...]) -> Description:
    """Return the `Cursor.description` of columns with these names."""
    return tuple((name, None, None, None, None, None, None) for name in names)
