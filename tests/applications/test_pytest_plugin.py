"""The fixtures of `rapsqlite.pytest_plugin`, in a separate pytest run."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

import pytest

from tests.programs import run_python

if TYPE_CHECKING:
    from pathlib import Path

CONFTEST = """
import pytest

@pytest.fixture(scope="session")
def rapsqlite_schema():
    return {schema}

@pytest.fixture(scope="session")
def rapsqlite_options():
    return {{"pragmas": {{"foreign_keys": True}}, {options}}}
"""
SCRIPT = '"CREATE TABLE t (a); INSERT INTO t VALUES (1);"'
FUNCTION = "make\n\nasync def make(conn):\n    await conn.executescript(" + SCRIPT + ")"
TESTS = """
import asyncio, sqlite3, pytest

def run(function, *arguments):
    return asyncio.run(function(*arguments))

async def insert(conn, commit=False):
    assert await conn.fetch_scalar("PRAGMA foreign_keys") == 1
    before = await conn.fetch_scalar("SELECT count(*) FROM t")
    await conn.execute("INSERT INTO t VALUES (2)")
    if commit:
        await conn.commit()
    return before

@pytest.mark.parametrize("number", range(3))
def test_database_is_its_own(rapsqlite_connection, rapsqlite_database, number):
    assert run(insert, rapsqlite_connection, True) == 1
    assert rapsqlite_database.exists()

@pytest.mark.parametrize("number", range(3))
def test_transaction_is_rolled_back(rapsqlite_transaction, number):
    assert run(insert, rapsqlite_transaction) == 1

def test_commit_is_reported(rapsqlite_transaction):
    run(rapsqlite_transaction.rollback)
"""
ASYNC = """
import pytest
pytestmark = pytest.mark.anyio

@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param

async def test_connection_works_in_every_loop(rapsqlite_connection):
    assert await rapsqlite_connection.fetch_all("SELECT a FROM t") == [[1]]
    async with rapsqlite_connection.transaction():
        await rapsqlite_connection.execute("DELETE FROM t")
"""


def run_pytest(folder: Path, schema: str, options: str = "", **files: str) -> str:
    folder.joinpath("conftest.py").write_text(CONFTEST.format(schema=schema, options=options))
    for name, text in files.items():
        folder.joinpath(f"{name}.py").write_text(text)
    # By the module's name, as if it were not installed as a plugin already.
    command = (
        "-W error -m pytest -q -p no:asyncio -p no:rapsqlite -p rapsqlite.pytest_plugin -p no:cacheprovider".split()
    )
    done = run_python(*command, cwd=folder)
    return done.stdout + done.stderr


@pytest.mark.parametrize("schema, options", [
    pytest.param(SCRIPT, "", id="script"),
    pytest.param(FUNCTION, "", id="function"),
    pytest.param(SCRIPT, '"autocommit": False', id="autocommit"),
])  # fmt: skip
def test_each_test_gets_a_copy_of_the_template_or_a_transaction(tmp_path: Path, schema: str, options: str) -> None:
    output = run_pytest(tmp_path, schema, options, test_sync=TESTS)

    assert "7 passed, 1 error" in output, output
    assert "the test ended the transaction of rapsqlite_transaction: use rapsqlite_connection" in output


def test_fixtures_work_with_tests_of_both_event_loops(tmp_path: Path) -> None:
    output = run_pytest(tmp_path, SCRIPT, test_async=ASYNC)

    assert "2 passed" in output, output


def test_plugin_imports_nothing_unless_it_is_used() -> None:
    code = "import sys, rapsqlite.pytest_plugin; print([n for n in sys.modules if n.startswith('rapsqlite')])"
    done = run_python("-c", code, check=True)

    assert done.stdout == "['rapsqlite', 'rapsqlite.pytest_plugin']\n"


def test_pytest_and_opentelemetry_find_the_entry_points() -> None:
    found = {
        (group, entry.name): entry.value
        for group in ("pytest11", "opentelemetry_instrumentor")
        for entry in metadata.entry_points(group=group)
        if entry.name == "rapsqlite"
    }

    assert found == {
        ("pytest11", "rapsqlite"): "rapsqlite.pytest_plugin",
        ("opentelemetry_instrumentor", "rapsqlite"): "rapsqlite.opentelemetry:RapsqliteInstrumentor",
    }
