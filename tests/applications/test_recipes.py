"""The PyO3 package's helpers for queries (IN lists, dicts, times, plans, gauges), and keyset pagination."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from rapsqlite import analyze_query_plan, connect, in_clause_query, paginate, rows_to_dicts, timed_fetch_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def conn() -> AsyncIterator[rapsqlite.Connection]:
    async with connect(":memory:", isolation_level=None) as connection:
        await connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a, b)")
        await connection.executemany(
            "INSERT INTO t (a, b) VALUES (?, ?)", [(number % 4 or None, number % 3 or None) for number in range(50)]
        )
        yield connection


async def pages(conn: rapsqlite.Connection, sql: str, parameters: Any = None, **options: Any) -> list[Any]:
    found: list[Any] = []
    after = None
    while True:
        page = await paginate(conn, sql, parameters, 7, after=after, **options)
        assert len(page) == 7 or page.next is None
        found += page
        after = page.next
        if after is None:
            return found


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("key", ["id", ("a", "id"), ("b", "a", "id")])
async def test_pages_add_up_to_the_ordered_result(conn: rapsqlite.Connection, key: Any, descending: bool) -> None:
    """Including NULL, which no comparison matches."""
    direction = " DESC" if descending else ""
    order = ", ".join(f"{name}{direction}" for name in ([key] if isinstance(key, str) else key))

    found = await pages(conn, "SELECT * FROM t", key=key, descending=descending)

    assert found == await conn.fetch_all(f"SELECT * FROM t ORDER BY {order}")
    assert len(found) == 50


@pytest.mark.parametrize("parameters", [[9], (9,), {"least": 9}])
async def test_pages_take_positional_and_named_parameters(conn: rapsqlite.Connection, parameters: Any) -> None:
    mark = ":least" if isinstance(parameters, dict) else "?"

    found = await pages(conn, f"SELECT id, '?' AS x FROM t WHERE id > {mark} -- why?", parameters, key="ID")

    assert found == [[number, "?"] for number in range(10, 51)]


@pytest.mark.parametrize("parameters", [[9], {"least": 9}])
@pytest.mark.parametrize("name", ["id?", "?", "a\n)b", ":least"])
async def test_key_column_may_have_any_name(conn: rapsqlite.Connection, name: str, parameters: Any) -> None:
    """A question mark in it was taken for a placeholder of the page's, if parameters are named."""
    mark = ":least" if isinstance(parameters, dict) else "?"

    found = await pages(conn, f'SELECT id AS "{name}", a FROM t WHERE id > {mark}', parameters, key=["a", name])

    assert sorted(row[0] for row in found) == list(range(10, 51))


@pytest.mark.parametrize("keys, adapter", [
    ([chr(code) for code in range(65, 91)], str.lower),
    ([b"%c" % code for code in range(65, 91)], bytes.lower),
    (list(range(-26, 0)), abs),
    ([number / 2 for number in range(-26, 0)], abs),
], ids=["str", "bytes", "int", "float"])  # fmt: skip
@pytest.mark.parametrize("mark", ["?", ":given"])
async def test_adapters_apply_to_parameters_and_not_to_keys(
    conn: rapsqlite.Connection, keys: list[Any], adapter: Any, mark: str
) -> None:
    """The key of a page's last row has been stored already; adapted again, it skipped or repeated rows."""
    await conn.executemany("UPDATE t SET b = ? WHERE id = ?", [(key, number) for number, key in enumerate(keys, 1)])
    conn.register_adapter(type(keys[0]), adapter)
    parameters: Any = [keys[0]] if mark == "?" else {"given": keys[0]}

    found = await pages(conn, f"SELECT b, {mark} AS given FROM t WHERE id <= 26", parameters, key="b")

    assert found == [[key, adapter(keys[0])] for key in keys]


async def test_mapping_that_is_asked_for_names_is_asked_only_for_the_users(conn: rapsqlite.Connection) -> None:
    class Asked(dict[str, int]):
        def __missing__(self, name: str) -> int:
            assert name == "least"
            return 9

    found = await pages(conn, "SELECT id FROM t WHERE id > :least;", Asked(), key="id")

    assert found == [[number] for number in range(10, 51)]


async def test_next_page_neither_repeats_nor_skips_after_changes(conn: rapsqlite.Connection) -> None:
    first = await paginate(conn, "SELECT id FROM t", page_size=5, key="id")
    await conn.execute("DELETE FROM t WHERE id < 6")
    await conn.execute("INSERT INTO t (id) VALUES (-1)")

    second = await paginate(conn, "SELECT id FROM t", page_size=5, key="id", after=first.next)

    assert (first, second) == ([[1], [2], [3], [4], [5]], [[6], [7], [8], [9], [10]])


async def test_page_seeks_in_an_index(conn: rapsqlite.Connection) -> None:
    """Otherwise a late page would cost as much as with OFFSET."""
    traced: list[str] = []
    await conn.set_trace_callback(traced.append)
    first = await paginate(conn, "SELECT * FROM t", page_size=5, key="id")
    await paginate(conn, "SELECT * FROM t", page_size=5, key="id", after=first.next)
    await conn.set_trace_callback(None)

    plan = await analyze_query_plan(conn, traced[-1])

    assert plan["details"] == ["SEARCH t USING INTEGER PRIMARY KEY (rowid>?)"]


@pytest.mark.parametrize("token", ["", "nonsense", "####", "kw==", "é", "gaFh", "k5GiaWTCkc___________w", None])
async def test_token_of_another_query_is_refused(conn: rapsqlite.Connection, token: str | None) -> None:
    """Its values belong to other columns or another order, so the page would be a wrong one."""
    if token is None:
        token = (await paginate(conn, "SELECT * FROM t", page_size=1, key="id", descending=True)).next

    with pytest.raises(ValueError, match="after is"):
        await paginate(conn, "SELECT * FROM t", key="id", after=token)


async def test_pages_without_a_usable_key_are_refused(conn: rapsqlite.Connection) -> None:
    with pytest.raises(ValueError, match="at least one column"):
        await paginate(conn, "SELECT * FROM t", key=())
    with pytest.raises(ValueError, match="page_size"):
        await paginate(conn, "SELECT * FROM t", page_size=0, key="id")
    with pytest.raises(rapsqlite.OperationalError, match="no such column"):
        await paginate(conn, "SELECT a FROM t", key="missing")


async def test_in_clause_has_a_placeholder_per_value(conn: rapsqlite.Connection) -> None:
    sql, values = in_clause_query("SELECT 'in (?)', id /* IN (?) */ FROM t WHERE id in ( ? ) -- IN (?)", [3, 5])

    assert sql == "SELECT 'in (?)', id /* IN (?) */ FROM t WHERE id IN (?, ?) -- IN (?)"
    assert await conn.fetch_all(sql, values) == [["in (?)", 3], ["in (?)", 5]]
    assert await conn.fetch_all(*in_clause_query("SELECT id FROM t WHERE id IN (?)", [])) == []
    with pytest.raises(ValueError, match=r"must contain IN \(\?\)"):
        in_clause_query("SELECT 'IN (?)'", [1])


def test_rows_become_dicts_with_given_names_or_those_of_the_columns() -> None:
    assert rows_to_dicts([[1, 2], (3, 4)], ["a", "b"]) == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    assert rows_to_dicts([{"a": 1}]) == [{"a": 1}]
    with pytest.raises(ValueError, match="pass columns="):
        rows_to_dicts([[1]])
    with pytest.raises(ValueError, match=r"longer|shorter"):
        rows_to_dicts([[1, 2]], ["a"])


async def test_row_objects_become_dicts(conn: rapsqlite.Connection) -> None:
    """`Row` knows its columns, so none need to be given."""
    conn.row_factory = rapsqlite.Row

    assert rows_to_dicts(await conn.fetch_all("SELECT 1 AS a, 2 AS b")) == [{"a": 1, "b": 2}]


async def test_time_is_returned_or_reported(conn: rapsqlite.Connection) -> None:
    """With a report function it returns the rows alone."""
    reports: list[Any] = []

    rows, seconds = await timed_fetch_all(conn, "SELECT ?", [1])
    same = await timed_fetch_all(conn, "SELECT ?", [1], lambda *report: reports.append(report))

    assert rows == same == [[1]]
    assert seconds >= 0
    assert [sql for _, sql in reports] == ["SELECT ?"]


@pytest.mark.parametrize(
    "sql, scanned, uses_index",
    [
        ("SELECT * FROM t", ["t"], False),
        ("SELECT * FROM t WHERE id = ?", [], True),
        ("SELECT * FROM t AS x JOIN t AS y ON x.a = y.b", ["x"], True),
        ("SELECT 1", [], False),
    ],
)
async def test_query_plan_names_the_scanned_table(
    conn: rapsqlite.Connection, sql: str, scanned: list[str], uses_index: bool
) -> None:
    plan = await analyze_query_plan(conn, sql, [1] if "?" in sql else None)

    assert (plan["scanned_tables"], plan["table_scan"], plan["uses_index"]) == (scanned, bool(scanned), uses_index)
    assert [row[3] for row in plan["rows"]] == plan["details"]


async def test_gauges_are_numbers_with_distinct_names(conn: rapsqlite.Connection) -> None:
    """A collector takes nothing else, and the names must not collide with an application's."""
    gauges = await rapsqlite.pool_metrics_gauges(conn)

    assert gauges
    assert all(name.startswith("rapsqlite_") and isinstance(value, int) for name, value in gauges.items())
