"""CPython's scenarios for past bugs: crashes and leaks that must not occur here either."""

from __future__ import annotations

import gc
import sqlite3
import weakref
from typing import Any

import pytest

import rapsqlite
from tests.compat.cpython.scenario import NOTHING, agree, column, told


@pytest.mark.parametrize("pragma", ["user_version", "schema_version", "page_size"])
async def test_pragma_without_a_column_name_returns_its_row(pragma: str) -> None:
    async def scenario(connection: Any) -> Any:
        cursor = await connection.execute(f"PRAGMA {pragma}")
        return len(await cursor.fetchall())

    assert await agree(scenario, detect_types=rapsqlite.PARSE_COLNAMES) == 1


async def test_rollback_with_more_statements_open_than_are_cached() -> None:
    async def scenario(connection: Any) -> Any:
        cursors = [await connection.cursor() for _ in range(5)]
        await cursors[0].execute("CREATE TABLE test (x)")
        for _ in range(10):
            await cursors[0].executemany("INSERT INTO test VALUES (?)", [(number,) for number in range(10)])
        for number, cursor in enumerate(cursors):
            await cursor.execute(" " * number + "SELECT x FROM test")
        await connection.rollback()
        return await column(connection, "SELECT count(*) FROM test")

    assert await agree(scenario, cached_statements=5) == [0]


async def test_connection_closes_over_statements_that_cursors_hold() -> None:
    async with rapsqlite.connect(":memory:") as connection:
        cursors = [await connection.execute(f"SELECT 1 x UNION SELECT {number}") for number in range(150)]
    with pytest.raises(rapsqlite.ProgrammingError):
        await cursors[0].fetchall()


async def test_cached_statement_sees_a_recreated_table() -> None:
    async def scenario(connection: Any) -> Any:
        seen = []
        for value in (5, 6):
            await connection.execute("CREATE TABLE foo (bar)")
            await connection.execute("INSERT INTO foo VALUES (?)", (value,))
            seen += await column(connection, "SELECT bar FROM foo")
            await connection.execute("DROP TABLE foo")
        return seen

    assert await agree(scenario) == [5, 6]


async def test_error_for_invalid_utf8_names_the_column_but_not_the_value() -> None:
    """sqlite3 also shows the text."""
    async with rapsqlite.connect(":memory:") as connection:
        error = await told(column, connection, "SELECT 'secret' || ? || 'yyy' colname", (b"\xfa",))

    assert error == ("OperationalError", "Could not decode to UTF-8 column 'colname'")


@pytest.mark.parametrize("level", ["", "DEFERRED", "IMMEDIATE", "EXCLUSIVE"])
def test_isolation_level_may_be_a_subclass_of_str(level: str) -> None:
    class Stubborn(str):
        __slots__ = ()

        def upper(self) -> str:
            return None  # type: ignore[return-value]

    connection = rapsqlite.connect(":memory:", isolation_level=None)

    connection.isolation_level = Stubborn(level)  # type: ignore[assignment]

    assert connection.isolation_level == level


async def test_connection_whose_class_did_not_call_its_base_is_refused() -> None:
    class Defect(rapsqlite.Connection):
        def __init__(self, *given: Any, **options: Any) -> None:
            pass

    with pytest.raises((rapsqlite.ProgrammingError, AttributeError)):
        await rapsqlite.connect(":memory:", factory=Defect)


async def test_cursor_whose_class_did_not_call_its_base_is_refused() -> None:
    class Defect(rapsqlite.Cursor):
        def __init__(self, connection: Any) -> None:
            pass

    async with rapsqlite.connect(":memory:") as connection:
        with pytest.raises((rapsqlite.ProgrammingError, AttributeError)):
            await Defect(connection).execute("SELECT 1")

        assert await column(connection, "SELECT 1") == [1]


async def test_cursor_may_be_initialised_again_and_is_collected() -> None:
    async with rapsqlite.connect(":memory:") as connection:
        cursor = rapsqlite.Cursor(connection)
        reference = weakref.ref(cursor)
        cursor.__init__(connection)  # type: ignore[misc]
        await cursor.execute("SELECT 1")
        assert await cursor.fetchall() == [(1,)]
        del cursor
        gc.collect()

        assert reference() is None


async def test_empty_blob_is_not_null() -> None:
    async def scenario(connection: Any) -> Any:
        return await column(connection, "SELECT x''")

    assert await agree(scenario) == [b""]


@pytest.mark.parametrize("leave", ["execute", "drop"])
async def test_table_can_be_dropped_after_its_cursor_is_gone(leave: str) -> None:
    async def scenario(connection: Any) -> Any:
        await connection.executescript("CREATE TABLE t (t); INSERT INTO t VALUES (0), (1), (2), (3), (4)")
        cursor = await connection.execute("SELECT t FROM t")
        if leave == "execute":
            return await told(cursor.execute, "DROP TABLE t")
        del cursor
        return await told(connection.execute, "DROP TABLE t")

    assert await agree(scenario) == NOTHING


async def test_function_is_freed_with_its_connection() -> None:
    class Function:
        def __call__(self, *_: object) -> None:
            pass

    function = Function()
    reference = weakref.ref(function)
    async with rapsqlite.connect(":memory:") as connection:
        await connection.create_function("f", 1, function)
        await connection.create_function("f", 1, function)
        cursor = await connection.execute("SELECT f(1)")
        cycle: list[Any] = [cursor]
        cycle.append(cycle)
        del function
    del connection, cursor, cycle
    gc.collect()

    assert reference() is None


async def test_error_codes_have_names(tmp_path: Any) -> None:
    with pytest.raises(rapsqlite.Error, match="unable to open database file") as opening:
        await rapsqlite.connect(tmp_path)
    async with rapsqlite.connect(":memory:") as connection:
        await connection.execute("CREATE TABLE t (t INTEGER CHECK (t > 0))")
        with pytest.raises(rapsqlite.IntegrityError, match="constraint failed") as checking:
            await connection.execute("INSERT INTO t VALUES (-1)")

    assert opening.value.sqlite_errorcode & 0xFF == rapsqlite.SQLITE_CANTOPEN
    assert opening.value.sqlite_errorname.startswith("SQLITE_CANTOPEN")
    assert checking.value.sqlite_errorcode == rapsqlite.SQLITE_CONSTRAINT_CHECK
    assert checking.value.sqlite_errorname == "SQLITE_CONSTRAINT_CHECK"


async def test_converter_that_raises_leaves_the_connection_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    """sqlite3 forbids a converter to use the cursor; here there is no way to await one."""

    async def scenario(connection: Any) -> Any:
        raised = await told(column, connection, 'SELECT 1 AS "x [FAILING]"')
        return raised[0], await column(connection, "SELECT 2")

    def failing(data: bytes) -> None:
        raise ZeroDivisionError

    monkeypatch.setitem(sqlite3.converters, "FAILING", failing)
    assert await agree(scenario, detect_types=rapsqlite.PARSE_COLNAMES) == ("ZeroDivisionError", [2])
