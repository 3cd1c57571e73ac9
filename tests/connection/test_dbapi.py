"""``rapsqlite.dbapi``: PEP 249, section by section. https://peps.python.org/pep-0249/"""

from __future__ import annotations

import datetime as dt
import sqlite3
from typing import TYPE_CHECKING

import pytest

import rapsqlite
from rapsqlite import dbapi

if TYPE_CHECKING:
    from pathlib import Path

EXCEPTIONS = [
    "Warning", "Error", "InterfaceError", "DatabaseError", "DataError", "OperationalError", "IntegrityError",
    "InternalError", "ProgrammingError", "NotSupportedError",
]  # fmt: skip


def test_module_globals_required_by_pep_249_exist() -> None:
    """PEP 249 requires these three: https://peps.python.org/pep-0249/#globals"""
    assert dbapi.apilevel == sqlite3.apilevel
    assert dbapi.paramstyle == sqlite3.paramstyle
    assert dbapi.threadsafety in {1, 2, 3}


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_dbapi_exceptions_are_those_of_the_package(name: str) -> None:
    assert getattr(dbapi, name) is getattr(rapsqlite, name)
    assert getattr(dbapi.AsyncConnection, name) is getattr(rapsqlite, name)


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("Date", (2024, 2, 29)),
        ("Time", (12, 30, 1)),
        ("Timestamp", (2024, 2, 29, 12, 30, 1)),
        ("DateFromTicks", (1_700_000_000,)),
        ("TimeFromTicks", (1_700_000_000,)),
        ("TimestampFromTicks", (1_700_000_000,)),
        ("Binary", (b"bytes",)),
    ],
)
def test_constructors_match_sqlite3(name: str, arguments: tuple[object, ...]) -> None:
    """PEP 249 names them; a program may switch modules."""
    assert getattr(dbapi, name)(*arguments) == getattr(sqlite3, name)(*arguments)


@pytest.mark.parametrize(
    "declared, kind",
    [
        ("TEXT", dbapi.STRING), ("varchar(20)", dbapi.STRING), ("CLOB", dbapi.STRING), ("BLOB", dbapi.BINARY),
        ("varbinary(8)", dbapi.BINARY), ("INTEGER", dbapi.NUMBER), ("double precision", dbapi.NUMBER),
        ("DECIMAL(10, 2)", dbapi.NUMBER), ("boolean", dbapi.NUMBER), ("date", dbapi.DATETIME),
        ("TIMESTAMP", dbapi.DATETIME), ("rowid", dbapi.ROWID),
    ],
)  # fmt: skip
def test_type_objects_equal_declared_types(declared: str, kind: dbapi.TypeObject) -> None:
    kinds = [dbapi.STRING, dbapi.BINARY, dbapi.NUMBER, dbapi.DATETIME, dbapi.ROWID]

    assert [one for one in kinds if one == declared] == [kind]
    assert declared == kind
    assert kind != "ANYTHING"
    assert kind == kind
    assert kind != 5


async def test_cursor_has_the_behaviour_that_pep_249_specifies(database: Path) -> None:
    connection = await dbapi.connect(database)
    cursor = await connection.cursor()

    await cursor.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT)")
    await cursor.executemany("INSERT INTO t (name) VALUES (?)", [("a",), ("b",), ("c",)])
    assert cursor.rowcount == 3
    cursor.setinputsizes([None, 10])
    cursor.setoutputsize(100)
    cursor.setoutputsize(100, 1)
    await cursor.execute("SELECT id, name FROM t ORDER BY id")

    assert isinstance(cursor, dbapi.AsyncCursor)
    assert cursor.connection is connection
    assert cursor.arraysize == 1
    assert cursor.description is not None
    assert [column[0] for column in cursor.description] == ["id", "name"]
    assert {len(column) for column in cursor.description} == {7}
    assert await cursor.fetchone() == (1, "a")
    assert await cursor.fetchmany(1) == [(2, "b")]
    assert await cursor.fetchall() == [(3, "c")]
    assert await cursor.fetchone() is None
    await cursor.close()
    with pytest.raises(dbapi.ProgrammingError):
        await cursor.fetchone()
    await connection.close()
    with pytest.raises(dbapi.ProgrammingError):
        await connection.cursor()


async def test_commit_keeps_and_rollback_undoes_changes(database: Path) -> None:
    async with dbapi.connect(database) as connection:
        await connection.execute("CREATE TABLE t (a)")
        await connection.execute("INSERT INTO t VALUES (1)")
        await connection.commit()
        await connection.execute("INSERT INTO t VALUES (2)")
        await connection.rollback()

    async with dbapi.connect(database) as connection:
        assert await (await connection.execute("SELECT a FROM t")).fetchall() == [(1,)]


async def test_close_without_commit_rolls_back(database: Path) -> None:
    """PEP 249: closing a connection without committing performs an implicit rollback."""
    connection = await dbapi.connect(database)
    await connection.execute("CREATE TABLE t (a)")
    await connection.commit()
    await connection.execute("INSERT INTO t VALUES (1)")
    await connection.close()

    async with dbapi.connect(database) as connection:
        assert await connection.execute_fetchall("SELECT count(*) FROM t") == [(0,)]


async def test_every_execute_method_returns_an_async_cursor() -> None:
    async with dbapi.connect(":memory:") as connection:
        async with connection.cursor() as entered:
            assert type(entered) is dbapi.AsyncCursor
        executed = await connection.execute("CREATE TABLE t (a)")
        many = await connection.executemany("INSERT INTO t VALUES (?)", [(1,)])
        script = await connection.executescript("INSERT INTO t VALUES (2); INSERT INTO t VALUES (3);")

        assert [type(cursor) for cursor in (executed, many, script)] == [dbapi.AsyncCursor] * 3
        assert await connection.fetch_all("SELECT a FROM t") == [(1,), (2,), (3,)]


async def test_dbapi_connect_accepts_the_options_of_the_package() -> None:
    async with dbapi.connect(":memory:", detect_types=sqlite3.PARSE_COLNAMES, isolation_level=None) as connection:
        (row,) = await connection.execute_fetchall("SELECT '2024-02-29' AS \"d [day]\"")
        connection.register_converter("day", lambda text: dt.date.fromisoformat(text.decode()))
        (converted,) = await connection.execute_fetchall("SELECT '2024-02-29' AS \"d [day]\"")

        assert connection.isolation_level is None
        assert (row, converted) == (("2024-02-29",), (dt.date(2024, 2, 29),))
    with pytest.raises(TypeError):
        dbapi.connect(":memory:", unknown=1)  # type: ignore[call-arg]


async def test_exception_classes_are_attributes_of_the_connection() -> None:
    async with dbapi.connect(":memory:") as connection:
        with pytest.raises(connection.OperationalError, match="no such table"):
            await connection.execute("SELECT * FROM missing")
