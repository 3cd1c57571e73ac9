"""Runs Python programs of tests in a separate interpreter."""

from __future__ import annotations

import subprocess
import sys
from typing import Any


def run_python(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run this interpreter with these arguments; return its exit code and output, whatever they are."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, **{"capture_output": True, "text": True, "timeout": 55, "check": False, **options})
