"""Results as an SVG of bar groups, one per workload, each on its own scale; no plotting library."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from benchmarks.peers import NAMES
from benchmarks.report import LABELS, short, unit
from benchmarks.workloads import WORKLOADS, Workload, higher_is_better

if TYPE_CHECKING:
    from benchmarks.rounds import Results

COLOURS = {
    "ours": "#d9480f",
    "aiosqlite": "#4c6ef5",
    "pyo3": "#868e96",
    "apsw": "#2b8a3e",
    "stdlib": "#ced4da",
}
BAR, GAP, LABEL_WIDTH, BAR_WIDTH, MARGIN = 14, 26, 130, 420, 20


def _text(x: float, y: float, content: str, style: str = "") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" {style}>{escape(content)}</text>'


def _group(workload: Workload, results: Results, top: int) -> tuple[list[str], int]:
    """Draw one workload from ``top`` down; return its elements and the next free height."""
    measured = results.medians[workload.name]
    values = {name: measured[name][workload.figure] for name in NAMES if name in measured}
    largest = max(*values.values(), 1e-9)
    direction = "more is better" if higher_is_better(workload.figure) else "less is better"
    heading = f"{workload.title} ({unit(workload.figure)}, {direction})"
    elements = [_text(MARGIN, top + 12, heading, 'font-weight="bold"')]
    y = top + 20
    for name, value in values.items():
        width = max(1.0, BAR_WIDTH * max(value, 0.0) / largest)
        elements.append(_text(MARGIN, y + BAR - 3, LABELS[name]))
        left = MARGIN + LABEL_WIDTH
        box = f'x="{left}" y="{y}" width="{width:.1f}" height="{BAR - 2}"'
        elements.append(f'<rect {box} fill="{COLOURS[name]}"/>')
        elements.append(_text(left + width + 6, y + BAR - 3, short(value)))
        y += BAR
    return elements, y + GAP


def svg(results: Results) -> str:
    """Return the drawing."""
    elements: list[str] = []
    top = MARGIN
    for name, measured in results.medians.items():
        if measured:
            group, top = _group(WORKLOADS[name], results, top)
            elements.extend(group)
    width = 2 * MARGIN + LABEL_WIDTH + BAR_WIDTH + 70
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top}" font-family="sans-serif" '
    background = '<rect width="100%" height="100%" fill="white"/>'
    return "\n".join([opening + 'font-size="11">', background, *elements, "</svg>"]) + "\n"
