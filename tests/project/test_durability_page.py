"""docs/durability.md: each risk has existing tests; the platforms that are not supported say so."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "durability.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`(?P<file>tests/[\w/]+\.py)::(?P<test>\w+)`")
TESTS = sorted({(found["file"], found["test"]) for found in NAMED.finditer(PAGE)})


@pytest.mark.parametrize("file,test", TESTS)
def test_tests_named_on_the_page_exist(file: str, test: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert test in {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


def test_every_risk_has_a_test() -> None:
    rows = PAGE.split("Each risk, and the tests", 1)[1].split("\n\n")[1].splitlines()[2:]

    assert len(rows) == 14
    assert all(NAMED.search(row) for row in rows)
