"""Tests of libraries that use aiosqlite, from their sdists, unmodified: what passes with aiosqlite passes here.

They run twice, in a process each: with aiosqlite, and with this package under its name. These parts of the suites take
seconds and no network; `scripts/drop_in_suites.sh` runs the whole ones, in an hour, and docs/compatibility.md has their
results. `scripts/library_tests.sh` installs the libraries; where they are not, these tests are skipped.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

import rapsqlite

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ROOT / ".work" / "libraries"
PYTHON = LIBRARIES / "environment" / "bin" / "python"
PATIENCE_S = 250  # none of the processes needs it: it ends one that hangs
# No setting of pytest, of Python or of a library in the developer's environment reaches the processes.
KEPT = {"HOME", "LANG", "PATH", "RAPSQLITE_CACHE_DIR", "XDG_CACHE_HOME"}

# They are about the libraries, not about versions of Python: one environment has them, and one run is enough.
pytestmark = [
    pytest.mark.sources,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not (LIBRARIES / "installed").exists(), reason="scripts/library_tests.sh installs the libraries"
    ),
]


class Suite(NamedTuple):
    """A library, pytest's arguments, and the number of tests that pass."""

    library: str
    arguments: str
    passed: int


SQLSPEC = "tests/unit/adapters/test_aiosqlite"
# Left out are tests that send requests, load native extensions, measure time, use no connection, or take long.
SUITES = [
    Suite(
        "aiohttp-client-cache", "test/integration/test_sqlite.py -k 'bulk_delete or clear or keys or write_read'", 10
    ),
    Suite("apscheduler", "tests/test_datastores.py -k aiosqlite", 23),
    Suite("databases", "tests/test_databases.py -k 'queries or transaction_commit or rollback'", 13),
    Suite("fastapi-users-db-sqlalchemy", "tests", 6),
    Suite("langgraph-checkpoint-sqlite", "-o addopts= tests/test_aiosqlite.py tests/test_delta_parent_walk.py", 12),
    Suite("ormar", "tests/test_queries -k values", 29),
    Suite(
        "sqlspec",
        f"--confcutdir={SQLSPEC} {SQLSPEC}/test_driver.py {SQLSPEC}/test_pool.py"
        " -k 'asyncio and not (concurrent or enforces or idle or propagates or retries)'",
        30,
    ),
    Suite("tortoise-orm", "tests/fields/test_subclass.py tests/fields/test_subclass_filters.py", 14),
]


class Run:
    """A process beside a copy of a library's tests, with aiosqlite or with this package under its name."""

    def __init__(self, place: Path, library: str, driver: str, command: list[str]) -> None:
        self.place = place / driver
        for name in ("path", "temporary", "source"):
            (self.place / name).mkdir(parents=True)
        # Not the library itself: the installed one is tested.
        sources = LIBRARIES / "sources" / library
        for name in {"test", "tests"} & set(os.listdir(sources)):
            shutil.copytree(sources / name, self.place / "source" / name)
        for name in {"pyproject.toml", "setup.cfg"} & set(os.listdir(sources)):
            shutil.copy(sources / name, self.place / "source")
        # On the path are the package and the plugin, and nothing else of this project.
        (self.place / "path" / "rapsqlite").symlink_to(Path(rapsqlite.__file__).parent)
        shutil.copy(ROOT / "scripts" / "suite_comparison.py", self.place / "path")
        environment = {
            **{name: value for name, value in os.environ.items() if name in KEPT},
            "PYTHONPATH": str(self.place / "path"),
            "RAPSQLITE_AS_AIOSQLITE": "1" if driver == "rapsqlite" else "",
            "RAPSQLITE_PASSED": str(self.place / "passed"),
            "TEST_DATABASE_URLS": "sqlite+aiosqlite:///tests.db",  # read by the tests of databases
            "TMPDIR": str(self.place / "temporary"),
        }
        self.process = subprocess.Popen(
            [PYTHON, *command],
            cwd=self.place / "source",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def output(self) -> str:
        """Wait for the process's end, and return what it printed."""
        try:
            return self.process.communicate(timeout=PATIENCE_S)[0]
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.communicate()[0]

    def passed(self) -> list[str]:
        """Return the names of the tests that passed."""
        recorded = self.place / "passed"
        return recorded.read_text(encoding="utf-8").splitlines() if recorded.exists() else []


def run_both(place: Path, library: str, command: list[str]) -> tuple[Run, Run]:
    """Start a command with aiosqlite and with this package, side by side."""
    theirs, ours = (Run(place, library, driver, command) for driver in ("aiosqlite", "rapsqlite"))
    return theirs, ours


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.library)
def test_what_passes_with_aiosqlite_passes_here(suite: Suite, tmp_path: Path) -> None:
    """The count and the connections show that the tests ran, and on which package."""
    command = ["-m", "pytest", "-q", "-p", "suite_comparison", "-p", "no:cacheprovider", *shlex.split(suite.arguments)]
    theirs, ours = run_both(tmp_path, suite.library, command)
    their_output, our_output = theirs.output(), ours.output()

    assert len(theirs.passed()) == suite.passed, their_output
    assert ours.passed() == theirs.passed(), our_output
    their_connections, their_package = connections(their_output)
    our_connections, our_package = connections(our_output)
    assert our_connections == their_connections > 0
    assert their_package.is_relative_to(LIBRARIES / "environment")
    assert our_package == ours.place / "path" / "rapsqlite" / "aiosqlite" / "__init__.py"


def connections(output: str) -> tuple[int, Path]:
    """Return the numbers of connections that were made, and the file of the package that made them."""
    found = re.search(r"^(\d+) connections of (.+)$", output, re.MULTILINE)
    assert found is not None, output
    return int(found[1]), Path(found[2])


def test_aiosqlitepools_own_example_prints_the_same(tmp_path: Path) -> None:
    """Its sdist has no tests; it has the page whose first whole program this is."""
    page = (LIBRARIES / "sources" / "aiosqlitepool" / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.+?)^```$", page, re.MULTILINE | re.DOTALL)
    program = next(block for block in blocks if "asyncio.run" in block)
    example = tmp_path / "example.py"
    example.write_text(f"import suite_comparison\n{program}\nprint(aiosqlite.core.__name__)\n", encoding="utf-8")

    theirs, ours = run_both(tmp_path, "aiosqlitepool", [str(example)])

    assert theirs.output() == "Found user: Alice\naiosqlite.core\n"
    assert ours.output() == "Found user: Alice\nrapsqlite.aiosqlite.core\n"
