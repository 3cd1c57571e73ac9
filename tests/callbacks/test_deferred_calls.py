"""Calls of functions whose results are only columns are made in bulk.

Only counting shows a difference.
"""

from __future__ import annotations

import random
import sqlite3

import pytest

import rapsqlite
from tests.callbacks.deferring import ROWS, TABLES, Log, crossings, keep_calls_single, logged, opened, outcome

PUT_OFF = [
    "SELECT y FROM seen",
    "SELECT f(v) FROM t",
    "SELECT id, f(v), f(v, id), f(), 'x' FROM t",
    "SELECT f(v) FROM t WHERE v > 20 ORDER BY v",
    "SELECT f(v), k FROM t ORDER BY id DESC LIMIT 200 OFFSET 3",
    "SELECT f(a.v), f(b.name) FROM t AS a JOIN u AS b ON a.id = b.id",
    "SELECT f(a.v), f(b.v) FROM t AS a JOIN t AS b ON a.k = b.k + 1 LIMIT 500",
    "SELECT f(a.id), b.name FROM t AS a LEFT JOIN u AS b USING (id)",
    "SELECT f(count(*)), v FROM t GROUP BY v",
    "SELECT f(sum(k)), f(max(id)) FROM t GROUP BY id / 2",
    "SELECT f(i) FROM (WITH n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 200) SELECT i FROM n)",
    "SELECT f(name), f(NULL), f(1.5), f(x'00ff'), f('é') FROM u",
    "SELECT f(v + k), f(-v), f(v || '-' || k), f(abs(v)) FROM t",
    "SELECT f(v) FROM t WHERE id IN (SELECT id FROM u)",
    "SELECT f(v) FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.id = t.id)",
    "SELECT f((SELECT max(name) FROM u WHERE u.id <= t.id)) FROM t",
]
MADE_AT_ONCE = [
    "SELECT f(f(v)) FROM t",
    "SELECT f(v) + 1 FROM t",
    "SELECT f(v) IS NULL FROM t",
    "SELECT CASE WHEN k THEN f(v) ELSE 0 END FROM t",
    "SELECT coalesce(f(v), 1), iif(f(k), 1, 2) FROM t",
    "SELECT typeof(f(v)) FROM t",
    "SELECT id FROM t WHERE f(v) > 100",
    "SELECT f(v) FROM t WHERE f(v) > 100",
    "SELECT f(v) AS y FROM t ORDER BY y",
    "SELECT f(v) FROM t ORDER BY k",
    "SELECT DISTINCT f(k) FROM t",
    "SELECT f(v) FROM t UNION SELECT f(id) FROM t",
    "SELECT f(v) FROM t EXCEPT SELECT f(3)",
    "SELECT sum(f(v)), max(f(id)) FROM t",
    "SELECT k, count(f(v)), avg(v) FROM t GROUP BY k",
    "SELECT count(*) FROM t WHERE f(k)",
    "SELECT k, count(*) FROM t GROUP BY k HAVING f(k) > 1",
    "SELECT f(v), row_number() OVER (ORDER BY id) FROM t",
    "SELECT sum(f(v)) OVER (ORDER BY id ROWS 2 PRECEDING) FROM t",
    "SELECT * FROM (SELECT f(v) AS y FROM t LIMIT 100) WHERE y > 3",
    "SELECT (SELECT f(v)) FROM t",
    "SELECT a.id FROM t AS a JOIN u AS b ON b.id = f(a.id)",
    "SELECT f(value) FROM json_each('[1,2,3]'), t",
    "SELECT v FROM t LIMIT f(5)",
    "SELECT sum(y) FROM seen",
    "SELECT count(*) FROM t WHERE NOT f(k)",
    "SELECT count(*), sum(id) FROM t WHERE f(k)",
    "SELECT count(*), (SELECT count(*) FROM u WHERE f(id)) FROM t",
    "SELECT k, count(*) FROM t WHERE f(k) GROUP BY k",
    "SELECT sum(DISTINCT f(v)) FROM t",
    "SELECT sum(f(v) + 1) FROM t",
    "SELECT sum(CASE WHEN k THEN f(v) END) FROM t",
    "SELECT min(f(v)) FROM t",
    "SELECT group_concat(f(v)) FROM t",
    "SELECT sum(f(v)), f(k) FROM t",
    "SELECT total(f(v)) OVER (PARTITION BY k) FROM t",
    "SELECT id FROM t WHERE v > (SELECT avg(f(t.k + u.id)) FROM u WHERE u.id < f(t.v))",
]


@pytest.mark.parametrize("sql", [*PUT_OFF, *MADE_AT_ONCE])
async def test_rows_and_calls_match_sqlite3(sql: str) -> None:
    theirs: Log = []
    native = sqlite3.connect(":memory:")
    for number in range(3):
        native.create_function("f", number, logged(theirs))
    native.executescript(TABLES)
    expected = native.execute(sql).fetchall()
    native.close()
    log: Log = []
    async with opened(logged(log)) as conn:
        for _ in range(2):  # the second time, the decision is already known
            log.clear()
            assert await conn.execute_fetchall(sql) == expected
            # A different evaluation order chosen by SQLite does not matter.
            assert sorted(log, key=repr) == sorted(theirs, key=repr)


@pytest.mark.parametrize("sql", PUT_OFF)
async def test_hundreds_of_calls_share_a_crossing(sql: str) -> None:
    log: Log = []
    async with opened(logged(log)) as conn:
        for at_most in (60, 12):  # before the bytecode is examined, and after
            log.clear()
            before = await crossings(conn)

            await conn.execute_fetchall(sql)

            assert len(log) >= ROWS / 2
            assert await crossings(conn) - before <= at_most


@pytest.mark.parametrize("sql", MADE_AT_ONCE)
async def test_call_whose_result_is_used_elsewhere_is_not_deferred(sql: str) -> None:
    log: Log = []
    async with opened(logged(log)) as conn:
        before = await crossings(conn)

        await conn.execute_fetchall(sql)

        assert await crossings(conn) - before == len(log)


async def test_function_with_any_number_of_arguments_is_deferred_too() -> None:
    log: Log = []
    async with rapsqlite.connect(":memory:") as conn:
        await conn.create_function("f", -1, logged(log))
        await conn.executescript(TABLES)
        before = await crossings(conn)

        rows = await conn.execute_fetchall("SELECT f(v, id), v, id FROM t")

        assert log == [(v, number) for _, v, number in rows]
        assert await crossings(conn) - before < ROWS / 2


async def test_deterministic_function_is_deferred_only_if_its_results_are_not_reused() -> None:
    log: Log = []
    async with opened(logged([])) as conn:
        await conn.create_function("d", 1, logged(log), deterministic=True)
        for column, different, at_most in (("k", 5, 5), ("v", 211, 40)):
            for _ in range(2):
                log.clear()
                before = await crossings(conn)

                rows = await conn.execute_fetchall(f"SELECT {column}, d({column}) FROM t ORDER BY id")

                assert all(argument == answer for argument, answer in rows)
                assert len(set(log)) == different
                assert await crossings(conn) - before <= at_most


@pytest.mark.parametrize(
    "sql, at_most",
    [
        ("SELECT f(v) FROM t", 60),
        ("SELECT f(v > 100) FROM t", 60),
        ("SELECT f(?1 IS TRUE, ?1) FROM t", 60),
        ("SELECT id FROM t WHERE f(v) ORDER BY id", ROWS),
    ],
)
async def test_true_and_false_cross_as_often_as_one_and_zero(sql: str, at_most: int) -> None:
    """Python's conditions are True and False, and so may parameters be; SQLite stores both as integers."""
    seen = []
    for answer in (lambda *arguments: int(arguments[0] > 100), lambda *arguments: arguments[0] > 100):
        log: Log = []
        async with opened(logged(log, answer)) as conn:
            before = await crossings(conn)

            rows = await conn.execute_fetchall(sql, (True,) if "?1" in sql else ())

            seen.append((repr(rows), repr(log), await crossings(conn) - before))
    assert seen[0] == seen[1]
    assert "True" not in repr(seen)
    assert seen[0][2] <= at_most


class Queries:
    """Generates queries, always the same ones for a seed."""

    def __init__(self, seed: int) -> None:
        self.pick = random.Random(seed)

    def value(self, depth: int) -> str:
        kinds = ["column", "column", "literal"]
        if depth:
            kinds += ["call", "call", "operator", "case", "builtin", "subquery"]
        kind = self.pick.choice(kinds)
        inner = [self.value(depth - 1) for _ in range(3)] if depth else []
        return {
            "column": lambda: self.pick.choice(["a.id", "a.k", "a.v"]),
            "literal": lambda: self.pick.choice(["1", "-2.5", "NULL", "'text'", "x'01'"]),
            "call": lambda: f"{self.pick.choice('fg')}({', '.join(inner[: self.pick.randrange(3)])})",
            "operator": lambda: f"({inner[0]} {self.pick.choice(['+', '=', '<', 'AND', '||', 'IS', '%'])} {inner[1]})",
            "case": lambda: f"CASE WHEN {inner[0]} THEN {inner[1]} ELSE {inner[2]} END",
            "builtin": lambda: f"{self.pick.choice(['typeof', 'quote', 'coalesce'])}({inner[0]}, {inner[1]})".replace(
                f"typeof({inner[0]}, {inner[1]})", f"typeof({inner[0]})"
            ).replace(f"quote({inner[0]}, {inner[1]})", f"quote({inner[0]})"),
            "subquery": lambda: f"(SELECT {inner[0]} FROM u WHERE u.id = a.id)",
        }[kind]()

    def aggregate(self, argument: str) -> str:
        if self.pick.random() < 0.2:
            return "count(*)"
        name = self.pick.choice(["sum", "total", "avg", "count", "max"])
        distinct = self.pick.choice(["", "", "", "DISTINCT "])
        condition = self.pick.choice(["", "", "", " FILTER (WHERE a.k > 2)"])
        return f"{name}({distinct}{argument}){condition}"

    def query(self) -> str:
        columns = [self.value(self.pick.choice([1, 1, 2])) for _ in range(self.pick.randrange(1, 4))]
        if self.pick.random() < 0.4:
            columns = [self.aggregate(column) for column in columns]
        source = self.pick.choice(
            [
                "t AS a",
                "t AS a JOIN u ON u.id = a.id",
                "t AS a LEFT JOIN u USING (id)",
                "t AS a JOIN t AS b ON b.id = a.k",
            ]
        )
        parts = [self.pick.choice(["SELECT", "SELECT", "SELECT DISTINCT"]), ", ".join(columns), "FROM", source]
        if self.pick.random() < 0.3:
            parts += ["WHERE", self.value(1)]
        if self.pick.random() < 0.2:
            parts += ["GROUP BY", self.value(1)]
        if self.pick.random() < 0.3:
            parts += ["ORDER BY", self.pick.choice(["a.id", "a.id DESC", "a.v", self.value(1)])]
        if self.pick.random() < 0.3:
            parts += ["LIMIT", str(self.pick.randrange(1, 200))]
        return " ".join(parts)


@pytest.mark.parametrize("seed", range(12))
async def test_generated_queries_give_the_same_rows_and_calls_with_and_without_deferral(seed: int) -> None:
    """One engine, one plan, two ways of calling."""
    queries = Queries(seed)
    log: Log = []
    single_log: Log = []
    fewer = 0
    async with opened(logged(log)) as conn, opened(logged(single_log)) as single:
        await conn.create_function("g", -1, logged(log))
        await single.create_function("g", -1, logged(single_log))
        await keep_calls_single(single)
        for _ in range(60):
            sql = queries.query()
            log.clear()
            single_log.clear()
            before = await crossings(conn), await crossings(single)

            answers = [await outcome(each.execute_fetchall, sql) for each in (conn, single)]

            assert answers[0] == answers[1], sql
            assert log == single_log, sql
            counts = await crossings(conn) - before[0], await crossings(single) - before[1]
            assert counts[1] == len(single_log), sql
            fewer += counts[0] < counts[1]
    assert fewer
