"""Whole databases in all variants: journal modes, names, URIs, attached and temporary databases, recovery."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from typing import TYPE_CHECKING

import pytest

from rapsqlite import _constants as sqlite
from rapsqlite._files.file_table import FileTable
from rapsqlite.errors import DatabaseError, OperationalError
from tests.systems import not_on_windows
from tests.vfs.crash_model import Change, Disk, RecordingFiles, lay_out
from tests.vfs.driver import Driven

if TYPE_CHECKING:
    from pathlib import Path

READ_ONLY = sqlite.SQLITE_OPEN_READONLY
URI = sqlite.SQLITE_OPEN_URI
ROWS = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < {}) INSERT INTO t SELECT i, i || '' FROM n"
)


def native_rows(database: Path | str, sql: str = "SELECT count(*), sum(x) FROM t") -> list[tuple[object, ...]]:
    native = sqlite3.connect(database)
    try:
        assert native.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return native.execute(sql).fetchall()
    finally:
        native.close()


@pytest.mark.parametrize("journal", ["DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF", "WAL"])
@pytest.mark.parametrize("synchronous", ["OFF", "NORMAL", "FULL", "EXTRA"])
def test_native_sqlite_reads_every_journal_mode_and_level(quick_disk: Path, journal: str, synchronous: str) -> None:
    """Native SQLite reads what was written under every journal mode and level."""
    database = quick_disk / "test.db"
    with Driven(database) as ours:
        assert ours.value(f"PRAGMA journal_mode = {journal}") == journal.lower()
        ours.sql(f"PRAGMA synchronous = {synchronous}")
        ours.sql("CREATE TABLE t (x, y)")
        ours.sql(ROWS.format(3000))
        if journal != "OFF":  # without a journal a rollback is undefined
            ours.script("BEGIN; DELETE FROM t")
            ours.sql("ROLLBACK")
        ours.script("BEGIN; UPDATE t SET y = 'changed' WHERE x % 3 = 0; DELETE FROM t WHERE x % 3 = 1; COMMIT")
        assert ours.sql("PRAGMA integrity_check") == [["ok"]]

    assert native_rows(database) == [(2000, sum(x for x in range(3001) if x % 3 != 1))]


@pytest.mark.parametrize("page_size", [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536])
@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_native_sqlite_reads_every_page_size(quick_disk: Path, page_size: int, journal: str) -> None:
    """Databases of every page size are readable by native SQLite."""
    database = quick_disk / "test.db"
    with Driven(database) as ours:
        ours.script(f"PRAGMA page_size = {page_size}; PRAGMA journal_mode = {journal}; CREATE TABLE t (x, y)")
        ours.sql(ROWS.format(2000))
        ours.sql("UPDATE t SET y = randomblob(3 * x) WHERE x % 10 = 0")
        assert ours.sql("PRAGMA integrity_check") == [["ok"]]

    assert native_rows(database, "PRAGMA page_size") == [(page_size,)]
    assert native_rows(database) == [(2000, 2001000)]


@pytest.mark.parametrize(
    "name",
    [
        "with space.db",
        pytest.param("question?.db", marks=not_on_windows("no name there contains this character")),
        "percent%41.db",
        "hash#.db",
        "ünïcödé-数据.db",
        "a-wal",
        "x.db-journal",
        pytest.param("'q\".db", marks=not_on_windows("no name there contains this character")),
        "-",
    ],
)
@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_files_have_exactly_the_given_names(tmp_path: Path, name: str, journal: str) -> None:
    """The file has exactly the given name, and its journal and WAL are gone after closing."""
    database = tmp_path / name
    with Driven(database) as ours:
        ours.sql(f"PRAGMA journal_mode = {journal}")
        ours.sql("CREATE TABLE t (x)")
        ours.sql("INSERT INTO t VALUES (1)")

    assert native_rows(database) == [(1, 1)]
    assert [path.name for path in tmp_path.iterdir()] == [name]


@not_on_windows("making links needs a privilege there, and does nothing under Wine")
def test_journal_of_a_linked_database_is_next_to_its_target(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "elsewhere" / "link.db"
    for directory in (real, link.parent):
        directory.mkdir()
    with Driven(real / "test.db") as ours:
        ours.sql("CREATE TABLE t (x)")
    link.symlink_to("../real/test.db")

    with Driven(link) as ours:
        ours.sql("BEGIN")
        ours.sql("INSERT INTO t VALUES (1)")
        assert {path.name for path in real.iterdir()} == {"test.db", "test.db-journal"}
        assert [path.name for path in link.parent.iterdir()] == ["link.db"]
        ours.sql("COMMIT")

    assert native_rows(link) == [(1, 1)]


def test_read_only_connection_reads_and_refuses_writes(database: Path) -> None:
    """A read-only connection reads, and its writes are refused by SQLite itself."""
    with Driven(database) as ours:
        ours.sql("CREATE TABLE t (x)")

    with Driven(database, flags=READ_ONLY) as ours:
        assert ours.sql("SELECT * FROM t") == []
        with pytest.raises(OperationalError, match="readonly"):
            ours.sql("INSERT INTO t VALUES (1)")


@pytest.mark.parametrize("parameter", ["immutable=1", "nolock=1"])
def test_uri_parameters_can_turn_locks_off(database: Path, parameter: str) -> None:
    native = sqlite3.connect(database, isolation_level=None)
    native.execute("CREATE TABLE t (x)")
    native.execute("BEGIN EXCLUSIVE")

    with Driven(f"file:{database}?{parameter}", flags=READ_ONLY | URI) as ours:
        assert ours.sql("SELECT * FROM t") == []
        assert ours.imports()["file_lock"] == 0
    native.close()


def test_attached_database_is_granted_and_committed_with_the_main_one(tmp_path: Path) -> None:
    """Only files in granted directories can be attached, and a commit spans both databases."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "secret").mkdir()
    main = os.fsencode(tmp_path / "sub" / "main.db")
    with Driven(tmp_path / "sub" / "main.db", files=FileTable(main, directories=[os.path.dirname(main)])) as ours:
        ours.sql("ATTACH ? AS other", str(tmp_path / "sub" / "other.db"))
        ours.script("CREATE TABLE t (x); CREATE TABLE other.t (x)")
        ours.script("BEGIN; INSERT INTO main.t VALUES (1); INSERT INTO other.t VALUES (2); COMMIT")
        with pytest.raises(OperationalError, match="not granted"):
            ours.sql("ATTACH ? AS secret", str(tmp_path / "secret" / "x.db"))
        assert list((tmp_path / "secret").iterdir()) == []

    assert native_rows(tmp_path / "sub" / "other.db") == [(1, 2)]


def test_temporary_tables_and_sorting_leave_no_files(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with Driven(home / "test.db") as ours:
        ours.sql("PRAGMA cache_size = 10")
        ours.script("CREATE TABLE t (x, y); CREATE TEMP TABLE u (x, y)")
        ours.sql(ROWS.format(30_000))
        ours.sql("INSERT INTO u SELECT * FROM t")
        ours.script("BEGIN; UPDATE u SET y = 'x' || y; SAVEPOINT s; DELETE FROM u WHERE x > 10; ROLLBACK TO s; COMMIT")
        assert ours.value("SELECT count(*) FROM u WHERE y LIKE 'x%'") == 30_000
        ordered = ours.sql("SELECT x FROM u ORDER BY y DESC LIMIT 3")
        ours.sql("CREATE INDEX i ON t (y)")

    assert ordered == [[9999], [9998], [9997]]
    assert [path.name for path in home.iterdir()] == ["test.db"]


def crash_with_hot_journal(database: Path) -> None:
    """Leave a database whose last transaction was interrupted after its journal was synced."""
    files = RecordingFiles(os.fsencode(database))
    with Driven(database, files=files) as ours:
        ours.sql("CREATE TABLE t (x)")
        ours.sql("INSERT INTO t VALUES (1)")
        files.changes.append(Change("acknowledge"))
        ours.sql("UPDATE t SET x = 2")
    disk = Disk()
    last = max(number for number, change in enumerate(files.changes) if change.kind == "delete")
    for change in files.changes[:last]:
        disk.apply(change)
    lay_out(disk.after_kill(), database.parent)
    assert database.with_name(database.name + "-journal").stat().st_size > 0


@pytest.mark.parametrize("reader", ["ours", "native"])
def test_hot_journal_is_rolled_back(tmp_path: Path, reader: str) -> None:
    database = tmp_path / "test.db"
    crash_with_hot_journal(database)

    if reader == "ours":
        with Driven(database) as ours:
            assert ours.sql("SELECT x FROM t") == [[1]]

    assert native_rows(database, "SELECT x FROM t") == [(1,)]
    assert [path.name for path in tmp_path.iterdir()] == ["test.db"]


def test_hot_journal_on_a_read_only_connection_is_a_clear_error(tmp_path: Path) -> None:
    database = tmp_path / "test.db"
    crash_with_hot_journal(database)

    with Driven(database, flags=READ_ONLY) as ours, pytest.raises(OperationalError, match="readonly"):
        ours.sql("SELECT x FROM t")

    assert native_rows(database, "SELECT x FROM t") == [(1,)]


def test_transaction_over_two_databases_is_atomic_after_a_crash(tmp_path: Path) -> None:
    """A transaction over two files happens in both or in neither, wherever it is interrupted."""
    home = tmp_path / "home"
    home.mkdir()
    files = RecordingFiles(os.fsencode(home / "main.db"))
    with Driven(home / "main.db", files=files) as ours:
        ours.sql("ATTACH ? AS other", str(home / "other.db"))
        ours.script("CREATE TABLE t (x); CREATE TABLE other.t (x)")
        ours.script("INSERT INTO main.t VALUES (0); INSERT INTO other.t VALUES (0)")
        start = len(files.changes)
        ours.script("BEGIN; UPDATE main.t SET x = 1; UPDATE other.t SET x = 1; COMMIT")
    disk = Disk()
    seen = set()

    for number, change in enumerate(files.changes):
        disk.apply(change)
        if number >= start:
            state = disk.after_kill()
            # The super-journal contains the names of the journals, so the files must be found in the same place.
            shutil.rmtree(home)
            home.mkdir()
            lay_out(state, home)
            values = [native_rows(home / name, "SELECT x FROM t")[0][0] for name in ("main.db", "other.db")]
            assert values in ([0, 0], [1, 1])
            seen.add(values[0])

    assert seen == {0, 1}


def test_new_files_have_the_modes_of_native_ones(tmp_path: Path) -> None:
    modes = []
    for library in ("ours", "native"):
        home = tmp_path / library
        home.mkdir()
        if library == "ours":
            with Driven(home / "test.db") as ours:
                ours.script("PRAGMA journal_mode = WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1)")
                modes.append({path.name: stat.S_IMODE(path.stat().st_mode) for path in home.iterdir()})
        else:
            native = sqlite3.connect(home / "test.db")
            native.executescript("PRAGMA journal_mode = WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1)")
            modes.append({path.name: stat.S_IMODE(path.stat().st_mode) for path in home.iterdir()})
            native.close()

    assert modes[0] == modes[1]


@not_on_windows("an open file can be neither deleted nor renamed there")
def test_renamed_database_is_not_written(tmp_path: Path) -> None:
    """Its journal would never be found."""
    database = tmp_path / "test.db"
    with Driven(database) as ours:
        ours.sql("CREATE TABLE t (x)")
        database.rename(tmp_path / "moved.db")

        with pytest.raises(OperationalError, match="readonly"):
            ours.sql("INSERT INTO t VALUES (1)")

    assert native_rows(tmp_path / "moved.db") == [(0, None)]


def test_file_that_is_not_a_database_raises_as_in_sqlite3(database: Path) -> None:
    """It is refused as SQLite refuses it."""
    database.write_bytes(b"nonsense" * 1000)

    with Driven(database) as ours, pytest.raises(DatabaseError, match="not a database"):
        ours.sql("SELECT * FROM sqlite_schema")


def test_error_names_file_and_reason(tmp_path: Path) -> None:
    with pytest.raises(OperationalError, match=r"unable to open database file.*missing.*No such file or directory"):
        Driven(tmp_path / "missing" / "test.db")


def test_large_transaction_spills_and_commits(quick_disk: Path) -> None:
    database = quick_disk / "test.db"
    with Driven(database) as ours:
        ours.script("PRAGMA cache_size = 10; CREATE TABLE t (x, y); BEGIN")
        ours.sql(ROWS.format(100_000))
        ours.sql("COMMIT")

    assert native_rows(database) == [(100_000, 5000050000)]


def test_granted_directory_may_be_attached(tmp_path: Path) -> None:
    for name in ("home", "data"):
        (tmp_path / name).mkdir()
    files = FileTable(os.fsencode(tmp_path / "home" / "x.db"), directories=[os.fsencode(tmp_path / "data")])

    with Driven(tmp_path / "home" / "x.db", files=files) as ours:
        ours.sql("ATTACH ? AS other", str(tmp_path / "data" / "y.db"))
        ours.sql("CREATE TABLE other.t (x)")

    assert native_rows(tmp_path / "data" / "y.db") == [(0, None)]
