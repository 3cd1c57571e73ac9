"""Values of 100 MB, and the maximum number of parameters."""

from __future__ import annotations

import sqlite3
import sys
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from rapsqlite import connect
from tests.compat.stock import rows_of, same

if TYPE_CHECKING:
    from pathlib import Path

MOST = 32_766
# SQLite compares each name with all before it: the maximum number of names takes seconds, here and in sqlite3.
STYLES = [
    pytest.param("?", MOST),
    pytest.param("?0", MOST),
    *[pytest.param(style, 2_000) for style in (":p", "@p", "$p")],
    *[pytest.param(style, MOST, marks=pytest.mark.slow) for style in (":p", "@p", "$p")],
]
SIZES = [3_000_000, pytest.param(100_000_000, marks=pytest.mark.slow)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["x", "é", b"x"])
async def test_large_value_is_stored_and_read_by_every_verb(database: Path, kind: Any, size: int) -> None:
    value = kind * (size // len(kind if isinstance(kind, bytes) else kind.encode()))
    sql = "SELECT v FROM t"
    async with connect(database) as conn:
        await conn.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, v)")
        await conn.execute("INSERT INTO t (v) VALUES (?)", (value,))
        await conn.commit()

        # Compared one by one, so that a failure does not print them.
        assert (await conn.fetch_all(sql) == [[value]]) is True
        assert (await conn.fetch_scalar(sql) == value) is True
        assert (await conn.execute_fetchall(sql) == [(value,)]) is True
        assert (await (await conn.execute(sql)).fetchone() == (value,)) is True
        assert ([row async for row in conn.stream(sql)] == [[value]]) is True
        assert (await conn.prepare(sql).fetch_one() == [value]) is True
        await conn.begin()
        async with conn.blobopen("t", "v", 1) as blob:
            encoded = value if isinstance(value, bytes) else value.encode()
            assert (await blob.read() == encoded) is True
            await blob.seek(0)
            await blob.write(encoded[::-1])
        await conn.rollback()
        await conn.executemany("INSERT INTO t (v) VALUES (:v)", [{"v": value}, {"v": value}])
        assert await conn.fetch_all("SELECT count(*), count(DISTINCT v), max(length(v)) FROM t") == [[3, 1, len(value)]]
        await conn.rollback()
        assert await conn.fetch_scalar("SELECT count(*) FROM t") == 1

    stock = sqlite3.connect(database)
    assert (stock.execute(sql).fetchall() == [(value,)]) is True
    stock.close()


def placeholders(style: str, count: int) -> tuple[str, Any]:
    """Return a list of placeholders and their values."""
    if style == "?":
        return ", ".join(["?"] * count), list(range(count))
    names = [f"{style}{number}" for number in range(1, count + 1)]
    values = range(count) if style == "?0" else {name[1:]: number for number, name in enumerate(names)}
    return ", ".join(names), values


# Python 3.12.0 to 3.12.3 warn for numbers as for names.
@pytest.mark.filterwarnings("ignore:Binding .* is a named parameter:DeprecationWarning")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("style, count", STYLES)
@pytest.mark.parametrize("verb", ["execute", "executemany"])
async def test_maximum_number_of_parameters_is_bound(verb: str, style: str, count: int) -> None:
    names, values = placeholders(style, count)

    async def scenario(connection: Any) -> Any:
        await connection.execute("CREATE TABLE t (a)")
        sql = f"INSERT INTO t VALUES {', '.join(f'({name})' for name in names.split(', '))}"
        await (connection.execute(sql, values) if verb == "execute" else connection.executemany(sql, [values, values]))
        return await rows_of(connection, "SELECT count(*), sum(a), min(a), max(a) FROM t")

    await same(scenario)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="sqlite3 of Python 3.10 cannot be given this limit")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("style, count", STYLES)
async def test_one_parameter_beyond_the_maximum_is_refused_as_by_sqlite3(style: str, count: int) -> None:
    names, values = placeholders(style, count + 1)

    async def scenario(connection: Any) -> Any:
        await connection.setlimit(rapsqlite.SQLITE_LIMIT_VARIABLE_NUMBER, count)
        return await rows_of(connection, f"SELECT 1 WHERE 1 IN ({names})", values)

    raised = await same(scenario)

    assert raised[0] == "OperationalError"
