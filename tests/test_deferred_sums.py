"""Calls whose answers SQLite's own aggregates wait for: the aggregates are SQLite's for everybody else."""

from __future__ import annotations

import pytest

import rapsqlite
from tests.deferring import ROWS, Log, crossings, logged, opened


async def test_large_answers_do_not_pile_up_before_they_are_counted() -> None:
    async with opened(lambda value: bytes(1 << 20), limits={"memory_bytes": 32 << 20}) as conn:
        before = await crossings(conn)
        assert await conn.fetch_all("SELECT count(f(v)) FROM t WHERE id <= 100") == [[100]]
        assert await conn.fetch_all("SELECT k, count(f(v)) FROM t GROUP BY k") == [[k, ROWS // 5] for k in range(5)]
        assert await crossings(conn) > before


async def test_aggregate_that_takes_the_place_of_ones_own_gets_the_answers() -> None:
    class Most:
        def __init__(self) -> None:
            self.values: list[int] = []

        def step(self, value: int) -> None:
            self.values.append(value)

        def finalize(self) -> int:
            return max(self.values)

    async with opened(lambda value: value) as conn:
        sql = "SELECT sum(f(v)), count(f(v)) FROM t"
        own = await conn.fetch_all(sql)
        await conn.create_aggregate("sum", 1, Most)
        assert await conn.fetch_all(sql) == [[210, ROWS]]
    assert own == [[31622, ROWS]]


async def test_statements_take_turns() -> None:
    """While one stands between two groups, others use the same aggregates."""
    async with opened(lambda value: value) as conn:
        sql = "SELECT v / 20, sum(f(v)), sum(v) FROM t GROUP BY v / 20"
        expected = await conn.fetch_all(sql)
        total = await conn.fetch_scalar("SELECT sum(v) FROM t")
        async with conn.execute(sql) as groups, conn.execute(sql) as others:
            for row in expected:
                assert await groups.fetchone() == tuple(row)
                assert await conn.fetch_scalar("SELECT sum(v) FROM t") == total
                assert await conn.fetch_scalar("SELECT sum(f(v)) FROM t") == total
                assert await others.fetchone() == tuple(row)


async def test_step_limit_ends_what_was_put_off() -> None:
    log: Log = []
    endless = "WITH n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT sum(f(i)) FROM n"
    async with opened(logged(log), limits={"statement_steps": 200_000}) as conn:
        for _ in range(2):
            with pytest.raises(rapsqlite.DataError, match="more than 200000 steps"):
                await conn.fetch_all(endless)
            assert len(log) > ROWS
            assert log == [(number,) for number in range(1, len(log) + 1)]
            log.clear()
            assert await conn.fetch_scalar("SELECT sum(f(v)) FROM t WHERE id = 1") == 7
            log.clear()
