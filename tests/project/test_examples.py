"""Every example runs as a user would run it and prints the expected output."""

from __future__ import annotations

import io
import os
import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

import rapsqlite
from examples.stdlib_search import __main__ as stdlib_search
from examples.stdlib_search.docstrings import documents_of, standard_library
from examples.stdlib_search.index import build
from examples.stdlib_search.progress import Progress
from examples.stdlib_search.traffic import serve
from tests.programs import run_python

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SQUARES = sum(number * number for number in range(1, 200_001))
# An example without an entry in the table fails until its output is added here.
PRINTED = {
    "quickstart": "[[1, 'hello']]\n[[1, 'hello']]\n",
    "trio_quickstart": "['Jupiter', 'Mars', 'Saturn']\n",
    "transactions": (
        "[['ada', 70], ['bob', 50]]\nrefused: CHECK constraint failed: balance >= 0\n[['ada', 70], ['bob', 50]]\n"
    ),
    "streaming": f"20 chunks, sum of squares {SQUARES}\n",
    "callbacks": "[['cellar', 5.0], ['roof', 15.0]]\n['reading:1', 'reading:2', 'reading:3', 'reading:4']\n",
    "sessions": "clash: ['tea', 4] becomes [NO_CHANGE, 3]\n[['oil', 1], ['salt', 9], ['tea', 3]]\n",
    "concurrency": "[['the', 60], ['fox', 40]]\n",
    "cancellation": "interrupted: True\nstill works: 42\n",
    "job_queue": "100 jobs done by 8 workers\n",
    "errors": (
        "SQLITE_CONSTRAINT_UNIQUE | UNIQUE constraint failed: user.email\nalso sqlite3's: no such table: nowhere\n"
    ),
}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_prints_the_expected_output(example: Path, tmp_path: Path) -> None:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}

    done = run_python("-W", "error", example, cwd=tmp_path, env=environment)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == PRINTED[example.stem]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_leaves_what_is_in_the_directory(example: Path, tmp_path: Path) -> None:
    """Also in databases with the names that it uses itself: a reader who tries it may have some."""
    names = re.findall(r'"(\w+\.db)"', example.read_text(encoding="utf-8"))
    for name in names:
        with closing(sqlite3.connect(tmp_path / name)) as conn:
            conn.executescript("CREATE TABLE mine (a); INSERT INTO mine VALUES (1)")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}

    run_python(example, cwd=tmp_path, env=environment)

    for name in names:
        with closing(sqlite3.connect(tmp_path / name)) as conn:
            assert conn.execute("SELECT a FROM mine").fetchall() == [(1,)]


@pytest.mark.parametrize("content", [b"letter", None], ids=["no database", "another database"])
def test_stdlib_search_deletes_no_file_of_others(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "mine.db"
    if content is None:
        with closing(sqlite3.connect(file)) as conn:
            conn.execute("CREATE TABLE mine (a)")
    else:
        file.write_bytes(content)
    before = file.read_bytes()

    with pytest.raises(SystemExit, match="was not written by this program"):
        stdlib_search.remove_old(file)

    assert file.read_bytes() == before


async def test_stdlib_search_finds_what_it_indexed(database: Path) -> None:
    """The demo on a small part of the library: stock SQLite finds every document and every write."""
    files = standard_library()[:60]
    expected = [entry for path in files for entry in documents_of(path)]

    async with rapsqlite.connect(database) as conn:
        stored = await build(conn, files)
    measured = await serve(database, "this one", searches=80, writes=10)

    assert stored == len(expected) > 100
    assert (len(measured.latencies_s), measured.writes, measured.empty) == (80, 10, 0)
    assert stdlib_search.check(database, stored, 10).startswith("intact")
    with closing(sqlite3.connect(database)) as stock:
        rows = stock.execute("SELECT module, name, kind, line, body FROM document ORDER BY id").fetchall()
    assert rows == [tuple(entry) for entry in expected]


def test_stdlib_search_notices_a_lost_write(database: Path) -> None:
    """The check at the demo's end must be able to fail."""
    with closing(sqlite3.connect(database)) as stock:
        stock.executescript("CREATE TABLE document (id); CREATE TABLE visit (id); INSERT INTO visit VALUES (1)")

    with pytest.raises(SystemExit, match=r"\[0, 1\] rows instead of \[0, 2\]"):
        stdlib_search.check(database, 0, 2)


def test_progress_without_a_terminal_is_a_line_per_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress("job", 200, stream=sys.stdout)
    for _ in range(200):
        progress.step()

    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "job: 1/200",
        *(f"job: {n}/200" for n in range(20, 201, 20)),
    ]


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_ends_with_a_full_bar() -> None:
    terminal = Terminal()
    progress = Progress("job", 3, stream=terminal)
    for _ in range(3):
        progress.step()

    *_, last = terminal.getvalue().split("\r")
    assert "#" * 32 in last
    assert last.endswith(" s\n")
