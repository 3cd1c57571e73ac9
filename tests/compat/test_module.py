"""What the module offers besides connections, as in the newest sqlite3, on every Python version."""

from __future__ import annotations

import sqlite3

import pytest

import rapsqlite

CONSTANTS = [name for name in dir(sqlite3) if name.startswith("SQLITE_")]
# What programs use of the modules aiosqlite and sqlite3, except `Blob`, `adapters` and `converters`.
NAMES = [
    "Binary", "Connection", "Cursor", "DataError", "DatabaseError", "Date", "DateFromTicks", "Error", "IntegrityError",
    "InterfaceError", "InternalError", "NotSupportedError", "OperationalError", "PARSE_COLNAMES", "PARSE_DECLTYPES",
    "PrepareProtocol", "ProgrammingError", "Row", "Time", "TimeFromTicks", "Timestamp", "TimestampFromTicks", "Warning",
    "adapt", "apilevel", "complete_statement", "connect", "enable_callback_tracebacks", "paramstyle",
    "register_adapter",
    "register_converter", "sqlite_version", "sqlite_version_info", "threadsafety",
]  # fmt: skip


@pytest.mark.parametrize("name", CONSTANTS)
def test_constant_has_the_value_of_sqlite3(name: str) -> None:
    assert name in rapsqlite.__all__
    assert getattr(rapsqlite, name) == getattr(sqlite3, name)


def test_constants_missing_from_older_sqlite3_exist() -> None:
    """Python 3.10's has no result codes."""
    assert rapsqlite.SQLITE_BUSY == 5
    assert rapsqlite.SQLITE_CONSTRAINT_UNIQUE == 2067
    assert rapsqlite.SQLITE_LIMIT_VARIABLE_NUMBER == 9
    assert len([name for name in rapsqlite.__all__ if name.startswith("SQLITE_")]) >= 160


@pytest.mark.parametrize("name", NAMES)
def test_name_of_sqlite3_exists(name: str) -> None:
    assert hasattr(sqlite3, name)
    assert name in rapsqlite.__all__
    assert hasattr(rapsqlite, name)


@pytest.mark.parametrize(
    "name", ["adapt", "complete_statement", "register_adapter", "register_converter", "PrepareProtocol"]
)
def test_function_of_the_module_is_the_same_object(name: str) -> None:
    assert getattr(rapsqlite, name) is getattr(sqlite3, name)


def test_sqlite_version_is_that_of_the_engine() -> None:
    assert ".".join(map(str, rapsqlite.sqlite_version_info)) == rapsqlite.sqlite_version
    assert rapsqlite.sqlite_version_info >= (3, 51, 3)


async def test_sqlite_version_matches_what_sql_returns() -> None:
    async with rapsqlite.connect(":memory:") as connection:
        assert await connection.fetch_scalar("SELECT sqlite_version()") == rapsqlite.sqlite_version
