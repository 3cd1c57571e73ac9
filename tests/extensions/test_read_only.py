"""Under ``limits={"read_only": True}`` the host itself refuses every write: an extension bypasses SQLite."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import rapsqlite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

WAYS = ["write", "append", "truncate", "grow", "index"]
KINDS = [
    "database",
    "temporary database",
    "transient database",
    "journal",
    "temporary journal",
    "statement journal",
    "super-journal",
    "log",
    "nothing",
]
MODES = ["read", "write", "create", "passing"]
COMPANIONS = ["", "-journal", "-wal", "-shm"]
INTRUDE = "SELECT intrude(?, ?, ?, ?)"


@pytest.fixture(scope="module")
def intruder(build: Callable[..., Path]) -> Path:
    """The malicious extension."""
    source = Path(__file__).with_name("intruder.c").read_text(encoding="utf-8")
    return build("intruder", source)


def companions(directory: Path) -> dict[str, bytes]:
    """Return the content of every file of a directory."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A directory with a database in WAL mode that a writer has open, and one with a journal left by a crash."""
    with closing(sqlite3.connect(tmp_path / "wal.db", isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("CREATE TABLE t (v)")
        writer.execute("INSERT INTO t VALUES ('kept')")
        with closing(sqlite3.connect(tmp_path / "plain.db", isolation_level=None)) as plain:
            plain.execute("CREATE TABLE t (v)")
        (tmp_path / "plain.db-journal").write_bytes(b"left by somebody")
        yield tmp_path


@pytest.fixture
async def reader(folder: Path, intruder: Path) -> AsyncIterator[rapsqlite.Connection]:
    """A read-only connection with the extension."""
    limits: rapsqlite.Limits = {"read_only": True, "directories": [folder]}
    async with rapsqlite.connect(folder / "wal.db", isolation_level=None, limits=limits) as connection:
        await connection.enable_load_extension(True)
        await connection.load_extension(intruder)
        yield connection


@pytest.mark.parametrize("database", ["wal.db", "plain.db"])
async def test_extension_cannot_write_to_database_files(
    folder: Path, reader: rapsqlite.Connection, database: str
) -> None:
    assert await reader.fetch_all("SELECT v FROM t") == [["kept"]]
    before = companions(folder)

    answers = {
        (way, companion, kind, mode): await reader.fetch_scalar(
            INTRUDE, (way, str(folder / (database + companion)), kind, mode)
        )
        for way in WAYS
        for companion in COMPANIONS
        for kind in KINDS
        for mode in MODES
    }

    assert [case for case, code in answers.items() if code == 0] == []
    assert companions(folder) == before


@pytest.mark.parametrize("name", [*(f"wal.db{end}" for end in COMPANIONS), "plain.db", "plain.db-journal"])
async def test_extension_cannot_delete_files(folder: Path, reader: rapsqlite.Connection, name: str) -> None:
    before = companions(folder)

    assert await reader.fetch_scalar(INTRUDE, ("delete", str(folder / name), "", "")) != rapsqlite.SQLITE_OK
    assert companions(folder) == before


@pytest.mark.parametrize("name", ["new.db", "new.db-journal", "new.db-wal", "plain.db-wal", "plain.db-mj000000900"])
async def test_extension_cannot_create_files(folder: Path, reader: rapsqlite.Connection, name: str) -> None:
    before = companions(folder)

    for kind in KINDS:
        for mode in MODES:
            assert await reader.fetch_scalar(INTRUDE, ("append", str(folder / name), kind, mode)) != rapsqlite.SQLITE_OK
    assert companions(folder) == before


async def test_extension_cannot_lock_out_writers(folder: Path, reader: rapsqlite.Connection) -> None:
    """A read-only descriptor takes only shared locks."""
    for mode in MODES:
        assert await reader.fetch_scalar(INTRUDE, ("lock", str(folder / "wal.db"), "database", mode)) != 0
    with closing(sqlite3.connect(folder / "wal.db", isolation_level=None, timeout=0)) as native:
        native.execute("INSERT INTO t VALUES ('more')")
    assert await reader.fetch_all("SELECT v FROM t") == [["kept"], ["more"]]
