"""The list of workloads: what runs, at which size, and the figure to compare."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import (
    bench_concurrency,
    bench_cpu,
    bench_eventloop,
    bench_functions,
    bench_insert,
    bench_requests,
    bench_select,
    bench_startup,
)
from benchmarks.figures import Figures
from benchmarks.peers import NAMES, Peer

Run = Callable[[Peer, Path, int], Coroutine[Any, Any, Figures]]

# Blocking calls on one thread neither interleave nor overlap, so these workloads do not apply to sqlite3.
ASYNC_PEERS = tuple(name for name in NAMES if name != "stdlib")
FUNCTION_PEERS = ("ours", "stdlib")
SQLALCHEMY_PEERS = ("ours", "aiosqlite")


def _sqlalchemy(name: str) -> Run:
    """Return a workload that needs SQLAlchemy, which only its own peers' environments have."""

    async def run(peer: Peer, directory: Path, size: int) -> Figures:
        from benchmarks import bench_sqlalchemy

        figures: Figures = await getattr(bench_sqlalchemy, name)(peer, directory, size)
        return figures

    return run


@dataclass(frozen=True)
class Workload:
    """``size`` is the full size, ``quick_size`` only proves that it runs; ``figure`` is the one to compare."""

    name: str
    title: str
    run: Run
    size: int
    quick_size: int
    figure: str
    peers: tuple[str, ...] = NAMES


_ALL = (
    Workload("point_select", "point SELECT, one task", bench_select.point_select, 4000, 50, "operations_per_s"),
    Workload("many_tasks", "point SELECT, 64 tasks", bench_concurrency.many_tasks, 20_000, 128, "operations_per_s"),
    Workload("gathered", "2 000 gathered fetch_one", bench_concurrency.gathered, 2000, 50, "operations_per_s"),
    Workload("fetch_all", "fetch_all, 100 000 × 4", bench_select.fetch_all, 100_000, 500, "rows_per_s"),
    Workload("fetch_dicts", "the same as dicts", bench_select.fetch_dicts, 100_000, 500, "rows_per_s"),
    Workload("fetch_structs", "the same as Structs", bench_select.fetch_structs, 100_000, 500, "rows_per_s"),
    Workload("async_for", "async for, 100 000 rows", bench_select.async_for, 100_000, 500, "rows_per_s"),
    Workload("busy_neighbour", "fetch beside a busy thread", bench_eventloop.busy_neighbour, 20_000, 50, "rows_per_s"),
    Workload("delay_100k", "loop delay, 100 000 rows", bench_eventloop.loop_delay, 100_000, 500, "beyond_idle_ms"),
    Workload(
        "delay_1m",
        "loop delay, 1 000 000 rows",
        bench_eventloop.loop_delay,
        1_000_000,
        1000,
        "beyond_idle_ms",
    ),
    Workload("insert_many", "executemany, 100 000 rows", bench_insert.insert_many, 100_000, 200, "rows_per_s"),
    Workload(
        "executemany_100k", "executemany, WAL, 100 000 × 3", bench_insert.executemany_wal, 100_000, 200, "rows_per_s"
    ),
    Workload(
        "autocommit_normal",
        "INSERT, WAL, NORMAL",
        bench_insert.autocommit_normal,
        2000,
        20,
        "operations_per_s",
    ),
    Workload("autocommit_full", "INSERT, WAL, FULL", bench_insert.autocommit_full, 500, 20, "operations_per_s"),
    Workload("wal_select", "point SELECT, WAL, unwritten", bench_requests.wal_select, 4000, 50, "operations_per_s"),
    Workload("requests", "requests of a service, WAL", bench_requests.requests, 800, 10, "operations_per_s"),
    Workload(
        "short_batches", "executemany of ten rows, WAL", bench_requests.short_batches, 800, 10, "operations_per_s"
    ),
    Workload("journal_insert", "INSERT, journal, OFF", bench_requests.journal_insert, 800, 10, "operations_per_s"),
    Workload(
        "large_reads",
        "random reads in 200 MB",
        bench_select.large_reads,
        20_000,
        128,
        "many_tasks_reads_per_s",
    ),
    Workload(
        "random_reads", "50 random keys a statement, 200 MB", bench_select.random_keys, 50_000, 100, "lookups_per_s"
    ),
    Workload("large_scan", "full scan of 200 MB", bench_select.large_scan, 2, 1, "scans_per_s"),
    Workload("cte", "recursive CTE, 400 000 steps", bench_cpu.cte, 100_000, 100, "statements_per_s"),
    Workload("sorter", "GROUP BY with a sorter", bench_cpu.sorter, 100_000, 100, "statements_per_s"),
    Workload("cpu_statements", "ten CPU-bound statements", bench_cpu.cpu_statements, 100_000, 100, "geometric_mean_ms"),
    Workload(
        "readers_and_writer",
        "4 readers, 1 writer, WAL",
        bench_concurrency.readers_and_writer,
        1500,
        100,
        "reads_per_s",
        ASYNC_PEERS,
    ),
    Workload(
        "two_queries",
        "2 queries at once on 2 connections",
        bench_concurrency.two_queries,
        1_000_000,
        10_000,
        "speed_up_ratio",
        ASYNC_PEERS,
    ),
    Workload(
        "function_calls",
        "SQL function of one argument",
        bench_functions.function_calls,
        200_000,
        100,
        "calls_per_s",
        FUNCTION_PEERS,
    ),
    Workload(
        "function_rows",
        "the same, results fetched",
        bench_functions.function_rows,
        200_000,
        100,
        "calls_per_s",
        FUNCTION_PEERS,
    ),
    Workload(
        "deterministic_calls",
        "the same, deterministic, 50 values",
        bench_functions.deterministic_calls,
        200_000,
        100,
        "calls_per_s",
        FUNCTION_PEERS,
    ),
    Workload(
        "condition_calls",
        "condition on two texts",
        bench_functions.condition_calls,
        200_000,
        100,
        "calls_per_s",
        FUNCTION_PEERS,
    ),
    Workload(
        "aggregate_steps",
        "aggregate of one argument",
        bench_functions.aggregate_steps,
        200_000,
        100,
        "calls_per_s",
        FUNCTION_PEERS,
    ),
    *(
        Workload(f"sqlalchemy_{name}", f"SQLAlchemy, {title}", _sqlalchemy(name), size, 20, figure, SQLALCHEMY_PEERS)
        for name, title, size, figure in (
            ("core_select", "Core SELECT, 10 000 rows", 10_000, "rows_per_s"),
            ("orm_select", "ORM SELECT, 10 000 objects", 10_000, "objects_per_s"),
            ("single_rows", "single-row SELECT", 2000, "operations_per_s"),
            ("core_insert", "Core INSERT, 10 000 rows", 10_000, "rows_per_s"),
            ("orm_insert", "ORM INSERT, 10 000 objects", 10_000, "objects_per_s"),
        )
    ),
    Workload("opening", "open, SELECT 1, close", bench_startup.opening, 300, 3, "operations_per_s"),
    Workload("memory", "memory per connection, 40 open", bench_startup.memory, 40, 5, "after_select_kib"),
    Workload("import_time", "import", bench_startup.import_time, 5, 1, "import_ms"),
    Workload("first_row", "first line to first row", bench_startup.first_row, 5, 1, "first_row_ms"),
)

WORKLOADS = {workload.name: workload for workload in _ALL}


def higher_is_better(figure: str) -> bool:
    """Return whether more is better, according to the figure's unit."""
    return figure.endswith(("_per_s", "_ratio"))
