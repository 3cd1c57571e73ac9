"""The site's pages: the reference has every public name, and the navigation every page.

scripts/docs.sh builds the site, with tools that tests do not need.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import rapsqlite

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

pytestmark = pytest.mark.sources


def test_reference_has_every_public_name() -> None:
    """The build adds SQLite's constants itself, and fails for a name that does not exist."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
    named = set(re.findall(r"^::: rapsqlite\.(\w+)$", text, re.MULTILINE))
    for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE):
        named |= set(re.findall(r"`(\w+)`", row))

    assert {name for name in rapsqlite.__all__ if not name.startswith(("SQLITE_", "__"))} == named


def test_navigation_has_every_page() -> None:
    """Nobody finds a page that the navigation does not list."""
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    listed = re.findall(r"([\w/-]+\.md)$", navigation, re.MULTILINE)

    assert sorted(listed) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def test_messages_explained_in_troubleshooting_exist() -> None:
    """Readers search for the message they got; SQLite's own are in the engine."""
    package = Path(rapsqlite.__file__).parent
    sources = b"".join(path.read_bytes() for path in [*package.rglob("*.py"), package / "engine.wasm"])
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    messages = [row for row in re.findall(r"^\| (.+?) \|", page, re.MULTILINE) if row not in {"message", "---"}]
    shown = {message for message in messages if "`" not in message.replace("`async with`", "")}
    programs = "".join(re.findall(r"^```text\n(.*?)^```", page, re.MULTILINE | re.DOTALL))

    assert {text for text in shown if text.encode() not in sources and text not in programs} == set()
