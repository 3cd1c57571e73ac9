"""Programs that are sent SIGINT while they work: none hangs, waits or loses anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
LONG = os.environ.get("RAPSQLITE_LONG") == "1"
ROUNDS = 1000 if LONG else 20
SEED = int(os.environ.get("RAPSQLITE_STRESS_SEEDS", "1").split()[0])
pytestmark = [
    pytest.mark.timeout(900 if LONG else 60),
    pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to one process"),
]


@pytest.mark.parametrize("kind", ["run", "old", "uvloop", "trio"])
def test_program_interrupted_repeatedly_loses_nothing(kind: str, database: Path) -> None:
    """Connections work and close, other tasks continue, and the file holds what was reported and no lock."""
    command = [sys.executable, "-m", "tests.processes.interrupted", kind, str(ROUNDS), str(SEED), str(database)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=880 if LONG else 55, check=False)

    assert done.returncode == 0, done.stderr[-6000:]
    assert int(done.stdout) > ROUNDS // 2
