"""Statements that stay prepared."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

import rapsqlite
from rapsqlite import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?) SELECT i FROM n"


@pytest.fixture
async def conn() -> AsyncIterator[rapsqlite.Connection]:
    async with connect(":memory:") as connection:
        await connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
        await connection.executemany("INSERT INTO t VALUES (?, ?)", [(i, f"row {i}") for i in range(100)])
        yield connection


async def test_every_verb_takes_new_parameters_each_time(conn: rapsqlite.Connection) -> None:
    async with conn.prepare("SELECT b FROM t WHERE a = :key") as statement:
        for key in (1, 2, 3):
            row = [f"row {key}"]
            assert await statement.fetch_all({"key": key}) == [row]
            assert await statement.fetch_one({"key": key}) == row
            assert await statement.fetch_optional({"key": key}) == row
            assert await statement.fetch_scalar({"key": key}) == row[0]
            assert [item async for item in statement.stream({"key": key})] == [row]
            async with statement.execute({"key": key}) as cursor:
                assert await cursor.fetchone() == tuple(row)
                assert cursor.description == (("b", None, None, None, None, None, None),)
        assert await statement.fetch_optional({"key": -1}) is None
        assert statement.sql == statement.query == "SELECT b FROM t WHERE a = :key"


async def test_statement_is_prepared_only_once(conn: rapsqlite.Connection) -> None:
    statement = conn.prepare("SELECT b FROM t WHERE a = ?")
    await statement.fetch_one([1])
    before = await conn.statistics()

    for key in range(50):
        await statement.fetch_one([key])

    after = await conn.statistics()
    assert after["cache_misses"] == before["cache_misses"]
    assert after["cache_hits"] == before["cache_hits"]
    assert after["open_statements"] == before["open_statements"]


async def test_prepared_statement_changes_data_and_begins_transactions(conn: rapsqlite.Connection) -> None:
    await conn.commit()
    insert = conn.prepare("INSERT INTO t (b) VALUES (?)")

    cursor = await insert.execute(["new"])

    assert cursor.rowcount == 1
    assert cursor.lastrowid == 100
    assert conn.in_transaction


async def test_fetch_blob_works_on_prepared_statements(conn: rapsqlite.Connection) -> None:
    """``fetch_blob`` works on prepared statements as on the connection."""
    assert await conn.prepare("SELECT CAST(? AS BLOB)").fetch_blob(["x"]) == b"x"


async def test_large_results_and_open_cursors_stay_separate(conn: rapsqlite.Connection) -> None:
    statement = conn.prepare(NUMBERS)
    first = await statement.execute([10_000])
    await first.fetchmany(10)

    second = await statement.execute([5_000])
    whole = await statement.fetch_all([3])

    assert len(await second.fetchall()) == 5_000
    assert len(await first.fetchall()) == 9_990
    assert whole == [[1], [2], [3]]
    assert len(await statement.fetch_all([20_000])) == 20_000


async def test_tasks_share_a_statement(conn: rapsqlite.Connection) -> None:
    statement = conn.prepare("SELECT b FROM t WHERE a = ?")
    answers = {}

    async def ask(key: int) -> None:
        answers[key] = await statement.fetch_scalar([key])

    async with anyio.create_task_group() as tasks:
        for key in range(100):
            tasks.start_soon(ask, key)

    assert answers == {key: f"row {key}" for key in range(100)}
    assert (await conn.statistics())["open_statements"] == 1


ROWS = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n LIMIT 2000) SELECT ? AS key, i FROM n"


@pytest.mark.parametrize("factory", [None, lambda _, row: list(row)], ids=["decoded", "row by row"])
async def test_cursors_and_whole_results_of_several_tasks_stay_separate(
    conn: rapsqlite.Connection, factory: Any
) -> None:
    """An execution under the statement's handle ends the one before it, also one whose first rows are under way."""

    async def read(key: int, verb: str) -> None:
        if verb == "fetch_all":
            answers[key] = await statement.fetch_all([key])
        else:
            async with statement.execute([key]) as cursor:
                answers[key] = [list(row) async for row in cursor]

    conn.row_factory = factory
    verbs = ["execute", "fetch_all"] * 3 + ["execute"] * 3
    for order in (verbs, verbs[::-1]):
        answers: dict[int, list[Any]] = {}
        statement = conn.prepare(ROWS)
        async with anyio.create_task_group() as tasks:
            for key, verb in enumerate(order):
                tasks.start_soon(read, key, verb)

        assert answers == {key: [[key, i + 1] for i in range(2000)] for key in range(len(order))}


async def test_whole_result_held_back_by_a_block_leaves_a_cursor_of_the_block_its_rows(
    conn: rapsqlite.Connection,
) -> None:
    async def read() -> None:
        await entered.wait()
        answers.append(await statement.fetch_all([2]))

    await conn.commit()
    entered, answers = anyio.Event(), list[Any]()
    statement = conn.prepare(ROWS)
    await statement.fetch_one([0])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        async with conn.transaction():
            entered.set()
            await anyio.wait_all_tasks_blocked()
            cursor = await statement.execute([1])
        while not answers:
            await anyio.lowlevel.checkpoint()

        assert len(await cursor.fetchall()) == len(answers[0]) == 2000


async def test_statement_stays_in_use_after_a_cursor_that_failed_to_start(conn: rapsqlite.Connection) -> None:
    statement = conn.prepare("SELECT ?")
    with pytest.raises(rapsqlite.ProgrammingError):
        await statement.execute([])
    before = await conn.statistics()

    async with statement.execute([1]) as cursor:
        assert await cursor.fetchall() == [(1,)]
    assert await statement.fetch_all([2]) == [[2]]

    after = await conn.statistics()
    assert (after["cache_hits"], after["cache_misses"]) == (before["cache_hits"], before["cache_misses"])


async def test_prepared_statement_follows_a_schema_change(conn: rapsqlite.Connection) -> None:
    statement = conn.prepare("SELECT * FROM t WHERE a = 1")
    assert await statement.fetch_one() == [1, "row 1"]

    await conn.execute("ALTER TABLE t ADD COLUMN c DEFAULT 'more'")

    assert await statement.fetch_one() == [1, "row 1", "more"]


async def test_invalid_sql_is_an_error_at_the_first_use(conn: rapsqlite.Connection) -> None:
    statement = conn.prepare("SELEKT 1")

    for _ in range(2):
        with pytest.raises(rapsqlite.OperationalError, match="syntax error"):
            await statement.fetch_all()


async def test_wrong_parameters_of_a_prepared_statement_are_an_error(conn: rapsqlite.Connection) -> None:
    statement = conn.prepare("SELECT ?")

    with pytest.raises(rapsqlite.ProgrammingError, match="binding"):
        await statement.fetch_all([1, 2])
    assert await statement.fetch_all([1]) == [[1]]


@pytest.mark.parametrize("end", ["close", "with", "drop"])
async def test_closed_left_or_dropped_statement_is_finalized(conn: rapsqlite.Connection, end: str) -> None:
    """A prepared statement that is closed, left or dropped is finalized in SQLite."""
    before = (await conn.statistics())["open_statements"]
    statement = conn.prepare("SELECT 1")
    await statement.fetch_all()
    assert (await conn.statistics())["open_statements"] == before + 1

    if end == "close":
        await statement.close()
        await statement.close()
    elif end == "with":
        async with statement:
            pass
    else:
        del statement
        gc.collect()

    assert (await conn.statistics())["open_statements"] == before


async def test_closed_statement_raises(conn: rapsqlite.Connection) -> None:
    """As a closed cursor does; its handle is given back."""
    statement = conn.prepare("SELECT 1")
    await statement.close()

    for use in (statement.fetch_all, statement.fetch_one, statement.execute):
        with pytest.raises(rapsqlite.ProgrammingError, match="closed statement"):
            await use()
    with pytest.raises(rapsqlite.ProgrammingError, match="closed statement"):
        statement.stream()


async def test_statement_of_a_closed_connection_raises() -> None:
    conn = await connect(":memory:")
    statement = conn.prepare("SELECT 1")
    await statement.fetch_all()
    await conn.close()

    with pytest.raises(rapsqlite.ProgrammingError, match="closed"):
        await statement.fetch_all()
    with pytest.raises(rapsqlite.ProgrammingError, match="closed"):
        conn.prepare("SELECT 1")


@pytest.mark.parametrize("method", ["execute", "fetch_all"])
async def test_prepared_statement_survives_a_result_that_the_host_refuses(method: str) -> None:
    """Its handle was taken for one that nobody knows, and released."""
    async with rapsqlite.connect(":memory:") as conn:
        statement = conn.prepare("SELECT zeroblob(?) UNION ALL SELECT 'more'")
        await statement.fetch_all((1,))
        conn._state.guest.host._most_spilled_bytes = 200_000

        with pytest.raises(rapsqlite.DataError, match="rejected"):
            await getattr(statement, method)((300_000,))

        assert await statement.fetch_all((1,)) == [[b"\0"], ["more"]]


async def test_fetch_of_a_lost_task_may_end_while_another_one_begins() -> None:
    """The garbage collector ends it, in a thread that is taking the handle."""
    async with rapsqlite.connect(":memory:") as conn:
        statement = conn.prepare("SELECT 1")
        handle = await statement._take(by_cursor=False)

        with statement._guard:
            statement._put(handle)

        assert await statement.fetch_all() == [[1]]


async def test_statement_being_prepared_by_a_task_that_a_block_holds_back_is_used_inside_that_block() -> None:
    """Each task waited for the other."""
    async with rapsqlite.connect(":memory:") as conn, anyio.create_task_group() as tasks:
        statement, may_begin, rows = conn.prepare("SELECT 1"), anyio.Event(), []

        async def outside() -> None:
            await may_begin.wait()
            rows.append(await statement.fetch_all())

        tasks.start_soon(outside)
        await anyio.wait_all_tasks_blocked()
        async with conn.transaction():
            may_begin.set()
            await anyio.wait_all_tasks_blocked()
            rows.append(await statement.fetch_all())

    assert rows == [[[1]], [[1]]]
