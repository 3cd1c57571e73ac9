"""The documentation site, built once for the tests that look at it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD_TIME_S = 500  # with the installation of its tools, on a busy machine


@pytest.fixture(scope="session")
def site() -> Path:
    """Build the site as users do; a broken link ends the build with an error."""
    done = subprocess.run(
        ["bash", "scripts/docs.sh"],
        cwd=ROOT, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True,
        timeout=BUILD_TIME_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return ROOT / "target" / "site"
