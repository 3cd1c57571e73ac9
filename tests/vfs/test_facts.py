"""The facts about a database that are read when it is locked, by either method."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from rapsqlite import _constants as abi
from rapsqlite._files.facts import Facts
from rapsqlite._files.file_error import FileError
from rapsqlite._platform import system
from tests.systems import not_on_windows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=[True, False], ids=["local", "network"])
def facts(database: Path, request: pytest.FixtureRequest) -> Iterator[Facts]:
    database.write_bytes(b"x" * 5000)
    fd = os.open(database, os.O_RDWR)
    directory = system.open_directory(os.fsencode(database.parent), None)
    yield Facts(fd, os.fsencode(database), directory, os.fsencode(database.name), is_local=request.param)
    os.close(fd)
    system.close_directory(directory)


@pytest.mark.parametrize("size", [0, 2, 5000, (1 << 31) + 3, (1 << 33) + 5])
def test_size_of_the_file_is_reported(facts: Facts, database: Path, size: int) -> None:
    os.truncate(database, size)

    assert facts.size() == size


def test_file_of_a_single_byte_is_an_empty_database(facts: Facts, database: Path) -> None:
    os.truncate(database, 1)

    assert facts.size() == 0


@pytest.mark.parametrize("content", [b"", b"journal"])
def test_companions_are_reported_as_they_appear_and_disappear(facts: Facts, database: Path, content: bytes) -> None:
    journal, wal = (database.with_name(database.name + suffix) for suffix in ("-journal", "-wal"))
    seen = [facts.companions()]
    for path in (journal, wal):
        path.write_bytes(content)
        seen.append(facts.companions())
    journal.unlink()
    seen.append(facts.companions())

    assert seen == [0, abi.FACT_JOURNAL, abi.FACT_JOURNAL | abi.FACT_WAL, abi.FACT_WAL]


@not_on_windows("making links needs a privilege there, and does nothing under Wine")
def test_broken_link_may_be_a_journal(facts: Facts, database: Path) -> None:
    """SQLite then checks for itself."""
    os.symlink("nowhere", f"{database}-journal")

    assert facts.companions() == abi.FACT_JOURNAL


@not_on_windows("directories have no descriptors there")
def test_unreadable_directory_may_have_every_companion(database: Path) -> None:
    database.touch()
    fd = os.open(database, os.O_RDWR)
    facts = Facts(fd, os.fsencode(database), fd, b"test.db", is_local=True)
    os.close(fd)

    assert facts.companions() == abi.FACT_JOURNAL | abi.FACT_WAL
    with pytest.raises(FileError) as caught:
        facts.size()
    assert caught.value.code == abi.SQLITE_IOERR_FSTAT
    assert os.strerror(errno.EBADF) in str(caught.value)
