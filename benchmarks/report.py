"""Results as Markdown: a table of the figures to compare, one of targets, one of all figures."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

from benchmarks.peers import NAMES
from benchmarks.targets import OURS, PEERS, TARGETS
from benchmarks.workloads import WORKLOADS, Workload, higher_is_better

if TYPE_CHECKING:
    from benchmarks.figures import Figures
    from benchmarks.rounds import Results

LABELS = {
    "ours": "rapsqlite",
    "aiosqlite": "aiosqlite",
    "pyo3": "rapsqlite 0.5.1",
    "apsw": "APSW async",
    "stdlib": "sqlite3",
}


UNITS = {"_per_s": "per second", "_ms": "ms", "_kib": "KiB", "_us": "µs", "_ratio": "×"}


def unit(figure: str) -> str:
    """Return the unit of a figure by its name."""
    return next(unit for suffix, unit in UNITS.items() if figure.endswith(suffix))


def short(value: float) -> str:
    """Write a figure with three or so significant digits."""
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _ratio(workload: Workload, measured: dict[str, Figures]) -> str:
    """Return how many times as good as the best asynchronous peer this project is."""
    ours = measured.get(OURS, {}).get(workload.figure)
    others = [measured[peer][workload.figure] for peer in PEERS if workload.figure in measured.get(peer, {})]
    if not ours or not others or min(ours, *others) < 0:  # a delay beyond an idle loop's may be less than nothing
        return ""
    ratio = ours / max(others) if higher_is_better(workload.figure) else min(others) / ours
    return f"{short(ratio)} ×"


def summary_table(results: Results) -> str:
    """One row per workload: the figure to compare, and how many times as good as the best peer's ours is."""
    lines = [_row(["workload", "unit", *(LABELS[name] for name in NAMES), "to the best peer"])]
    lines.append("|---" * (len(NAMES) + 3) + "|")
    for name, measured in results.medians.items():
        workload = WORKLOADS[name]
        figure = workload.figure
        cells = [short(measured[peer][figure]) if figure in measured.get(peer, {}) else "" for peer in NAMES]
        lines.append(_row([workload.title, unit(figure), *cells, _ratio(workload, measured)]))
    return "\n".join(lines)


def target_table(results: Results) -> str:
    """One row per target whose figures were all measured."""
    lines = [_row(["workload", "against", "target", "measured", ""]), "|---|---|---|---|---|"]
    for target in TARGETS:
        try:
            value = target.measure(results.medians)
        except (KeyError, ValueError):
            # Its workload, this project or the peer it is compared with did not take part.
            continue
        sign = "≤" if target.at_most else "≥"
        verdict = "pass" if target.reached(value) else "**missed**"
        bound = f"{sign} {short(target.bound)} {target.unit}"
        title = WORKLOADS[target.workload].title
        lines.append(_row([title, target.wording, bound, f"{short(value)} {target.unit}", verdict]))
    return "\n".join(lines)


def _figure_rows(workload: Workload, results: Results) -> list[str]:
    measured = results.medians[workload.name]
    figures = list(dict.fromkeys(figure for values in measured.values() for figure in values))
    rows = []
    for figure in figures:
        cells = [short(measured[name][figure]) if figure in measured.get(name, {}) else "" for name in NAMES]
        rows.append(_row([workload.title, figure, *cells]))
    return rows


def figure_table(results: Results) -> str:
    """Every figure of every peer, medians."""
    lines = [_row(["workload", "figure", *(LABELS[name] for name in NAMES)]), "|---" * (len(NAMES) + 2) + "|"]
    for name in results.medians:
        lines.extend(_figure_rows(WORKLOADS[name], results))
    return "\n".join(lines)


def machine() -> str:
    """Describe where it ran, without names."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} core{'' if cores == 1 else 's'}, {platform.system()} {platform.machine()}"


def text(results: Results, repeats: int) -> str:
    """The whole report."""
    versions = "\n".join(f"- {LABELS[name]}: {version}" for name, version in results.versions.items())
    parts = [f"{machine()}, Python {results.python}; medians of {repeats}.", versions]
    parts += [summary_table(results), target_table(results), figure_table(results)]
    if results.errors:
        parts.append("Not measured:\n" + "\n".join(f"- {error}" for error in results.errors))
    return "\n\n".join(parts) + "\n"
