"""Ctrl-C at any moment: nothing hangs, other tasks get their answers, and nothing is left open or locked.

``interrupting`` raises KeyboardInterrupt at one place after another; with RAPSQLITE_LONG=1, at every one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
LONG = os.environ.get("RAPSQLITE_LONG") == "1"
PLACES = 10  # of each scenario
SCENARIOS = {
    "fetch": 850, "insert": 850, "watched": 500, "rows": 850, "cursor": 2900, "half_a_cursor": 850, "prepared": 950,
    "transaction": 1150, "savepoint": 1000, "executemany": 1150, "blob": 950, "timeout": 800, "close": 220, "stop": 100,
    "open_another": 1500,
}  # fmt: skip
"""Each with about as many places as it has."""
LOOPS = ["asyncio", "trio"] if sys.platform == "win32" else ["asyncio", "trio", "uvloop"]
pytestmark = pytest.mark.timeout(3600 if LONG else 120)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_interrupt_key_at_any_place_leaves_everything_usable(scenario: str, loop: str, database: Path) -> None:
    first, step = (0, 1) if LONG else (SCENARIOS[scenario] // PLACES // 2, SCENARIOS[scenario] // PLACES | 1)

    count = interrupt(loop, scenario, str(first), str(step), str(database))

    assert count >= 2  # how many there are depends on the machine and on Python


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("scenario", ["close", "stop"])
def test_interrupt_key_as_closing_begins_does_not_lose_the_guest(scenario: str, loop: str, database: Path) -> None:
    """Between forgetting the guest and telling it to end, its thread was left running, with files and locks."""
    assert interrupt(loop, scenario, "0", "1", str(database), "24") >= 20


def interrupt(*arguments: str) -> int:
    """Run ``interrupting``, and return the number of places."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.cancellation.interrupting", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=3500 if LONG else 110,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    name, count = done.stdout.split()
    assert name == "done"
    return int(count)
