"""Every scenario of CPython's sqlite3 tests is covered by a test here, or by a row of docs/compatibility.md.

``cpython/inventory.tsv`` has a line for each: its name there (area, class, test), and the test here that makes the same
claim, or ``page:`` with the subject of a difference.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
PAGE = (TESTS.parent / "docs" / "compatibility.md").read_text(encoding="utf-8")
INVENTORY = dict(
    line.split("\t")
    for line in (TESTS / "compat" / "cpython" / "inventory.tsv").read_text(encoding="utf-8").splitlines()
)
DIFFERENCES = {scenario: where for scenario, where in INVENTORY.items() if where.startswith("page: ")}


def installed_tests() -> Path | None:
    """Return the directory of the running Python's own sqlite3 tests, if it has them."""
    for name in ("test.test_sqlite3", "sqlite3.test"):
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            continue
        if found is not None and found.origin is not None:
            return Path(found.origin).parent
    return None


def scenarios_in(directory: Path) -> set[str]:
    """Return the names of all tests, including inherited ones."""
    names = set()
    for path in directory.glob("*.py"):
        area = path.stem.removeprefix("test_")
        tests_of: dict[str, set[str]] = {}
        for cls in [
            node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)
        ]:
            own = {node.name for node in cls.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test")}
            inherited = [tests_of.get(base.id, set()) for base in cls.bases if isinstance(base, ast.Name)]
            tests_of[cls.name] = own.union(*inherited)
            names |= {f"{area}.{cls.name}.{test}" for test in tests_of[cls.name]}
    return names


@cache
def functions_of(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_scenario_of_the_running_python_is_listed() -> None:
    directory = installed_tests()
    if directory is None:
        pytest.skip("this Python came without its tests")
    scenarios = scenarios_in(directory)

    assert len(scenarios) > 300
    assert scenarios - INVENTORY.keys() == set()


@pytest.mark.parametrize("where", sorted(set(INVENTORY.values()) - set(DIFFERENCES.values())))
def test_every_listed_test_exists(where: str) -> None:
    file, name = where.split("::")

    assert name in functions_of(TESTS / file)


@pytest.mark.parametrize("where", sorted(set(DIFFERENCES.values())))
def test_every_difference_has_a_row_with_its_reason(where: str) -> None:
    subject = re.escape(where.removeprefix("page: "))

    assert re.search(rf"^\| {subject} \| .+ \| .+ \|$", PAGE, re.MULTILINE)


def test_page_states_the_counts() -> None:
    holding = len(INVENTORY) - len(DIFFERENCES)

    assert f"**{len(INVENTORY)}** scenarios. **{holding}** of them hold here" in PAGE
    assert f"The other **{len(DIFFERENCES)}** are the differences below" in PAGE
