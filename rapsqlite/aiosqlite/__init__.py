"""aiosqlite's modules and names, made of this package: ``from rapsqlite import aiosqlite``.

Everything is as in `rapsqlite`, except that ``async with connect(...)`` does not commit, and that a `Connection` can be
made of a function, as in aiosqlite. `rapsqlite.install_as_aiosqlite` gives it the name ``aiosqlite``.

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

__version__ = "0.22.1"  # the release of aiosqlite with this interface

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
