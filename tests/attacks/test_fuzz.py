"""A hundred thousand mutations of guest output; RAPSQLITE_LONG=1 makes thirty times as many."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COUNT = 3_000_000 if os.environ.get("RAPSQLITE_LONG") == "1" else 100_000


@pytest.mark.timeout(7200 if COUNT > 1_000_000 else 300)
def test_no_mutation_harms_the_process() -> None:
    """The process survives, no call occupies it for long, and memory, descriptors and mappings stay bounded."""
    seed = random.SystemRandom().getrandbits(32)
    command = [sys.executable, "-m", "tests.attacks.fuzzer", str(seed), str(COUNT)]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, f"{' '.join(command[1:])}: {done.returncode}\n{done.stderr[-4000:]}"
