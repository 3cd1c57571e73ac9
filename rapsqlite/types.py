"""Types of values and callbacks: aliases, protocols and literals for annotations.

Nothing here runs. Import them to annotate your own functions:

    from rapsqlite.types import Parameters, SQLiteValue

The five storage classes are described in https://sqlite.org/datatype3.html.
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
    "TransactionScope",
    "WindowFunction",
]

T = TypeVar("T")

SQLiteValue: TypeAlias = int | float | str | bytes | None
"""A column's value: INTEGER (64-bit signed), REAL, TEXT, BLOB or NULL."""

ReadableBuffer: TypeAlias = bytes | bytearray | memoryview
"""Bytes-like types that are bound as BLOB at full speed; any other C-contiguous buffer works too."""

Parameters: TypeAlias = Sequence[Any] | Mapping[str, Any]
"""The parameters of one execution: a sequence for ``?``, a mapping for ``:name``, ``@name``, ``$name``.

The values are `SQLiteValue`, bytes-like, or of a type with an adapter. Mapping keys have no prefix character. Keys that
the statement does not use are ignored.
"""

ParameterSets: TypeAlias = Iterable[Parameters] | AsyncIterable[Parameters]
"""Argument of ``executemany``: the parameters of each execution, from an iterable or async iterable."""

IsolationLevel: TypeAlias = Literal["", "DEFERRED", "IMMEDIATE", "EXCLUSIVE"]
"""Kind of the implicit BEGIN before a data-changing statement; ``None`` instead means no BEGIN."""

TransactionScope: TypeAlias = Literal["task", "children", "connection"]
"""Who takes part in a block: the task that enters it, tasks started inside it as well, or all tasks."""

AutocommitMode: TypeAlias = bool | Literal[-1]
"""``True``, ``False``, or ``LEGACY_TRANSACTION_CONTROL`` (-1), as in Python 3.12's sqlite3."""

Description: TypeAlias = tuple[tuple[str, None, None, None, None, None, None], ...]
"""One 7-tuple per column of a result; only the name is set (PEP 249)."""


class CursorLike(Protocol):
    """What a row factory may use of the cursor it receives."""

    @property
    def description(self) -> Description | None:
        """The columns of the result; None for a statement that returns no rows."""


class RowWithCursorFactory(Protocol):
    """A row factory as in sqlite3: called with the cursor and the row as a tuple."""

    def __call__(self, cursor: Any, row: tuple[Any, ...], /) -> Any:
        """Return the object for the row."""


class RowAloneFactory(Protocol):
    """A row factory with one required argument: called with the row only, as a list."""

    def __call__(self, row: list[Any], /) -> Any:
        """Return the object for the row."""


RowFactory: TypeAlias = (
    Literal["list", "tuple", "dict"]
    | type[list[Any]]
    | type[tuple[Any, ...]]
    | type[dict[str, Any]]
    | RowWithCursorFactory
    | RowAloneFactory
    | None
)
"""How rows are returned. Names and builtin classes cost nothing per row."""

TextFactory: TypeAlias = Callable[[bytes], Any]
"""Makes a TEXT value from its bytes: ``str`` (UTF-8, checked), ``bytes``, ``bytearray`` or any callable."""

Adapter: TypeAlias = Callable[[T], SQLiteValue | ReadableBuffer]
"""Converts a value of one exact type into one that SQLite can store."""

Converter: TypeAlias = Callable[[bytes], Any]
"""Converts a stored value, given as bytes, into a Python object; never called for NULL."""


class AggregateFunction(Protocol):
    """An instance of the class passed to `Connection.create_aggregate`: one group of rows."""

    def step(self, *arguments: Any) -> object:
        """Process one row's arguments."""

    def finalize(self) -> Any:
        """Return the result."""


class WindowFunction(AggregateFunction, Protocol):
    """An instance of the class passed to `Connection.create_window_function`: one window moving over rows."""

    def value(self) -> Any:
        """Return the result for the current window."""

    def inverse(self, *arguments: Any) -> object:
        """Undo the step of a row that leaves the window."""


@runtime_checkable
class PrepareConformable(Protocol):
    """An object that adapts itself when bound: https://docs.python.org/3/library/sqlite3.html."""

    def __conform__(self, protocol: type[Any], /) -> Any:
        """Return the value to bind if ``protocol`` is ``sqlite3.PrepareProtocol``, else None."""
