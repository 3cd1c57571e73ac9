"""Every public name of the package. `rapsqlite` imports it when one is first used."""

from sqlite3 import (
    PARSE_COLNAMES,
    PARSE_DECLTYPES,
    Binary,
    Date,
    DateFromTicks,
    PrepareProtocol,
    Time,
    TimeFromTicks,
    TimestampFromTicks,
    adapt,
    complete_statement,
)
from sqlite3.dbapi2 import Timestamp

from rapsqlite import _sqlite_names
from rapsqlite._aiosqlite_name import install_as_aiosqlite
from rapsqlite._callbacks.tracebacks import enable_callback_tracebacks
from rapsqlite._client.transaction_control import LEGACY_TRANSACTION_CONTROL
from rapsqlite._constants import (
    SQLITE_CHANGESET_ABORT,
    SQLITE_CHANGESET_CONFLICT,
    SQLITE_CHANGESET_CONSTRAINT,
    SQLITE_CHANGESET_DATA,
    SQLITE_CHANGESET_FOREIGN_KEY,
    SQLITE_CHANGESET_NOTFOUND,
    SQLITE_CHANGESET_OMIT,
    SQLITE_CHANGESET_REPLACE,
    SQLITE_VERSION,
)
from rapsqlite._sqlite_names import *  # noqa: F403 - all its names are public, and it lists them
from rapsqlite._values.adapters import register_adapter
from rapsqlite._values.converters import register_converter
from rapsqlite._values.limits import Limits
from rapsqlite._values.no_change import NO_CHANGE, NoChange
from rapsqlite.blob import Blob
from rapsqlite.cache import SQLiteCache
from rapsqlite.changeset import Conflict
from rapsqlite.connection import Connection, connect
from rapsqlite.cursor import Cursor
from rapsqlite.dump import Dump
from rapsqlite.errors import (
    ClosedError,
    DatabaseError,
    DataError,
    Error,
    IntegrityError,
    InterfaceError,
    InternalError,
    NotSupportedError,
    OperationalError,
    OutOfMemoryError,
    PoolClosed,
    PoolTimeout,
    ProgrammingError,
    TooManyWaiting,
    Warning,
)
from rapsqlite.memory import MemoryConnection, connect_memory
from rapsqlite.pages import Page, paginate
from rapsqlite.pool import Pool, create_pool
from rapsqlite.prepared import PreparedStatement
from rapsqlite.recipes import analyze_query_plan, in_clause_query, pool_metrics_gauges, rows_to_dicts, timed_fetch_all
from rapsqlite.retries import transaction_retry, transaction_with_timeout
from rapsqlite.rows import Row
from rapsqlite.savepoint import Savepoint
from rapsqlite.session import ChangeSession
from rapsqlite.stream import ChunkStream, RowStream
from rapsqlite.transaction import Transaction

apilevel: str = "2.0"
paramstyle: str = "qmark"
threadsafety: int = 3  # Threads may share the module, connections and cursors.
version: str = "2.6.0"  # the version of sqlite3's interface, as in sqlite3.version
sqlite_version: str = SQLITE_VERSION
sqlite_version_info: tuple[int, ...] = tuple(int(part) for part in SQLITE_VERSION.split("."))

__all__ = [
    "LEGACY_TRANSACTION_CONTROL", "NO_CHANGE", "PARSE_COLNAMES", "PARSE_DECLTYPES", "SQLITE_CHANGESET_ABORT",
    "SQLITE_CHANGESET_CONFLICT", "SQLITE_CHANGESET_CONSTRAINT", "SQLITE_CHANGESET_DATA",
    "SQLITE_CHANGESET_FOREIGN_KEY", "SQLITE_CHANGESET_NOTFOUND", "SQLITE_CHANGESET_OMIT",
    "SQLITE_CHANGESET_REPLACE", "Binary", "Blob", "ChangeSession", "ChunkStream", "ClosedError", "Conflict",
    "Connection", "Cursor", "DataError", "DatabaseError", "Date", "DateFromTicks", "Dump", "Error",
    "IntegrityError", "InterfaceError", "InternalError", "Limits", "MemoryConnection", "NoChange",
    "NotSupportedError", "OperationalError", "OutOfMemoryError", "Page", "Pool", "PoolClosed", "PoolTimeout",
    "PrepareProtocol", "PreparedStatement", "ProgrammingError", "Row", "RowStream", "SQLiteCache",
    "Savepoint", "Time", "TimeFromTicks", "Timestamp", "TimestampFromTicks", "TooManyWaiting", "Transaction",
    "Warning", "adapt", "analyze_query_plan", "apilevel", "complete_statement", "connect", "connect_memory",
    "create_pool", "enable_callback_tracebacks", "in_clause_query", "install_as_aiosqlite", "paginate",
    "paramstyle", "pool_metrics_gauges", "register_adapter", "register_converter", "rows_to_dicts",
    "sqlite_version", "sqlite_version_info", "threadsafety", "timed_fetch_all", "transaction_retry",
    "transaction_with_timeout", "version",
]  # fmt: skip
__all__ += _sqlite_names.__all__
