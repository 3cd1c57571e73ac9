"""URI parameters, and files that may not be written, work as in native SQLite, with messages that say why."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rapsqlite import _constants as sqlite
from rapsqlite.errors import Error, OperationalError
from tests.programs import run_python
from tests.systems import not_on_windows
from tests.vfs.driver import CREATE, Driven

if TYPE_CHECKING:
    from collections.abc import Iterator

URI = CREATE | sqlite.SQLITE_OPEN_URI


@pytest.fixture
def wal(database: Path) -> Path:
    """A database in WAL mode with one row."""
    with closing(sqlite3.connect(database, isolation_level=None)) as native:
        native.execute("PRAGMA journal_mode = WAL")
        native.execute("CREATE TABLE t (x)")
        native.execute("INSERT INTO t VALUES (1)")
    return database


# -- parameters ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters",
    [
        "mode=ro",
        "mode=rw",
        "mode=rwc",
        "mode=memory",
        "mode=nonsense",
        "cache=private",
        "cache=shared",
        "cache=nonsense",
        "nolock=1",
        "psow=0",
        "vfs=no-such-thing",
        "unknown=parameter",
        "mode=ro&cache=private&psow=1",
    ],
)
@pytest.mark.parametrize("exists", [True, False], ids=["old", "new"])
def test_parameters_work_as_in_native_sqlite(tmp_path: Path, parameters: str, exists: bool) -> None:
    outcomes = []
    for library in ("native", "ours"):
        database = tmp_path / library / "test.db"
        database.parent.mkdir()
        if exists:
            with closing(sqlite3.connect(database, isolation_level=None)) as maker:
                maker.execute("CREATE TABLE t (x)")
        uri = f"file:{database}?{parameters}"
        outcome: list[Any] = []
        try:
            if library == "ours":
                with Driven(uri, flags=URI) as ours:
                    run_on(ours.sql, outcome)
            else:
                with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as native:
                    run_on(lambda sql: native.execute(sql).fetchall(), outcome)
        except sqlite3.Error as error:
            outcome.append(str(error).partition(" (")[0])
        outcome.append(sorted(path.name for path in database.parent.iterdir()))
        outcomes.append(outcome)

    assert outcomes[0] == outcomes[1]


def run_on(sql: Any, outcome: list[Any]) -> None:
    statements = (
        "SELECT count(*) FROM sqlite_schema",
        "CREATE TABLE IF NOT EXISTS t (x)",
        "INSERT INTO t VALUES (1)",
        "SELECT x FROM t",
    )
    outcome.extend([list(row) for row in sql(statement)] for statement in statements)


@not_on_windows("permission bits say little there")
@pytest.mark.parametrize("attached", [False, True], ids=["main", "attached"])
def test_modeof_names_a_model_for_new_files(tmp_path: Path, attached: bool) -> None:
    model = tmp_path / "model"
    model.touch()
    model.chmod(0o640)
    uri = f"file:{tmp_path}/new.db?modeof={model}"

    with Driven(f"file:{tmp_path}/main.db" if attached else uri, flags=URI) as ours:
        if attached:
            ours.sql("ATTACH ? AS new", uri)
        ours.sql(f"PRAGMA {'new' if attached else 'main'}.journal_mode = WAL")
        ours.sql(f"CREATE TABLE {'new' if attached else 'main'}.t (x)")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("new.db*")}

    assert modes == dict.fromkeys(["new.db", "new.db-wal", "new.db-shm"], 0o640)


def test_modeof_without_its_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Error, match=r"examine .*no-model.*No such file"):
        Driven(f"file:{tmp_path}/new.db?modeof={tmp_path}/no-model", flags=URI)

    assert list(tmp_path.iterdir()) == []


@not_on_windows("reads /proc")
def test_readonly_shm_never_writes_the_index(wal: Path) -> None:
    """It reads while another connection maintains the index, and cannot write."""
    with closing(sqlite3.connect(wal, isolation_level=None)) as native:
        native.execute("INSERT INTO t VALUES (2)")
        with Driven(f"file:{wal}?readonly_shm=1", flags=URI) as ours:
            assert ours.sql("SELECT x FROM t") == [[1], [2]]
            native.execute("INSERT INTO t VALUES (3)")
            assert ours.sql("SELECT x FROM t") == [[1], [2], [3]]
            with pytest.raises(OperationalError, match="readonly"):
                ours.sql("INSERT INTO t VALUES (4)")
            with open("/proc/self/maps") as maps:
                shared = [line.split()[1] for line in maps if line.rstrip().endswith("-shm")]
            assert "r--s" in shared


def test_immutable_database_is_neither_locked_nor_searched_for_a_journal(wal: Path) -> None:
    wal.with_name(wal.name + "-journal").write_bytes(b"nonsense" * 100)
    with closing(sqlite3.connect(wal, isolation_level=None)) as native:
        native.execute("PRAGMA journal_mode = DELETE")
        native.execute("BEGIN EXCLUSIVE")

        with Driven(f"file:{wal}?immutable=1", flags=URI) as ours:
            assert ours.sql("SELECT x FROM t") == [[1]]
            calls = ours.imports()

    assert (calls["file_lock"], calls["file_access"], calls["shm_map"]) == (0, 0, 0)


# -- files that may not be written, for users other than root -----------------------------------

# Everything is loaded, and the engine made, before the rights are given up: Python itself may be out of reach then.
AS_NOBODY = """
import dataclasses, json, os, sqlite3, sys, traceback
from rapsqlite._files import sigbus
from tests.vfs.driver import Driven
with Driven(':memory:') as warm: warm.sql('SELECT 1')
sigbus.turns_into_trap()
library, database, flags, statements = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
if getattr(os, "geteuid", lambda: -1)() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
assert not os.access(os.path.dirname(database), os.W_OK)
rows = []
error = ''
try:
    if library == 'ours':
        connection = Driven(database, flags=flags)
        run = connection.sql
    else:
        name = database.replace('%', '%25').replace('?', '%3f').replace('#', '%23')
        mode = 'ro' if flags & 1 else 'rw'
        connection = sqlite3.connect(f'file:{name}?mode={mode}', uri=True, isolation_level=None)
        run = lambda sql: connection.execute(sql).fetchall()
    for statement in statements:
        rows.append([list(row) for row in run(statement)])
    connection.close()
except sqlite3.Error as failure:
    error = str(failure)
print(json.dumps([rows, error]))
"""


@pytest.fixture
def locked_place() -> Iterator[Path]:
    """A directory that everybody may enter; `lock` makes it read-only for all users but root."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        folder.chmod(0o755)


def as_nobody(library: str, database: Path, *statements: str, flags: int = CREATE) -> tuple[list[Any], str]:
    """Run statements as a user without any rights; return their rows and the error that ended them."""
    done = run_python("-c", AS_NOBODY, library, database, flags, json.dumps(statements))
    assert (done.returncode, done.stderr) == (0, "")
    rows, error = json.loads(done.stdout)
    return rows, error


def lock(folder: Path, *, files: int) -> None:
    for path in folder.iterdir():
        path.chmod(files)
    folder.chmod(0o555)


def cut_off(database: Path, mode: str) -> None:
    """Leave a database whose last transaction was cut off after its journal was written, or is only in the WAL."""
    script = (
        "import os, sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('PRAGMA cache_size = 5')\n"
        f"c.execute('PRAGMA journal_mode = {mode}')\n"
        "c.execute('CREATE TABLE t (x)')\n"
        "c.execute('INSERT INTO t VALUES (1)')\n"
        "if sys.argv[2] == 'DELETE':\n"
        "    c.execute('BEGIN')\n"
        "    c.execute('WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n LIMIT 99)'\n"
        "              ' INSERT INTO t SELECT randomblob(1000) FROM n')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(database), mode], check=False)
    suffix = "-journal" if mode == "DELETE" else "-wal"
    assert database.with_name(database.name + suffix).stat().st_size > 0


READ = "SELECT x FROM t WHERE typeof(x) = 'integer'"


@not_on_windows("permission bits say little there")
@pytest.mark.parametrize("files", [0o444, 0o666], ids=["read-only file", "writable file"])
def test_database_in_a_read_only_directory_is_readable(locked_place: Path, files: int) -> None:
    """Reading works and writing is refused, as by native SQLite."""
    database = locked_place / "test.db"
    with closing(sqlite3.connect(database, isolation_level=None)) as native:
        native.executescript("CREATE TABLE t (x); INSERT INTO t VALUES (1)")
    lock(locked_place, files=files)

    theirs = as_nobody("native", database, READ, "INSERT INTO t VALUES (2)")
    rows, error = as_nobody("ours", database, READ, "INSERT INTO t VALUES (2)")

    assert rows == theirs[0] == [[[1]]]
    assert error.startswith(theirs[1])
    assert "readonly" in error
    if files == 0o666:
        assert "test.db-journal': Permission denied" in error


@not_on_windows("permission bits say little there")
@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
@pytest.mark.parametrize("flags", [CREATE, sqlite.SQLITE_OPEN_READONLY], ids=["to write", "to read"])
def test_interrupted_transaction_on_read_only_files_is_handled_as_in_sqlite(
    locked_place: Path, mode: str, flags: int
) -> None:
    """A hot journal must be rolled back before anyone reads; what is in a WAL can be read as it is."""
    database = locked_place / "test.db"
    cut_off(database, mode)
    lock(locked_place, files=0o444)
    before = {path.name: path.read_bytes() for path in locked_place.iterdir()}

    theirs = as_nobody("native", database, READ, flags=flags)
    rows, error = as_nobody("ours", database, READ, flags=flags)

    assert rows == theirs[0]
    if mode == "DELETE":
        assert "readonly" in theirs[1]
        assert "interrupted transaction" in error
        assert "write access to it and its directory" in error
    else:
        assert (rows, error, theirs[1]) == ([[[1]]], "", "")
    assert {path.name: path.read_bytes() for path in locked_place.iterdir()} == before


@not_on_windows("permission bits say little there")
def test_wal_database_in_a_read_only_directory_is_handled_as_in_sqlite(locked_place: Path) -> None:
    """The WAL and index do not exist, and cannot be created there."""
    database = locked_place / "test.db"
    with closing(sqlite3.connect(database, isolation_level=None)) as native:
        native.executescript("PRAGMA journal_mode = WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1)")
    assert [path.name for path in locked_place.iterdir()] == ["test.db"]
    lock(locked_place, files=0o444)

    theirs = as_nobody("native", database, READ)
    rows, error = as_nobody("ours", database, READ)
    immutable = as_nobody("ours", Path(f"file:{database}?immutable=1"), READ, flags=URI)

    assert rows == theirs[0]
    assert error.startswith(theirs[1])
    assert "test.db-wal': Permission denied" in error
    assert immutable == ([[[1]]], "")


@not_on_windows("permission bits say little there")
def test_error_for_an_unreadable_database_names_file_and_reason(locked_place: Path) -> None:
    """The error names the file and the system's reason."""
    database = locked_place / "test.db"
    sqlite3.connect(database).execute("CREATE TABLE t (x)").connection.close()
    lock(locked_place, files=0o000)

    rows, error = as_nobody("ours", database, READ)

    assert rows == []
    assert "unable to open database file" in error
    assert "test.db': Permission denied" in error
