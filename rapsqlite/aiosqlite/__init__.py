"""aiosqlite's modules and names, implemented by this package: ``from rapsqlite import aiosqlite``.

It differs from `rapsqlite` in two ways: ``async with connect(...)`` does not commit, and `Connection` accepts a
connector function, as in aiosqlite. `rapsqlite.install_as_aiosqlite` makes it importable as ``aiosqlite``.

https://aiosqlite.omnilib.dev/en/stable/api.html
"""

from rapsqlite import (
    DatabaseError,
    Error,
    IntegrityError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    Row,
    Warning,
    paramstyle,
    register_adapter,
    register_converter,
    sqlite_version,
    sqlite_version_info,
)
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
