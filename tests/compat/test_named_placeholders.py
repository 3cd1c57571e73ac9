"""A sequence for named placeholders: bound by position, after the running Python's warning or error."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import warnings
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from rapsqlite import _constants as abi
from rapsqlite._client import named_placeholders
from tests.compat.stock import rows_of, same

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# From Python 3.12.0 to 3.12.3 sqlite3 also warned for numbered placeholders, by mistake.
NUMBERED_WARN = (3, 12, 0) <= sys.version_info < (3, 12, 4)
WARNS = pytest.mark.skipif(not (3, 12) <= sys.version_info < (3, 14), reason="only Python 3.12 and 3.13 warn")
PAIR = "INSERT INTO t VALUES (:a, @b)"
MANY = [(number, "x") for number in range(3_000)]


async def with_table(connection: Any) -> Any:
    await connection.execute("CREATE TABLE t (a, b)")
    return connection


@contextlib.contextmanager
def told(action: Any = "always") -> Any:
    """Collect the texts of warnings, or let them raise."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter(action)
        texts: list[Any] = []
        yield texts
    texts += [(each.category.__name__, str(each.message), each.filename == __file__) for each in caught]


async def run(connection: Any, verb: str, sql: str, given: Any, action: Any = "always") -> Any:
    """Return what was raised and warned, and the resulting content of the database."""
    await with_table(connection)
    raised: Any = None
    with told(action) as texts:
        try:
            await getattr(connection, verb)(sql, given)
        except (sqlite3.Error, Warning, OverflowError) as error:
            raised = type(error).__name__, str(error)
    rows = await rows_of(connection, "SELECT a, b FROM t")
    # The wrapped sqlite3 is called in another file, so its warning is not for this file's line.
    return raised, [text[:2] for text in texts], connection.in_transaction, rows


@pytest.mark.parametrize("action", ["always", "error"])
@pytest.mark.parametrize(
    "verb, sql, given",
    [
        ("execute", PAIR, (1, 2)),
        ("execute", "INSERT INTO t VALUES (?, $b)", [1, 2]),
        ("execute", "INSERT INTO t VALUES (':a', ?)", (1,)),
        ("execute", PAIR, {"a": 1, "b": 2}),
        ("execute", PAIR, (1,)),
        ("execute", PAIR, (1, 2**64)),
        ("execute", "SELECT :a, nonsense", (1,)),
        ("execute", "SELECT 1", ()),
        ("executemany", PAIR, [(1, 2), (3, 4)]),
        ("executemany", PAIR, [{"a": 1, "b": 2}, (3, 4), (5, 6), {"a": 7, "b": 8}]),
        ("executemany", PAIR, [{"a": 1, "b": 2}, {"a": 7, "b": 8}]),
        ("executemany", PAIR, [(1, 2), (3,)]),
        ("executemany", PAIR, [(number, 2) for number in range(20)] + [(1,), (3, 4)]),
        ("executemany", PAIR, MANY),
        ("executemany", PAIR, []),
        ("executemany", "INSERT INTO t VALUES (?, ?)", MANY),
    ],
)
async def test_warnings_errors_and_results_match_sqlite3(verb: str, sql: str, given: Any, action: str) -> None:
    async def scenario(connection: Any) -> Any:
        return await run(connection, verb, sql, given, action)

    await same(scenario)


@pytest.mark.skipif(NUMBERED_WARN, reason="this sqlite3 warns by mistake")
@pytest.mark.parametrize("sql", ["INSERT INTO t VALUES (?2, ?1)", "INSERT INTO t VALUES (?2, :a)"])
async def test_numbered_placeholders_accept_sequences(sql: str) -> None:
    async def scenario(connection: Any) -> Any:
        given = (1, 2, 3) if ":" in sql else (1, 2)
        return await run(connection, "execute", sql, given)

    await same(scenario)


VERBS: dict[str, Callable[[rapsqlite.Connection], Awaitable[Any]]] = {
    "execute": lambda conn: conn.execute("SELECT :a", (1,)),
    "execute_fetchall": lambda conn: conn.execute_fetchall("SELECT :a", (1,)),
    "execute_insert": lambda conn: conn.execute_insert("SELECT :a", (1,)),
    "executemany": lambda conn: conn.executemany("INSERT INTO t (a) VALUES (:a)", [(1,)]),
    "fetch_all": lambda conn: conn.fetch_all("SELECT :a", (1,)),
    "fetch_one": lambda conn: conn.fetch_one("SELECT :a", (1,)),
    "fetch_optional": lambda conn: conn.fetch_optional("SELECT :a", (1,)),
    "fetch_scalar": lambda conn: conn.fetch_scalar("SELECT :a", (1,)),
    "fetch_blob": lambda conn: conn.fetch_blob("SELECT CAST(:a AS BLOB)", (1,)),
    "execute_iter": lambda conn: conn.execute_iter("SELECT :a", (1,)).__anext__(),
    "stream": lambda conn: conn.stream("SELECT :a", (1,)).__anext__(),
    "prepared": lambda conn: conn.prepare("SELECT :a").fetch_all((1,)),
    "prepared execute": lambda conn: conn.prepare("SELECT :a").execute((1,)),
}


@WARNS
@pytest.mark.parametrize("verb", VERBS)
async def test_every_verb_warns_at_the_line_that_awaits_it(verb: str) -> None:
    async with rapsqlite.connect(":memory:") as connection:
        await with_table(connection)
        with told() as texts:
            await VERBS[verb](connection)

    assert len(texts) == 1
    category, text, here = texts[0]
    assert category == "DeprecationWarning"
    assert text.startswith("Binding 1 (':a') is a named parameter, but you supplied a sequence")
    assert here


@WARNS
async def test_statement_runs_once_after_the_warning() -> None:
    async with rapsqlite.connect(":memory:") as connection:
        await with_table(connection)
        with told():
            cursor = await connection.execute("INSERT INTO t VALUES (:a, :b) RETURNING a", (1, 2))

            assert await cursor.fetchall() == [(1,)]
            assert await connection.fetch_all("SELECT a, b FROM t") == [[1, 2]]
            assert (await connection.executemany(PAIR, MANY)).rowcount == len(MANY)
            assert await connection.fetch_scalar("SELECT count(*) FROM t") == 1 + len(MANY)


async def test_python_314_refuses_it_with_the_transaction_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checked on every Python version, because 3.14 may not be installed to compare with."""
    monkeypatch.setattr(named_placeholders, "sys", SimpleNamespace(version_info=(3, 14)))
    async with rapsqlite.connect(":memory:") as connection:
        await with_table(connection)
        connection._state.statement_bits |= abi.FORMAT_REFUSE_POSITIONS

        with pytest.raises(rapsqlite.ProgrammingError, match=r"Binding 2 \('@b'\) .* placeholders\.$"):
            await connection.execute("INSERT INTO t VALUES (?, @b)", (1, 2))
        with pytest.raises(rapsqlite.ProgrammingError, match="Binding 1"):
            await connection.executemany(PAIR, [{"a": 1, "b": 2}, (3, 4)])

        assert connection.in_transaction
        assert await connection.fetch_all("SELECT a, b FROM t") == [[1, 2]]
