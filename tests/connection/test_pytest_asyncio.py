"""Programs whose tests use pytest-asyncio: a connection made by a fixture serves the tests of its loop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parents[2]

SUITE = """
import asyncio

import pytest
import pytest_asyncio

import rapsqlite


@pytest_asyncio.fixture
async def conn(tmp_path):
    async with rapsqlite.connect(tmp_path / "app.db") as connection:
        await connection.execute("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT)")
        yield connection


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared():
    async with rapsqlite.connect(":memory:") as connection:
        await connection.execute("CREATE TABLE hit (n)")
        yield connection


@pytest.mark.asyncio
async def test_fixture_and_test_share_a_loop(conn):
    await asyncio.gather(*(conn.execute("INSERT INTO note (text) VALUES (?)", (str(n),)) for n in range(20)))
    assert await conn.fetch_scalar("SELECT count(*) FROM note") == 20


@pytest.mark.asyncio
async def test_database_is_new_for_each_test(conn):
    assert await conn.fetch_scalar("SELECT count(*) FROM note") == 0


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("expected", [1, 2])
async def test_connection_of_a_wider_scope_lives_on(shared, expected):
    await shared.execute("INSERT INTO hit VALUES (1)")
    assert await shared.fetch_scalar("SELECT count(*) FROM hit") == expected


@pytest.mark.asyncio
async def test_connection_of_one_loop_is_used_from_another(shared):
    assert await shared.fetch_scalar("SELECT sqlite_version()")
"""


def test_fixtures_work_with_pytest_asyncio(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeini("[pytest]\nasyncio_mode = strict\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(SUITE)

    result = pytester.runpytest_subprocess("-p", "no:anyio", "-p", "no:randomly", "-W", "error")

    result.assert_outcomes(passed=5)
