"""Runs Python programs of tests in a separate interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

SLOWNESS = int(os.environ.get("RAPSQLITE_SLOWNESS", "1"))
"""How many times as long a test may take as on a machine of its own: more where scripts/platforms emulates one."""


def run_python(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run this interpreter with these arguments; return its exit code and output, whatever they are."""
    command = [sys.executable, *map(str, arguments)]
    defaults = {"capture_output": True, "text": True, "timeout": 55 * SLOWNESS, "check": False}
    return subprocess.run(command, **{**defaults, **options})
