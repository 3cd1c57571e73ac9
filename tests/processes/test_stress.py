"""Everything at once, beside a native process: in the end the sums are right, nothing is open and nothing waits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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
def test_stressed_process_loses_nothing_and_leaves_nothing(database: Path, loop: str, seed: int) -> None:
    """RAPSQLITE_STRESS_SEEDS and RAPSQLITE_STRESS_SECONDS repeat a run that failed; odd seeds are in WAL mode."""
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
