"""CPython's scenarios for ``python -m sqlite3``, as far as ``python -m rapsqlite`` is meant to do the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import rapsqlite
from tests.programs import run_python

ROOT = Path(__file__).resolve().parents[3]
MEMORY = ":memory:"


def command(*arguments: str, lines: tuple[str, ...] = ()) -> tuple[int, str, str]:
    """Run it with lines on its standard input; return exit code, output and errors."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = run_python("-m", "rapsqlite", *arguments, input="".join(f"{line}\n" for line in lines), env=environment)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("flag", ["-v", "--version"])
def test_sqlite_version_is_that_of_the_engine(flag: str) -> None:
    assert command(flag) == (0, f"SQLite version {rapsqlite.sqlite_version}\n", "")


def test_version_command_prints_the_version_too() -> None:
    assert command(MEMORY, lines=(".version",)) == (0, f"{rapsqlite.sqlite_version}\n", "")


def test_statement_prints_its_rows() -> None:
    assert command(MEMORY, "SELECT 1 AS one") == (0, "one\n---\n1\n", "")


def test_several_statements_run_in_order() -> None:
    """``python -m sqlite3`` rejects them."""
    assert command(MEMORY, "SELECT 1 AS a; SELECT 2 AS a") == (0, "a\n-\n1\na\n-\n2\n", "")


@pytest.mark.parametrize("given", [("sel",), ()])
def test_wrong_statement_fails_with_the_reason(given: tuple[str, ...]) -> None:
    code, out, err = command(MEMORY, *given, lines=() if given else ("sel;",))

    assert (code, out) == (1, "")
    assert err == 'error: near "sel": syntax error\n'


def test_database_stays_on_the_disk(database: Path) -> None:
    assert command(str(database), "CREATE TABLE t (t)") == (0, "", "")
    assert command(str(database), lines=("INSERT INTO t VALUES (5);",)) == (0, "", "")
    assert command(str(database), "SELECT count(t) FROM t") == (0, "count(t)\n--------\n1\n", "")


@pytest.mark.parametrize("lines", [("SELECT 1", "AS one", ";"), ("SELECT 1 AS one;",), ("SELECT 1 AS one",)])
def test_statement_may_have_several_lines_and_lack_its_end(lines: tuple[str, ...]) -> None:
    assert command(MEMORY, lines=lines) == (0, "one\n---\n1\n", "")


@pytest.mark.parametrize("line", [".version ", " .version", ". version"])
def test_spaces_around_a_command_change_nothing(line: str) -> None:
    assert command(MEMORY, lines=(line,)) == (0, f"{rapsqlite.sqlite_version}\n", "")


@pytest.mark.parametrize("line", [".", ".unknown_command"])
def test_unknown_command_is_named(line: str) -> None:
    code, out, err = command(MEMORY, lines=(line,))

    assert (code, out) == (1, "")
    assert err == f"error: unknown command {line}; .help lists them\n"


def test_empty_lines_do_nothing() -> None:
    assert command(MEMORY, lines=("", " ", "SELECT 1 AS one;")) == (0, "one\n---\n1\n", "")


@pytest.mark.parametrize("lines", [(), (".quit", "SELECT 1;"), (".exit",)])
def test_quit_and_the_end_of_input_leave(lines: tuple[str, ...]) -> None:
    assert command(MEMORY, lines=lines) == (0, "", "")
