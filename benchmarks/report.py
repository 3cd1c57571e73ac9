"""Results as Markdown: one table of targets, one of all figures."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

from benchmarks.peers import NAMES
from benchmarks.targets import TARGETS
from benchmarks.workloads import WORKLOADS, Workload

if TYPE_CHECKING:
    from benchmarks.rounds import Results

LABELS = {
    "ours": "rapsqlite",
    "aiosqlite": "aiosqlite",
    "pyo3": "rapsqlite 0.5.1",
    "apsw": "APSW async",
    "stdlib": "sqlite3",
}


def short(value: float) -> str:
    """Write a figure with three or so significant digits."""
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


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
    return f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}"


def text(results: Results, repeats: int) -> str:
    """The whole report."""
    versions = "\n".join(f"- {LABELS[name]}: {version}" for name, version in results.versions.items())
    parts = [f"{machine()}, Python {results.python}; medians of {repeats}.", versions, target_table(results)]
    parts.append(figure_table(results))
    if results.errors:
        parts.append("Not measured:\n" + "\n".join(f"- {error}" for error in results.errors))
    return "\n\n".join(parts) + "\n"
