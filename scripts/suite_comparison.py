"""A pytest plugin that records which tests passed, and a command that compares two such records.

For scripts that run the tests of other projects with aiosqlite and with this package. RAPSQLITE_PASSED names the file
to write. With RAPSQLITE_AS_AIOSQLITE set, ``import aiosqlite`` imports this package. The last lines name the package
that was imported, and the number of its connections: tests that make none pass with anything.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

_DRIVER = re.compile(r"_sqlite\+\w+")  # a part of the names of SQLAlchemy's tests: driver and version of SQLite
_ADDRESS = re.compile(r"0x[0-9a-f]{6,}")
_passed: set[str] = set()
_connections = 0

if os.environ.get("RAPSQLITE_AS_AIOSQLITE"):
    import rapsqlite

    rapsqlite.install_as_aiosqlite()


def pytest_configure() -> None:
    """Count the connections."""
    from aiosqlite import core

    original = core.Connection.__init__

    def count(self: core.Connection, *arguments: Any, **options: Any) -> None:
        global _connections
        _connections += 1
        original(self, *arguments, **options)

    core.Connection.__init__ = count  # type: ignore[method-assign]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the package and the number of its connections."""
    import aiosqlite

    terminalreporter.write_line(f"{_connections} connections of {aiosqlite.__file__}")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Record a test that passed, including its set-up and teardown."""
    name = _ADDRESS.sub("0x", _DRIVER.sub("", report.nodeid))
    if report.when == "call" and report.passed:
        _passed.add(name)
    elif report.failed:
        _passed.discard(name)


def pytest_sessionfinish() -> None:
    """Write the names of the tests that passed."""
    Path(os.environ["RAPSQLITE_PASSED"]).write_text("".join(f"{name}\n" for name in sorted(_passed)), encoding="utf-8")


def compare(theirs: Path, ours: Path) -> None:
    """Print how many tests pass with each driver, and which pass with the first one only."""
    first, second = (set(path.read_text(encoding="utf-8").splitlines()) for path in (theirs, ours))
    print(f"{len(first)} passed with aiosqlite, {len(second)} with rapsqlite")
    for name in sorted(first - second):
        print(f"  only with aiosqlite: {name}")


if __name__ == "__main__":
    compare(Path(sys.argv[1]), Path(sys.argv[2]))
