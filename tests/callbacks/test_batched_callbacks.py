"""Many rows per crossing: deferred steps of aggregates, reused results. Only counting shows a difference."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

import rapsqlite

ROWS = (
    "CREATE TABLE t (id INTEGER PRIMARY KEY, k, v); INSERT INTO t(k, v) SELECT value % 3, value FROM json_each('[{}]')"
)
SETUP = ROWS.format(",".join(str(number * 7 % 31) for number in range(40)))


def aggregate(name: str, log: list[tuple[Any, ...]], fails_at: object = None) -> type:
    """Return a class that records every call of its methods."""

    class Logged:
        def __init__(self) -> None:
            log.append((name, "new"))
            self.values: list[Any] = []

        def step(self, *arguments: Any) -> None:
            log.append((name, "step", arguments))
            if fails_at is not None and arguments[:1] == (fails_at,):
                raise ZeroDivisionError(name)
            self.values.append(arguments)

        def inverse(self, *arguments: Any) -> None:
            log.append((name, "inverse", arguments))
            self.values.remove(arguments)

        def value(self) -> str:
            log.append((name, "value"))
            return repr(self.values)

        def finalize(self) -> str:
            log.append((name, "finalize"))
            return repr(self.values)

    return Logged


def function(log: list[tuple[Any, ...]]) -> Any:
    def logged(*arguments: Any) -> Any:
        log.append(("function", arguments))
        return arguments[0] if arguments else None

    return logged


QUERIES = [
    "SELECT one(v) FROM t",
    "SELECT one(), two(v, k) FROM t",
    "SELECT one(v, k, id), f(k) FROM t GROUP BY k",
    "SELECT one(f(v)), two(f(v)) FROM t WHERE f(k) <> 1",
    "SELECT k, one(v) FROM t GROUP BY k HAVING f(two(v)) <> '' ORDER BY k DESC",
    "SELECT one(v), two(NULL, x'00', 1.5, 'text') FROM t WHERE k = 99",
    "SELECT (SELECT one(a.v + b.v) FROM t AS b WHERE b.k = a.k) FROM t AS a WHERE a.id < 5",
    "SELECT one(v) FILTER (WHERE v > 10), two(v) FROM t",
]
WINDOWS = [
    "SELECT one(v) OVER (ORDER BY id ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) FROM t WHERE id < 9",
    "SELECT one(v) OVER (PARTITION BY k ORDER BY id), f(v) FROM t WHERE id < 9",
    "SELECT one(v) OVER w, two(k) OVER w FROM t WHERE id < 9 WINDOW w AS (ORDER BY id ROWS 1 PRECEDING)",
]


async def both(sql: str, fails_at: object = None, *, windows: bool = False) -> tuple[Any, ...]:
    """Run ``sql`` here and in sqlite3; return rows or error, and the log of calls, of each."""
    theirs_log: list[tuple[Any, ...]] = []
    ours_log: list[tuple[Any, ...]] = []
    native = sqlite3.connect(":memory:")
    native.executescript(SETUP)
    native.create_function("f", -1, function(theirs_log))
    async with rapsqlite.connect(":memory:") as conn:
        await conn.executescript(SETUP)
        await conn.create_function("f", -1, function(ours_log))
        for name in ("one", "two"):
            if windows:
                native.create_window_function(name, 1, aggregate(name, theirs_log, fails_at))  # type: ignore[attr-defined]
                await conn.create_window_function(name, 1, aggregate(name, ours_log, fails_at))
            else:
                native.create_aggregate(name, -1, aggregate(name, theirs_log, fails_at))
                await conn.create_aggregate(name, -1, aggregate(name, ours_log, fails_at))
        theirs: Any
        ours: Any
        try:
            theirs = native.execute(sql).fetchall()
        except sqlite3.Error as error:
            theirs = str(error)
        try:
            ours = await conn.execute_fetchall(sql)
        except rapsqlite.Error as error:
            ours = str(error)
        assert len(conn._state.guest.callbacks) == 3
    native.close()
    return theirs, ours, theirs_log, ours_log


@pytest.mark.parametrize("sql", QUERIES)
async def test_calls_are_made_in_the_order_of_sqlite3(sql: str) -> None:
    theirs, ours, theirs_log, ours_log = await both(sql)

    assert ours == theirs
    assert ours_log == theirs_log


@pytest.mark.skipif(not hasattr(sqlite3.Connection, "create_window_function"), reason="sqlite3 has them since 3.11")
@pytest.mark.parametrize("sql", WINDOWS)
async def test_window_calls_are_made_in_the_order_of_sqlite3(sql: str) -> None:
    theirs, ours, theirs_log, ours_log = await both(sql, windows=True)

    assert ours == theirs
    assert ours_log == theirs_log


@pytest.mark.parametrize("sql", [*QUERIES[:5], QUERIES[7]])
@pytest.mark.parametrize("fails_at", [0, 21, 30])
async def test_failed_step_is_the_last_as_in_sqlite3(sql: str, fails_at: int) -> None:
    theirs, ours, theirs_log, ours_log = await both(sql, fails_at)

    assert ours == theirs
    assert ours_log == theirs_log


async def test_ten_thousand_steps_take_a_dozen_crossings() -> None:
    log: list[tuple[Any, ...]] = []
    async with rapsqlite.connect(":memory:") as conn:
        await conn.create_aggregate("one", 1, aggregate("one", log))
        await conn.execute("CREATE TABLE t (v)")
        await conn.executemany("INSERT INTO t VALUES (?)", ((number,) for number in range(10_000)))
        before = (await conn.statistics())["callbacks"]

        await conn.fetch_scalar("SELECT length(one(v)) FROM t")

        assert (await conn.statistics())["callbacks"] - before <= 14
        assert [entry[2] for entry in log if entry[1] == "step"] == [(number,) for number in range(10_000)]


async def test_large_arguments_of_deferred_steps_do_not_accumulate() -> None:
    sizes: list[int] = []

    class Sizes:
        def step(self, value: bytes) -> None:
            sizes.append(len(value))

        def finalize(self) -> int:
            return sum(sizes)

    async with rapsqlite.connect(":memory:") as conn:
        await conn.create_aggregate("total", 1, Sizes)
        sql = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 50) SELECT {} FROM n"
        await conn.fetch_scalar(sql.format("sum(length(zeroblob(i * 40000)))"))
        before = (await conn.statistics())["memory_bytes"]

        total = await conn.fetch_scalar(sql.format("total(zeroblob(i * 40000))"))

        assert total == sum(sizes) == 40_000 * 51 * 25
        assert (await conn.statistics())["memory_bytes"] - before < 20_000_000


async def test_steps_are_made_by_the_time_their_rows_arrive() -> None:
    """Including the steps of a statement with rows left."""
    log: list[tuple[Any, ...]] = []
    async with rapsqlite.connect(":memory:") as conn:
        await conn.executescript(SETUP)
        await conn.create_aggregate("one", 1, aggregate("one", log))
        cursor = await conn.execute("SELECT k, one(v) FROM t GROUP BY k ORDER BY k")
        row = await cursor.fetchone()

        assert row is not None
        assert sum(entry[1] == "step" for entry in log) >= row[1].count("(")
        pending = conn._state.guest
        await conn.fetch_scalar("SELECT 1")
        assert pending.callbacks.thread == 0
        await cursor.close()
        assert sum(entry[1] == "finalize" for entry in log) == sum(entry[1] == "new" for entry in log)


async def test_failed_step_is_not_the_error_of_another_statement() -> None:
    """A cursor whose next group will fail does not affect other statements on the connection."""
    log: list[tuple[Any, ...]] = []
    async with rapsqlite.connect(":memory:") as conn:
        await conn.executescript("CREATE TABLE t (k, v); INSERT INTO t VALUES (3, 'x'), (3, 'bad'), (3, 'y')")
        await conn.executemany("INSERT INTO t VALUES (?, ?)", [(k, "z" * 1000) for k in (1, 2) for _ in range(200)])
        await conn.create_aggregate("one", 1, aggregate("one", log, fails_at="bad"))
        await conn.create_function("f", 0, lambda: 1)
        cursor = await conn.execute("SELECT one(v) FROM t GROUP BY k ORDER BY k")
        assert await cursor.fetchone() is not None

        async def fetch_the_rest() -> None:
            while True:
                assert await conn.fetch_scalar("SELECT f()") == 1
                assert await cursor.fetchone() is not None

        with pytest.raises(rapsqlite.OperationalError, match="'step' method raised error") as caught:
            await fetch_the_rest()
        assert await conn.fetch_scalar("SELECT f()") == 1
        assert isinstance(caught.value.__cause__, ZeroDivisionError)


# -- deterministic functions -------------------------------------------------------------------------


async def test_deterministic_function_is_called_once_for_the_same_arguments_of_a_statement() -> None:
    log: list[tuple[Any, ...]] = []
    async with rapsqlite.connect(":memory:") as conn:
        await conn.executescript(SETUP)
        await conn.create_function("once", -1, function(log), deterministic=True)
        await conn.create_function("always", -1, function([]))
        for sql in ("SELECT {}(k) FROM t", "SELECT {}(k, 'x'), {}() FROM t"):
            expected = await conn.fetch_all(sql.format(*["always"] * 2))

            assert await conn.fetch_all(sql.format(*["once"] * 2)) == expected

        assert sorted(log, key=repr) == sorted(
            [("function", (k,)) for k in range(3)] + [("function", (k, "x")) for k in range(3)] + [("function", ())],
            key=repr,
        )
        await conn.fetch_all("SELECT once(k) FROM t")
        assert len(log) == 10


async def test_other_functions_are_called_for_every_row() -> None:
    log: list[tuple[Any, ...]] = []
    async with rapsqlite.connect(":memory:") as conn:
        await conn.executescript(SETUP)
        await conn.create_function("f", 1, function(log))

        await conn.fetch_all("SELECT f(k) FROM t")

        assert len(log) == 40


async def test_equal_arguments_of_different_types_are_called_separately() -> None:
    values = [1, 1.0, "1", b"1", None, "", b"", 0, 0.0, -0.0, "x" * 39, "x" * 40, "x" * 5000, b"y" * 5000, 1 << 62]
    sql = "VALUES " + ",".join(["(f(?), g(?))"] * len(values))
    parameters = [value for value in values for _ in range(2)]
    log: list[object] = []
    async with rapsqlite.connect(":memory:") as conn:

        def describe(value: object) -> str:
            log.append(value)
            return repr(value)

        await conn.create_function("f", 1, describe, deterministic=True)
        await conn.create_function("g", 1, repr)

        for _ in range(2):
            rows = await conn.fetch_all(sql, parameters)

            assert [row[0] for row in rows] == [row[1] for row in rows] == [repr(value) for value in values]


async def test_results_of_every_type_and_size_are_reused() -> None:
    answers = [None, 0, -(1 << 63), 1.5, "", "é" * 10, "long" * 500, b"", b"\0\xff", b"long" * 500]
    async with rapsqlite.connect(":memory:") as conn:
        await conn.create_function("f", 1, answers.__getitem__, deterministic=True)
        sql = "WITH RECURSIVE n(i) AS (VALUES (0) UNION ALL SELECT i + 1 FROM n WHERE i < 39) SELECT f(i % 10) FROM n"

        assert await conn.fetch_all(sql) == [[answer] for answer in answers] * 4


async def test_exception_is_not_reused() -> None:
    """Answers of deterministic functions are kept; an exception is no answer."""
    calls = 0

    def sometimes(_: int) -> int:
        nonlocal calls
        calls += 1
        if calls % 2:
            raise ZeroDivisionError
        return calls

    async with rapsqlite.connect(":memory:") as conn:
        await conn.create_function("f", 1, sometimes, deterministic=True)
        for expected in (2, 4):
            with pytest.raises(rapsqlite.OperationalError):
                await conn.fetch_scalar("SELECT f(5)")
            assert await conn.fetch_scalar("SELECT f(5)") == expected


async def test_replaced_function_reuses_no_result_of_its_predecessor() -> None:
    async with rapsqlite.connect(":memory:") as conn:
        for answer in ("first", "second"):
            await conn.create_function("f", 1, lambda _, answer=answer: answer, deterministic=True)
            assert await conn.fetch_scalar("SELECT f(1)") == answer
