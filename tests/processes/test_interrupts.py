"""Programs that are sent SIGINT while they work: none hangs, waits or loses anything."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.programs import run_python

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
    done = run_python(
        "-m", "tests.processes.interrupted", kind, ROUNDS, SEED, database, cwd=ROOT, timeout=880 if LONG else 55
    )

    assert done.returncode == 0, done.stderr[-6000:]
    assert int(done.stdout) > ROUNDS // 2
