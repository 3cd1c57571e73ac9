"""docs/migration.md covers every public name of the PyO3 rapsqlite 0.5.1: the same here, or its replacement."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import rapsqlite

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "migration.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (.*?) \| .+ \| .+ \|$", PAGE.split("\n## From the PyO3 rapsqlite, 0.5\n")[1], re.MULTILINE)
MOVED = {name for row in ROWS for name in re.findall(r"`(?:rapsqlite\.)?(\w+)", row)}

# The result of dir() for that package and its classes, without its own imports.
MODULE = """
    Connection ConnectionT Cursor CursorT DataError DatabaseError Error IntegrityError InterfaceError InternalError
    NotSupportedError OperationalError PoolMetrics PoolMetricsGauges PreparedQuery ProgrammingError Row SQLiteCache
    ValueError Warning analyze_query_plan connect connect_memory execute_iter in_clause_query paginate
    pool_metrics_gauges rows_to_dicts suggest_indexes timed_fetch_all transaction_retry transaction_with_timeout
"""
CONNECTION = """
    backup begin changes clear_query_usage close commit connection_timeout create_aggregate create_collation
    create_cursor_with_query create_function cursor enable_load_extension execute execute_fetchall execute_insert
    execute_iter execute_many executemany explain_query_plan fetch_all fetch_blob fetch_one fetch_optional fetch_scalar
    get_foreign_keys get_index_info get_index_list get_indexes get_schema get_table_info get_table_xinfo get_tables
    get_views idle_timeout in_transaction in_transaction_async include_query_in_errors interrupt isolation_level
    iter_chunk_size iterdump last_insert_rowid load_extension path pool_health pool_metrics pool_size prepare
    query_usage query_usage_dropped query_usage_tracking raw_fetch_scalar register_adapter register_converter rollback
    row_factory savepoint session_affinity set_authorizer set_pragma set_progress_handler set_slow_query_threshold
    set_trace_callback stop text_factory timeout total_changes total_changes_async transaction
"""
CURSOR = """
    arraysize close connection description execute executemany executescript fetchall fetchmany fetchone
    iter_chunk_size lastrowid row_factory rowcount
"""
PREPARED = "execute fetch_all fetch_blob fetch_one fetch_optional fetch_scalar query"


@pytest.mark.parametrize(
    "theirs, ours",
    [
        pytest.param(MODULE, rapsqlite, id="module"),
        pytest.param(CONNECTION, rapsqlite.Connection, id="connection"),
        pytest.param(CURSOR, rapsqlite.Cursor, id="cursor"),
        pytest.param("items keys values", rapsqlite.Row, id="row"),
        pytest.param(PREPARED, rapsqlite.PreparedStatement, id="prepared"),
    ],
)
def test_every_name_exists_here_or_has_a_row(theirs: str, ours: Any) -> None:
    names = set(theirs.split())

    assert {name for name in names if not hasattr(ours, name)} <= MOVED
    assert len(names) > 2


async def test_program_written_for_the_pyo3_package_runs(tmp_path: Path) -> None:
    """Its methods in one program, with their results."""
    path = tmp_path / "app.db"
    async with rapsqlite.connect(path, isolation_level=None, pragmas={"journal_mode": "WAL"}) as conn:
        await conn.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
        await conn.execute_many("INSERT INTO t (v) VALUES (?)", [["a"], ["b"], ["c"]])
        assert await conn.last_insert_rowid() == 3
        assert await conn.fetch_all("SELECT * FROM t WHERE id < ?", [3]) == [[1, "a"], [2, "b"]]
        assert await conn.fetch_one("SELECT v FROM t WHERE id = :id", {"id": 2}) == ["b"]
        assert await conn.fetch_optional("SELECT v FROM t WHERE id = 9") is None
        assert await conn.fetch_scalar("SELECT count(*) FROM t") == 3
        assert await conn.fetch_blob("SELECT x'00ff'") == b"\0\xff"
        assert [chunk async for chunk in conn.execute_iter("SELECT id FROM t", chunk_size=2)] == [[[1], [2]], [[3]]]
        await conn.begin()
        await conn.execute("DELETE FROM t")
        assert await conn.in_transaction_async()
        await conn.rollback()
        async with conn.transaction():
            await conn.execute("UPDATE t SET v = 'z' WHERE id = 1")
            with pytest.raises(rapsqlite.IntegrityError):  # noqa: PT012 - the block is what is undone
                async with conn.savepoint():
                    await conn.execute("DELETE FROM t WHERE id = 2")
                    await conn.execute("INSERT INTO t VALUES (1, 'twice')")
        assert await conn.prepare("SELECT v FROM t WHERE id = ?").fetch_all([1]) == [["z"]]
        conn.row_factory = "dict"
        assert await conn.fetch_all("SELECT * FROM t ORDER BY id LIMIT 1") == [{"id": 1, "v": "z"}]
        conn.row_factory = lambda row: len(row)
        assert await conn.fetch_all("SELECT * FROM t") == [2, 2, 2]
        assert await conn.total_changes_async() == conn.total_changes
