"""Every Python block in README.md and docs/ runs as it is, and every relative link leads to a file.

A block that opens with three backticks and ``python`` is a whole program: it is run in an empty directory. If a
``text`` block follows directly, it shows the program's output. A block that opens with ``python fragment`` is part of a
program: it must at least parse, as the body of an async function.

Every public member is used by a program, and parameters have the documented names and defaults.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import textwrap
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import pytest

import rapsqlite
from tests.programs import run_python

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
# A path in the checkout, alone or before the name of a test.
NAMED_PATH = re.compile(r"`(?P<path>(?:rapsqlite|tests|wasm|scripts|docs|benchmarks|examples)/[\w./-]+)(?:::\w+)?`")
BUILT = ("rapsqlite/engine.wasm", "rapsqlite/extension_modules/")
RUN_TIME_S = 50
# Classes whose members the pages show in whole programs, except for members that exist for other libraries.
USED = [
    rapsqlite.Connection, rapsqlite.Cursor, rapsqlite.Blob, rapsqlite.ChangeSession, rapsqlite.PreparedStatement,
    rapsqlite.Pool,
]  # fmt: skip
FOR_OTHERS = {"iter_chunk_size", "setinputsizes", "setoutputsize", "query"}
# Other pages document this package's own methods, as code with parameter names.
NOT_OURS = {"abi", "architecture", "migration", "compatibility"}
OURS = [page for page in PAGES if page.parent.name == "docs" and page.stem not in NOT_OURS]
PARAMETER = r"(?:\*|\*?[a-z_]+(?:=[^,`()]+)?)"
CALL = re.compile(rf"`(?:await )?(?:\w+\.)?(?P<name>[a-z_]+)\((?P<parameters>{PARAMETER}(?:, {PARAMETER})*)\)`")


class Block(NamedTuple):
    """A fenced block: its location, its kind, its text, and the output that the page promises, if any."""

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
    """A misspelled mark would silently remove a block from the tests."""
    assert [block.name for block in ALL_BLOCKS if block not in PROGRAMS and block not in FRAGMENTS] == []
    assert any(block.name.startswith("README.md") for block in PROGRAMS)


@pytest.mark.parametrize("block", PROGRAMS, ids=lambda block: block.name)
def test_program_runs_and_runs_again(block: Block, tmp_path: Path) -> None:
    """A documented program that fails is worse than none. Readers run it again, beside the database it has left."""
    script = tmp_path / "block.py"
    script.write_text(block.code, encoding="utf-8")
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}

    done = run_python("-W", "error", script.name, cwd=tmp_path, env=environment, timeout=RUN_TIME_S)

    assert (done.returncode, done.stderr) == (0, "")
    if block.output is not None:
        assert done.stdout == block.output
    if list(tmp_path.glob("*.db")):
        again = run_python("-W", "error", script.name, cwd=tmp_path, env=environment, timeout=RUN_TIME_S)
        assert (again.returncode, again.stderr) == (0, "")


def test_programs_delete_only_from_databases_that_are_called_examples() -> None:
    """A reader may have an app.db with a table of that name in the directory."""
    deleting = [block for block in PROGRAMS if re.search(r"DROP TABLE|DELETE FROM \w+\"", block.code)]
    named = {name for block in deleting for name in re.findall(r'"([^"\s]*\.db)"', block.code)}

    assert [name for name in named if not name.startswith("example")] == []
    assert named


def test_programs_fit_the_page() -> None:
    """A screen of 1280 pixels shows a hundred characters beside the sidebars; readers do not scroll sideways."""
    pages = [block for block in ALL_BLOCKS if block.name.startswith(("README.md", "docs/"))]

    assert [block.name for block in pages if max(map(len, block.code.splitlines())) > 101] == []


@pytest.mark.parametrize("block", FRAGMENTS, ids=lambda block: block.name)
def test_fragment_parses(block: Block) -> None:
    """Fragments are no programs, but they are Python."""
    ast.parse("async def _():\n" + textwrap.indent(block.code, "    "), filename=block.name)


@pytest.mark.parametrize("cls", USED, ids=lambda cls: cls.__name__)
def test_every_public_member_is_used_by_a_program(cls: type) -> None:
    programs = "\n".join(block.code for block in PROGRAMS)
    members = {name for name in dir(cls) if not name.startswith("_") and not inspect.isclass(getattr(cls, name))}

    assert {name for name in members if not re.search(rf"\.{name}\b", programs)} <= FOR_OTHERS


@pytest.mark.parametrize("page", OURS, ids=lambda page: page.name)
def test_documented_parameters_exist(page: Path) -> None:
    """In code such as `method(name, other=default)`; if several classes have the method, one must match."""
    wrong = []
    for call in CALL.finditer(page.read_text(encoding="utf-8")):
        signatures = signatures_of(call["name"])
        if signatures and not any(fits(call["parameters"], signature) for signature in signatures):
            wrong.append(call[0])

    assert wrong == []


def signatures_of(name: str) -> list[inspect.Signature]:
    methods = [getattr(cls, name, None) for cls in USED]
    return [inspect.signature(method) for method in methods if inspect.isfunction(method)]


def fits(parameters: str, signature: inspect.Signature) -> bool:
    given = [part.lstrip("*").partition("=")[::2] for part in parameters.split(", ") if part != "*"]
    if not all(name in signature.parameters for name, _ in given):
        return False
    # With keywords alone, or an ellipsis, it is a call, not the signature.
    is_call = all(value for _, value in given) or any(value == "..." for _, value in given)
    return is_call or all(
        ast.literal_eval(value) == signature.parameters[name].default for name, value in given if value
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_to_files(page: Path) -> None:
    targets = [match["target"].split("#")[0] for match in LINK.finditer(page.read_text(encoding="utf-8"))]
    local = [target for target in targets if target and "://" not in target and not target.startswith("mailto:")]

    assert not [target for target in local if not (page.parent / target).exists()]


@pytest.mark.sources
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_paths_exist(page: Path) -> None:
    """A reader looks there, and files move."""
    paths = [match["path"] for match in NAMED_PATH.finditer(page.read_text(encoding="utf-8"))]

    assert not [path for path in paths if path not in BUILT and not (ROOT / path).exists()]
