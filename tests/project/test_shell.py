"""``python -m rapsqlite FILE``: modes as in SQLite's shell, CSV and JSON files, terminals, hostile values."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rapsqlite import connect
from rapsqlite._cli import prompt, transfer
from rapsqlite._cli import shell as shell_module
from rapsqlite._cli.formats import visible
from rapsqlite._cli.shell import Shell
from rapsqlite._cli.transfer import Progress

ROOT = Path(__file__).resolve().parents[2]
ROWS = """
CREATE TABLE t (a, b TEXT, "c d");
INSERT INTO t VALUES (1, 'x,y', NULL), (2.5, 'q"z', '-'), (NULL, 'new' || char(10) || 'line', 'ünï'), (1e300, '', ''),
    (-9223372036854775808, 'it''s', 1e999);
"""
# What SQLite's shell prints; see also https://sqlite.org/cli.html.
PRINTED_BY = "3.40.1"
PRINTED = {
    "list": "1|x,y|\n2.5|q\"z|-\n|new\nline|ünï\n1.0e+300||\n-9223372036854775808|it's|Inf\n",
    "csv": '1,"x,y",\n2.5,"q""z",-\n,"new\nline","ünï"\n1.0e+300,"",""\n-9223372036854775808,"it\'s",Inf\n',
    "line": (
        "    a = 1\n    b = x,y\n  c d = \n\n"
        '    a = 2.5\n    b = q"z\n  c d = -\n\n'
        "    a = \n    b = new\nline\n  c d = ünï\n\n"
        "    a = 1.0e+300\n    b = \n  c d = \n\n"
        "    a = -9223372036854775808\n    b = it's\n  c d = Inf\n"
    ),
    "json": (
        '[{"a":1,"b":"x,y","c d":null},\n{"a":2.5,"b":"q\\"z","c d":"-"},\n'
        '{"a":null,"b":"new\\nline","c d":"ünï"},\n{"a":1.0e+300,"b":"","c d":""},\n'
        '{"a":-9223372036854775808,"b":"it\'s","c d":1e999}]\n'
    ),
}
ENDLESS = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n;"
HOSTILE = "\x1b]0;title\x07 \x9b31m\r[red]\x7f"
READY = "\x1b[?2004h"  # prompt_toolkit reads keys from now on; it draws a prompt more than once
POSIX_ONLY = pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")


def environment(**more: str) -> dict[str, str]:
    paths = [more.pop("first", ""), str(ROOT), os.environ.get("PYTHONPATH", "")]
    more = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUTF8": "1", **more}
    return {**os.environ, "TERM": "dumb", "COLUMNS": "100", "RAPSQLITE_HISTORY": os.devnull, **more}


def shell(database: Path | str, *lines: str, cwd: Path | None = None) -> tuple[int, str, str]:
    """Run lines from a pipe; return the exit code, what was printed, and messages."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "rapsqlite", str(database)],
        input="\n".join(lines), cwd=cwd, env=environment(), capture_output=True, text=True, encoding="utf-8",
        timeout=50, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def stored(database: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(database)) as stock:
        return stock.execute(sql).fetchall()


@pytest.fixture
def filled(database: Path) -> Path:
    with closing(sqlite3.connect(database)) as stock:
        stock.executescript(ROWS)
    return database


# -- modes -----------------------------------------------------------------------------------------


def test_modes_print_what_those_of_sqlites_shell_do(filled: Path) -> None:
    lines = [line for mode in PRINTED for line in (f".mode {mode}", "SELECT * FROM t;", "SELECT 1 WHERE 0;")]

    done = shell(filled, *lines)

    assert done == (0, "".join(PRINTED.values()), "")


@pytest.mark.skipif(not shutil.which("sqlite3"), reason="no sqlite3 program")
@pytest.mark.parametrize("mode", ["list", "csv", "line"])
def test_modes_agree_with_the_sqlite3_program(filled: Path, mode: str) -> None:
    version = subprocess.run(["sqlite3", "--version"], capture_output=True, text=True, check=True).stdout
    if version.split(" ", 1)[0] != PRINTED_BY:
        pytest.skip(f"compared with {PRINTED_BY}; the output of other versions may differ: {version}")

    done = subprocess.run(["sqlite3", f"-{mode}", str(filled), "SELECT * FROM t"], capture_output=True, check=True)

    assert done.stdout.decode().replace("\r\n", "\n") == PRINTED[mode]


def test_json_is_read_again_as_it_was(filled: Path) -> None:
    _, printed, _ = shell(filled, ".mode json", "SELECT b, c FROM (SELECT b, char(1, 127, 155, 128512) AS c FROM t);")

    texts = [row for (row,) in stored(filled, "SELECT b FROM t")]
    assert json.loads(printed) == [{"b": text, "c": "\x01\x7f\x9b\U0001f600"} for text in texts]


def test_headers_precede_list_and_csv_only_if_they_are_switched_on(filled: Path) -> None:
    query = 'SELECT a, "c d" FROM t WHERE a = 1;'

    done = shell(filled, ".headers on", ".mode list", query, ".mode csv", query, ".headers off", ".mode table", query)

    assert done == (0, 'a|c d\n1|\na,"c d"\n1,\n1  NULL\n', "")


def test_table_shows_values_of_several_lines_in_their_column(filled: Path) -> None:
    done = shell(filled, "SELECT b, \"c d\", x'00ff' AS e FROM t WHERE a IS NULL;")

    assert done[1] == "b     c d  e\n----  ---  -------\nnew   ünï  x'00ff'\nline\n"


def test_table_is_not_padded_to_a_huge_value(database: Path) -> None:
    """A value of 1 MB would otherwise make each row as long."""
    done = shell(database, "SELECT hex(zeroblob(500000)) AS a, 1 AS b UNION ALL SELECT 2, 3;")

    assert [len(line) for line in done[1].splitlines()] == [203, 203, 1_000_003, 203]


def test_current_mode_is_printed_and_an_unknown_one_is_refused(database: Path) -> None:
    done = shell(database, ".mode csv", ".mode", ".mode xyz", ".mode")

    assert done == (1, "csv\n", "error: .mode takes one of box, column, csv, json, line, list, table\n")


@pytest.mark.parametrize(
    "line",
    [".nope", ".tables a b", ".headers maybe", ".import x", ".import --skip x a b", ".import --skip -1 a b", ".export",
     ".export a.csv", ".export a.txt t", ".import nowhere.csv t", ".tables 'a", ".", "SELECT 'a\nb' FROM nowhere;",
     "SELECT '\0';", '.export a.csv "no such table"', ".export a.csv nowhere", ".export a.csv SELECT 1; SELECT 2"],
)  # fmt: skip
def test_errors_are_one_line(line: str, tmp_path: Path) -> None:
    loop = asyncio.new_event_loop()
    conn = loop.run_until_complete(opened(str(tmp_path / "x.db")))
    messages = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", messages)
        patch.chdir(tmp_path)
        runner = Shell(conn, loop, io.StringIO())
        for part in line.split("\n"):
            assert runner.feed(part)
    loop.run_until_complete(conn.close())
    loop.close()

    assert re.fullmatch(r"error: [^\n]+\n", messages.getvalue())
    assert {path.name for path in tmp_path.iterdir()} <= {"x.db"}


async def opened(database: str) -> Any:
    return await connect(database, isolation_level=None)


def test_lists_take_patterns(database: Path) -> None:
    """``.tables``, ``.indexes`` and ``.schema`` match names as LIKE does, so without regard to case."""
    schema = "CREATE TABLE k (a PRIMARY KEY); CREATE TABLE m (a); CREATE INDEX i ON m (a); CREATE VIEW v AS SELECT 1;"

    done = shell(database, schema, ".tables", ".tables K%", ".indexes", ".indexes m", ".schema M")

    tables, indexes = "k\nm\nv\nk\n", "i\nsqlite_autoindex_k_1\ni\n"
    assert done == (0, f"{tables}{indexes}CREATE TABLE m (a);\nCREATE INDEX i ON m (a);\n", "")


def test_dot_commands_may_be_given_as_an_argument(filled: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rapsqlite", str(filled), ".tables"],
        env=environment(), capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stdout, done.stderr) == (0, "t\n", "")


@POSIX_ONLY
def test_reader_that_leaves_ends_the_shell_without_a_word(database: Path) -> None:
    """As in `python -m rapsqlite ... | head -1`."""
    endless = ENDLESS.replace("count(*)", "hex(zeroblob(999))")
    command = [sys.executable, "-m", "rapsqlite", str(database), endless]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(50) == 1


# -- import and export -----------------------------------------------------------------------------


def test_new_table_is_named_by_the_first_row_and_an_existing_one_takes_all(database: Path, tmp_path: Path) -> None:
    (tmp_path / "a b.csv").write_bytes(b'\xef\xbb\xbfid,"na""me"\r\n1,"x, y"\r\n\xc3\xbc,"two\nlines"\r\n')

    done = shell(
        database, ".import 'a b.csv' new", '.import --csv "a b.csv" new', ".import -skip 2 'a b.csv' new", cwd=tmp_path
    )

    assert done == (0, "", "")
    rows = [("1", "x, y"), ("ü", "two\nlines")]
    assert stored(database, 'SELECT id, "na""me" FROM new') == [*rows, ("id", 'na"me'), *rows, rows[1]]
    assert stored(database, "SELECT type FROM pragma_table_info('new')") == [("TEXT",), ("TEXT",)]


def test_values_get_the_affinity_of_their_column_and_empty_ones_are_text(database: Path, tmp_path: Path) -> None:
    (tmp_path / "n.csv").write_text("1,2.5\n,x\n")

    done = shell(database, "CREATE TABLE n (a INTEGER, b REAL, c AS (a + 1));", ".import n.csv n", cwd=tmp_path)

    assert done == (0, "", "")
    assert stored(database, "SELECT * FROM n") == [(1, 2.5, 2), ("", "x", 1)]


def test_names_that_a_table_cannot_have_twice_are_numbered(database: Path, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("a,b,A,\n")

    shell(database, ".import d.csv d", cwd=tmp_path)

    assert [name for (name,) in stored(database, "SELECT name FROM pragma_table_info('d')")] == ["a_1", "b", "A_3", "?"]


def test_rows_of_the_wrong_length_are_filled_or_cut_with_a_warning(database: Path, tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("a,b\n1\n\n1,2,3\n")

    code, _, messages = shell(database, ".import r.csv r", cwd=tmp_path)

    assert code == 0
    assert stored(database, "SELECT * FROM r") == [("1", None), ("", None), ("1", "2")]
    assert messages == (
        "warning: rows with too few values: 2; the rest of them is NULL\n"
        "warning: rows with too many values: 1; what was too many was left out\n"
    )


@pytest.mark.parametrize(
    "content, message",
    [
        (b'a\n1\n2\n"3\n', "line 4: unexpected end of data"),
        (b'a\n1\n"1"2\n', "line 3: ',' expected"),
        (b"a\n1\n\xff\n", "'utf-8' codec"),
        (b"", "no row with the names"),
    ],
)
def test_malformed_file_imports_nothing(content: bytes, message: str, database: Path, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(content)

    code, _, messages = shell(database, ".import m.csv m", cwd=tmp_path)

    assert code == 1
    assert re.fullmatch(rf"error: m\.csv[^\n]*{re.escape(message)}[^\n]*\n", messages)
    assert stored(database, "SELECT * FROM sqlite_schema") == []


def test_failing_import_is_undone_and_leaves_the_transaction_around_it(database: Path, tmp_path: Path) -> None:
    (tmp_path / "u.csv").write_text("".join(f"{number % 3000}\n" for number in range(3001)))
    prepare = "CREATE TABLE u (a UNIQUE); BEGIN; INSERT INTO u VALUES ('own');"
    loop = asyncio.new_event_loop()
    conn = loop.run_until_complete(opened(str(database)))
    runner = Shell(conn, loop, io.StringIO())

    runner.feed(prepare)
    runner.feed(f".import '{tmp_path / 'u.csv'}' u")
    runner.feed("COMMIT;")

    assert runner.errors == 1
    loop.run_until_complete(conn.close())
    loop.close()
    assert stored(database, "SELECT * FROM u") == [("own",)]


def test_export_is_chosen_by_the_suffix_and_imported_again(filled: Path, tmp_path: Path) -> None:
    done = shell(
        filled, ".export t.csv t", ".export t.json T", ".export \"q 1.json\" SELECT 1 AS \"one\", 'it''s' AS b;",
        ".export none.json SELECT 1 WHERE 0", ".export none.csv 'SELECT 1 AS \"a b\" WHERE 0'", ".import t.csv again",
        cwd=tmp_path,
    )  # fmt: skip

    assert done == (0, "", "")
    assert (tmp_path / "t.csv").read_bytes().decode() == 'a,b,"c d"\r\n' + PRINTED["csv"].replace("\n", "\r\n").replace(
        "new\r\nline", "new\nline"
    )
    assert (tmp_path / "t.json").read_text(encoding="utf-8") == PRINTED["json"]
    assert json.loads((tmp_path / "q 1.json").read_text()) == [{"one": 1, "b": "it's"}]
    assert (tmp_path / "none.json").read_text() == "[]\n"
    assert (tmp_path / "none.csv").read_text() == '"a b"\n'
    assert stored(filled, "SELECT b FROM again") == stored(filled, "SELECT b FROM t")


def test_export_that_fails_leaves_the_file_and_the_database_alone(filled: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("before")
    failing = ".export t.csv SELECT CASE WHEN a IS NULL THEN abs(-9223372036854775808) END FROM t"

    assert shell(filled, failing, cwd=tmp_path)[::2] == (1, "error: integer overflow\n")
    assert shell(filled, ".export t.csv DELETE FROM t", cwd=tmp_path)[0] == 1

    assert (tmp_path / "t.csv").read_text() == "before"
    assert stored(filled, "SELECT count(*) FROM t") == [(5,)]
    assert {path.name for path in tmp_path.iterdir()} == {"t.csv", filled.name}


@pytest.mark.parametrize(
    "sql",
    [
        "END TRANSACTION",
        "ROLLBACK TRANSACTION",
        "RELEASE a",
        "ATTACH 'other.db' AS o",
        "CREATE TABLE n (a)",
        "DELETE FROM t",
    ],
)
def test_export_of_a_statement_without_rows_does_not_run_it(sql: str, filled: Path, tmp_path: Path) -> None:
    """Some cannot be undone, such as the end of the transaction."""
    loop = asyncio.new_event_loop()
    conn = loop.run_until_complete(opened(str(filled)))
    messages, out = io.StringIO(), io.StringIO()
    runner = Shell(conn, loop, out)
    runner.feed("BEGIN; SAVEPOINT a; INSERT INTO t (a) VALUES ('own');")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", messages)
        runner.feed(f".export '{tmp_path / 't.csv'}' {sql}")

    assert messages.getvalue() == "error: the statement returns no rows\n"
    assert conn.in_transaction
    runner.feed("SELECT (SELECT count(*) FROM t) AS n, name FROM pragma_database_list;")
    runner.feed("RELEASE a; ROLLBACK;")
    assert out.getvalue() == "n  name\n-  ----\n6  main\n"
    assert runner.errors == 1
    loop.run_until_complete(conn.close())
    loop.close()
    assert stored(filled, "SELECT count(*) FROM t") == [(5,)]
    assert {path.name for path in tmp_path.iterdir()} == {filled.name}


def test_rows_that_an_export_deletes_stay_if_the_file_cannot_be_put_in_place(filled: Path, tmp_path: Path) -> None:
    """They would be in neither the database nor a file."""
    loop = asyncio.new_event_loop()
    conn = loop.run_until_complete(opened(str(filled)))
    runner = Shell(conn, loop, io.StringIO())
    line = f".export '{tmp_path / 't.json'}' DELETE FROM t RETURNING *"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", refused)
        runner.feed(line)
    assert runner.errors == 1
    assert stored(filled, "SELECT count(*) FROM t") == [(5,)]
    assert {path.name for path in tmp_path.iterdir()} == {filled.name}

    runner.feed(line)
    loop.run_until_complete(conn.close())
    loop.close()
    assert runner.errors == 1
    assert stored(filled, "SELECT count(*) FROM t") == [(0,)]
    assert (tmp_path / "t.json").read_text(encoding="utf-8") == PRINTED["json"]


def test_rows_that_an_export_deletes_stay_if_their_commit_fails(filled: Path, tmp_path: Path) -> None:
    """The file is there too, and the next attempt replaces it."""
    with closing(sqlite3.connect(filled)) as stock, stock:
        stock.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
        stock.execute("CREATE TABLE child (id REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
        stock.execute("INSERT INTO parent VALUES (1)")
        stock.execute("INSERT INTO child VALUES (1)")
    keys, line = "PRAGMA foreign_keys = on;", ".export p.json DELETE FROM parent RETURNING *"

    code, _, message = shell(filled, keys, line, cwd=tmp_path)
    assert (code, message) == (1, "error: FOREIGN KEY constraint failed\n")
    assert stored(filled, "SELECT count(*) FROM parent") == [(1,)]
    assert json.loads((tmp_path / "p.json").read_text()) == [{"id": 1}]

    assert shell(filled, keys, "DELETE FROM child;", line, cwd=tmp_path) == (0, "", "")
    assert stored(filled, "SELECT count(*) FROM parent") == [(0,)]
    assert json.loads((tmp_path / "p.json").read_text()) == [{"id": 1}]


def refused(*_: object) -> None:
    raise PermissionError("refused")


@POSIX_ONLY
def test_export_replaces_regular_files_alone(filled: Path, tmp_path: Path) -> None:
    """A link may name a device, which the superuser could replace for everyone."""
    (tmp_path / "dir.csv").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.csv").symlink_to("pipe")
    before = {path.name: path.lstat().st_mode for path in tmp_path.iterdir()}

    for name in ("dir.csv", "link.csv"):
        code, _, message = shell(filled, f".export {name} DELETE FROM t RETURNING *", cwd=tmp_path)
        assert (code, message.endswith("is not a regular file\n")) == (1, True)

    assert {path.name: path.lstat().st_mode for path in tmp_path.iterdir()} == before
    assert stored(filled, "SELECT count(*) FROM t") == [(5,)]


@pytest.mark.skipif(sys.platform == "win32", reason="no permissions as on POSIX systems")
@pytest.mark.parametrize("mode, kept", [(0o600, 0o600), (0o664, 0o664), (0o4750, 0o750), (None, None)])
def test_exported_file_has_the_permissions_of_the_one_it_replaces(
    mode: int | None, kept: int | None, tmp_path: Path
) -> None:
    """Rows that only their owner could read stay so, also while they are written. Set-user-ID would be of another."""
    path, usual = tmp_path / "t.csv", tmp_path / "usual"
    usual.touch()
    if mode is not None:
        path.touch()
        path.chmod(mode)

    with transfer._replaced(path) as file:
        file.write("1\n")
        (unfinished,) = tmp_path.glob("*.part")
        assert mode is None or stat.S_IMODE(unfinished.stat().st_mode) == 0o600

    assert stat.S_IMODE(path.stat().st_mode) == (stat.S_IMODE(usual.stat().st_mode) if kept is None else kept)
    assert path.read_bytes() == b"1\n"


def test_export_is_not_hindered_by_what_a_killed_one_left_behind(tmp_path: Path) -> None:
    """In a container, each shell may have the same process id."""
    path = tmp_path / "t.csv"
    (tmp_path / f"t.csv.{os.getpid()}.part").touch()
    with transfer._replaced(path) as file, transfer._replaced(path) as other:
        other.write("other")
        file.write("1")

    assert path.read_text() == "1"


@POSIX_ONLY
@pytest.mark.parametrize("exists", [True, False])
def test_export_to_a_symbolic_link_writes_the_file_that_it_names(exists: bool, filled: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "target"
    if exists:
        target.touch()
    (tmp_path / "t.json").symlink_to("elsewhere/target")
    (tmp_path / "loop.json").symlink_to("loop.json")

    assert shell(filled, ".export t.json t", cwd=tmp_path) == (0, "", "")
    assert (tmp_path / "t.json").is_symlink()
    assert target.read_text(encoding="utf-8") == PRINTED["json"]
    code, _, message = shell(filled, ".export loop.json t", cwd=tmp_path)
    assert (code, message.count("\n"), message[:6]) == (1, 1, "error:")
    assert list(target.parent.iterdir()) == [target]


def test_progress_is_shown_on_a_terminal_alone_and_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_REPORTS_EVERY_S", 0.0)
    terminal = io.StringIO()

    for progress in (Progress(terminal), Progress(None)):
        progress.add()
        progress.add(999)
        progress.end()
        assert progress.count == 1000

    assert terminal.getvalue() == "\r1 rows\r1000 rows\r         \r"


# -- terminals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, seen",
    [("a\tb\nc\r\nd", "a\tb\nc\r\nd"), ("\x1b[31m", "^[[31m"), ("\x00\x07\x7f\x9b", "^@^G^?\\x9b"), ("a\rb", "a^Mb")],
)
def test_control_characters_are_made_visible(text: str, seen: str) -> None:
    assert visible(text) == seen


class Terminal:
    """A shell in a terminal of its own, and what that shows, without the sequences that move the cursor."""

    def __init__(self, database: Path, *arguments: str, **more: str) -> None:
        self._ours, theirs = os.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "rapsqlite", str(database), *arguments],
            stdin=theirs, stdout=theirs, stderr=theirs, env=environment(**more), start_new_session=True,
            preexec_fn=lambda: take_terminal(theirs),
        )  # fmt: skip
        os.close(theirs)
        self.raw = b""
        self._seen = 0

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        print(self.text)  # for the report of a failure
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    @property
    def text(self) -> str:
        text = self.raw.decode(errors="replace").replace(READY, "<ready>")
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def wait_for(self, pattern: str) -> str:
        """Read until the pattern comes after what was waited for before, and return what it matched."""
        while (found := re.compile(pattern).search(self.text, self._seen)) is None:
            piece = self._read()
            assert piece, self.text
        self._seen = found.end()
        return found[0]

    def end(self) -> int:
        """Read to the end, and return the exit code."""
        while self._read():
            pass
        return self.process.wait(50)

    def _read(self) -> bytes:
        try:
            piece = os.read(self._ours, 10_000)
        except OSError:  # Linux, once the program has ended
            piece = b""
        self.raw += piece
        return piece


def take_terminal(descriptor: int) -> None:
    """In the child: Ctrl-C in the terminal is its signal."""
    import fcntl
    import termios

    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)


@pytest.fixture(params=["with packages", "without"])
def packages(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The variables of an environment with prompt_toolkit and rich, and of one without."""
    if request.param == "without":
        for name in ("prompt_toolkit", "rich"):
            (tmp_path / "blocked" / name).mkdir(parents=True)
            (tmp_path / "blocked" / name / "__init__.py").write_text("raise ImportError")
        return {"first": str(tmp_path / "blocked")}
    pytest.importorskip("prompt_toolkit")
    pytest.importorskip("rich")
    return {}


@POSIX_ONLY
def test_terminal_gets_no_control_characters_of_the_database(database: Path, packages: dict[str, str]) -> None:
    """A value, name or message could change the terminal's title, colours, or what the next key means."""
    name = f'"x{HOSTILE}"'
    with closing(sqlite3.connect(database)) as stock:
        stock.execute(f"CREATE TABLE {name} ({name} TEXT)")
        stock.execute(f'CREATE INDEX {name[:-1]}i" ON {name} ({name})')
        stock.execute(f"INSERT INTO {name} VALUES (?)", (HOSTILE,))
        stock.commit()
    modes = [
        line
        for mode in ("table", "list", "csv", "json", "line")
        for line in (f".mode {mode}", f"SELECT * FROM {name};")
    ]
    lines = [".headers on", *modes, ".tables", ".indexes", ".schema", ".dump", f'SELECT * FROM {name[:-1]}y";']

    with Terminal(database, "\n".join(lines), **packages) as terminal:
        assert terminal.end() == 1

    shown = terminal.text
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", shown)
    assert "\r[red]" not in shown
    assert shown.count("^[]0;title^G") >= 12
    assert shown.count("[red]") >= 12
    assert "error: no such table: x^[]0;title^G" in shown


@POSIX_ONLY
def test_interrupt_key_stops_the_statement_and_end_of_file_the_shell(database: Path, packages: dict[str, str]) -> None:
    """Without prompt_toolkit, readline writes the prompt once it reads keys."""
    prompt = "rapsqlite> " if packages else "<ready>rapsqlite>"
    with Terminal(database, TERM="dumb" if packages else "xterm", PROMPT_TOOLKIT_NO_CPR="1", **packages) as terminal:
        terminal.wait_for(prompt)
        terminal.type("BEGIN; CREATE TABLE kept (a);\r")
        terminal.wait_for(prompt)
        terminal.type(f"SELECT 'beg' || 'un'; {ENDLESS}\r")
        terminal.wait_for("begun")
        terminal.type("\x03")
        terminal.wait_for("error: interrupted")
        terminal.wait_for(prompt)
        terminal.type("COMMIT; SELECT 6 * 7;\r")
        terminal.wait_for("42")
        terminal.wait_for(prompt)
        if not packages:  # Python's readline hears a signal before it waits for keys only at the next key
            terminal.type("half a line\x03")
            terminal.wait_for(prompt)
        terminal.type("\x04")
        assert terminal.end() == 0

    assert stored(database, "SELECT name FROM sqlite_schema") == [("kept",)]


@POSIX_ONLY
def test_interrupt_key_is_heard_on_whichever_thread_the_system_delivers_it(database: Path) -> None:
    """As after Ctrl-Z and `fg`: the main thread, asleep in the event loop, then went on sleeping."""
    program = f"""
import asyncio, signal, sys, threading, time
import rapsqlite
from rapsqlite._cli.shell import Shell

def interrupt():
    time.sleep(0.3)  # until the main thread sleeps; if it does not yet, the signal is heard anyway
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)

async def opened():
    return await rapsqlite.connect(sys.argv[1])

loop = asyncio.new_event_loop()
conn = loop.run_until_complete(opened())
shell = Shell(conn, loop)
loop.call_soon(threading.Thread(target=interrupt).start)
shell.feed({ENDLESS!r})
shell.feed("SELECT 6 * 7 AS answer;")
loop.run_until_complete(conn.close())
loop.close()
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(database)],
        env=environment(), capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stdout, done.stderr) == (0, "answer\n------\n42\n", "error: interrupted\n")


@POSIX_ONLY
def test_late_interrupt_key_does_not_stop_the_next_statement(database: Path) -> None:
    loop = asyncio.new_event_loop()
    conn = loop.run_until_complete(opened(str(database)))
    out = io.StringIO()
    runner = Shell(conn, loop, out)
    runner.commands["late"] = interrupted_at_its_end

    runner.feed(".late")
    runner.feed("SELECT 1;")

    assert (runner.errors, out.getvalue()) == (0, "1\n-\n1\n")
    loop.run_until_complete(conn.close())
    loop.close()


async def interrupted_at_its_end(_arguments: list[str]) -> None:
    signal.raise_signal(signal.SIGINT)


@POSIX_ONLY
def test_names_are_completed_and_lines_remembered_by_prompt_toolkit(database: Path, tmp_path: Path) -> None:
    pytest.importorskip("prompt_toolkit")
    with closing(sqlite3.connect(database)) as stock:
        stock.execute(f'CREATE TABLE peculiar ("odd column" TEXT, "x{HOSTILE}" TEXT)')
    history = tmp_path / "history"
    setup = tmp_path / "setup"
    setup.mkdir()
    (setup / "sitecustomize.py").write_text("from rapsqlite._cli import shell\nshell._NAMES_WITHIN_S = 50\n")
    options = {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "RAPSQLITE_HISTORY": str(history), "first": str(setup)}
    prompt = "<ready>rapsqlite>"

    with Terminal(database, **options) as terminal:
        terminal.wait_for(prompt)
        terminal.type("SELECT 2 * count(*) + 7 FROM pecul\t")
        terminal.wait_for("peculiar")
        terminal.type(";\r")
        terminal.wait_for(prompt)
        terminal.type('SELECT "odd\t')
        terminal.wait_for('column"')  # only what has changed is drawn, which spaces have not
        terminal.type(" FROM peculiar;\r")
        terminal.wait_for(prompt)
        terminal.type(".ver\t")
        terminal.wait_for(r"\.version")
        terminal.type("\r")
        terminal.wait_for(r"3\.\d+\.\d+")
        terminal.wait_for(prompt)
        terminal.type("\x04")
        assert terminal.end() == 0

    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    with Terminal(database, **options) as terminal:
        terminal.wait_for(prompt)
        terminal.type("\x1b[A\x1b[A\x1b[A")
        terminal.wait_for("SELECT.*count")
        terminal.type("\x03")
        terminal.wait_for(prompt)
        terminal.type("\x04")
        assert terminal.end() == 0


@POSIX_ONLY
def test_history_that_others_could_read_is_made_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Statements may contain secrets. What is no file, such as /dev/null, is everyone's."""
    history = tmp_path / "history"
    history.write_text("+SELECT 1;\n")
    history.chmod(0o644)
    monkeypatch.setenv("RAPSQLITE_HISTORY", str(history))
    assert prompt._history_file() == history
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert history.read_text() == "+SELECT 1;\n"

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    pipe.chmod(0o644)
    monkeypatch.setenv("RAPSQLITE_HISTORY", str(pipe))
    assert prompt._history_file() == pipe
    assert stat.S_IMODE(pipe.stat().st_mode) == 0o644


@POSIX_ONLY
def test_rich_draws_a_box_that_fits_the_terminal_and_loses_nothing(database: Path) -> None:
    pytest.importorskip("rich")
    many = ", ".join(f"{number} AS c{number}" for number in range(60))

    with Terminal(
        database, f"SELECT hex(zeroblob(150)) AS a, 'z' AS b; SELECT 1 AS a WHERE 0; SELECT {many};"
    ) as terminal:
        assert terminal.end() == 0

    box, rest = terminal.text.split("└", 1)
    box = box[box.index("┏") :]
    assert max(map(len, box.splitlines())) <= 100
    assert box.count("0") == 300
    assert rest.splitlines()[-1].split() == [str(number) for number in range(60)], (
        "more columns than the terminal has room for are not boxed"
    )


def test_names_are_not_waited_for_where_the_database_is_locked(filled: Path) -> None:
    loop = asyncio.new_event_loop()
    conn = loop.run_until_complete(opened(str(filled)))
    runner = Shell(conn, loop, io.StringIO())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shell_module, "_NAMES_WITHIN_S", 50)
        assert runner.names() == ['"c d"', "a", "b", "t"]
    with closing(sqlite3.connect(filled, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert runner.names() == []
    assert runner.errors == 0
    loop.run_until_complete(conn.close())
    loop.close()


@pytest.mark.parametrize("character", ["\n", "\r\n", "\t", "\x1b", "\x9b", "\u2028", "\u202e"])
def test_names_that_are_not_printable_are_not_completed(filled: Path, character: str) -> None:
    """An accepted completion is typed: a line of the database's choice would run as a command."""
    with closing(sqlite3.connect(filled)) as stock:
        stock.execute(f'CREATE TABLE "t{character}.import a b" ("ü", "c{character}d")')
        stock.execute("CREATE TABLE stored_as_blob (a)")
        stock.execute("PRAGMA writable_schema = ON")
        stock.execute("UPDATE sqlite_schema SET name = CAST(name AS BLOB) WHERE name = 'stored_as_blob'")
        stock.commit()
    loop = asyncio.new_event_loop()
    conn = loop.run_until_complete(opened(str(filled)))
    runner = Shell(conn, loop, io.StringIO())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shell_module, "_NAMES_WITHIN_S", 50)
        assert runner.names() == ['"c d"', "a", "b", "t", "ü"]

    loop.run_until_complete(conn.close())
    loop.close()


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_names_are_not_looked_up_in_a_transaction(filled: Path, journal: str) -> None:
    """Its snapshot would begin at the prompt, where another's write would make the next one fail, or have to wait."""
    with closing(sqlite3.connect(filled, isolation_level=None, timeout=0)) as other:
        other.execute(f"PRAGMA journal_mode = {journal}")
        loop = asyncio.new_event_loop()
        conn = loop.run_until_complete(opened(str(filled)))
        runner = Shell(conn, loop, io.StringIO())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shell_module, "_NAMES_WITHIN_S", 50)
            before = runner.names()

        runner.feed("BEGIN;")
        assert runner.names() == before == ['"c d"', "a", "b", "t"]
        other.execute("INSERT INTO t (a) VALUES ('other')")
        runner.feed("INSERT INTO t (a) VALUES ('own');")
        runner.feed("COMMIT;")

        assert runner.errors == 0
        loop.run_until_complete(conn.close())
        loop.close()
    assert stored(filled, "SELECT count(*) FROM t") == [(7,)]


@pytest.mark.sources
def test_session_on_the_documentation_page_is_what_happens(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "shell.md").read_text(encoding="utf-8")
    found = re.search(r"^```console\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert found is not None
    session = found[1].splitlines(keepends=True)[2:]
    prompt = "rapsqlite> "

    done = shell(
        "shop.db", *(line[len(prompt) :].rstrip("\n") for line in session if line.startswith(prompt)), cwd=tmp_path
    )

    assert done == (0, "".join(line for line in session if not line.startswith(prompt)), "")
