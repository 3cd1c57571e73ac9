"""Small functions around queries: lists in an IN, rows as dicts, timings, query plans, gauges."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from rapsqlite import _fetching as fetching
from rapsqlite._client.state import encode_sql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rapsqlite.connection import Connection
    from rapsqlite.types import Parameters

# Strings, quoted names and comments come first, so that nothing inside them matches.
_IN = r"""'[^']*'|"[^"]*"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?(?:\*/|$)|(?P<found>\bIN\s*\(\s*\?\s*\))"""
_SCAN = r"^SCAN (?!CONSTANT ROW)(?P<table>\S+)"


def in_clause_query(sql: str, values: Sequence[Any]) -> tuple[str, list[Any]]:
    """Return the statement with its first ``IN (?)`` expanded to one ``?`` per value, and the values as parameters.

    No values make ``IN ()``, which matches nothing. A statement can have 32 766 parameters; for more, use
    ``IN (SELECT value FROM json_each(?))``. Raises ValueError if there is no ``IN (?)``.
    """
    for match in re.finditer(_IN, sql, re.IGNORECASE | re.DOTALL):
        if match["found"]:
            marks = ", ".join("?" * len(values))
            return f"{sql[: match.start()]}IN ({marks}){sql[match.end() :]}", list(values)
    raise ValueError("in_clause_query: the statement must contain IN (?)")


def rows_to_dicts(rows: Iterable[Any], columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return each row as a dict with these keys; `Row` and other rows with ``keys()`` need no ``columns``.

    ``row_factory="dict"`` is faster. Raises ValueError if a row and ``columns`` differ in length.
    """
    dicts = []
    for row in rows:
        if hasattr(row, "keys"):
            dicts.append({name: row[name] for name in row.keys()})  # noqa: SIM118 - Row iterates over values
        elif columns is None:
            raise ValueError("rows_to_dicts: these rows have no keys(): pass columns=")
        else:
            dicts.append(dict(zip(columns, row, strict=True)))
    return dicts


async def timed_fetch_all(
    connection: Connection,
    sql: str,
    parameters: Parameters | None = None,
    on_timing: Callable[[float, str], object] | None = None,
) -> Any:
    """Fetch all rows; return them and the seconds it took, or call ``on_timing(seconds, sql)`` and return the rows."""
    start = time.perf_counter()
    rows = await connection.fetch_all(sql, parameters)
    seconds = time.perf_counter() - start
    if on_timing is None:
        return rows, seconds
    on_timing(seconds, sql)
    return rows


async def analyze_query_plan(connection: Connection, sql: str, parameters: Parameters | None = None) -> dict[str, Any]:
    """Return the plan of a statement: ``rows``, ``details``, ``uses_index``, ``table_scan``, ``scanned_tables``.

    ``table_scan`` is whether some table is scanned in full without an index.
    https://sqlite.org/eqp.html
    """
    encoded = encode_sql(f"EXPLAIN QUERY PLAN {sql}", "analyze_query_plan")
    decoder = fetching.plain_decoder(connection._state, "list")
    rows = await fetching.fetch_rows(connection, encoded, 0, parameters, decoder)
    details = [row[3] for row in rows]
    scanned = [match["table"] for each in details if (match := re.match(_SCAN, each)) and " INDEX " not in each]
    return {
        "rows": rows,
        "details": details,
        "uses_index": any(" INDEX " in each or "PRIMARY KEY" in each for each in details),
        "table_scan": bool(scanned),
        "scanned_tables": scanned,
    }


async def pool_metrics_gauges(source: Any) -> dict[str, float]:
    """Return the ``statistics()`` of a pool or a connection as gauges for a metrics system.

    Names start with ``rapsqlite_``, for example ``rapsqlite_size``.
    """
    found = source.statistics()
    statistics = await found if hasattr(found, "__await__") else found
    return {
        f"rapsqlite_{name}": value
        for name, value in statistics.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
