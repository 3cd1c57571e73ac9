"""Files on Windows that other programs have open: in the way for a moment, or mapped."""

from __future__ import annotations

import ctypes
import importlib
import mmap
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from rapsqlite import _constants as sqlite
from rapsqlite._files.file_error import FileError
from rapsqlite._files.file_table import FileTable
from rapsqlite._platform import system

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(sys.platform != "win32", reason="other systems let everyone open, cut off and delete files"),
    pytest.mark.anyio,
]
HELD_S = 0.1  # as long as a virus scanner looks at a file; we wait for a second


def own_module(name: str) -> Any:
    """Return a module that can be imported only on Windows."""
    return importlib.import_module(f"rapsqlite._platform.{name}")


def hold(path: Path) -> threading.Timer:
    """Open a file so that no one else can, for a moment."""
    kernel = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined, unused-ignore]
    kernel.CreateFileW.restype = ctypes.c_void_p
    handle = kernel.CreateFileW(os.fspath(path), 0x8000_0000, 0, None, 3, 0, None)
    assert handle not in (None, ctypes.c_void_p(-1).value)
    timer = threading.Timer(HELD_S, kernel.CloseHandle, [ctypes.c_void_p(handle)])
    timer.start()
    return timer


async def test_file_that_another_program_holds_for_a_moment_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    path.touch()
    timer = hold(path)

    async with rapsqlite.connect(path) as conn:
        await conn.execute("CREATE TABLE t (v)")
    timer.join()


def test_what_can_never_be_opened_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_seconds: float) -> None:
        raise AssertionError("waited")

    monkeypatch.setattr("rapsqlite._platform.windows.time.sleep", refuse)

    with pytest.raises(PermissionError):
        system.open_at(system.absolute(os.fsencode(tmp_path)), os.O_RDWR, 0, None)
    with pytest.raises(FileNotFoundError):
        system.open_at(system.absolute(os.fsencode(tmp_path / "nothing")), os.O_RDWR, 0, None)


def test_file_is_deleted_once_no_other_program_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.touch()
    directory = system.open_directory(system.absolute(os.fsencode(tmp_path)), None)
    timer = hold(path)

    system.delete_at(b"journal", directory)

    timer.join()
    assert not path.exists()
    system.close_directory(directory)


async def test_journal_that_cannot_be_cut_off_fails_its_transaction(tmp_path: Path) -> None:
    """It would roll a transaction back that was reported as committed."""
    path = tmp_path / "test.db"
    async with rapsqlite.connect(path, isolation_level=None) as conn:
        await conn.execute("PRAGMA journal_mode = TRUNCATE")
        await conn.execute("CREATE TABLE t (v)")
        await conn.execute("BEGIN")
        await conn.execute("INSERT INTO t VALUES (1)")
        with (
            open(f"{path}-journal", "r+b") as journal,  # noqa: ASYNC230
            mmap.mmap(journal.fileno(), 512),
            pytest.raises(rapsqlite.OperationalError),
        ):
            await conn.execute("COMMIT")

    async with rapsqlite.connect(path) as conn:
        assert await conn.fetch_scalar("SELECT count(*) FROM t") == 0


def test_index_that_cannot_be_cut_off_is_made_invalid(tmp_path: Path) -> None:
    """It may be from before a crash, and look valid."""
    path = tmp_path / "test.db-shm"
    path.write_bytes(b"\1" * 65536)
    fd = os.open(path, os.O_RDWR)

    with open(path, "r+b") as other, mmap.mmap(other.fileno(), 0):
        system.enter_index(fd, writable=True)

    assert path.read_bytes()[:96] == bytes(96)
    system.leave_index(fd, 0, entered=True)
    os.close(fd)


@pytest.mark.parametrize("number", [39, 112])  # ERROR_HANDLE_DISK_FULL, ERROR_DISK_FULL
def test_full_disk_is_reported_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """As in SQLite, for either number."""
    files = FileTable(os.fsencode(tmp_path / "test.db"))
    name = system.absolute(os.fsencode(tmp_path / "test.db"))
    handle, _ = files.open(name, sqlite.SQLITE_OPEN_READWRITE | sqlite.SQLITE_OPEN_CREATE)

    def fail(*_arguments: object) -> int:
        ctypes.set_last_error(number)  # type: ignore[attr-defined, unused-ignore]
        return 0

    monkeypatch.setattr(own_module("windows"), "_write_file", fail)
    with pytest.raises(FileError) as caught:
        files.write(handle, b"page", 0)

    assert caught.value.code == sqlite.SQLITE_FULL
    files.close()


def test_refused_conversion_keeps_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another connection may be waiting for the moment between two locks."""
    path = tmp_path / "test.db-shm"
    path.touch()
    ours, theirs = os.open(path, os.O_RDWR), os.open(path, os.O_RDWR)
    system.set_lock(ours, system.READ, 5, 1)
    windows = own_module("windows")
    unlock: Any = windows._unlock
    overtaken: list[int] = []

    def unlock_for_others(fd: int, start: int, length: int) -> None:
        unlock(fd, start, length)
        system.set_lock(theirs, system.WRITE, start, length)
        overtaken.append(start)

    with monkeypatch.context() as patched:
        patched.setattr(windows, "_unlock", unlock_for_others)
        with pytest.raises(BlockingIOError):
            system.convert_lock(ours, system.WRITE, 5)

    assert overtaken == []
    with pytest.raises(BlockingIOError):
        system.set_lock(theirs, system.WRITE, 5, 1)
    system.set_lock(theirs, system.READ, 5, 1)
    os.close(ours)
    os.close(theirs)


def test_locks_on_a_network_drive_are_waited_for_without_the_gil(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server can take long, and everything else would stand still."""
    windows = own_module("windows")
    fd = os.open(tmp_path / "test.db", os.O_RDWR | os.O_CREAT)
    monkeypatch.setattr(windows, "_local", None)
    monkeypatch.setattr(windows, "_is_local_drive", lambda _root: False)
    assert not system.is_local(fd)

    system.set_lock(fd, system.READ, 5, 1)
    system.set_lock(fd, system.NONE, 5, 1)

    monkeypatch.undo()  # the descriptor is another file's
    assert system.is_local(fd)
    monkeypatch.setattr(windows, "_remote", None)
    system.set_lock(fd, system.READ, 5, 1)
    os.close(fd)


async def test_memory_that_cannot_be_committed_leaves_no_address_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 GiB are reserved for each guest, before its memory is committed."""
    placeholders = own_module("placeholders")
    async with rapsqlite.connect(tmp_path / "test.db"):
        pass
    before = list(placeholders._reservations)

    def refuse(*_arguments: object) -> None:
        raise OSError("the paging file is too small")

    with monkeypatch.context() as patched:
        patched.setattr(placeholders.Reservation, "grow", refuse)
        with pytest.raises(rapsqlite.OperationalError, match="address space"):
            async with rapsqlite.connect(tmp_path / "test.db"):
                pass

    assert list(placeholders._reservations) == before


def test_file_that_cannot_be_mapped_again_stays_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it could not be unmapped, and its index not be closed."""
    placeholders = own_module("placeholders")
    path = tmp_path / "test.db-shm"
    path.write_bytes(b"\1" * 65536)
    fd = os.open(path, os.O_RDWR)
    with placeholders._lock:
        reservation = placeholders.Reservation(1 << 20)
        placeholders._reservations[reservation.base] = reservation
    system.map_file(reservation.base, fd, 0, 32768, writable=True)

    with monkeypatch.context() as patched:
        patched.setattr(placeholders, "_map_view", lambda *_arguments: None)
        with pytest.raises(OSError):
            system.map_file(reservation.base, fd, 32768, 32768, writable=True)

    assert ctypes.string_at(reservation.base, 1) == b"\1"
    system.unmap_file(reservation.base, 32768)
    with placeholders._lock:
        placeholders._reservations.pop(reservation.base).release()
    os.close(fd)
