"""aiosqlite's modules and names, implemented by this package: ``from rapsqlite import aiosqlite``.

It differs from `rapsqlite` in three ways, as aiosqlite does: ``async with connect(...)`` does not commit, `Connection`
accepts a connector function, and the exceptions are those that `sqlite3` has: base classes of the ones that are raised.
`rapsqlite.install_as_aiosqlite` makes it importable as ``aiosqlite``.

https://aiosqlite.omnilib.dev/en/stable/api.html
"""

from sqlite3 import (
    DatabaseError,
    Error,
    IntegrityError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    Warning,
)

from rapsqlite import Row, paramstyle, register_adapter, register_converter, sqlite_version, sqlite_version_info
from rapsqlite.aiosqlite import context, core, cursor  # noqa: F401 - attributes of aiosqlite too
from rapsqlite.aiosqlite.core import Connection, Cursor, connect

__version__ = "0.22.1"  # the aiosqlite release whose interface this is

__all__ = [
    "Connection",
    "Cursor",
    "DatabaseError",
    "Error",
    "IntegrityError",
    "NotSupportedError",
    "OperationalError",
    "ProgrammingError",
    "Row",
    "Warning",
    "__version__",
    "connect",
    "paramstyle",
    "register_adapter",
    "register_converter",
    "sqlite_version",
    "sqlite_version_info",
]
