"""aiosqlite's own test suite, from its wheel, run against rapsqlite.

The files are loaded unmodified, except that ``import aiosqlite`` imports this package. Each test is one test here.
Tests that cannot pass are listed with the reason, and must fail: when one passes, remove its line.
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

import rapsqlite

AIOSQLITE = importlib.util.find_spec("aiosqlite")
assert AIOSQLITE is not None
assert AIOSQLITE.origin is not None
SUITE = Path(AIOSQLITE.origin).parent / "tests"

EXCEPTIONS = {
    "test_connect_base_exception": "makes a Connection of a function that calls sqlite3.connect, and looks at _running",
}

# What they call does not exist here yet.
NOT_YET: dict[str, str] = {}
LEFT_OUT = EXCEPTIONS | NOT_YET


def load(name: str) -> types.ModuleType:
    """Load one file of the suite, as a module of a package of our own, with rapsqlite for aiosqlite."""
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
    sys.modules["aiosqlite"] = rapsqlite
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


def test_suite_is_the_one_we_know() -> None:
    """If it were empty, or tested aiosqlite, everything below would pass."""
    assert SMOKE.aiosqlite is rapsqlite
    assert PERFORMANCE.aiosqlite is rapsqlite
    assert len(names_in(SMOKE.SmokeTest)) >= 30
    assert {name for case, name in (test.values for test in TESTS)} >= LEFT_OUT.keys()


@pytest.mark.parametrize("case, name", [test for test in TESTS if test.id not in LEFT_OUT])
def test_passes(case: type[unittest.TestCase], name: str) -> None:
    """aiosqlite's own tests hold here, unmodified."""
    failures = failures_of(case, name)

    assert not failures, failures


@pytest.mark.parametrize("case, name", [test for test in TESTS if test.id in LEFT_OUT])
def test_what_is_left_out_does_not_pass(case: type[unittest.TestCase], name: str) -> None:
    """When one does, remove its line above."""
    failures = failures_of(case, name)

    assert failures
    if name in NOT_YET:
        assert not hasattr(rapsqlite.Connection, NOT_YET[name])


def test_compatibility_page_states_the_count() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"
    passing = len(TESTS) - len(LEFT_OUT)

    assert f"passes **{passing} of {len(TESTS)}** of its tests" in page.read_text(encoding="utf-8")


def test_documentation_says_how_many_pass() -> None:
    page = Path(__file__).parents[2] / "docs" / "compatibility.md"

    assert f"**{len(TESTS) - len(LEFT_OUT)} of {len(TESTS)}**" in page.read_text(encoding="utf-8")
