"""Reports of statements that take longer than a threshold."""

from __future__ import annotations

import logging

import pytest

import rapsqlite
from rapsqlite import connect

LONG = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) SELECT count(*) FROM n"


async def test_every_verb_is_reported() -> None:
    seen: list[str] = []
    async with connect(":memory:") as conn:
        await conn.execute("CREATE TABLE t (a)")
        conn.set_slow_query_threshold(0, lambda seconds, sql: seen.append(sql))

        await conn.execute("INSERT INTO t VALUES (1)")
        await conn.executemany("INSERT INTO t VALUES (?)", [(1,), (2,)])
        await conn.executescript("SELECT 1; SELECT 2")
        await conn.fetch_all("SELECT a FROM t")
        await conn.fetch_one("SELECT max(a) FROM t")
        async for _ in conn.stream("SELECT a + 1 FROM t"):
            pass
        async with conn.prepare("SELECT ?") as statement:
            await statement.fetch_all((1,))
            await statement.fetch_all((2,))
        with pytest.raises(rapsqlite.OperationalError):
            await conn.fetch_all("SELECT nothing")
        await conn.commit()

        for sql in (
            "INSERT INTO t VALUES (1)",
            "INSERT INTO t VALUES (?)",
            "SELECT 1; SELECT 2",
            "SELECT a FROM t",
            "SELECT max(a) FROM t",
            "SELECT a + 1 FROM t",
            "SELECT nothing",
            "COMMIT",
        ):
            assert sql in seen
        assert seen.count("SELECT ?") >= 2

        seen.clear()
        conn.set_slow_query_threshold(None)
        await conn.fetch_all("SELECT 1")
        assert seen == []


async def test_only_slow_statements_are_reported() -> None:
    seen: list[tuple[float, str]] = []
    async with connect(":memory:") as conn:
        conn.set_slow_query_threshold(3600, lambda *slow: seen.append(slow))
        await conn.fetch_all("SELECT 1")
        assert seen == []

        conn.set_slow_query_threshold(1e-9, lambda *slow: seen.append(slow))
        await conn.fetch_all(LONG)

    assert [sql for _, sql in seen[:1]] == [LONG]
    assert seen[0][0] > 0


async def test_slow_statements_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail(seconds: float, sql: str) -> None:
        raise RuntimeError("the callback's own")

    async with connect(":memory:") as conn:
        conn.set_slow_query_threshold(0)
        with caplog.at_level(logging.WARNING, "rapsqlite"):
            await conn.fetch_all("SELECT 'logged'")
        assert "SELECT 'logged'" in caplog.text

        conn.set_slow_query_threshold(0, fail)
        with caplog.at_level(logging.ERROR, "rapsqlite"):
            assert await conn.fetch_all("SELECT 1") == [[1]]
        assert "the callback's own" in caplog.text


async def test_threshold_is_checked() -> None:
    conn = connect(":memory:")
    with pytest.raises(rapsqlite.ProgrammingError):
        conn.set_slow_query_threshold(1)
    async with conn:
        for bad in (-1, float("nan")):
            with pytest.raises(ValueError, match="threshold_secs"):
                conn.set_slow_query_threshold(bad)
        with pytest.raises(TypeError):
            conn.set_slow_query_threshold(1, 5)  # type: ignore[arg-type]
    with pytest.raises(rapsqlite.ProgrammingError):
        conn.set_slow_query_threshold(1)
