"""The coordinator: one worker process per peer, rounds that visit all of them, medians of their results."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.figures import Figures
    from benchmarks.workloads import Workload

ROOT = Path(__file__).resolve().parent.parent
# The checkout comes last on the path: the PyO3 peer has this project's import name, and its own must win.
LAUNCH = "import sys; sys.path.append(sys.argv[1]); from benchmarks.worker import main; main(sys.argv[2])"


class Worker:
    """A peer's process, alive for the whole run."""

    def __init__(self, name: str, python: str) -> None:
        command = [python, "-I", "-c", LAUNCH, str(ROOT), name]
        self.name = name
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        greeting = self._read()
        self.version: str = greeting["version"]
        self.python: str = greeting["python"]

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker of {self.name} ended with exit code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def measure(self, workload: Workload, size: int, directory: Path) -> dict[str, Any]:
        """Run one workload; returns the worker's answer."""
        assert self._process.stdin is not None
        request = {"workload": workload.name, "size": size, "directory": str(directory)}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process by ending its input."""
        self._process.communicate()


@dataclass
class Results:
    """Medians by workload and peer, and what could not be measured."""

    versions: dict[str, str] = field(default_factory=dict)
    medians: dict[str, dict[str, Figures]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    python: str = ""


def environment_python(name: str) -> Path:
    """Return the interpreter that ``benchmarks/setup`` installed for a peer."""
    scripts = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    return ROOT / ".work" / "benchmarks" / name / scripts


def _start(name: str, python: str, errors: list[str]) -> Worker | None:
    try:
        return Worker(name, python)
    except (OSError, RuntimeError) as error:
        errors.append(f"{name}: {error}")
        return None


def start_workers(pythons: dict[str, str], results: Results) -> list[Worker]:
    """Start a worker per peer; one that does not start is recorded as an error and does not end the run."""
    workers = [worker for name, python in pythons.items() if (worker := _start(name, python, results.errors))]
    results.versions = {worker.name: worker.version for worker in workers}
    interpreters = {worker.python for worker in workers}
    if len(interpreters) > 1:
        results.errors.append(f"the peers run on different interpreters: {', '.join(sorted(interpreters))}")
    results.python = ", ".join(sorted(interpreters))
    return workers


def _medians(samples: list[Figures]) -> Figures:
    return {name: statistics.median(sample[name] for sample in samples) for name in samples[0]}


def run_workload(workload: Workload, workers: Sequence[Worker], size: int, repeats: int, directory: Path) -> Results:
    """Visit every peer ``repeats`` times, starting with a different one in each round."""
    samples: dict[str, list[Figures]] = {}
    results = Results()
    taking_part = [worker for worker in workers if worker.name in workload.peers]
    for turn in range(repeats):
        first = turn % max(1, len(taking_part))
        for worker in taking_part[first:] + taking_part[:first]:
            answer = worker.measure(workload, size, directory)
            if "figures" in answer:
                samples.setdefault(worker.name, []).append(answer["figures"])
            elif "error" in answer:
                results.errors.append(f"{workload.name}, {worker.name}: {answer['error'].strip().splitlines()[-1]}")
    results.medians = {workload.name: {name: _medians(values) for name, values in samples.items()}}
    return results


def run_all(
    workloads: Sequence[Workload],
    workers: Sequence[Worker],
    results: Results,
    settings: tuple[bool, int, Path],
    progress: Callable[[str], None],
) -> None:
    """Run the workloads one after the other into ``results``; ``settings``: quick, repeats, directory."""
    quick, repeats, directory = settings
    for workload in workloads:
        progress(workload.title)
        size = workload.quick_size if quick else workload.size
        one = run_workload(workload, workers, size, repeats, directory)
        results.medians.update(one.medians)
        results.errors.extend(one.errors)
