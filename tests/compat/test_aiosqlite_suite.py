"""aiosqlite's own test suite, from its wheel, run against `rapsqlite.aiosqlite`.

The files are loaded unmodified, except that ``import aiosqlite`` imports that module. Each test is one test here.
"""

from __future__ import annotations

import gc
import importlib.util
import sys
import types
import unittest
import warnings
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from rapsqlite import aiosqlite

AIOSQLITE = importlib.util.find_spec("aiosqlite")
assert AIOSQLITE is not None
assert AIOSQLITE.origin is not None
SUITE = Path(AIOSQLITE.origin).parent / "tests"


def load(name: str) -> types.ModuleType:
    """Load one file of the suite, as a module of a package of our own, with `rapsqlite.aiosqlite` for aiosqlite."""
    package = "aiosqlite_suite"
    if package not in sys.modules:
        parent = types.ModuleType(package)
        parent.__path__ = [str(SUITE)]
        parent.__spec__ = ModuleSpec(package, None, is_package=True)
        sys.modules[package] = parent
    spec = importlib.util.spec_from_file_location(f"{package}.{name}", SUITE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    before = sys.modules.get("aiosqlite")
    sys.modules["aiosqlite"] = aiosqlite
    try:
        spec.loader.exec_module(module)
    finally:
        sys.modules.pop("aiosqlite")
        if before is not None:
            sys.modules["aiosqlite"] = before
    return module


SMOKE: Any = load("smoke")
PERFORMANCE: Any = load("perf")
# The suite measures each loop for two seconds; here only its behaviour matters, not its speed.
PERFORMANCE.TARGET = 0.02


def names_in(case: type[unittest.TestCase]) -> list[str]:
    return unittest.TestLoader().getTestCaseNames(case)  # type: ignore[return-value]


def failures_of(case: type[unittest.TestCase], name: str) -> str:
    """Run one test of the suite and return its tracebacks; skips count as failures, because they show nothing."""
    result = unittest.TestResult()
    with warnings.catch_warnings():
        # The suite leaves a sqlite3 connection open, which Python 3.13 reports whenever it is collected.
        warnings.filterwarnings("ignore", message="unclosed database in <sqlite3")
        case(name).run(result)
        gc.collect()
    assert result.testsRun == 1
    told = [text for _, text in (*result.errors, *result.failures)]
    return "\n".join([*told, *(f"skipped: {reason}" for _, reason in result.skipped)])


TESTS = [
    pytest.param(case, name, id=name) for case in (SMOKE.SmokeTest, PERFORMANCE.PerfTest) for name in names_in(case)
]


def test_suite_is_aiosqlites_and_complete() -> None:
    """If it were empty, or tested aiosqlite, everything below would pass."""
    assert SMOKE.aiosqlite is aiosqlite
    assert PERFORMANCE.aiosqlite is aiosqlite
    assert len(names_in(SMOKE.SmokeTest)) >= 30


@pytest.mark.parametrize("case, name", TESTS)
def test_passes(case: type[unittest.TestCase], name: str) -> None:
    """aiosqlite's own tests hold here, unmodified."""
    failures = failures_of(case, name)

    assert not failures, failures


def test_compatibility_page_states_the_count() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"

    assert f"passes **all {len(TESTS)}** of its tests" in page.read_text(encoding="utf-8")
