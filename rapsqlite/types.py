"""Names for the values that go in and come out: aliases, protocols and literals for annotations.

Nothing here runs. A program that annotates its own functions imports from this module:

    from rapsqlite.types import Parameters, SQLiteValue

The five storage classes are those of https://sqlite.org/datatype3.html.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

__all__ = [
    "Adapter",
    "AggregateFunction",
    "AutocommitMode",
    "Converter",
    "CursorLike",
    "Description",
    "IsolationLevel",
    "ParameterSets",
    "Parameters",
    "PrepareConformable",
    "ReadableBuffer",
    "RowAloneFactory",
    "RowFactory",
    "RowWithCursorFactory",
    "SQLiteValue",
    "TextFactory",
    "WindowFunction",
]

T = TypeVar("T")

SQLiteValue: TypeAlias = int | float | str | bytes | None
"""What a column holds: INTEGER (64-bit signed), REAL, TEXT, BLOB or NULL."""

ReadableBuffer: TypeAlias = bytes | bytearray | memoryview
"""The bytes-likes bound as BLOB at full speed; any other C-contiguous buffer works too."""

Parameters: TypeAlias = Sequence[Any] | Mapping[str, Any]
"""The parameters of one execution: a sequence for ``?``, a mapping for ``:name``, ``@name``, ``$name``.

The values are `SQLiteValue`, bytes-likes, or anything that an adapter turns into one. Mapping keys carry no
prefix character. Keys that the statement does not name are ignored.
"""

ParameterSets: TypeAlias = Iterable[Parameters] | AsyncIterable[Parameters]
"""What ``executemany`` takes: the parameters of each execution, from an iterable or an asynchronous one."""

IsolationLevel: TypeAlias = Literal["", "DEFERRED", "IMMEDIATE", "EXCLUSIVE"]
"""Which BEGIN goes before a statement that changes data; ``None`` in its place sends none."""

AutocommitMode: TypeAlias = bool | Literal[-1]
"""``True``, ``False``, or ``LEGACY_TRANSACTION_CONTROL`` (-1): the attribute of Python 3.12."""

Description: TypeAlias = tuple[tuple[str, None, None, None, None, None, None], ...]
"""One 7-tuple per column of a result, of which only the name is set (PEP 249)."""


class CursorLike(Protocol):
    """What a row factory may ask of the cursor it is given."""

    @property
    def description(self) -> Description | None:
        """The columns of the result; None for a statement that returns no rows."""


class RowWithCursorFactory(Protocol):
    """A row factory of sqlite3: called with the cursor and the row as a tuple."""

    def __call__(self, cursor: Any, row: tuple[Any, ...], /) -> Any:
        """Return what stands for the row."""


class RowAloneFactory(Protocol):
    """A row factory with one required argument: called with the row alone, a tuple."""

    def __call__(self, row: tuple[Any, ...], /) -> Any:
        """Return what stands for the row."""


RowFactory: TypeAlias = (
    Literal["list", "tuple", "dict"]
    | type[list[Any]]
    | type[tuple[Any, ...]]
    | type[dict[str, Any]]
    | RowWithCursorFactory
    | RowAloneFactory
    | None
)
"""How rows are handed out. Names and builtin classes are plain shapes: they cost nothing per row."""

TextFactory: TypeAlias = Callable[[bytes], Any]
"""Makes a TEXT value from its bytes: ``str`` (UTF-8, checked), ``bytes``, ``bytearray`` or any callable."""

Adapter: TypeAlias = Callable[[T], SQLiteValue | ReadableBuffer]
"""Turns a value of one exact type into one that SQLite can store."""

Converter: TypeAlias = Callable[[bytes], Any]
"""Turns a stored value, given as bytes, into a Python object; never called for NULL."""


class AggregateFunction(Protocol):
    """An instance of what `Connection.create_aggregate` takes: one group of rows."""

    def step(self, *arguments: Any) -> object:
        """Take one row's arguments."""

    def finalize(self) -> Any:
        """Return the result."""


class WindowFunction(AggregateFunction, Protocol):
    """An instance of what `Connection.create_window_function` takes: one window that moves over rows."""

    def value(self) -> Any:
        """Return the result for the window as it is."""

    def inverse(self, *arguments: Any) -> object:
        """Take back the step of a row that leaves the window."""


@runtime_checkable
class PrepareConformable(Protocol):
    """An object that adapts itself when it is bound: https://docs.python.org/3/library/sqlite3.html."""

    def __conform__(self, protocol: type[Any], /) -> Any:
        """Return the value to bind if ``protocol`` is ``sqlite3.PrepareProtocol``, else None."""
