"""CPython's scenarios for connections: opening, closing, settings, limits."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import rapsqlite
from tests.compat.cpython.scenario import NOTHING, agree, column, told

UNDECODABLE = b"\xe7w\xf0"
EXCEPTIONS = (
    "Warning Error InterfaceError DatabaseError DataError OperationalError IntegrityError InternalError "
    "ProgrammingError NotSupportedError"
).split()
SQL_LENGTH = rapsqlite.SQLITE_LIMIT_SQL_LENGTH


@pytest.mark.parametrize("verb", ["commit", "rollback"])
async def test_commit_and_rollback_without_a_transaction_do_nothing(verb: str) -> None:
    async def scenario(connection: Any) -> Any:
        await getattr(connection, verb)()
        await getattr(connection, verb)()
        return connection.in_transaction

    assert await agree(scenario) is False


async def test_closed_connection_refuses_every_verb() -> None:
    async with rapsqlite.connect(":memory:") as connection:
        cursor = await connection.execute("SELECT 1")
    verbs: list[tuple[Any, Any]] = [
        (cursor.fetchall, ()), (cursor.fetchone, ()), (cursor.fetchmany, ()), (cursor.execute, ("SELECT 1",)),
        (cursor.executemany, ("SELECT 1", [])), (cursor.executescript, ("SELECT 1",)),
        (connection.execute, ("SELECT 1",)), (connection.executemany, ("SELECT 1", [])),
        (connection.executescript, ("SELECT 1",)), (connection.cursor, ()), (connection.commit, ()),
        (connection.rollback, ()), (connection.interrupt, ()), (connection.iterdump, ()),
        (connection.create_function, ("f", 1, abs)), (connection.create_aggregate, ("f", 1, dict)),
        (connection.set_authorizer, (print,)), (connection.set_progress_handler, (print, 100)),
        (connection.set_trace_callback, (print,)), (connection.__aenter__, ()),
    ]  # fmt: skip

    refused = [await told(verb, *given) for verb, given in verbs]

    assert {name for name, _ in refused} == {"ProgrammingError"}
    # For the last one the error says that a connection is opened once.
    assert all("Cannot operate on a closed database." in message for _, message in refused[:-1])


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_exceptions_are_attributes_of_the_connection(name: str) -> None:
    connection = rapsqlite.connect(":memory:")

    assert getattr(connection, name) is getattr(rapsqlite, name)


async def test_in_transaction_follows_statements() -> None:
    async def scenario(connection: Any) -> Any:
        seen = [connection.in_transaction]
        cursor = await connection.cursor()
        for sql in ("CREATE TABLE t (a)", "INSERT INTO t VALUES (1)", "SELECT a FROM t"):
            await cursor.execute(sql)
            await cursor.fetchone()
            seen.append(connection.in_transaction)
        await connection.commit()
        seen.append(connection.in_transaction)
        await cursor.execute("SELECT a FROM t")
        return [*seen, connection.in_transaction]

    assert await agree(scenario) == [False, False, True, True, False, False]


async def test_in_transaction_cannot_be_set() -> None:
    async with rapsqlite.connect(":memory:") as connection:
        with pytest.raises(AttributeError):
            connection.in_transaction = True  # type: ignore[misc]


async def test_interrupt_without_a_statement_does_nothing() -> None:
    async def scenario(connection: Any) -> Any:
        return await connection.interrupt(), await column(connection, "SELECT 1")

    assert await agree(scenario) == (None, [1])


async def test_more_statements_than_are_cached_give_right_results() -> None:
    async def scenario(connection: Any) -> Any:
        return [await column(connection, f"SELECT {number}") for number in range(300)]

    assert await agree(scenario) == [[number] for number in range(300)]


@pytest.mark.parametrize("sql", ["SELECT 1 AS '16'", "/* */ SELECT 1", " " * 20])
async def test_statement_longer_than_the_limit_is_a_data_error(sql: str) -> None:
    async def scenario(connection: Any) -> Any:
        before = await connection.getlimit(SQL_LENGTH)
        previous = await connection.setlimit(SQL_LENGTH, 10)
        now = await connection.getlimit(SQL_LENGTH)
        cursor = await connection.cursor()
        refused = [await told(verb, sql) for verb in (connection.execute, cursor.execute, connection.executescript)]
        return before == previous, now, refused

    error = ("DataError", "query string is too large")
    assert await agree(scenario, since=(3, 11)) == (True, 10, [error] * 3)


@pytest.mark.parametrize("verb", ["execute", "executescript"])
async def test_statement_of_exactly_the_limit_is_accepted(verb: str) -> None:
    async def scenario(connection: Any) -> Any:
        await connection.setlimit(SQL_LENGTH, 128)
        return [await told(getattr(connection, verb), "SELECT 1".ljust(length)) for length in (128, 129)]

    assert await agree(scenario, since=(3, 11)) == [NOTHING, ("DataError", "query string is too large")]


async def test_unknown_category_of_limits_is_refused() -> None:
    async def scenario(connection: Any) -> Any:
        return await told(connection.getlimit, 1111), await told(connection.setlimit, 1111, 0)

    assert await agree(scenario, since=(3, 11)) == (("ProgrammingError", "'category' is out of bounds"),) * 2


@pytest.mark.parametrize("level", ["BOGUS", " ", "DEFERRE", "IMMEDIAT", "EXCLUSIV", "DEFERREDS", "IMMEDIATE\0", "\xe9"])
async def test_invalid_isolation_level_is_refused_and_changes_nothing(level: str) -> None:
    message = "isolation_level string must be '', 'DEFERRED', 'IMMEDIATE', or 'EXCLUSIVE'"
    with pytest.raises(ValueError, match=message):
        rapsqlite.connect(":memory:", isolation_level=level)  # type: ignore[arg-type]
    connection = rapsqlite.connect(":memory:")

    with pytest.raises(ValueError, match=message):
        connection.isolation_level = level  # type: ignore[assignment]

    assert connection.isolation_level == ""


@pytest.mark.parametrize("level, error", [(1, TypeError), (b"", TypeError), ("abc", ValueError)])
async def test_isolation_level_of_another_type_is_refused(level: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        rapsqlite.connect(":memory:", isolation_level=level)


@pytest.mark.parametrize("level", ["", "DEFERRED", "IMMEDIATE", "EXCLUSIVE", None])
async def test_isolation_level_returns_what_was_set(level: Any) -> None:
    async def scenario(connection: Any) -> Any:
        given = connection.isolation_level
        connection.isolation_level = ""
        connection.isolation_level = level.lower() if level else level
        return given, connection.isolation_level

    given, after = await agree(scenario, isolation_level=level, since=(3, 11))

    assert (given, after) == (level, level)


async def test_isolation_level_cannot_be_deleted() -> None:
    async def scenario(connection: Any) -> Any:
        with pytest.raises(AttributeError):
            del connection.isolation_level
        return connection.isolation_level

    async with rapsqlite.connect(":memory:") as connection:
        assert await scenario(connection) == ""


async def test_flags_can_be_read_and_set_and_take_effect() -> None:
    option = getattr(rapsqlite, "SQLITE_DBCONFIG_ENABLE_FKEY", 1002)

    async def scenario(connection: Any) -> Any:
        unknown = (await told(connection.getconfig, -1))[0]
        seen = [await connection.getconfig(option)]
        await connection.setconfig(option, not seen[0])
        seen.append(await connection.getconfig(option))
        await connection.setconfig(option)
        seen.append(await connection.getconfig(option))
        await connection.executescript(
            "CREATE TABLE t (t INTEGER PRIMARY KEY); CREATE TABLE u (u, FOREIGN KEY (u) REFERENCES t(t));"
        )
        return unknown, seen, await told(connection.execute, "INSERT INTO u VALUES (0)")

    answer = await agree(scenario, since=(3, 12))

    assert answer == ("ValueError", [False, True, True], ("IntegrityError", "FOREIGN KEY constraint failed"))


# -- opening ---------------------------------------------------------------------------------------


def uri_of(path: bytes, query: str = "") -> str:
    return "file:" + quote(path) + query


def header_of(path: bytes) -> bytes:
    with open(path, "rb") as file:
        return file.read(16)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names there are Unicode")
@pytest.mark.parametrize("as_uri", [False, True])
async def test_path_that_is_not_utf8_is_opened(tmp_path: Path, as_uri: bool) -> None:
    path = os.fsencode(tmp_path) + b"/" + UNDECODABLE
    async with rapsqlite.connect(uri_of(path) if as_uri else path, uri=as_uri) as connection:
        await connection.execute("CREATE TABLE t (a)")

    assert header_of(path) == b"SQLite format 3\0"


@pytest.mark.parametrize("quoted", [True, False])
async def test_uri_is_opened(database: Path, quoted: bool) -> None:
    uri = uri_of(os.fsencode(database)) if quoted else f"file:{database}"
    async with rapsqlite.connect(uri, uri=True) as connection:
        await connection.execute("CREATE TABLE t (a)")

    assert header_of(os.fsencode(database)) == b"SQLite format 3\0"


async def test_read_only_uri_neither_creates_nor_writes(database: Path) -> None:
    uri = uri_of(os.fsencode(database), "?mode=ro")
    assert (await told(rapsqlite.connect(uri, uri=True)._open))[0] == "OperationalError"
    assert os.listdir(database.parent) == []
    async with rapsqlite.connect(database) as connection:
        await connection.execute("CREATE TABLE t (a)")

    async with rapsqlite.connect(uri, uri=True) as connection:
        refused = await told(connection.execute, "CREATE TABLE u (a)")

    assert refused == ("OperationalError", "attempt to write a readonly database")


@pytest.mark.parametrize("make", [str, os.fsencode, Path])
async def test_factory_gets_the_database_as_it_was_given(make: Any) -> None:
    given = []

    class Recording(rapsqlite.Connection):
        def __init__(self, database: Any, **options: Any) -> None:
            given.append(database)
            super().__init__(":memory:", **options)

    async with rapsqlite.connect(make("name.db"), factory=Recording) as connection:
        assert type(connection) is Recording
        assert await column(connection, "SELECT 1") == [1]

    assert given == [make("name.db")]


async def test_factory_may_change_the_options() -> None:
    class Autocommitting(rapsqlite.Connection):
        def __init__(self, *given: Any, **options: Any) -> None:
            super().__init__(*given, **{**options, "isolation_level": None})

    async with rapsqlite.connect(":memory:", factory=Autocommitting) as connection:
        await connection.execute("CREATE TABLE t (a)")
        await connection.execute("INSERT INTO t VALUES (1)")

        assert connection.isolation_level is None
        assert not connection.in_transaction


async def test_database_may_be_a_keyword() -> None:
    async with rapsqlite.connect(database=":memory:") as connection:
        assert type(connection) is rapsqlite.Connection


@pytest.mark.parametrize("check", [True, False])
async def test_connection_works_in_every_thread(check: bool) -> None:
    """sqlite3 allows that only with ``check_same_thread=False``."""
    answers: list[Any] = []
    async with rapsqlite.connect(":memory:", check_same_thread=check) as connection:

        def work() -> None:
            import asyncio

            answers.append(asyncio.run(column(connection, "SELECT 1")))

        thread = threading.Thread(target=work)
        thread.start()
        while not answers and thread.is_alive():
            await column(connection, "SELECT 2")
        thread.join()

    assert answers == [[1]]


# -- serialized databases --------------------------------------------------------------------------


async def test_serialized_database_is_deserialized_unchanged() -> None:
    async def scenario(connection: Any) -> Any:
        await connection.execute("CREATE TABLE t (t)")
        data = await connection.serialize()
        await connection.execute("DROP TABLE t")
        gone = await told(connection.execute, "SELECT t FROM t")
        await connection.deserialize(data)
        return gone, await column(connection, "SELECT t FROM t")

    async with rapsqlite.connect(":memory:") as connection:
        assert await scenario(connection) == (("OperationalError", "no such table: t"), [])


@pytest.mark.parametrize(
    "data, error", [(memoryview(b"blob")[::2], BufferError), ([], TypeError), (1, TypeError), (None, TypeError)]
)
async def test_deserialize_refuses_objects_without_a_buffer(data: Any, error: type[Exception]) -> None:
    async with rapsqlite.connect(":memory:") as connection:
        with pytest.raises(error):
            await connection.deserialize(data)

        assert await column(connection, "SELECT 1") == [1]
