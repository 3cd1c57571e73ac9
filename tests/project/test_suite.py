"""How the suite itself is run: its shares, and the package it tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tests.programs import run_python

if TYPE_CHECKING:
    import subprocess

ROOT = Path(__file__).resolve().parents[2]
WHOLE = ("tests/statements/test_rows.py", "tests/compat/test_cpython_suite.py")


def collect(**environment: str) -> subprocess.CompletedProcess[str]:
    command = ["-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-q", *WHOLE]
    return run_python(*command, cwd=ROOT, env={**os.environ, **environment}, timeout=None)


def collected(share: str) -> list[str]:
    return [line for line in collect(RAPSQLITE_SHARE=share).stdout.splitlines() if "::" in line]


def test_each_test_is_in_one_share_and_cpythons_in_all() -> None:
    """Each Python runs one share of the wheel's tests; a test in no share would run on one Python only."""
    whole = collected("1/1")
    cpython = {name for name in whole if "cpython" in name}

    shares = [collected(f"{number}/3") for number in (1, 2, 3)]

    assert sorted(name for share in shares for name in share if name not in cpython) == sorted(set(whole) - cpython)
    assert all(len(share) > len(cpython) and cpython <= set(share) for share in shares)


def test_tests_of_an_installed_package_do_not_start_on_another(tmp_path: Path) -> None:
    """A run from the wheel proves nothing if it imports the source tree."""
    done = collect(RAPSQLITE_INSTALLED_IN=str(tmp_path))

    assert done.returncode == 4
    assert f"which is not in {tmp_path}" in done.stderr
