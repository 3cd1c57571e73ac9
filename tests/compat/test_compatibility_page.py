"""docs/compatibility.md says correctly whether each member of aiosqlite exists here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import aiosqlite
import pytest

import rapsqlite

PAGE = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"
ROW = re.compile(r"^\| `(?P<name>\w+)` \| (?P<here>yes|no) \|", re.MULTILINE)
MODULES = {"context", "core", "cursor"}  # aiosqlite's own files
OF_INSTANCES = {"iter_chunk_size", "arraysize", "rowcount", "lastrowid"}  # not attributes of the class everywhere


def table_of(title: str) -> dict[str, bool]:
    """Return the rows of one section: whether the page lists the member as available."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]
    return {row["name"]: row["here"] == "yes" for row in ROW.finditer(section)}


def members(thing: Any) -> set[str]:
    names = {name for name in dir(thing) if not name.startswith("_")}
    return names - MODULES if thing is aiosqlite else names


@pytest.mark.parametrize(
    "title, theirs, ours",
    [
        ("Module", aiosqlite, rapsqlite),
        ("Connection", aiosqlite.Connection, rapsqlite.Connection),
        ("Cursor", aiosqlite.Cursor, rapsqlite.Cursor),
    ],
    ids=["module", "connection", "cursor"],
)
def test_page_has_a_correct_row_for_every_member(title: str, theirs: Any, ours: Any) -> None:
    table = table_of(title)

    assert set(table) | OF_INSTANCES >= members(theirs)
    assert set(table) <= members(theirs) | OF_INSTANCES
    assert table == {name: hasattr(ours, name) for name in table}
