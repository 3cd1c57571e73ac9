"""This project's targets, each a comparison within one run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.figures import Figures

if TYPE_CHECKING:
    from collections.abc import Callable

Medians = dict[str, dict[str, Figures]]
OURS = "ours"
# The blocking module is the upper limit, not a peer: no other task runs while it works.
PEERS = ("aiosqlite", "pyo3", "apsw")


@dataclass(frozen=True)
class Target:
    """``measure`` computes the figure that must be at least (or, with ``at_most``, at most) ``bound``."""

    workload: str
    wording: str
    bound: float
    measure: Callable[[Medians], float]
    unit: str = "×"
    at_most: bool = False

    def reached(self, value: float) -> bool:
        """Return whether ``value`` reaches the target."""
        return value <= self.bound if self.at_most else value >= self.bound


def _against(workload: str, figure: str, *peers: str) -> Callable[[Medians], float]:
    """Our figure divided by the best one of ``peers`` that was measured."""

    def measure(medians: Medians) -> float:
        figures = medians[workload]
        return figures[OURS][figure] / max(figures[peer][figure] for peer in peers if peer in figures)

    return measure


def _cost_against(workload: str, figure: str, *peers: str) -> Callable[[Medians], float]:
    """Like `_against`, but less is better."""

    def measure(medians: Medians) -> float:
        figures = medians[workload]
        return figures[OURS][figure] / min(figures[peer][figure] for peer in peers if peer in figures)

    return measure


def _beyond(workload: str, figure: str, peer: str) -> Callable[[Medians], float]:
    """Our figure minus a peer's."""
    return lambda medians: medians[workload][OURS][figure] - medians[workload][peer][figure]


def _own(workload: str, figure: str) -> Callable[[Medians], float]:
    return lambda medians: medians[workload][OURS][figure]


def _own_shape(workload: str) -> Callable[[Medians], float]:
    """The rate of a row shape relative to plain rows."""
    return lambda medians: medians[workload][OURS]["rows_per_s"] / medians["fetch_all"][OURS]["rows_per_s"]


OPERATIONS, ROWS = "operations_per_s", "rows_per_s"

TARGETS = (
    Target("point_select", "aiosqlite", 3, _against("point_select", OPERATIONS, "aiosqlite")),
    Target("point_select", "APSW", 1.8, _against("point_select", OPERATIONS, "apsw")),
    Target("many_tasks", "best peer", 3, _against("many_tasks", OPERATIONS, *PEERS)),
    Target("gathered", "best peer", 3, _against("gathered", OPERATIONS, *PEERS)),
    Target("fetch_all", "best peer", 1.3, _against("fetch_all", ROWS, *PEERS)),
    Target("fetch_dicts", "plain rows", 0.75, _own_shape("fetch_dicts")),
    Target("fetch_structs", "plain rows", 1, _own_shape("fetch_structs")),
    Target("async_for", "aiosqlite", 3, _against("async_for", ROWS, "aiosqlite")),
    Target("async_for", "APSW", 2, _against("async_for", ROWS, "apsw")),
    Target("busy_neighbour", "aiosqlite", 5, _against("busy_neighbour", ROWS, "aiosqlite")),
    Target("delay_100k", "beyond idle", 5, _own("delay_100k", "beyond_idle_ms"), "ms", True),
    Target("delay_1m", "beyond idle", 5, _own("delay_1m", "beyond_idle_ms"), "ms", True),
    Target("delay_100k", "best peer", 1, _cost_against("delay_100k", "beyond_idle_ms", *PEERS), "×", True),
    Target("insert_many", "best peer", 1, _against("insert_many", ROWS, *PEERS)),
    Target("executemany_100k", "aiosqlite", 0.9, _against("executemany_100k", ROWS, "aiosqlite")),
    Target("autocommit_normal", "aiosqlite", 3, _against("autocommit_normal", OPERATIONS, "aiosqlite")),
    Target("autocommit_normal", "APSW", 1.5, _against("autocommit_normal", OPERATIONS, "apsw")),
    Target("autocommit_full", "best peer", 1.2, _against("autocommit_full", OPERATIONS, *PEERS)),
    # The PyO3 library answers before the row is on disk: nine syncs for two hundred commits.
    Target("autocommit_full", "best that syncs", 1.2, _against("autocommit_full", OPERATIONS, "aiosqlite", "apsw")),
    Target("large_reads", "stdlib", 0.9, _against("large_reads", "many_tasks_reads_per_s", "stdlib")),
    Target("random_reads", "best peer", 1, _against("random_reads", "lookups_per_s", *PEERS)),
    Target("large_scan", "best peer", 0.8, _against("large_scan", "scans_per_s", *PEERS)),
    Target("cte", "aiosqlite", 1, _against("cte", "statements_per_s", "aiosqlite")),
    Target("sorter", "aiosqlite", 0.8, _against("sorter", "statements_per_s", "aiosqlite")),
    Target(
        *("cpu_statements", "stdlib", 1.1),
        *(_cost_against("cpu_statements", "geometric_mean_ms", "stdlib"), "×", True),
    ),
    Target("readers_and_writer", "best peer, reads", 2, _against("readers_and_writer", "reads_per_s", *PEERS)),
    Target("readers_and_writer", "best peer, writes", 1, _against("readers_and_writer", "writes_per_s", *PEERS)),
    Target("two_queries", "one after the other", 1.8, _own("two_queries", "speed_up_ratio")),
    Target("opening", "aiosqlite", 1.5, _against("opening", OPERATIONS, "aiosqlite")),
    Target("memory", "after one SELECT", 300, _own("memory", "after_select_kib"), "KiB", True),
    Target("import_time", "aiosqlite", 1, _against("import_time", "import_ms", "aiosqlite"), "×", True),
    Target("first_row", "beyond aiosqlite", 40, _beyond("first_row", "first_row_ms", "aiosqlite"), "ms", True),
)
