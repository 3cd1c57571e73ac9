"""The rows before a failing one are returned first: no batch hides them. At least the rows that sqlite3 returns must
come.
"""

from __future__ import annotations

import sqlite3
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from rapsqlite import Limits, OperationalError, connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator

NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 5000) SELECT"
OVERFLOW = f"{NUMBERS} CASE WHEN i = ? THEN abs(-9223372036854775808) ELSE i END FROM n"
BAD_TEXT = f"{NUMBERS} CASE WHEN i = ? THEN CAST(x'ff' AS TEXT) ELSE i END FROM n"
FAILING_ROWS = [1, 2, 3, 255, 256, 257, 300, 3000]


@pytest.fixture
async def conn() -> AsyncIterator[rapsqlite.Connection]:
    async with connect(":memory:") as connection:
        yield connection


def rows_of_stock(sql: str, failing_row: int) -> int:
    """Return how many rows sqlite3 returns before the error; -1: execute itself raises."""
    connection = sqlite3.connect(":memory:")
    count = -1
    try:
        cursor = connection.execute(sql, [failing_row])
        count = 0
        for _ in cursor:
            count += 1
    except sqlite3.OperationalError:
        return count
    finally:
        connection.close()
    raise AssertionError("sqlite3 raised nothing")


async def until_error(rows: AsyncIterable[Any]) -> tuple[list[Any], Exception]:
    """Return all rows before the error, and the error."""
    before = []
    try:
        async for row in rows:
            before.append(row)  # noqa: PERF401 - those before the error are wanted
    except (rapsqlite.Error, ValueError) as error:
        return before, error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("failing_row", FAILING_ROWS)
@pytest.mark.parametrize("sql", [OVERFLOW, BAD_TEXT])
async def test_every_row_before_one_that_fails_is_fetched(
    conn: rapsqlite.Connection, sql: str, failing_row: int
) -> None:
    """sqlite3 loses the last one if the next step fails, because it steps before it returns a row.

    Python 3.10's sqlite3 also decodes the next row before it returns the current one.
    """
    stock = rows_of_stock(sql, failing_row)
    if failing_row == 1 and sql == OVERFLOW:
        with pytest.raises(OperationalError):
            await conn.execute(sql, [failing_row])
        return
    cursor = await conn.execute(sql, [failing_row])

    for i in range(1, failing_row):
        assert await cursor.fetchone() == (i,)

    with pytest.raises(OperationalError) as raised:
        await cursor.fetchone()
    assert raised.value.sqlite_errorcode == rapsqlite.SQLITE_ERROR
    assert stock in (-1, failing_row - 2, failing_row - 1)


async def test_the_cursor_has_no_rows_after_the_error(conn: rapsqlite.Connection) -> None:
    """Its later fetches return no rows, as in sqlite3, and the statement holds nothing any more."""
    cursor = await conn.execute(OVERFLOW, [3])
    stock = sqlite3.connect(":memory:")
    theirs = stock.execute(OVERFLOW, [3])
    theirs.fetchone()
    assert [await cursor.fetchone(), await cursor.fetchone()] == [(1,), (2,)]

    with pytest.raises(OperationalError, match="integer overflow"):
        await cursor.fetchone()
    with pytest.raises(sqlite3.OperationalError, match="integer overflow"):
        theirs.fetchone()
    for _ in range(2):
        assert await cursor.fetchone() == theirs.fetchone()
        assert await cursor.fetchmany(3) == theirs.fetchmany(3)
        assert await cursor.fetchall() == theirs.fetchall()
        assert [row async for row in cursor] == list(theirs)
    assert (await conn.statistics())["open_statements"] == 0
    stock.close()


@pytest.mark.parametrize("failing_row", [2, 3, 300, 3000])
@pytest.mark.parametrize("sql", [OVERFLOW, BAD_TEXT])
async def test_loop_that_continues_after_an_error_ends(conn: rapsqlite.Connection, sql: str, failing_row: int) -> None:
    """It would not if the error came again, or another one that says something else."""
    cursor = await conn.execute(sql, [failing_row])
    errors = []
    for _ in range(failing_row + 2):
        try:
            row = await cursor.fetchone()
        except OperationalError as error:  # noqa: PERF203 - that is the loop
            errors.append(error)
        else:
            if row is None:
                break
    else:
        raise AssertionError(errors)

    assert len(errors) == 1


async def test_async_for_yields_every_row_before_the_error(conn: rapsqlite.Connection) -> None:
    rows, error = await until_error(await conn.execute(OVERFLOW, [3000]))

    assert str(error) == "integer overflow"
    assert len(rows) == 2999


async def test_fetchmany_returns_every_full_list_before_the_error(conn: rapsqlite.Connection) -> None:
    """A short list signals the end to its caller, so the call in which the error occurs raises, as in sqlite3."""
    stock = sqlite3.connect(":memory:")
    theirs, ours = stock.execute(OVERFLOW, [3000]), await conn.execute(OVERFLOW, [3000])

    for _ in range(29):
        assert await ours.fetchmany(100) == theirs.fetchmany(100)

    with pytest.raises(sqlite3.OperationalError):
        theirs.fetchmany(100)
    with pytest.raises(OperationalError):
        await ours.fetchmany(100)
    stock.close()


@pytest.mark.parametrize("prepared", [False, True])
async def test_streams_yield_every_row_before_the_error(conn: rapsqlite.Connection, prepared: bool) -> None:
    stream = conn.prepare(OVERFLOW).stream([3000]) if prepared else conn.stream(OVERFLOW, [3000])

    rows, error = await until_error(stream)

    assert str(error) == "integer overflow"
    assert len(rows) == 2999


async def test_chunks_contain_every_row_before_the_error(conn: rapsqlite.Connection) -> None:
    """After a short list the iteration continues, and then raises the error."""
    lists, error = await until_error(conn.execute_iter(OVERFLOW, [3000], 64))

    assert str(error) == "integer overflow"
    assert [len(rows) for rows in lists] == [64] * 46 + [2999 - 64 * 46]


async def test_a_prepared_statement_is_usable_after_a_failed_row(conn: rapsqlite.Connection) -> None:
    statement = conn.prepare(OVERFLOW)
    cursor = await statement.execute([2])
    assert await cursor.fetchone() == (1,)
    with pytest.raises(OperationalError, match="integer overflow"):
        await cursor.fetchone()

    assert len(await statement.fetch_all([0])) == 5000
    await statement.close()


async def test_whole_results_raise_as_a_whole(conn: rapsqlite.Connection) -> None:
    cursor = await conn.execute(OVERFLOW, [3000])
    with pytest.raises(OperationalError, match="integer overflow"):
        await cursor.fetchall()
    with pytest.raises(OperationalError, match="integer overflow"):
        await conn.fetch_all(OVERFLOW, [3000])


async def test_the_first_row_alone_does_not_fail_with_the_second(conn: rapsqlite.Connection) -> None:
    """The remaining rows are not computed, so they cannot fail."""
    assert await conn.fetch_one(OVERFLOW, [2]) == [1]
    assert await conn.fetch_scalar(BAD_TEXT, [2]) == 1


async def test_changes_are_kept_when_a_returned_row_is_not_utf8(conn: rapsqlite.Connection) -> None:
    """All changes are made before the first row is returned; sqlite3 raises at the row."""
    stock = sqlite3.connect(":memory:")
    insert = "INSERT INTO t VALUES (1), (CAST(x'ff' AS TEXT)), (3) RETURNING a"
    await conn.execute("CREATE TABLE t (a)")
    stock.execute("CREATE TABLE t (a)")

    for connection in (stock, conn):
        cursor: Any = connection.execute(insert)
        if connection is conn:
            cursor = await cursor
            assert await cursor.fetchone() == (1,)
            with pytest.raises(OperationalError, match="UTF-8"):
                await cursor.fetchone()
        else:
            if sys.version_info >= (3, 11):
                assert cursor.fetchone() == (1,)
            with pytest.raises(sqlite3.OperationalError, match="UTF-8"):
                cursor.fetchone()

    assert conn.in_transaction == stock.in_transaction is True
    assert await conn.fetch_scalar("SELECT count(*) FROM t") == stock.execute("SELECT count(*) FROM t").fetchone()[0]
    stock.close()


async def test_rows_before_a_function_that_raises_are_fetched(conn: rapsqlite.Connection) -> None:
    """Deferred calls are made for many rows at once, but the exception belongs to its row."""

    def reciprocal(number: int) -> float:
        return 1 / (number - 2000)

    await conn.create_function("reciprocal", 1, reciprocal)
    cursor = await conn.execute(f"{NUMBERS} i, reciprocal(i) FROM n")
    rows, error = await until_error(cursor)

    assert isinstance(error.__cause__, ZeroDivisionError)
    assert rows == [(i, 1 / (i - 2000)) for i in range(1, 2000)]


async def test_rows_read_ahead_before_an_error_get_their_functions_results(conn: rapsqlite.Connection) -> None:
    """The step fails while calls for the rows before it are still deferred."""
    await conn.create_function("double", 1, lambda number: 2 * number)
    cursor = await conn.execute(f"{NUMBERS} double(i), CASE WHEN i = 3000 THEN abs(-9223372036854775808) END FROM n")
    rows, error = await until_error(cursor)

    assert str(error) == "integer overflow"
    assert rows == [(2 * i, None) for i in range(1, 3000)]


async def test_an_exception_keeps_its_cause_after_others_have_failed(conn: rapsqlite.Connection) -> None:
    """The error waits behind the rows before it while other statements fail and succeed."""

    def refuse(number: int) -> int:
        if number >= 10:
            raise LookupError(number)
        return number

    await conn.create_function("refuse", 1, refuse)
    cursor = await conn.execute(f"{NUMBERS} refuse(i) FROM n")
    assert await cursor.fetchmany(2) == [(1,), (2,)]
    with pytest.raises(OperationalError):
        await conn.execute("SELECT refuse(99)")
    assert await cursor.fetchmany(7) == [(i,) for i in range(3, 10)]

    with pytest.raises(OperationalError) as raised:
        await cursor.fetchone()

    assert isinstance(raised.value.__cause__, LookupError)
    assert raised.value.__cause__.args == (10,)


@pytest.mark.parametrize("most", [20, 700])
@pytest.mark.parametrize("limit", ["max_rows", "max_bytes"])
async def test_rows_within_the_limits_of_a_result_are_fetched(limit: str, most: int) -> None:
    """It does not matter in which batch the limit is reached."""
    # A row takes three bytes, and the column name with its overhead 13.
    limits = Limits(max_rows=most) if limit == "max_rows" else Limits(max_bytes=3 * most + 13)
    async with connect(":memory:", limits=limits) as conn:
        rows, error = await until_error(await conn.execute(f"{NUMBERS} zeroblob(0) FROM n"))

    assert isinstance(error, rapsqlite.DataError)
    assert len(rows) == most


async def test_rows_before_a_text_factory_error_are_fetched(conn: rapsqlite.Connection) -> None:
    conn.text_factory = lambda text: text.decode("ascii")
    cursor = await conn.execute(f"{NUMBERS} CASE WHEN i = 200 THEN 'ä' ELSE 'a' END FROM n")
    rows, error = await until_error(cursor)

    assert isinstance(error, UnicodeDecodeError)
    assert rows == [("a",)] * 199


@dataclass
class Number:
    i: int


async def test_rows_before_one_that_does_not_match_the_type_are_fetched(conn: rapsqlite.Connection) -> None:
    sql = f"{NUMBERS} CASE WHEN i = 200 THEN NULL ELSE i END AS i FROM n"

    rows, error = await until_error(conn.stream(sql, into=Number))

    assert "row 199, column 'i'" in str(error)
    assert rows == [Number(i) for i in range(1, 200)]
