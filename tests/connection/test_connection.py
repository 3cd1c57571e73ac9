"""Opening, configuring and closing connections, and the errors for wrong use."""

from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from rapsqlite import Connection, connect

if TYPE_CHECKING:
    from collections.abc import Callable


def guest_threads() -> int:
    """Number of guests running in this process."""
    return sum(thread.name.startswith("rapsqlite") for thread in threading.enumerate())


async def make_table(database: Path) -> None:
    async with connect(database) as conn:
        await conn.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
        await conn.execute("INSERT INTO t VALUES (1, 'one')")


async def test_quick_example_prints_its_row(database: Path) -> None:
    for name in (database, ":memory:"):
        async with connect(name) as conn:
            await conn.execute("CREATE TABLE test (id INTEGER PRIMARY KEY, value TEXT)")
            await conn.execute("INSERT INTO test (value) VALUES ('hello')")

            assert await conn.fetch_all("SELECT * FROM test") == [[1, "hello"]]


@pytest.mark.parametrize("convert", [Path, str, os.fsencode], ids=["path", "str", "bytes"])
async def test_database_name_may_be_str_bytes_or_path(database: Path, convert: Callable[[Path], Any]) -> None:
    await make_table(database)

    async with connect(convert(database)) as conn:
        assert await conn.fetch_scalar("SELECT b FROM t") == "one"
        assert conn.path == str(database)


async def test_stdlib_reads_what_was_committed(database: Path) -> None:
    await make_table(database)

    with sqlite3.connect(database) as stock:
        assert stock.execute("SELECT * FROM t").fetchall() == [(1, "one")]
        assert stock.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    stock.close()


async def test_missing_directory_fails_at_the_await_and_leaves_no_thread(tmp_path: Path) -> None:
    before = guest_threads()

    with pytest.raises(rapsqlite.OperationalError, match="unable to open database") as caught:
        await connect(tmp_path / "missing" / "test.db")

    assert caught.value.sqlite_errorname.startswith("SQLITE_CANTOPEN")
    assert guest_threads() <= before  # one of an earlier test may have ended


async def test_file_that_is_not_a_database_is_a_database_error(database: Path) -> None:
    database.write_bytes(b"this is not a database, whatever its name says" * 100)  # noqa: ASYNC240

    with pytest.raises(rapsqlite.DatabaseError, match="file is not a database") as caught:
        async with connect(database) as conn:
            await conn.execute("CREATE TABLE t (a)")

    assert caught.value.sqlite_errorname == "SQLITE_NOTADB"


async def test_connection_is_alive_from_await_to_close(database: Path) -> None:
    """``is_alive`` is true between the two."""
    conn = await connect(database)
    assert isinstance(conn, Connection)
    assert conn.is_alive()

    await conn.close()

    assert not conn.is_alive()


async def test_close_is_idempotent_and_rolls_back(database: Path) -> None:
    await make_table(database)
    conn = await connect(database)
    await conn.execute("DELETE FROM t")

    await conn.close()
    await conn.close()

    async with connect(database) as conn:
        assert await conn.fetch_scalar("SELECT count(*) FROM t") == 1


async def test_clean_exit_commits(database: Path) -> None:
    """Unlike aiosqlite's, whose block only closes."""
    await make_table(database)

    async with connect(database) as conn:
        await conn.execute("INSERT INTO t VALUES (2, 'two')")

    async with connect(database) as conn:
        assert await conn.fetch_scalar("SELECT count(*) FROM t") == 2


async def test_exception_rolls_back(database: Path) -> None:
    """What an unfinished block has written must not become visible."""
    await make_table(database)

    with pytest.raises(KeyError):  # noqa: PT012 - the block is what is tested
        async with connect(database) as conn:
            await conn.execute("INSERT INTO t VALUES (2, 'two')")
            raise KeyError

    async with connect(database) as conn:
        assert await conn.fetch_scalar("SELECT count(*) FROM t") == 1


VERBS: dict[str, Callable[[Connection], Any]] = {
    "execute": lambda conn: conn.execute("SELECT 1"),
    "executemany": lambda conn: conn.executemany("INSERT INTO t VALUES (?, ?)", [(5, 5)]),
    "executescript": lambda conn: conn.executescript("SELECT 1"),
    "execute_insert": lambda conn: conn.execute_insert("SELECT 1"),
    "execute_fetchall": lambda conn: conn.execute_fetchall("SELECT 1"),
    "cursor": lambda conn: conn.cursor(),
    "fetch_all": lambda conn: conn.fetch_all("SELECT 1"),
    "fetch_one": lambda conn: conn.fetch_one("SELECT 1"),
    "fetch_optional": lambda conn: conn.fetch_optional("SELECT 1"),
    "fetch_scalar": lambda conn: conn.fetch_scalar("SELECT 1"),
    "fetch_blob": lambda conn: conn.fetch_blob("SELECT x'00'"),
    "execute_iter": lambda conn: conn.execute_iter("SELECT 1").__anext__(),
    "stream": lambda conn: conn.stream("SELECT 1").__anext__(),
    "begin": lambda conn: conn.begin(),
    "commit": lambda conn: conn.commit(),
    "rollback": lambda conn: conn.rollback(),
    "savepoint": lambda conn: conn.savepoint().__aenter__(),
    "changes": lambda conn: conn.changes(),
    "total_changes_async": lambda conn: conn.total_changes_async(),
    "interrupt": lambda conn: conn.interrupt(),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_closed_connection_refuses_every_method(verb: str) -> None:
    conn = await connect(":memory:")
    await conn.close()

    with pytest.raises(rapsqlite.ProgrammingError, match="closed") as caught:
        await VERBS[verb](conn)

    assert isinstance(caught.value, ValueError)  # as aiosqlite


@pytest.mark.parametrize("verb", VERBS)
async def test_connection_that_was_not_awaited_refuses_every_method(verb: str) -> None:
    with pytest.raises(rapsqlite.ProgrammingError, match="no active connection"):
        await VERBS[verb](connect(":memory:"))


async def test_properties_of_a_closed_connection_raise() -> None:
    conn = await connect(":memory:")
    await conn.close()

    with pytest.raises(rapsqlite.ProgrammingError):
        _ = conn.in_transaction
    with pytest.raises(rapsqlite.ProgrammingError):
        _ = conn.total_changes


async def test_connection_can_be_opened_only_once() -> None:
    conn = connect(":memory:")
    async with conn:
        with pytest.raises(rapsqlite.ProgrammingError, match="already opened"):
            await conn


async def test_operation_can_be_awaited_only_once() -> None:
    async with connect(":memory:") as conn:
        operation = conn.execute("SELECT 1")
        await operation

        with pytest.raises(RuntimeError):
            await operation


async def test_connection_left_open_warns_where_it_was_opened() -> None:
    others = set(threading.enumerate())  # guests of earlier tests may still be ending
    conn = connect(":memory:")
    line = f"{__file__}:{test_connection_left_open_warns_where_it_was_opened.__code__.co_firstlineno + 2}"
    await conn
    (guest,) = (thread for thread in set(threading.enumerate()) - others if thread.name.startswith("rapsqlite"))

    with pytest.warns(ResourceWarning, match="was deleted before being closed") as caught:  # noqa: PT031
        del conn
        gc.collect()

    assert line in str(caught[0].message)
    guest.join(10)
    assert not guest.is_alive()


async def test_connection_that_was_never_opened_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        connect(":memory:")
        gc.collect()


async def test_unknown_keyword_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="pool_size"):
        connect(":memory:", pool_size=5)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "options, error",
    [
        ({"isolation_level": "SOMETIMES"}, ValueError),
        ({"isolation_level": 1}, TypeError),
        ({"autocommit": 7}, ValueError),
        ({"row_factory": "rows"}, ValueError),
        ({"pragmas": {"user_version; DROP TABLE t": 1}}, ValueError),
        ({"pragmas": {"user_version": "1; DROP TABLE t"}}, ValueError),
        ({"pragmas": {"user_version": b"1"}}, TypeError),
        ({"limits": {"max_cows": 1}}, TypeError),
        ({"limits": {"max_rows": -1}}, ValueError),
        ({"limits": {"max_rows": "1"}}, TypeError),
        ({"limits": 5}, TypeError),
        ({"pragmas": [("user_version", 1)]}, TypeError),
        ({"timeout": "5"}, TypeError),
        ({"timeout": None}, TypeError),
        ({"cached_statements": "x"}, TypeError),
        ({"detect_types": "x"}, TypeError),
        ({"iter_chunk_size": 0}, ValueError),
        ({"iter_chunk_size": "64"}, TypeError),
        ({"text_factory": 5}, TypeError),
        ({"init_hook": 5}, TypeError),
    ],
)
async def test_invalid_option_is_refused_immediately(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        connect(":memory:", **options)


@pytest.mark.parametrize("options", [{"cached_statements": -1}, {"cached_statements": 2**40}, {"timeout": -1}])
async def test_numbers_that_sqlite3_clamps_are_accepted(options: dict[str, Any]) -> None:
    stock = sqlite3.connect(":memory:", **({} if options == {"cached_statements": 2**40} else options))
    stock.close()

    async with connect(":memory:", **options) as conn:
        for _ in range(2):
            assert await conn.fetch_scalar("SELECT 1") == 1
        assert conn.timeout >= 0


@pytest.mark.parametrize("database", [None, 5, True])
async def test_database_of_another_type_is_refused(database: Any) -> None:
    with pytest.raises(TypeError):
        connect(database)


async def test_name_with_a_null_character_is_refused() -> None:
    with pytest.raises(ValueError, match="null character"):
        connect("a\0b")


async def test_loop_argument_is_deprecated() -> None:
    with pytest.warns(DeprecationWarning, match="loop"):
        connect(":memory:", loop=object())


async def test_pragmas_are_set_on_opening(database: Path) -> None:
    async with connect(database, pragmas={"user_version": 7, "foreign_keys": True, "synchronous": "FULL"}) as conn:
        assert await conn.fetch_scalar("PRAGMA user_version") == 7
        assert await conn.fetch_scalar("PRAGMA foreign_keys") == 1
        assert await conn.fetch_scalar("PRAGMA synchronous") == 2


@pytest.mark.parametrize(
    "pragmas, error, message",
    [
        ({"foriegn_keys": True}, rapsqlite.OperationalError, "no such pragma: foriegn_keys"),
        (
            {"foreign_keys": True, "main.jounal_mode": "wal"},
            rapsqlite.OperationalError,
            "no such pragma: main.jounal_mode",
        ),
        ({"cache_size": "7; DROP TABLE x"}, ValueError, "the pragma cache_size must be a plain word"),
        ({"cache_size": None}, TypeError, "the pragma cache_size must be a number or str"),
    ],
)
def test_pragmas_that_cannot_be_set_are_refused_before_anything_is_opened(
    database: Path, pragmas: Any, error: type[Exception], message: str
) -> None:
    """SQLite ignores unknown names, and so would ignore a misspelt safety setting."""
    with pytest.raises(error, match=message):
        connect(database, pragmas=pragmas)
    assert not database.exists()


async def test_init_hook_runs_before_the_first_statement() -> None:
    async def hook(conn: Connection) -> None:
        await conn.execute("CREATE TABLE made_by_hook (a)")

    async with connect(":memory:", init_hook=hook) as conn:
        assert await conn.fetch_all("SELECT name FROM sqlite_schema") == [["made_by_hook"]]


async def test_init_hook_that_fails_closes_the_connection(database: Path) -> None:
    seen = []

    async def hook(conn: Connection) -> None:
        seen.append(conn)
        raise LookupError("not today")

    with pytest.raises(LookupError, match="not today"):
        async with connect(database, init_hook=hook):
            pytest.fail("the connection was opened")

    assert not seen[0].is_alive()


async def test_read_only_connection_does_not_write(database: Path) -> None:
    await make_table(database)

    async with connect(database, read_only=True, isolation_level=None) as conn:
        assert await conn.fetch_scalar("SELECT b FROM t") == "one"
        with pytest.raises(rapsqlite.OperationalError, match="readonly"):
            await conn.execute("DELETE FROM t")


async def test_read_only_connection_does_not_create(database: Path) -> None:
    with pytest.raises(rapsqlite.OperationalError):
        await connect(database, read_only=True)

    assert not database.exists()  # noqa: ASYNC240


async def test_uri_names_mode(database: Path) -> None:
    """``mode=ro`` opens the file for reading only."""
    await make_table(database)

    async with connect(f"{database.as_uri()}?mode=ro", uri=True, isolation_level=None) as conn:
        assert await conn.fetch_scalar("SELECT count(*) FROM t") == 1
        with pytest.raises(rapsqlite.OperationalError, match="readonly"):
            await conn.execute("DELETE FROM t")


async def test_rows_beyond_the_limit_are_a_data_error() -> None:
    async with connect(":memory:", limits={"max_rows": 10}) as conn:
        sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?) SELECT i FROM n"

        assert len(await conn.fetch_all(sql, [10])) == 10
        with pytest.raises(rapsqlite.DataError):
            await conn.fetch_all(sql, [11])


async def test_changing_the_dict_of_limits_lifts_no_limit() -> None:
    given: rapsqlite.Limits = {"max_rows": 1}
    async with connect(":memory:", limits=given) as conn:
        given["max_rows"] = 5
        conn.limits["max_rows"] = 5

        assert conn.limits == {"max_rows": 1}
        with pytest.raises(rapsqlite.DataError):
            await conn.fetch_all("SELECT 1 UNION SELECT 2")
    assert connect(":memory:").limits == {}


async def test_steps_beyond_the_limit_are_a_data_error() -> None:
    async with connect(":memory:", limits={"statement_steps": 100_000}) as conn:
        with pytest.raises(rapsqlite.DataError, match="steps"):
            await conn.fetch_all("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n")

        assert await conn.fetch_scalar("SELECT 1") == 1


async def test_connection_factory_makes_the_connection() -> None:
    class Counting(Connection):
        pass

    async with connect(":memory:", factory=Counting) as conn:
        assert type(conn) is Counting


async def test_stop_closes_without_waiting() -> None:
    conn = await connect(":memory:")

    ending = conn.stop()

    assert not conn.is_alive()
    assert ending is not None
    await ending


def test_stop_works_after_the_event_loop_ended() -> None:
    async def open_one() -> Connection:
        return await connect(":memory:")

    conn = asyncio.run(open_one())

    assert conn.stop() is None
    assert not conn.is_alive()


async def test_memory_databases_are_private() -> None:
    async with connect(":memory:") as one, connect(":memory:") as other:
        await one.execute("CREATE TABLE t (a)")

        assert await other.fetch_all("SELECT name FROM sqlite_schema") == []


async def test_temp_tables_and_attached_databases_persist(tmp_path: Path) -> None:
    async with connect(tmp_path / "main.db", isolation_level=None) as conn:
        await conn.execute("CREATE TEMP TABLE mine (a)")
        await conn.execute("ATTACH ? AS other", [str(tmp_path / "other.db")])
        await conn.execute("CREATE TABLE other.theirs (a)")
        await conn.execute("INSERT INTO theirs SELECT 1")

        assert await conn.fetch_scalar("SELECT count(*) FROM mine, theirs") == 0
        assert await conn.fetch_scalar("SELECT count(*) FROM theirs") == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
async def test_connection_in_a_forked_child_raises_a_clear_error(database: Path) -> None:
    async with connect(database) as conn:
        await conn.execute("CREATE TABLE t (a)")

        async def use(conn: Connection) -> None:
            await conn.execute("SELECT 1")

        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            answer = b"nothing was raised"
            try:
                asyncio.run(use(conn))
            except rapsqlite.ProgrammingError as error:
                answer = str(error).encode()
            finally:
                os.write(writer, answer)
                os._exit(0)
        os.close(writer)

        with os.fdopen(reader, "rb") as pipe:
            assert b"fork" in pipe.read()
        os.waitpid(child, 0)  # noqa: ASYNC222 - it has ended
        assert await conn.fetch_scalar("SELECT count(*) FROM t") == 0
