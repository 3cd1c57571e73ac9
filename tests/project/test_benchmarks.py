"""The benchmarks run, with tiny sizes; figures are not judged."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import databases, plot, report
from benchmarks.rounds import Results
from benchmarks.targets import OURS, PEERS, TARGETS
from benchmarks.workloads import WORKLOADS

ROOT = Path(__file__).resolve().parents[2]
PEERS_HERE = ("ours", "aiosqlite", "stdlib")
LINUX_ONLY = {"memory"}


def run_quick(directory: Path, peers: str, *workloads: str) -> subprocess.CompletedProcess[str]:
    """Run the command line on this interpreter, in a separate process."""
    pythons = [option for peer in peers.split(",") for option in ("--python", f"{peer}={sys.executable}")]
    command = [sys.executable, "-m", "benchmarks", "--quick", "--repeats", "1", "--peers", peers, *pythons]
    command += ["--directory", str(directory), "--svg", str(directory / "plot.svg"), *workloads]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.timeout(240)  # about thirty workloads, several in separate interpreters
@pytest.mark.parametrize("peer", PEERS_HERE)
def test_every_workload_runs(tmp_path: Path, peer: str) -> None:
    """A broken adapter would be noticed only when figures are wanted."""
    expected = {
        name
        for name, workload in WORKLOADS.items()
        if peer in workload.peers and (sys.platform == "linux" or name not in LINUX_ONLY)
    }
    if peer != "ours":
        expected -= {"fetch_dicts", "fetch_structs"}

    run = run_quick(tmp_path, peer, *expected)

    assert run.returncode == 0, run.stdout + run.stderr
    table = run.stdout
    missing = [name for name in expected if f"| {WORKLOADS[name].title} |" not in table]
    assert not missing
    assert (tmp_path / "plot.svg").read_text().startswith("<svg")


def test_failing_peer_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--repeats", "1", "--peers", "stdlib,apsw"]
    command += ["--python", f"stdlib={sys.executable}", "--python", "apsw=/nonexistent/python"]

    run = subprocess.run(
        [*command, "--directory", str(tmp_path), "point_select"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 1
    assert "- apsw: " in run.stdout
    assert "| point SELECT, one task | operations_per_s |" in run.stdout


def test_targets_compare_in_the_right_direction() -> None:
    """Doubling our rates must never turn a pass into a miss, nor doubling our costs a miss into a pass."""
    figures = dict.fromkeys(
        [
            "operations_per_s",
            "rows_per_s",
            "scans_per_s",
            "reads_per_s",
            "writes_per_s",
            "many_tasks_reads_per_s",
            "lookups_per_s",
            "statements_per_s",
        ],
        100.0,
    )
    costs = dict.fromkeys(["import_ms", "first_row_ms", "after_select_kib", "beyond_idle_ms", "geometric_mean_ms"], 1.0)
    names = (OURS, *PEERS, "stdlib")
    medians = {
        workload: {name: {**figures, **costs, "speed_up_ratio": 1.0} for name in names} for workload in WORKLOADS
    }
    before = [target.measure(medians) for target in TARGETS]
    for workload in WORKLOADS:
        if not workload.startswith("fetch_"):
            medians[workload][OURS] = {figure: 2 * value for figure, value in medians[workload][OURS].items()}

    after = [target.measure(medians) for target in TARGETS]

    for target, low, high in zip(TARGETS, before, after, strict=True):
        assert high >= low
        assert target.reached(target.bound)
        assert target.reached(math.inf) is not target.at_most


def test_report_and_plot_show_only_what_was_measured(tmp_path: Path) -> None:
    results = Results(medians={"fetch_all": {"stdlib": {"rows_per_s": 1234.5}}}, errors=["apsw: not there"])

    assert "| fetch_all, 100 000 × 4 | rows_per_s |  |  |  |  | 1 234 |" in report.text(results, 1)
    assert "- apsw: not there" in report.text(results, 1)
    assert "≥" not in report.target_table(results)
    assert plot.svg(results).count("<rect") == 2


def test_summary_compares_with_the_best_peer() -> None:
    """More of a rate is better, and less of a time. The blocking module is no peer; less than nothing is no measure."""
    medians = {
        "fetch_all": {OURS: {"rows_per_s": 300.0}, "aiosqlite": {"rows_per_s": 100.0}, "apsw": {"rows_per_s": 200.0}},
        "import_time": {OURS: {"import_ms": 4.0}, "aiosqlite": {"import_ms": 2.0}, "stdlib": {"import_ms": 1.0}},
        "opening": {OURS: {"operations_per_s": 1.0}},
        "delay_1m": {OURS: {"beyond_idle_ms": 1.0}, "apsw": {"beyond_idle_ms": -2.0}},
    }

    rows = report.summary_table(Results(medians=medians)).splitlines()[2:]

    assert rows == [
        "| fetch_all, 100 000 × 4 | per second | 300 | 100 |  | 200 |  | 1.50 × |",
        "| import | ms | 4.00 | 2.00 |  |  | 1.00 | 0.50 × |",
        "| open, SELECT 1, close | per second | 1.00 |  |  |  |  |  |",
        "| loop delay, 1 000 000 rows | ms | 1.00 |  |  | -2.00 |  |  |",
    ]


def test_databases_are_built_once_and_rebuilt_for_another_size(tmp_path: Path) -> None:
    databases.create_items(tmp_path, 10)
    first = (tmp_path / databases.ITEMS).stat()
    databases.create_items(tmp_path, 10)
    again = (tmp_path / databases.ITEMS).stat()
    databases.create_items(tmp_path, 500)
    larger = (tmp_path / databases.ITEMS).stat()

    assert (again.st_mtime_ns, again.st_size) == (first.st_mtime_ns, first.st_size)
    assert larger.st_size > first.st_size
