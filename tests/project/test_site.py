"""The site: its reference has every public name with an example, its navigation every page, its search index answers.

scripts/docs.sh builds it, and checks its links.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import rapsqlite
from tests.project.questions import QUESTIONS, Question
from tests.project.test_docs import PROGRAMS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

MODULES = {"aiosqlite", "dbapi.py", "opentelemetry.py", "pytest_plugin.py", "sqlalchemy", "types.py"}

pytestmark = [pytest.mark.sources, pytest.mark.timeout(600)]  # the first test waits for the build


def reference() -> str:
    return "\n".join(page.read_text(encoding="utf-8") for page in sorted((DOCS / "reference").glob("*.md")))


def test_reference_has_every_public_name() -> None:
    """The build adds SQLite's constants itself, and fails for a name that does not exist."""
    text = reference()
    named = set(re.findall(r"^::: rapsqlite\.(\w+)$", text, re.MULTILINE))
    for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE):
        named |= set(re.findall(r"`(\w+)`", row))

    assert {name for name in rapsqlite.__all__ if not name.startswith(("SQLITE_", "__"))} == named


def test_navigation_has_every_page() -> None:
    """Nobody finds a page that the navigation does not list."""
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    listed = re.findall(r"([\w/-]+\.md)$", navigation, re.MULTILINE)

    assert sorted(listed) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def test_page_on_other_modules_has_every_one_and_its_types() -> None:
    """The reference has the names of the package itself."""
    page = (DOCS / "modules.md").read_text(encoding="utf-8")
    public = {path.stem for path in (ROOT / "rapsqlite").iterdir() if path.name in MODULES}

    assert len(public) == len(MODULES)
    assert [name for name in public if f"`rapsqlite.{name}`" not in page] == []
    assert [name for name in rapsqlite.types.__all__ if f"`{name}`" not in page] == []


def test_readme_and_start_page_are_short() -> None:
    """They say what this is, for whom, how to install it, and show a first program."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    start, *_ = (ROOT / "docs/index.md").read_text(encoding="utf-8").partition("```python")

    assert len(readme.splitlines()) <= 60
    assert all(part in readme for part in ("```python", "## Install", "(docs/figures.svg)", "(docs/index.md)"))
    assert len([line for line in start.splitlines() if line]) <= 14
    assert all(part in start for part in ("**For you**", "**Not for you**", "pip install"))


def test_messages_explained_in_troubleshooting_exist() -> None:
    """Readers search for the message they got; SQLite's own are in the engine."""
    package = Path(rapsqlite.__file__).parent
    sources = b"".join(path.read_bytes() for path in [*package.rglob("*.py"), package / "engine.wasm"])
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    messages = [row for row in re.findall(r"^\| (.+?) \|", page, re.MULTILINE) if row not in {"message", "---"}]
    shown = {message for message in messages if "`" not in message.replace("`async with`", "")}
    programs = "".join(re.findall(r"^```text\n(.*?)^```", page, re.MULTILINE | re.DOTALL))

    assert {text for text in shown if text.encode() not in sources and text not in programs} == set()


def test_every_entry_of_the_reference_links_to_an_example(site: Path) -> None:
    """To a program that uses the name; the tests run it."""
    entries: dict[str, str] = {}
    for path in (site / "reference").glob("*.html"):
        _, *parts = re.split(r'<h[2-6] id="rapsqlite\.([\w.]+)"', path.read_text(encoding="utf-8"))
        entries.update(zip(parts[::2], parts[1::2], strict=True))

    assert len(entries) > 200
    assert [name for name, entry in entries.items() if "Example: <a" not in entry] == []


def test_every_name_without_an_entry_is_in_a_program() -> None:
    """Values of the module and what comes from sqlite3; of SQLite's constants, whose values a table lists, some are."""
    text = "\n".join(block.code for block in PROGRAMS)
    entries = set(re.findall(r"^::: rapsqlite\.(\w+)$", reference(), re.MULTILINE))
    names = [name for name in rapsqlite.__all__ if name not in entries and not name.startswith("SQLITE_")]

    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.words)
def test_page_that_answers_a_question_has_its_words(site: Path, question: Question) -> None:
    """In the index that the site's search reads; tests/project/test_site_in_browser.py looks at the ranking."""
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    address = f"{question.page}.html"
    sections = {entry["location"]: f"{entry['title']} {entry['text']}" for entry in index}
    text = " ".join(words for location, words in sections.items() if location.startswith(address)).lower()

    assert address + ("#" + question.section if question.section else "") in sections
    assert [word for word in question.words.lower().split() if word not in text] == []
