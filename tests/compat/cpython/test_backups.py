"""CPython's scenarios for backups and dumps that are missing from tests/copies."""

from __future__ import annotations

from typing import Any

import pytest

import rapsqlite
from tests.compat.cpython.scenario import agree, column, told
from tests.compat.stock import Stock


def another_of(connection: Any) -> Any:
    """Return a new connection of the same kind as ``connection``."""
    return Stock(":memory:") if isinstance(connection, Stock) else rapsqlite.connect(":memory:")


async def filled(connection: Any) -> None:
    await connection.execute("CREATE TABLE foo (key INTEGER)")
    await connection.executemany("INSERT INTO foo VALUES (?)", [(3,), (4,)])
    await connection.commit()


@pytest.mark.parametrize("options, expected", [({"pages": 1}, [1, 0]), ({}, [0]), ({"pages": -1}, [0])])
async def test_progress_counts_down_to_zero(options: Any, expected: list[int]) -> None:
    async def scenario(connection: Any) -> Any:
        await filled(connection)
        journal: list[Any] = []
        async with another_of(connection) as target:
            progress = lambda status, remaining, total: journal.append((status, remaining))  # noqa: E731
            await connection.backup(target, progress=progress, **options)
            return journal, await column(target, "SELECT key FROM foo")

    journal, keys = await agree(scenario)

    assert [remaining for _, remaining in journal] == expected
    assert journal[-1][0] == rapsqlite.SQLITE_DONE
    assert keys == [3, 4]


@pytest.mark.parametrize("target", [None, "some_file_name.db", 5])
async def test_target_must_be_a_connection(target: Any) -> None:
    async def scenario(connection: Any) -> Any:
        return (await told(connection.backup, target))[0], (await told(connection.backup))[0]

    assert await agree(scenario) == ("TypeError", "TypeError")


async def test_backup_options_are_keyword_only() -> None:
    async def scenario(connection: Any) -> Any:
        async with another_of(connection) as target:
            return (await told(connection.backup, target, 1))[0]

    assert await agree(scenario) == "TypeError"


async def test_target_in_a_transaction_is_refused() -> None:
    async def scenario(connection: Any) -> Any:
        await filled(connection)
        async with another_of(connection) as target:
            await target.execute("CREATE TABLE bar (key)")
            await target.execute("INSERT INTO bar VALUES (1)")
            refused = await told(connection.backup, target)
            await target.rollback()
            return refused

    name, message = await agree(scenario)

    assert (name, message) == ("OperationalError", "destination database is in use")


@pytest.mark.parametrize("progress, error", [
    ("bar", ("TypeError", "progress argument must be a callable")),
    (lambda *_: 1 / 0, ("ZeroDivisionError", "division by zero")),
])  # fmt: skip
async def test_exception_in_progress_is_raised(progress: Any, error: Any) -> None:
    async def scenario(connection: Any) -> Any:
        await filled(connection)
        async with another_of(connection) as target:
            return await told(connection.backup, target, pages=1, progress=progress)

    assert await agree(scenario) == error


async def test_backup_copies_the_named_database() -> None:
    async def scenario(connection: Any) -> Any:
        await filled(connection)
        await connection.execute("ATTACH ':memory:' AS other")
        await connection.execute("CREATE TABLE other.foo AS SELECT 5 AS key")
        await connection.commit()
        found: list[Any] = []
        for name in ("main", "temp", "other", "missing"):
            async with another_of(connection) as target:
                found.append((await told(connection.backup, target, name=name))[0])
                found.append(await column(target, "SELECT count(*) FROM sqlite_master"))
        return found

    assert await agree(scenario) == ["nothing", [1], "nothing", [0], "nothing", [1], "OperationalError", [0]]


# -- dumps -----------------------------------------------------------------------------------------


class Unorderable:
    def __init__(self, cursor: Any, row: Any) -> None:
        self.row = row

    def __getitem__(self, index: int) -> Any:
        return self.row[index]


@pytest.mark.parametrize("factory", [Unorderable, lambda cursor, row: {"row": row}])
async def test_dump_is_the_same_under_every_row_factory(factory: Any) -> None:
    async def scenario(connection: Any) -> Any:
        await connection.execute('CREATE TABLE "beta" ("two")')
        await connection.execute('CREATE TABLE "alpha" ("one")')
        return await connection.iterdump()

    lines = ["BEGIN TRANSACTION;", 'CREATE TABLE "alpha" ("one");', 'CREATE TABLE "beta" ("two");', "COMMIT;"]
    stock_copes = factory is Unorderable
    assert await agree(scenario, since=(3, 10) if stock_copes else (3, 13), row_factory=factory) == lines


async def test_restored_dump_continues_autoincrement() -> None:
    async def scenario(connection: Any) -> Any:
        await connection.executescript(
            "CREATE TABLE t1 (id INTEGER PRIMARY KEY AUTOINCREMENT);"
            "CREATE TABLE t2 (id INTEGER PRIMARY KEY AUTOINCREMENT);"
        )
        await connection.executemany("INSERT INTO t1 VALUES (?)", [(None,)] * 9)
        await connection.executemany("INSERT INTO t2 VALUES (?)", [(None,)] * 4)
        await connection.commit()
        script = "".join(await connection.iterdump())
        async with another_of(connection) as restored:
            await restored.executescript(script)
            return await column(restored, "SELECT seq FROM sqlite_sequence ORDER BY name")

    assert await agree(scenario) == [9, 4]
