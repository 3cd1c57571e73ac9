"""Command line: ``python -m benchmarks [WORKLOAD ...]``; run ``benchmarks/setup`` first."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks import databases, plot, report
from benchmarks.peers import NAMES
from benchmarks.rounds import ROOT, Results, environment_python, run_all, start_workers
from benchmarks.workloads import WORKLOADS

ITEM_ROWS, LARGE_MEGABYTES = 1_000_000, 200
QUICK_ITEM_ROWS, QUICK_LARGE_MEGABYTES = 2000, 1


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"default: all of {', '.join(WORKLOADS)}")
    parser.add_argument("--peers", default=",".join(NAMES), help="comma-separated (default: %(default)s)")
    parser.add_argument("--python", action="append", default=[], metavar="PEER=PATH", help="interpreter for a peer")
    parser.add_argument("--repeats", type=int, default=5, help="rounds per workload (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, measures nothing")
    parser.add_argument("--directory", type=Path, default=ROOT / ".work" / "benchmarks" / "data")
    parser.add_argument("--markdown", type=Path, help="write the report to this file too")
    parser.add_argument("--svg", type=Path, help="write the plot to this file")
    parser.add_argument("--json", type=Path, help="write the medians to this file")
    chosen = parser.parse_args(arguments)
    unknown = [name for name in chosen.workloads if name not in WORKLOADS]
    unknown += [name for name in chosen.peers.split(",") if name not in NAMES]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    return chosen


def prepare(directory: Path, quick: bool) -> Path:
    """Create the databases to read; the quick ones are separate, so that the large ones are kept."""
    directory = directory / ("quick" if quick else "full")
    directory.mkdir(parents=True, exist_ok=True)
    databases.create_items(directory, QUICK_ITEM_ROWS if quick else ITEM_ROWS)
    databases.create_large(directory, QUICK_LARGE_MEGABYTES if quick else LARGE_MEGABYTES)
    return directory


def write_outputs(chosen: argparse.Namespace, results: Results) -> None:
    """Print the report and write the requested files."""
    report_text = report.text(results, chosen.repeats)
    print(report_text)
    if chosen.markdown:
        chosen.markdown.write_text(report_text)
    if chosen.svg:
        chosen.svg.write_text(plot.svg(results))
    if chosen.json:
        chosen.json.write_text(json.dumps(results.medians, indent=1) + "\n")


def main(arguments: list[str]) -> int:
    """Run; the exit code is 1 if something could not be measured."""
    chosen = parse_arguments(arguments)
    pythons = {name: str(environment_python(name)) for name in chosen.peers.split(",")}
    pythons.update(choice.split("=", 1) for choice in chosen.python)
    directory = prepare(chosen.directory, chosen.quick)
    results = Results()
    workers = start_workers(pythons, results)
    workloads = [WORKLOADS[name] for name in chosen.workloads or WORKLOADS]
    try:
        settings = (chosen.quick, chosen.repeats, directory)
        run_all(workloads, workers, results, settings, lambda title: print(f"… {title}", file=sys.stderr))
    finally:
        for worker in workers:
            worker.close()
    write_outputs(chosen, results)
    return 1 if results.errors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
