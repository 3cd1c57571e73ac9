"""How far rows are read ahead: as little as in sqlite3 while the connection writes, otherwise in growing batches."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from rapsqlite import connect
from rapsqlite._guest.request_queue import RequestQueue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from rapsqlite._guest.request import PendingRequest

ROWS = 400
CREATE = "CREATE TABLE t (i INTEGER PRIMARY KEY, seen)"
FILL = f"INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {ROWS}) SELECT i, 0 FROM n"
SELECT = "SELECT i, seen FROM t ORDER BY i"
NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100000) SELECT i FROM n"

WRITES = [
    "DELETE FROM t WHERE i = :i + 1",
    "DELETE FROM t WHERE i = :i + 2",
    "DELETE FROM t WHERE i > :i AND i % 18",
    "DELETE FROM t WHERE i BETWEEN :i + 1 AND :i + 17",
    "UPDATE t SET seen = :i WHERE i > :i AND i < :i + 20",
    "INSERT OR REPLACE INTO t SELECT :i + 3, 'new' WHERE :i < 350",
    "DELETE FROM t WHERE i > :i + 100",
]


@pytest.fixture
async def conn() -> AsyncIterator[rapsqlite.Connection]:
    async with connect(":memory:") as connection:
        await connection.execute(CREATE)
        await connection.execute(FILL)
        yield connection


@pytest.fixture
def stock() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    connection.execute(CREATE)
    connection.execute(FILL)
    yield connection
    connection.close()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The requests sent by all connections."""
    operations: list[int] = []
    submit = RequestQueue.submit

    def counting_submit(self: RequestQueue, pending: PendingRequest, loop: Any) -> None:
        operations.append(pending.request.op)
        submit(self, pending, loop)

    monkeypatch.setattr(RequestQueue, "submit", counting_submit)
    return operations


@pytest.mark.parametrize("write", WRITES)
async def test_a_fetchone_loop_that_writes_sees_the_same_as_in_sqlite3(
    conn: rapsqlite.Connection, stock: sqlite3.Connection, write: str
) -> None:
    theirs, ours = [], []
    their_cursor, our_cursor = stock.execute(SELECT), await conn.execute(SELECT)

    while (row := their_cursor.fetchone()) is not None:
        theirs.append(row)
        stock.execute(write, {"i": row[0]})
    while (row := await our_cursor.fetchone()) is not None:
        ours.append(row)
        await conn.execute(write, {"i": row[0]})

    assert ours == theirs


@pytest.mark.parametrize("form", ["cursor", "stream", "lists"])
@pytest.mark.parametrize("write", WRITES)
async def test_iteration_that_writes_sees_the_same_as_in_sqlite3(
    conn: rapsqlite.Connection, stock: sqlite3.Connection, write: str, form: str
) -> None:
    theirs, ours = [], []
    if form == "cursor":
        rows: Any = await conn.execute(SELECT)
    else:
        rows = conn.stream(SELECT) if form == "stream" else conn.execute_iter(SELECT, chunk_size=1)

    for row in stock.execute(SELECT):
        theirs.append(row)
        stock.execute(write, {"i": row[0]})
    async for item in rows:
        row = tuple(item[0] if form == "lists" else item)
        ours.append(row)
        await conn.execute(write, {"i": row[0]})

    assert ours == theirs


@pytest.mark.parametrize("size", [2, 7, 100])
async def test_fetchmany_that_writes_sees_the_same_as_in_sqlite3(
    conn: rapsqlite.Connection, stock: sqlite3.Connection, size: int
) -> None:
    write = "DELETE FROM t WHERE i BETWEEN :i + 1 AND :i + 20"
    theirs, ours = [], []
    their_cursor, our_cursor = stock.execute(SELECT), await conn.execute(SELECT)

    while rows := their_cursor.fetchmany(size):
        theirs += rows
        stock.execute(write, {"i": rows[-1][0]})
    while rows := await our_cursor.fetchmany(size):
        ours += rows
        await conn.execute(write, {"i": rows[-1][0]})

    assert ours == theirs


@pytest.mark.parametrize("quiet", [1, 2, 10, 100])
async def test_no_more_than_twice_the_rows_since_the_last_write_are_read_ahead(
    conn: rapsqlite.Connection, quiet: int
) -> None:
    """A program that writes now and then sees few rows that it has deleted."""
    cursor = await conn.execute(SELECT)
    for _ in range(3):
        await conn.execute("UPDATE t SET seen = 0 WHERE i = 1")
        rows = await cursor.fetchmany(1)
        rows += [await cursor.fetchone() for _ in range(quiet)]
        await conn.execute("UPDATE t SET seen = 1 WHERE i > ?", [rows[-1][0]])

        stale = 0
        while (await cursor.fetchone())[1] == 0:
            stale += 1

        assert stale <= 2 * (quiet + 1)


async def test_writes_of_another_task_limit_read_ahead_too(conn: rapsqlite.Connection) -> None:
    """It depends on the connection, not on its user: the rows it changes are the cursor's."""
    cursor = await conn.execute(SELECT)
    for _ in range(100):
        await cursor.fetchone()
    await conn.executemany("UPDATE t SET seen = 1 WHERE i = ?", [[i] for i in range(1, ROWS + 1)])
    rows = [row async for row in cursor]

    assert len(rows) == ROWS - 100
    assert sum(1 - seen for _, seen in rows) <= 200


async def test_a_change_with_returning_is_complete_after_execute(conn: rapsqlite.Connection) -> None:
    """All its changes are made before its first row, so reading rows later gains nothing."""
    cursor = await conn.execute("INSERT INTO t VALUES (NULL, 1), (NULL, 2), (NULL, 3) RETURNING seen")
    assert await cursor.fetchone() == (1,)

    await conn.commit()

    assert not conn.in_transaction
    assert await cursor.fetchall() == [(2,), (3,)]


async def test_a_hundred_thousand_rows_need_few_requests(conn: rapsqlite.Connection, sent: list[int]) -> None:
    """Batches grow while the connection does not write: throughput does not suffer."""
    cursor = await conn.execute(NUMBERS)
    sent.clear()
    assert len([row async for row in cursor]) == 100_000
    assert len(sent) < 40

    sent.clear()
    cursor = await conn.execute(NUMBERS)
    while await cursor.fetchone() is not None:
        pass
    assert len(sent) < 40

    sent.clear()
    assert len(await (await conn.execute(NUMBERS)).fetchall()) == 100_000
    assert len(sent) < 15

    sent.clear()
    cursor = await conn.execute(NUMBERS)
    while await cursor.fetchmany(1000):
        pass
    assert len(sent) < 40


async def test_a_small_result_takes_one_more_request(conn: rapsqlite.Connection, sent: list[int]) -> None:
    assert await (await conn.execute("SELECT i FROM t LIMIT 1")).fetchall() == [(1,)]
    assert len(sent) == 1

    sent.clear()
    assert len(await (await conn.execute("SELECT i FROM t LIMIT 200")).fetchall()) == 200
    assert len(sent) == 2

    sent.clear()
    assert [len(rows) async for rows in conn.execute_iter("SELECT i FROM t LIMIT 60", chunk_size=64)] == [60]
    assert len(sent) == 1
