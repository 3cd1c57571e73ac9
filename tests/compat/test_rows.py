"""How rows are returned, described and counted, as in sqlite3."""

from __future__ import annotations

import sqlite3
from typing import Any, NamedTuple

import pytest

import rapsqlite
from rapsqlite import cursor as cursor_module
from rapsqlite._values import options
from tests.compat.stock import rows_of, same

TABLE = """
    CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, size REAL);
    INSERT INTO t VALUES (1, 'a', 1.5), (2, NULL, 2.5), (3, 'c', NULL);
"""


class Named(NamedTuple):
    cursor: Any
    row: Any


def as_dict(cursor: Any, row: tuple[Any, ...]) -> dict[str, Any]:
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


def failing(_cursor: Any, row: tuple[Any, ...]) -> Any:
    return 1 // (row[0] - 2)


FACTORIES: dict[str, Any] = {
    "none": None,
    "Row": sqlite3.Row,
    "dict": as_dict,
    "tuple of both": lambda cursor, row: (type(row).__name__, row),
    "any arguments": lambda *given: given[1],
    "default": lambda cursor, row, extra=1: (row, extra),
    "first value": lambda cursor, row: row[0],
    "raises": failing,
    "named tuple": lambda cursor, row: Named(len(cursor.description), row),
}


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize(
    "sql", ["SELECT * FROM t", "SELECT id, id, name AS ID FROM t", "SELECT 1 WHERE 0", "SELECT count(*) FROM t"]
)
async def test_row_factory_of_the_connection_makes_the_rows_of_sqlite3(factory: str, sql: str) -> None:
    """Every factory makes the same rows here and in sqlite3."""

    async def scenario(connection: Any) -> Any:
        await connection.executescript(TABLE)
        return await rows_of(connection, sql)

    await same(scenario, row_factory=FACTORIES[factory])


@pytest.mark.parametrize("factory", FACTORIES)
async def test_row_factory_of_a_cursor_makes_the_rows_of_sqlite3(factory: str) -> None:
    """A cursor's factory makes the same rows here and in sqlite3, however they are fetched."""

    async def scenario(connection: Any) -> Any:
        await connection.executescript(TABLE)
        cursor = await connection.cursor()
        getattr(cursor, "cursor", cursor).row_factory = FACTORIES[factory]
        await cursor.execute("SELECT * FROM t")
        return [await cursor.fetchone(), await cursor.fetchmany(5), await cursor.fetchall(), await cursor.fetchone()]

    await same(scenario)


async def test_sqlite3_row_is_accepted_as_row_factory() -> None:
    """Programs that set ``row_factory = sqlite3.Row`` get the same rows as before."""

    async def scenario(connection: Any) -> Any:
        (row,) = await rows_of(connection, "SELECT 1 AS a, 2 AS B, 3 AS 'c d'")
        return type(row), row["A"], row["b"], row["C D"], row[-1], row[:2], row.keys(), len(row), tuple(row)

    await same(scenario, row_factory=sqlite3.Row)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1", "SELECT 1 AS a, 'x' AS \"b c\", NULL AS '', id + 1 FROM t", "SELECT * FROM t WHERE 0",
        "SELECT t.* FROM t",
        "SELECT id AS 'a [b]' FROM t", "PRAGMA user_version", "PRAGMA user_version = 5", "EXPLAIN QUERY PLAN SELECT 1",
        "INSERT INTO t (name) VALUES ('x')", "INSERT INTO t (name) VALUES ('x'), ('y') RETURNING id, name",
        "UPDATE t SET name = 'x'", "UPDATE t SET name = 'x' WHERE id = 99", "UPDATE t SET name = 'x' RETURNING id",
        "DELETE FROM t", "DELETE FROM t WHERE id = 1 RETURNING *", "REPLACE INTO t VALUES (1, 'x', 1)",
        "INSERT OR IGNORE INTO t VALUES (1, 'x', 1)",
        "WITH n AS (SELECT 9 AS i) SELECT * FROM n", "CREATE TABLE u (a)", "CREATE TABLE u AS SELECT * FROM t",
        "BEGIN", "SAVEPOINT s", "VALUES (1, 2), (3, 4)", "  -- comment\n SELECT 1",
        "/* c */ INSERT INTO t (id) VALUES (7)",
        "DROP TABLE t", "ANALYZE", "SELECT changes(), total_changes(), last_insert_rowid()",
        "INSERT INTO t (id) VALUES (9223372036854775807)", "INSERT INTO t (id) VALUES (-5)",
    ],
)  # fmt: skip
async def test_statement_is_described_and_counted(sql: str) -> None:
    async def scenario(connection: Any) -> Any:
        await connection.executescript(TABLE)
        cursor = await connection.cursor()
        fresh = cursor.description, cursor.rowcount, cursor.lastrowid, cursor.arraysize
        await cursor.execute(sql)
        executed = cursor.description, cursor.lastrowid, connection.in_transaction
        rows = [] if sql.startswith(("EXPLAIN", "ANALYZE")) else await cursor.fetchall()
        after = cursor.description, cursor.rowcount, connection.in_transaction, connection.total_changes
        return fresh, executed, rows, after

    await same(scenario)


async def test_statement_that_changes_data_begins_a_transaction_whatever_its_first_word() -> None:
    """sqlite3 looks at the first word and overlooks this one; we ask SQLite."""
    async with rapsqlite.connect(":memory:") as connection:
        await connection.executescript(TABLE)
        cursor = await connection.execute("WITH n AS (SELECT 9 AS i) INSERT INTO t (id) SELECT i FROM n")

        assert (cursor.rowcount, connection.in_transaction) == (1, True)


async def test_executemany_counts_its_rows() -> None:
    async def scenario(connection: Any) -> Any:
        await connection.executescript(TABLE)
        cursor = await connection.executemany("INSERT INTO t (name) VALUES (?)", [("x",)] * 1_000)
        inserted = cursor.rowcount, cursor.lastrowid, cursor.description
        cursor = await connection.executemany("UPDATE t SET name = 'y' WHERE id < ?", [(10,), (20,), (0,)])
        updated = cursor.rowcount, cursor.lastrowid
        cursor = await connection.executemany("DELETE FROM t WHERE id = ?", [])
        return inserted, updated, cursor.rowcount, connection.total_changes, connection.in_transaction

    await same(scenario)


@pytest.mark.parametrize("size", [None, 0, 1, 2, 3, 4, 100])
async def test_fetchmany_returns_as_many_rows_as_requested(size: int | None) -> None:
    async def scenario(connection: Any) -> Any:
        await connection.executescript(TABLE)
        cursor = await connection.execute("SELECT id FROM t")
        arguments = () if size is None else (size,)
        return [await cursor.fetchmany(*arguments) for _ in range(5)]

    await same(scenario)


async def rows_for(connection: Any, size: Any, *, set_before: bool) -> Any:
    """Return fetchmany's rows for a size, or its exception; then the remaining rows."""
    await connection.executescript(TABLE)
    cursor = await connection.execute("SELECT id FROM t")
    try:
        if set_before:
            cursor.arraysize = size
        rows = await (cursor.fetchmany() if set_before else cursor.fetchmany(size))
    except Exception as error:  # noqa: BLE001  the outcome to compare
        rows = type(error).__name__
    return rows, await cursor.fetchall()


@pytest.mark.parametrize("set_before", [True, False])
@pytest.mark.parametrize("size", [0, -3, 1.0, "1", True, 2**31 - 1, 2**64])
async def test_invalid_fetchmany_size_is_treated_as_by_sqlite3(size: Any, set_before: bool) -> None:
    async def scenario(connection: Any) -> Any:
        return await rows_for(connection, size, set_before=set_before)

    await same(scenario)


@pytest.mark.parametrize("set_before", [True, False])
async def test_newer_pythons_return_no_rows_for_size_0_and_refuse_negative_sizes(
    set_before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """https://github.com/python/cpython/issues/139283"""
    monkeypatch.setattr(cursor_module, "ZERO_ROWS_ARE_NONE", True)
    monkeypatch.setattr(options, "ZERO_ROWS_ARE_NONE", True)
    every = [(1,), (2,), (3,)]

    for size, expected in ((0, []), (-1, "ValueError"), (2, every[:2])):
        async with rapsqlite.connect(":memory:") as connection:
            rows, left = await rows_for(connection, size, set_before=set_before)
        assert rows == expected
        assert left == (every[2:] if size == 2 else every)


async def test_cursor_without_a_statement_has_no_rows() -> None:
    async def scenario(connection: Any) -> Any:
        cursor = await connection.cursor()
        return await cursor.fetchone(), await cursor.fetchmany(3), await cursor.fetchall()

    await same(scenario)


async def test_cursor_that_failed_has_no_rows() -> None:
    async def scenario(connection: Any) -> Any:
        await connection.executescript(TABLE)
        cursor = await connection.execute("SELECT id FROM t")
        try:
            await cursor.execute("SELECT * FROM missing")
        except sqlite3.OperationalError:
            return await cursor.fetchall()

    await same(scenario)


async def test_cursors_of_one_connection_see_the_same_transaction() -> None:
    """Two cursors on one connection see the same transaction."""

    async def scenario(connection: Any) -> Any:
        await connection.executescript(TABLE)
        reading = await connection.execute("SELECT id FROM t ORDER BY id")
        first = await reading.fetchone()
        other = await connection.execute("SELECT name FROM t ORDER BY id DESC")
        return first, await other.fetchone(), await reading.fetchone(), await other.fetchall(), await reading.fetchall()

    await same(scenario)


async def test_result_of_many_batches_is_complete_and_in_order() -> None:
    """A result of many batches arrives complete and in order."""

    async def scenario(connection: Any) -> Any:
        numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"
        return await rows_of(connection, f"{numbers} SELECT i, 'row ' || i FROM n")

    assert len(await same(scenario)) == 20_000


async def test_factory_with_one_argument_gets_only_the_row() -> None:
    """sqlite3 has no such factory."""
    async with rapsqlite.connect(":memory:", row_factory=lambda row: sum(row)) as connection:
        assert await connection.fetch_all("SELECT 1, 2, 3") == [6]
        assert await rows_of(connection, "SELECT 1, 2, 3") == [6]


@pytest.mark.parametrize("factory", ["rows", 5, lambda: None, lambda a, b, c: None])
async def test_other_factories_are_refused_when_they_are_set(factory: Any) -> None:
    with pytest.raises(ValueError, match="row_factory"):
        rapsqlite.connect(":memory:", row_factory=factory)
    async with rapsqlite.connect(":memory:") as connection:
        with pytest.raises(ValueError, match="row_factory"):
            connection.row_factory = factory
        assert await connection.fetch_all("SELECT 1") == [[1]]
