"""Every Python block in README.md and docs/ runs as it stands, and every relative link leads somewhere.

A block that opens with three backticks and ``python`` is a whole program: it is run in an empty directory. If
a ``text`` block follows directly, that is what the program prints. A block that opens with ``python
fragment`` is part of a program: it must at least parse, as the body of an async function.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import textwrap
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
RUN_TIME_S = 50


class Block(NamedTuple):
    """A fenced block: where it starts, its kind, its text, and the output that the page promises, if any."""

    name: str
    info: str
    code: str
    output: str | None


def blocks_of(page: Path) -> list[Block]:
    """Return the Python blocks of a page in order."""
    text = page.read_text(encoding="utf-8")
    fences = list(FENCE.finditer(text))
    found = []
    for fence, follower in zip_longest(fences, fences[1:]):
        info = fence["info"].strip()
        if info.split(" ")[0] not in {"python", "py"}:
            continue
        directly = follower is not None and not text[fence.end() : follower.start()].strip()
        output = follower["code"] if follower is not None and directly and follower["info"] == "text" else None
        line = text.count("\n", 0, fence.start()) + 1
        found.append(Block(f"{page.relative_to(ROOT).as_posix()}:{line}", info, fence["code"], output))
    return found


ALL_BLOCKS = [block for page in PAGES for block in blocks_of(page)]
PROGRAMS = [block for block in ALL_BLOCKS if block.info == "python"]
FRAGMENTS = [block for block in ALL_BLOCKS if block.info == "python fragment"]


def test_every_block_is_a_program_or_a_fragment() -> None:
    """A misspelled mark would take a block out of the tests unnoticed."""
    assert [block.name for block in ALL_BLOCKS if block not in PROGRAMS and block not in FRAGMENTS] == []
    assert any(block.name.startswith("README.md") for block in PROGRAMS)


@pytest.mark.parametrize("block", PROGRAMS, ids=lambda block: block.name)
def test_program_runs(block: Block, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(block.code, encoding="utf-8")
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}

    done = subprocess.run(
        [sys.executable, "-W", "error", script.name],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=RUN_TIME_S, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    if block.output is not None:
        assert done.stdout == block.output


@pytest.mark.parametrize("block", FRAGMENTS, ids=lambda block: block.name)
def test_fragment_parses(block: Block) -> None:
    ast.parse("async def _():\n" + textwrap.indent(block.code, "    "), filename=block.name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    targets = [match["target"].split("#")[0] for match in LINK.finditer(page.read_text(encoding="utf-8"))]
    local = [target for target in targets if target and "://" not in target and not target.startswith("mailto:")]

    assert not [target for target in local if not (page.parent / target).exists()]
