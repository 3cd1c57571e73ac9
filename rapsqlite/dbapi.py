"""The DB-API 2.0 interface (PEP 249) with coroutines: https://peps.python.org/pep-0249/.

    from rapsqlite import dbapi

    async with dbapi.connect("example.db") as connection:
        cursor = await connection.cursor()
        await cursor.execute("SELECT ?", (1,))
        print(await cursor.fetchone())

Connections and cursors have all methods of `rapsqlite.Connection` and `rapsqlite.Cursor`; rows are tuples, and the
exceptions are the same classes. Optional parts of PEP 249 that do not apply to SQLite (``callproc``, ``nextset``) are
missing.
"""

from __future__ import annotations

from sqlite3 import Binary, Date, DateFromTicks, Time, TimeFromTicks, TimestampFromTicks
from sqlite3.dbapi2 import Timestamp
from typing import TYPE_CHECKING, TypedDict, cast

from rapsqlite._client.operation import Operation
from rapsqlite.connection import Connection
from rapsqlite.connection import connect as _connect
from rapsqlite.cursor import Cursor
from rapsqlite.errors import (
    DatabaseError,
    DataError,
    Error,
    IntegrityError,
    InterfaceError,
    InternalError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    Warning,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Mapping

    from typing_extensions import Unpack

    from rapsqlite._values.limits import Limits
    from rapsqlite.types import (
        AutocommitMode,
        IsolationLevel,
        Parameters,
        ParameterSets,
        RowFactory,
        TextFactory,
        TransactionScope,
    )

__all__ = [
    "BINARY", "DATETIME", "NUMBER", "ROWID", "STRING", "AsyncConnection", "AsyncCursor", "Binary", "ConnectOptions",
    "DataError", "DatabaseError", "Date", "DateFromTicks", "Error", "IntegrityError", "InterfaceError", "InternalError",
    "NotSupportedError", "OperationalError", "ProgrammingError", "Time", "TimeFromTicks", "Timestamp",
    "TimestampFromTicks", "TypeObject", "Warning", "apilevel", "connect", "paramstyle", "threadsafety",
]  # fmt: skip

apilevel = "2.0"
paramstyle = "qmark"  # Named parameters, ``:name``, ``@name`` and ``$name``, also work.
threadsafety = 3  # Threads may share the module, connections and cursors.


class ConnectOptions(TypedDict, total=False):
    """The options of `rapsqlite.connect` that `connect` accepts."""

    timeout: float
    isolation_level: IsolationLevel | None
    detect_types: int
    cached_statements: int
    uri: bool
    autocommit: AutocommitMode
    iter_chunk_size: int
    row_factory: RowFactory
    text_factory: TextFactory
    pragmas: Mapping[str, float | str | bool] | None
    init_hook: Callable[[Connection], Awaitable[object]] | None
    read_only: bool
    limits: Limits | None
    strict_strings: bool
    transaction_mode: IsolationLevel | None
    transaction_scope: TransactionScope


class AsyncCursor(Cursor):
    """A `rapsqlite.Cursor`, which has everything PEP 249 requires of a cursor."""

    __slots__ = ()


class AsyncConnection(Connection):
    """A `rapsqlite.Connection` whose cursors are `AsyncCursor`."""

    def cursor(self) -> Operation[AsyncCursor]:
        """Return a new cursor; see `rapsqlite.Connection.cursor`."""
        return Operation(self._cursor())

    async def _cursor(self) -> AsyncCursor:
        await super()._cursor()  # raises if the connection is closed
        return AsyncCursor(self)

    def execute(self, sql: str, parameters: Parameters | None = None) -> Operation[AsyncCursor]:
        """Execute one statement on a new cursor; see `rapsqlite.Connection.execute`."""
        return cast("Operation[AsyncCursor]", Operation(AsyncCursor(self).execute(sql, parameters)))

    def executemany(self, sql: str, parameters: ParameterSets) -> Operation[AsyncCursor]:
        """Execute one statement for each parameter set; see `rapsqlite.Cursor.executemany`."""
        return cast("Operation[AsyncCursor]", Operation(AsyncCursor(self).executemany(sql, parameters)))

    def executescript(self, sql_script: str) -> Operation[AsyncCursor]:
        """Execute any number of statements; see `rapsqlite.Cursor.executescript`."""
        return cast("Operation[AsyncCursor]", Operation(AsyncCursor(self).executescript(sql_script)))


def connect(
    database: str | bytes | os.PathLike[str] | os.PathLike[bytes], **options: Unpack[ConnectOptions]
) -> AsyncConnection:
    """Return a connection to ``database``; await it, or use it in ``async with``; see `rapsqlite.connect`.

    The ``fetch_*`` methods return tuples too.
    """
    connection = _connect(database, factory=AsyncConnection, aiosqlite_compat=True, **options)
    return cast("AsyncConnection", connection)


class TypeObject:  # noqa: PLW1641  equal to many strings, so it cannot be hashed
    """A kind of column; equal to the declared types of columns of this kind. It cannot be hashed.

    SQLite has no column types for ``Cursor.description``, where the type code is always None. Instead, compare the
    declared types of a table, which ``PRAGMA table_info`` returns: ``STRING == "VARCHAR(20)"``. This follows
    https://sqlite.org/datatype3.html#determination_of_column_affinity, and recognises dates by name.
    """

    __slots__ = ("_fragments", "_name")

    def __init__(self, name: str, *fragments: str) -> None:
        self._name = name
        self._fragments = fragments

    def __eq__(self, other: object) -> bool:
        """Return True if a declared type is of this kind."""
        if isinstance(other, str):
            return _kind_of(other) is self
        return self is other

    def __repr__(self) -> str:
        """Return the name PEP 249 gives it."""
        return f"rapsqlite.dbapi.{self._name}"

    def contains(self, declared_type: str) -> bool:
        """Return True if a part of an upper-case declared type names this kind."""
        return any(fragment in declared_type for fragment in self._fragments)


DATETIME = TypeObject("DATETIME", "DATE", "TIME")
STRING = TypeObject("STRING", "CHAR", "CLOB", "TEXT")
BINARY = TypeObject("BINARY", "BLOB", "BINARY")
NUMBER = TypeObject("NUMBER", "INT", "REAL", "FLOA", "DOUB", "NUM", "DEC", "BOOL")
ROWID = TypeObject("ROWID", "ROWID")

_KINDS = (ROWID, DATETIME, NUMBER, STRING, BINARY)


def _kind_of(declared_type: str) -> TypeObject | None:
    upper = declared_type.upper()
    return next((kind for kind in _KINDS if kind.contains(upper)), None)
