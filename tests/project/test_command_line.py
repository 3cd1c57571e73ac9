"""``python -m rapsqlite``: the shell, the dump, doctor and warm."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

import rapsqlite
from rapsqlite._cli import platforms
from rapsqlite._cli.formats import shown
from rapsqlite._cli.shell import Shell, statements_of
from rapsqlite._client.extension_loader import SHIPPED
from tests.programs import run_python

ROOT = Path(__file__).resolve().parents[2]
ENDLESS = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n;"
SCHEMA = """
CREATE TABLE "odd ""name" (id INTEGER PRIMARY KEY AUTOINCREMENT, "a b" TEXT, c REAL, d BLOB, e);
INSERT INTO "odd ""name" VALUES (1, 'it''s' || char(10) || 'two lines', 0.1, x'00ff', NULL);
INSERT INTO "odd ""name" VALUES (7, 'ünï', -1e300, zeroblob(3), 9223372036854775807);
CREATE TABLE computed (a INTEGER, b AS (a * 2), c AS (a * 3) STORED);
INSERT INTO computed VALUES (1), (2);
CREATE TABLE keyed (k TEXT PRIMARY KEY, v) WITHOUT ROWID;
INSERT INTO keyed VALUES ('b', 1), ('a', 2);
CREATE INDEX by_value ON keyed (v);
CREATE VIEW seen AS SELECT k FROM keyed;
CREATE TRIGGER twice AFTER INSERT ON keyed WHEN new.v < 10 BEGIN UPDATE keyed SET v = v + 10 WHERE k = new.k; END;
CREATE VIRTUAL TABLE words USING fts5(body);
INSERT INTO words VALUES ('one fish'), ('two fish');
"""
QUERIES = (
    'SELECT * FROM "odd ""name" ORDER BY id',
    "SELECT * FROM computed",
    "SELECT * FROM keyed",
    "SELECT * FROM seen",
    "SELECT rowid, * FROM words WHERE words MATCH 'fish' ORDER BY rowid",
    "SELECT name, seq FROM sqlite_sequence",
    "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name",
)


def command(*arguments: str, text: str | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``python -m rapsqlite`` with warnings as errors."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return run_python("-W", "error", "-m", "rapsqlite", *arguments, input=text, cwd=cwd, env=environment)


def contents(database: Path | str) -> list[list[tuple[object, ...]]]:
    with closing(sqlite3.connect(database)) as stock:
        return [stock.execute(query).fetchall() for query in QUERIES]


def test_sql_argument_runs_and_prints_a_table(database: Path) -> None:
    done = command(
        str(database), "CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 'x'), (NULL, x'01ff'); SELECT * FROM t"
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "a     b\n----  -------\n1     x\nNULL  x'01ff'\n"


def test_script_on_standard_input_runs_statement_by_statement(database: Path) -> None:
    script = (
        "CREATE TABLE t (a);\nINSERT INTO t\nVALUES ('one;two');\n.headers off\nSELECT a FROM t;\n.tables\nSELECT 2"
    )

    done = command(str(database), text=script)

    assert (done.returncode, done.stdout, done.stderr) == (0, "one;two\nt\n2\n", "")


def test_script_stops_at_its_first_error(database: Path) -> None:
    """Later statements may depend on the failed one."""
    done = command(
        str(database), text="CREATE TABLE t (a);\nINSERT INTO nowhere VALUES (1);\nINSERT INTO t VALUES (1);\n"
    )

    assert (done.returncode, done.stderr) == (1, "error: no such table: nowhere\n")
    with closing(sqlite3.connect(database)) as stock:
        assert stock.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_file_that_cannot_be_opened_is_reported_in_one_line(tmp_path: Path) -> None:
    done = command(str(tmp_path / "nowhere" / "x.db"), "SELECT 1")

    assert done.returncode == 1
    assert done.stderr.startswith("error: unable to open database file")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [(), ("a", "b", "c"), ("--unknown",), ("warm", "it")])
def test_wrong_arguments_print_the_usage(arguments: tuple[str, ...]) -> None:
    done = command(*arguments)

    assert done.returncode == 2
    assert "python -m rapsqlite FILE [SQL]" in done.stderr


@pytest.mark.parametrize("arguments", [("--help",), ("-h",), ("warm", "--help"), ("doctor", "-h")])
def test_help_prints_the_usage(arguments: tuple[str, ...]) -> None:
    """Taken for a file name and SQL, these once created a database called "warm"."""
    done = command(*arguments)

    assert (done.returncode, done.stderr) == (0, "")
    assert "python -m rapsqlite doctor" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to one process")
def test_interrupt_key_stops_only_the_statement(database: Path) -> None:
    program = (
        "import asyncio, sys, rapsqlite\n"
        "from rapsqlite._cli.shell import Shell\n"
        "loop = asyncio.new_event_loop()\n"
        "async def opened(): return await rapsqlite.connect(sys.argv[1])\n"
        "conn = loop.run_until_complete(opened())\n"
        "shell = Shell(conn, loop)\n"
        # Runs inside the loop, which runs only during a statement.
        "loop.call_soon(lambda: print('ready', flush=True))\n"
        f"shell.feed({ENDLESS!r})\n"
        "shell.feed('SELECT 6 * 7 AS answer;')\n"
        "loop.run_until_complete(conn.close())\n"
        "loop.close()\n"
    )
    arguments = [sys.executable, "-W", "error", "-c", program, str(database)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        try:
            printed, errors = process.communicate(timeout=40)
        finally:
            process.kill()

    assert (process.returncode, printed, errors) == (0, "answer\n------\n42\n", "error: interrupted\n")


def test_doctor_finds_no_problem_here(tmp_path: Path) -> None:
    done = command("doctor", str(tmp_path))

    assert (done.returncode, done.stderr) == (0, "")
    marks = {line[5:21].strip(): line[:4].strip() for line in done.stdout.splitlines()}
    assert {"python", "interpreter", "platform", "packages"} <= marks.keys()
    assert {name for name, mark in marks.items() if mark == "ok"} >= {
        "module",
        "locks",
        "write-ahead log",
        "round trip",
    }
    assert not list(tmp_path.iterdir()), "it leaves nothing behind"


def test_platforms_page_has_the_rows_that_doctor_prints() -> None:
    page = (ROOT / "docs" / "platforms.md").read_text(encoding="utf-8")

    table = re.findall(r"^\| ([^|]*) \| ([^|]*) \| ([^|]*) \|$", page, re.MULTILINE)

    assert [row for row in table if row[0] != "system"] == [tuple(row) for row in platforms.ROWS]


@pytest.mark.parametrize(
    "names, row",
    [
        (("Linux", "x86_64", "glibc"), ("Linux", "x86-64")),
        (("Linux", "aarch64", "glibc"), ("Linux", "arm64")),
        (("Linux", "x86_64", ""), ("Linux, musl", "x86-64, arm64")),
        (("macOS", "arm64", ""), ("macOS", "x86-64, arm64")),
        (("Windows", "AMD64", ""), ("Windows", "x86-64")),
        (("Linux", "riscv64", "glibc"), ("another system", "")),
    ],
)
def test_doctor_knows_how_each_machine_is_tested(names: tuple[str, str, str], row: tuple[str, str]) -> None:
    assert platforms.row_of(*names)[:2] == row


def test_doctor_in_a_missing_directory_fails_and_says_so(tmp_path: Path) -> None:
    done = command("doctor", str(tmp_path / "nowhere"))

    assert done.returncode == 1
    assert "FAIL connection" in done.stdout


def test_warm_fills_an_empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("RAPSQLITE_CACHE_DIR", str(cache))

    done = command("warm")

    assert (done.returncode, done.stderr) == (0, "")
    assert len(list(cache.glob("*.compiled"))) == 2 + len(SHIPPED), (
        "the engine, the module that watches for replies, and the extensions"
    )


def test_warm_fails_if_the_cache_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container image built with a cold cache should not have been built."""
    in_the_way = tmp_path / "cache"
    in_the_way.write_text("not a directory")
    monkeypatch.setenv("RAPSQLITE_CACHE_DIR", str(in_the_way))
    monkeypatch.setenv("PYTHONWARNINGS", "default")

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = run_python("-m", "rapsqlite", "warm", env=environment)

    assert done.returncode == 1
    assert "cannot keep the compiled module" in done.stderr


def test_dump_recreates_the_same_database(database: Path, tmp_path: Path) -> None:
    """Stock SQLite restores it, and every row, index, trigger and shadow table is the same."""
    with closing(sqlite3.connect(database)) as stock:
        stock.executescript(SCHEMA)
        stock.commit()

    done = command(str(database), text=".dump\n")

    assert (done.returncode, done.stderr) == (0, "")
    restored = tmp_path / "restored.db"
    with closing(sqlite3.connect(restored)) as stock:
        stock.executescript(done.stdout)
    assert contents(restored) == contents(database)


def test_dump_in_a_transaction_includes_its_changes_and_leaves_it_open(database: Path) -> None:
    done = command(str(database), text="BEGIN;\nCREATE TABLE t (a);\n.dump\nROLLBACK;\n.dump\n")

    assert (done.returncode, done.stderr) == (0, "")
    empty = "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\nCOMMIT;\n"
    assert done.stdout == empty.replace("COMMIT", "CREATE TABLE t (a);\nCOMMIT") + empty


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", []),
        ("SELECT 1", ["SELECT 1"]),
        ("SELECT 1; SELECT ';' ; ", ["SELECT 1;", "SELECT ';' ;"]),
        ("CREATE TRIGGER a AFTER INSERT ON t BEGIN SELECT 1; SELECT 2; END; SELECT 3",
         ["CREATE TRIGGER a AFTER INSERT ON t BEGIN SELECT 1; SELECT 2; END;", "SELECT 3"]),
    ],
)  # fmt: skip
def test_input_is_split_where_statements_end(text: str, expected: list[str]) -> None:
    assert list(statements_of(text)) == expected


@pytest.mark.parametrize("value, text", [(None, "NULL"), (b"\x01", "x'01'"), (1.5, "1.5"), ("é", "é")])
def test_values_are_displayed(value: object, text: str) -> None:
    """As SQL literals, so that NULL and blobs are not taken for text; text as it is."""
    assert shown(value) == text


def test_prompt_shows_that_a_statement_is_unfinished() -> None:
    loop = asyncio.new_event_loop()
    out = io.StringIO()

    async def opened() -> rapsqlite.Connection:
        return await rapsqlite.connect(":memory:")

    conn = loop.run_until_complete(opened())
    shell = Shell(conn, loop, out)

    assert shell.prompt == "rapsqlite> "
    assert shell.feed("SELECT 1")
    assert shell.prompt == "     ...> "
    assert shell.feed(";")
    assert not shell.feed(".quit")
    assert out.getvalue() == "1\n-\n1\n"
    loop.run_until_complete(conn.close())
    loop.close()
