"""Names for the values that go in and come out: aliases, protocols and literals for annotations.

Nothing here runs. A program that annotates its own functions imports from this module:

    from rapsqlite.types import Parameters, SQLiteValue

The five storage classes are those of https://sqlite.org/datatype3.html.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, Union, runtime_checkable

__all__ = [
    "Adapter",
    "AutocommitMode",
    "Converter",
    "CursorLike",
    "IsolationLevel",
    "Parameters",
    "PrepareConformable",
    "ReadableBuffer",
    "Row1Factory",
    "Row2Factory",
    "RowFactory",
    "SQLiteValue",
    "TextFactory",
]

T = TypeVar("T")
AnyT_contra = TypeVar("AnyT_contra", contravariant=True)

SQLiteValue: TypeAlias = Union[int, float, str, bytes, None]
"""What a column holds: INTEGER (64-bit signed), REAL, TEXT, BLOB or NULL."""

ReadableBuffer: TypeAlias = Union[bytes, bytearray, memoryview]
"""The bytes-likes that are bound as BLOB at full speed; any other C-contiguous buffer works too."""

Parameters: TypeAlias = Union[Sequence[Any], Mapping[str, Any]]
"""The parameters of one execution: a sequence for ``?`` or a mapping for ``:name``, ``@name``, ``$name``.

The values are `SQLiteValue`, bytes-likes, or anything that an adapter turns into one. Mapping keys carry no prefix
character. Keys that the statement does not name are ignored.
"""

IsolationLevel: TypeAlias = Literal["", "DEFERRED", "IMMEDIATE", "EXCLUSIVE"]
"""Which BEGIN is sent before a statement that changes data; ``None`` in its place sends none."""

AutocommitMode: TypeAlias = Union[bool, Literal[-1]]
"""``True``, ``False``, or ``LEGACY_TRANSACTION_CONTROL`` (-1): the connection attribute of Python 3.12."""


class CursorLike(Protocol):
    """What a row factory may ask of the cursor it is given."""

    @property
    def description(self) -> tuple[tuple[str, None, None, None, None, None, None], ...] | None:
        """One 7-tuple per column, of which only the name is set; None without a result."""


class Row2Factory(Protocol):
    """A row factory of sqlite3: called with the cursor and the row as a tuple."""

    def __call__(self, cursor: Any, row: tuple[Any, ...], /) -> Any: ...


class Row1Factory(Protocol):
    """A row factory with one required argument: called with the row alone, a tuple."""

    def __call__(self, row: tuple[Any, ...], /) -> Any: ...


RowFactory: TypeAlias = Union[
    None, Literal["list", "tuple", "dict"], type[list[Any]], type[tuple[Any, ...]], type[dict[str, Any]],
    Row2Factory, Row1Factory,
]
"""How rows are handed out. The plain shapes (names and builtin classes) cost nothing per row; the table in the
documentation of `Connection.row_factory` says which is the default where ``None`` stands."""

TextFactory: TypeAlias = Callable[[bytes], Any]
"""What makes a TEXT value from its bytes: ``str`` (UTF-8, checked), ``bytes``, ``bytearray`` or any callable."""

Adapter: TypeAlias = Callable[[T], Union[SQLiteValue, ReadableBuffer]]
"""Turns a value of one exact type into one that SQLite can store."""

Converter: TypeAlias = Callable[[bytes], Any]
"""Turns a stored value, given as bytes, into a Python object; never called for NULL."""


@runtime_checkable
class PrepareConformable(Protocol):
    """An object that adapts itself when it is bound, as https://docs.python.org/3/library/sqlite3.html describes."""

    def __conform__(self, protocol: type[Any], /) -> Any:
        """Return the value to bind if ``protocol`` is ``sqlite3.PrepareProtocol``, else None."""
