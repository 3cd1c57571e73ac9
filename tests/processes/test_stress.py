"""Everything at once, next to a native process: at the end the sums match, nothing is open and nothing waits."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
LONG = os.environ.get("RAPSQLITE_LONG") == "1"
SECONDS = float(os.environ.get("RAPSQLITE_STRESS_SECONDS", "120" if LONG else "3"))
SEEDS = [int(seed) for seed in os.environ.get("RAPSQLITE_STRESS_SEEDS", "").split()] or [1, 2]
pytestmark = [
    pytest.mark.timeout(SECONDS + 100),
    pytest.mark.skipif(sys.platform != "linux", reason="what is open is read from /proc"),
]


@pytest.mark.parametrize("loop, seed", [("asyncio", SEEDS[0]), ("trio", SEEDS[-1]), ("uvloop", SEEDS[-1])])
def test_stressed_process_loses_and_leaks_nothing(database: Path, loop: str, seed: int) -> None:
    """RAPSQLITE_STRESS_SEEDS and RAPSQLITE_STRESS_SECONDS repeat a failed run; odd seeds use WAL mode."""
    command = [sys.executable, "-W", "error::ResourceWarning", "-m", "tests.processes.program"]
    done = subprocess.run(
        [*command, str(database), str(SECONDS), str(seed), loop],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS + 90,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-6000:]
    report = json.loads(done.stdout)
    assert report["problems"] == [], report["counts"]
    for what in ("committed", "native", "dropped", "lost loops"):
        assert report["counts"].get(what), report["counts"]


def test_program_collects_garbage_although_another_thread_collects() -> None:
    """Otherwise the connection of a lost loop keeps its locks, and everything that could collect it waits for them."""
    from tests.processes import program

    entered, may_end = threading.Event(), threading.Event()

    class Knot:
        def __init__(self) -> None:
            self.myself = self

    class Slow(Knot):
        def __del__(self) -> None:
            entered.set()
            may_end.wait()

    def collect_slowly() -> None:
        Slow()
        gc.collect()

    thread = threading.Thread(target=collect_slowly)
    gc.disable()  # so that no collection of this thread's runs into the slow finalizer
    try:
        thread.start()
        entered.wait()
        knot = weakref.ref(Knot())
        assert gc.collect() == 0
        assert knot() is not None
        threading.Timer(0.05, may_end.set).start()

        program.collect()
    finally:
        may_end.set()
        gc.enable()

    assert knot() is None
    thread.join()
