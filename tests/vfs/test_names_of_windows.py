"""Database names on Windows: the names that SQLite accepts there, in Windows' own form."""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

import rapsqlite
from rapsqlite import _constants as sqlite
from rapsqlite._files.file_error import FileError
from rapsqlite._files.file_table import FileTable
from rapsqlite._platform import system

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(sys.platform != "win32", reason="other systems have other names"),
    pytest.mark.anyio,
]


@pytest.mark.parametrize(
    "external, internal",
    [
        (rb"C:\dir\file.db", b"/C:/dir/file.db"),
        (b"C:\\", b"/C:"),
        (rb"\\server\share\file.db", b"/?UNC/server/share/file.db"),
    ],
)
def test_names_are_converted_there_and_back(external: bytes, internal: bytes) -> None:
    """Inside, every name looks like a POSIX path; the system gets its own form."""
    assert system.internal(external) == internal
    assert system.external(internal) == external


@pytest.mark.parametrize("external", [rb"\\?\C:\dir\file.db", b"/C:/dir/file.db", rb"C:\dir\..\dir\.\file.db"])
def test_spellings_of_one_file_are_one_name(external: bytes) -> None:
    assert system.absolute(external) == b"/C:/dir/file.db"


@pytest.mark.parametrize(
    "name", ["a b.db", "ü€.db", "\\".join(["d" * 50] * 6) + "\\deep.db"], ids=["space", "ü", "long"]
)
async def test_database_has_its_own_name(tmp_path: Path, name: str) -> None:
    """Also beyond 260 characters, where Windows needs a prefix."""
    path = os.path.join(tmp_path, name)
    os.makedirs("\\\\?\\" + os.path.dirname(path), exist_ok=True)

    async with rapsqlite.connect(path) as conn:
        await conn.execute("CREATE TABLE t (v)")
        listed = await conn.fetch_all("PRAGMA database_list")

    assert listed[0][2] == path
    assert os.path.exists("\\\\?\\" + path)  # noqa: ASYNC240


async def test_uri_names_a_drive(tmp_path: Path) -> None:
    async with rapsqlite.connect((tmp_path / "uri.db").as_uri(), uri=True) as conn:
        await conn.execute("CREATE TABLE t (v)")

    with closing(sqlite3.connect(tmp_path / "uri.db")) as native:
        assert native.execute("SELECT name FROM sqlite_schema").fetchall() == [("t",)]


@pytest.mark.parametrize(
    "name",
    ["nul", "Com1", "a.db:stream", r"\\.\PhysicalDrive0", r"\\?\GLOBALROOT\Device\Null", r"\\?\Volume{1}\a"],
)
async def test_devices_and_streams_are_refused(tmp_path: Path, name: str) -> None:
    """``NUL`` and ``file:stream`` open, but are no files in which a database could be kept."""
    with pytest.raises(rapsqlite.OperationalError, match="unable to open database file"):
        async with rapsqlite.connect(tmp_path / name):
            pass


@pytest.mark.parametrize("name", [rb"..\outside.db", rb"below\..\..\outside.db"])
def test_backslash_does_not_lead_out_of_a_granted_directory(tmp_path: Path, name: bytes) -> None:
    """SQLite makes no such names, but a guest that was taken over does, and so does a forged journal."""
    granted, outside = tmp_path / "granted", tmp_path / "outside.db"
    granted.mkdir()
    outside.touch()
    files = FileTable(b":memory:", directories=[os.fsencode(granted)])
    inside = system.absolute(os.fsencode(granted)) + b"/"
    creating = sqlite.SQLITE_OPEN_READWRITE | sqlite.SQLITE_OPEN_CREATE
    files.open(inside + b"own.db", creating)  # from now on the directory is known

    with pytest.raises(FileError):
        files.access(inside + name, sqlite.SQLITE_ACCESS_EXISTS)
    with pytest.raises(FileError):
        files.delete(inside + name, False)
    with pytest.raises(FileError):
        files.open(inside + name.replace(b"outside", b"new"), creating)

    files.close()
    assert sorted(os.listdir(tmp_path)) == ["granted", "outside.db"]


@pytest.mark.parametrize("name", [b"nul", b"Com1.db", b"own.db."])
def test_name_of_a_device_in_a_known_directory_is_refused(tmp_path: Path, name: bytes) -> None:
    """SQLite gets the device's own name instead; a guest that was taken over need not use it."""
    files = FileTable(b":memory:", directories=[os.fsencode(tmp_path)])
    inside = system.absolute(os.fsencode(tmp_path)) + b"/"
    creating = sqlite.SQLITE_OPEN_READWRITE | sqlite.SQLITE_OPEN_CREATE
    files.open(inside + b"own.db", creating)

    with pytest.raises(FileError):
        files.open(inside + name, creating)
    files.close()


@pytest.mark.parametrize("name", ["test.db.", "test.db  ", "TEST.DB", "./x/../test.db"])
async def test_name_that_windows_takes_for_another_is_the_same_database(tmp_path: Path, name: str) -> None:
    """With one journal: two names for it would corrupt the database."""
    (tmp_path / "x").mkdir()
    async with rapsqlite.connect(tmp_path / "test.db") as conn, rapsqlite.connect(f"{tmp_path}/{name}") as other:
        await conn.execute("PRAGMA journal_mode = WAL")
        await conn.execute("CREATE TABLE t (v)")
        await other.execute("INSERT INTO t VALUES (1)")
        await other.commit()

        assert sorted(os.listdir(tmp_path)) == ["test.db", "test.db-shm", "test.db-wal", "x"]


async def test_name_that_is_not_unicode_is_an_error_of_its_statement(tmp_path: Path) -> None:
    async with rapsqlite.connect(tmp_path / "test.db") as conn:
        with pytest.raises(rapsqlite.OperationalError, match="unable to open database"):
            await conn.execute("ATTACH CAST(x'ff41' AS TEXT) AS other")

        assert await conn.fetch_scalar("SELECT 1") == 1


async def test_limits_ignore_case_as_the_file_system_does(tmp_path: Path) -> None:
    own, other = tmp_path / "Own.db", tmp_path / "other.db"
    for path in (own, other):
        with closing(sqlite3.connect(path)) as native:
            native.execute("CREATE TABLE t (v)")

    async with rapsqlite.connect(str(own).upper(), limits={"directories": []}) as conn:
        await conn.execute("ATTACH ? AS again", (str(own),))
        with pytest.raises(rapsqlite.OperationalError, match="not granted"):
            await conn.execute("ATTACH ? AS other", (str(other),))
    async with rapsqlite.connect(own, limits={"directories": [str(tmp_path).upper()]}) as conn:
        await conn.execute("ATTACH ? AS other", (str(other),))


@pytest.mark.parametrize("in_memory", [True, False])
async def test_files_in_other_directories_are_reached(tmp_path: Path, in_memory: bool) -> None:
    """No directory contains the drives, so a path is not opened step by step from one."""
    own, other, copy = (tmp_path / name / "test.db" for name in ("own", "other", "copies"))
    for path in (own, other, copy):
        path.parent.mkdir()

    async with rapsqlite.connect(":memory:" if in_memory else own, isolation_level=None) as conn:
        await conn.execute("ATTACH ? AS other", (str(other),))
        await conn.execute("CREATE TABLE other.t AS SELECT 1 AS v")
        await conn.execute("VACUUM other INTO ?", (str(copy),))
        for name in (r"\\?\UNC", r"\\no-such-server\test.db"):
            with pytest.raises(rapsqlite.OperationalError, match="unable to open"):
                await conn.execute("ATTACH ? AS another", (name,))

    with closing(sqlite3.connect(copy)) as native:
        assert native.execute("SELECT v FROM t").fetchall() == [(1,)]


async def test_closed_database_can_be_deleted(tmp_path: Path) -> None:
    """An open file cannot be deleted: Windows reports that it is in use."""
    path = tmp_path / "test.db"
    async with rapsqlite.connect(path, pragmas={"journal_mode": "wal"}) as conn:
        await conn.execute("CREATE TABLE t (v)")
        with pytest.raises(PermissionError):
            path.unlink()

    path.unlink()
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240
