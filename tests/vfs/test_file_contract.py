"""The host's files, called as the guest calls them, compared with the rules of SQLite's VFS for Unix."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from rapsqlite import _constants as sqlite
from rapsqlite._files import file_lock, opening
from rapsqlite._files.file_error import FileError
from rapsqlite._files.file_table import FileTable
from rapsqlite._files.imports import file_imports
from tests.systems import not_on_windows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATABASE = sqlite.SQLITE_OPEN_READWRITE | sqlite.SQLITE_OPEN_CREATE | sqlite.SQLITE_OPEN_MAIN_DB
JOURNAL = sqlite.SQLITE_OPEN_READWRITE | sqlite.SQLITE_OPEN_CREATE | sqlite.SQLITE_OPEN_MAIN_JOURNAL


@pytest.fixture
def files(database: Path) -> Iterator[FileTable]:
    table = FileTable(os.fsencode(database))
    yield table
    table.close()


def code_of(call: Any, *arguments: object) -> int:
    """Return the result code that ``call`` fails with."""
    with pytest.raises(FileError) as caught:
        call(*arguments)
    return caught.value.code


def test_written_bytes_are_read_back(files: FileTable, database: Path) -> None:
    handle, flags = files.open(os.fsencode(database), DATABASE)
    page = bytearray(8)

    files.write(handle, b"12345678", 4096)
    code = files.read_into(handle, memoryview(page), 4096)

    assert (code, bytes(page), flags) == (sqlite.SQLITE_OK, b"12345678", DATABASE)
    assert files.size(handle) == 4104
    assert (files.bytes_read, files.bytes_written) == (8, 8)


def test_read_beyond_the_end_is_zero_filled(files: FileTable, database: Path) -> None:
    handle, _ = files.open(os.fsencode(database), DATABASE)
    files.write(handle, b"abc", 0)
    page = bytearray(b"\xff" * 8)

    code = files.read_into(handle, memoryview(page), 1)

    assert (code, bytes(page)) == (sqlite.SQLITE_IOERR_SHORT_READ, b"bc" + bytes(6))


@not_on_windows("replaces calls of POSIX")
def test_short_transfers_are_continued(files: FileTable, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handle, _ = files.open(os.fsencode(database), DATABASE)
    preadv, pwrite = os.preadv, os.pwrite
    monkeypatch.setattr(os, "preadv", lambda fd, parts, at: preadv(fd, [parts[0][:3]], at))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, bytes(data[:3]), at))
    page = bytearray(10)

    files.write(handle, b"0123456789", 5)
    code = files.read_into(handle, memoryview(page), 5)

    assert (code, bytes(page)) == (sqlite.SQLITE_OK, b"0123456789")


@not_on_windows("replaces calls of POSIX")
@pytest.mark.parametrize(
    "call,number,code",
    [
        ("pwrite", errno.ENOSPC, sqlite.SQLITE_FULL),
        ("pwrite", errno.EDQUOT, sqlite.SQLITE_FULL),
        ("pwrite", errno.EIO, sqlite.SQLITE_IOERR_WRITE),
        ("preadv", errno.EIO, sqlite.SQLITE_IOERR_CORRUPTFS),
        ("preadv", errno.ESTALE, sqlite.SQLITE_IOERR_READ),
        ("ftruncate", errno.EIO, sqlite.SQLITE_IOERR_TRUNCATE),
        ("fdatasync", errno.EIO, sqlite.SQLITE_IOERR_FSYNC),
        ("fsync", errno.EIO, sqlite.SQLITE_IOERR_DIR_FSYNC),
        ("fstat", errno.EIO, sqlite.SQLITE_IOERR_FSTAT),
    ],
)
def test_system_errors_become_result_codes(
    files: FileTable, database: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, code: int
) -> None:
    handle, _ = files.open(os.fsencode(database), DATABASE)

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        got = {
            "pwrite": lambda: code_of(files.write, handle, b"x", 0),
            "preadv": lambda: code_of(files.read_into, handle, memoryview(bytearray(1)), 0),
            "ftruncate": lambda: code_of(files.truncate, handle, 0),
            "fdatasync": lambda: code_of(files.sync, handle, sqlite.SQLITE_SYNC_NORMAL),
            "fsync": lambda: code_of(files.sync, handle, sqlite.SQLITE_SYNC_NORMAL | sqlite.SYNC_DIRECTORY),
            "fstat": lambda: code_of(files.size, handle),
        }[call]()

    assert got == code


def test_full_device_is_reported_as_full() -> None:
    """/dev/full really fails every write with ENOSPC."""
    table = FileTable(b"/dev/full")
    handle, _ = table.open(b"/dev/full", DATABASE)

    assert code_of(table.write, handle, b"x", 0) == sqlite.SQLITE_FULL
    table.close()


def test_error_names_operation_file_and_reason(files: FileTable, database: Path) -> None:
    missing = database.with_name("missing.db")

    with pytest.raises(FileError) as caught:
        files.open(os.fsencode(missing), sqlite.SQLITE_OPEN_READONLY | sqlite.SQLITE_OPEN_MAIN_DB)

    assert caught.value.code == sqlite.SQLITE_CANTOPEN
    assert str(caught.value) == f"cannot open {str(missing)!r}: No such file or directory"


def test_unknown_handle_is_an_error(files: FileTable) -> None:
    assert code_of(files.size, 77) == sqlite.SQLITE_IOERR
    assert code_of(files.close_file, 77) == sqlite.SQLITE_IOERR


def test_directory_cannot_be_opened(files: FileTable, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()

    assert code_of(files.open, os.fsencode(tmp_path / "sub"), DATABASE) == sqlite.SQLITE_CANTOPEN


@not_on_windows("an open file can be neither deleted nor renamed there")
def test_deleting_a_missing_file_has_its_own_code(files: FileTable, database: Path) -> None:
    name = os.fsencode(database) + b"-journal"
    database.touch()
    files.open(name, JOURNAL)

    files.delete(name, sync_directory=True)

    assert files.sync_count == 1
    assert code_of(files.delete, name, True) == sqlite.SQLITE_IOERR_DELETE_NOENT


@not_on_windows("file systems log names themselves there")
def test_first_sync_of_a_journal_syncs_its_directory(
    files: FileTable, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.touch()
    handle, _ = files.open(os.fsencode(database) + b"-journal", JOURNAL)
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))

    files.sync(handle, sqlite.SQLITE_SYNC_NORMAL | sqlite.SYNC_DIRECTORY)

    assert synced == [database.parent.stat().st_ino]


def test_access_reports_only_files_that_are_not_empty(files: FileTable, database: Path) -> None:
    name = os.fsencode(database)

    assert not files.access(name, sqlite.SQLITE_ACCESS_EXISTS)
    database.touch()
    assert not files.access(name, sqlite.SQLITE_ACCESS_EXISTS)
    database.write_bytes(b"x")
    assert files.access(name, sqlite.SQLITE_ACCESS_EXISTS)
    assert files.access(name, sqlite.SQLITE_ACCESS_READWRITE)


def test_file_of_one_byte_counts_as_empty(files: FileTable, database: Path) -> None:
    database.write_bytes(b"x")
    handle, _ = files.open(os.fsencode(database), DATABASE)

    assert files.size(handle) == 0


@not_on_windows("permission bits say little there")
def test_new_database_obeys_the_umask(files: FileTable, database: Path) -> None:
    before = os.umask(0o027)
    try:
        files.open(os.fsencode(database), DATABASE)
    finally:
        os.umask(before)

    assert stat.S_IMODE(database.stat().st_mode) == 0o640


@pytest.mark.parametrize("suffix", ["-journal", "-wal"])
def test_journal_gets_the_mode_of_its_database(files: FileTable, database: Path, suffix: str) -> None:
    database.touch()
    database.chmod(0o666)

    files.open(os.fsencode(database) + suffix.encode(), JOURNAL)

    journal = database.with_name(database.name + suffix)
    assert stat.S_IMODE(journal.stat().st_mode) == 0o666


@pytest.mark.skipif(getattr(os, "geteuid", lambda: -1)() != 0, reason="only root may give files away")
def test_journal_gets_the_owner_of_its_database(files: FileTable, database: Path) -> None:
    database.touch()
    os.chown(database, 65534, 65534)

    files.open(os.fsencode(database) + b"-journal", JOURNAL)

    assert database.with_name(database.name + "-journal").stat().st_uid == 65534


def test_journal_without_database_is_refused(files: FileTable, database: Path) -> None:
    name = os.fsencode(database) + b"-journal"

    assert code_of(files.open, name, JOURNAL) == sqlite.SQLITE_IOERR_FSTAT


def test_temporary_file_has_no_name(files: FileTable, tmp_path: Path) -> None:
    flags = sqlite.SQLITE_OPEN_READWRITE | sqlite.SQLITE_OPEN_CREATE | sqlite.SQLITE_OPEN_EXCLUSIVE
    handle, _ = files.open(b"", flags | sqlite.SQLITE_OPEN_DELETEONCLOSE | sqlite.SQLITE_OPEN_TEMP_DB)

    files.write(handle, b"x" * 5000, 0)

    assert files.size(handle) == 5000
    assert not files.has_moved(handle)
    assert list(tmp_path.iterdir()) == []


@not_on_windows("replaces calls of POSIX")
def test_temporary_file_is_unlinked_if_unnamed_files_are_unsupported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    monkeypatch.delattr(os, "O_TMPFILE")
    table = FileTable(b":memory:")

    handle, _ = table.open(b"", sqlite.SQLITE_OPEN_READWRITE | sqlite.SQLITE_OPEN_DELETEONCLOSE)

    table.write(handle, b"x", 0)
    assert list(tmp_path.iterdir()) == []
    table.close()


@not_on_windows("an open file can be neither deleted nor renamed there")
def test_moved_and_replaced_files_are_detected(files: FileTable, database: Path) -> None:
    handle, _ = files.open(os.fsencode(database), DATABASE)
    assert not files.has_moved(handle)

    database.rename(database.with_name("elsewhere"))
    assert files.has_moved(handle)

    database.touch()
    assert files.has_moved(handle)


def test_closed_standard_streams_are_never_databases(database: Path) -> None:
    """Output for a closed stdout must not be written to a database that got its number."""
    script = (
        "import os, sys\n"
        "from rapsqlite._files.file_table import FileTable\n"
        "name = os.fsencode(sys.argv[1])\n"
        "for fd in (0, 1, 2): os.close(fd)\n"
        "table = FileTable(name)\n"
        f"table.open(name, {DATABASE})\n"
        "os.write(1, b'noise')\n"
    )

    done = subprocess.run([sys.executable, "-c", script, str(database)], check=False)

    assert (done.returncode, database.read_bytes()) == (0, b"")


@not_on_windows("replaces calls of POSIX")
@pytest.mark.parametrize("failing", ["dup", "null"])
def test_database_on_a_standard_stream_is_closed_if_it_cannot_be_moved(database: Path, failing: str) -> None:
    """It stayed there when descriptors ran out, and took the output of the whole process.

    It only gets there if another thread closes the stream at the last moment.
    """
    script = (
        "import os, sys\n"
        "from rapsqlite._files import descriptors\n"
        "from rapsqlite._platform import system\n"
        "name, failing = os.fsencode(sys.argv[1]), sys.argv[2]\n"
        "duplicate, open_any = system._duplicate_above, os.open\n"
        "def fail(*_): raise OSError(24, 'Too many open files')\n"
        "def open_other(path, *rest, **options):\n"
        "    return fail() if path == os.devnull else open_any(path, *rest, **options)\n"
        "before = os.listdir('/dev/fd')\n"
        "os.close(1)\n"
        "system._occupy_standard_streams = lambda: None\n"
        "if failing == 'dup': system._duplicate_above = fail\n"
        "else: os.open = open_other\n"
        "try: descriptors.open_file(name, os.O_RDWR | os.O_CREAT, 0o600, None)\n"
        "except OSError as error: assert error.errno == 24\n"
        "else: raise AssertionError\n"
        "os.open = open_any\n"
        "try: os.write(1, b'noise')\n"
        "except OSError: pass\n"
        "assert len(os.listdir('/dev/fd')) == len(before) - 1\n"
    )

    done = subprocess.run([sys.executable, "-c", script, str(database), failing], check=False)

    assert (done.returncode, database.read_bytes()) == (0, b"")


@not_on_windows("their files have names there")
@pytest.mark.parametrize("unnamed", [True, False], ids=["unnamed", "named"])
def test_closed_standard_streams_are_never_temporary_files(unnamed: bool) -> None:
    """SQLite sorts in them, and keeps temporary tables there."""
    script = (
        "import os\n"
        "from rapsqlite._files import opening\n"
        f"if not {unnamed}: os.O_TMPFILE = 0\n"
        "for fd in (0, 1, 2): os.close(fd)\n"
        "assert opening.open_temporary() > 2\n"
    )

    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@not_on_windows("their files have names there")
def test_temporary_file_that_cannot_be_unlinked_is_closed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a directory to which files can only be added, for example."""

    def fail(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    before = set(os.listdir("/dev/fd"))
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    monkeypatch.setattr(os, "O_TMPFILE", 0, raising=False)
    monkeypatch.setattr(os, "unlink", fail)

    assert code_of(opening.open_temporary) == sqlite.SQLITE_CANTOPEN
    assert set(os.listdir("/dev/fd")) <= before  # what earlier tests have left may be closed meanwhile


class Memory:
    """A guest's memory of 64 KiB."""

    def __init__(self) -> None:
        self.bytes = bytearray(65536)

    def __call__(self, address: int, length: int, /) -> memoryview:
        if address + length > len(self.bytes):
            raise IndexError("outside")
        return memoryview(self.bytes)[address : address + length]

    def put(self, data: bytes, address: int) -> tuple[int, int]:
        self.bytes[address : address + len(data)] = data
        return address, len(data)


def test_imports_take_and_return_plain_integers(files: FileTable, database: Path) -> None:
    memory = Memory()
    call = file_imports(files, memory, memory, memory)
    name = memory.put(os.fsencode(database), 1000)

    assert call["path_full"](*name, 2000, 4097) == sqlite.SQLITE_OK
    assert memory.bytes[2000:].partition(b"\0")[0] == os.fsencode(database)
    assert call["file_open"](*name, DATABASE, 8) == sqlite.SQLITE_OK
    handle = int.from_bytes(memory.bytes[8:12], "little")
    assert int.from_bytes(memory.bytes[12:16], "little") == DATABASE
    assert call["file_write"](handle, *name, 0) == sqlite.SQLITE_OK
    assert call["file_read"](handle, 3000, name[1], 0) == sqlite.SQLITE_OK
    assert memory.bytes[3000 : 3000 + name[1]] == os.fsencode(database)
    assert call["file_size"](handle, 16) == sqlite.SQLITE_OK
    assert int.from_bytes(memory.bytes[16:24], "little") == name[1]
    assert call["file_close"](handle) == sqlite.SQLITE_OK
    assert call["file_close"](handle) == sqlite.SQLITE_IOERR


def test_failed_import_records_its_reason(files: FileTable, database: Path) -> None:
    memory = Memory()
    call = file_imports(files, memory, memory, memory)
    name = memory.put(os.fsencode(database), 1000)

    code = call["file_open"](*name, sqlite.SQLITE_OPEN_READONLY, 8)

    assert code == sqlite.SQLITE_CANTOPEN
    assert "No such file" in str(files.failure)


def test_import_refuses_addresses_outside_the_memory(files: FileTable, database: Path) -> None:
    call = file_imports(files, Memory(), Memory(), Memory())
    handle, _ = files.open(os.fsencode(database), DATABASE)

    with pytest.raises(IndexError):
        call["file_read"](handle, 65530, 100, 0)


def test_closing_closes_every_descriptor(database: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    table = FileTable(os.fsencode(database))
    table.open(os.fsencode(database), DATABASE)
    table.open(os.fsencode(database) + b"-journal", JOURNAL)
    table.open(b"", sqlite.SQLITE_OPEN_READWRITE | sqlite.SQLITE_OPEN_DELETEONCLOSE)

    table.close()

    assert set(os.listdir("/proc/self/fd")) <= before  # what earlier tests have left may be closed meanwhile


@not_on_windows("no process forks there")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_child_forked_while_files_are_closed_abandons_the_rest(
    files: FileTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It closed a temporary file a second time, and its other connections were left as they were."""
    handle, _ = files.open(b"", sqlite.SQLITE_OPEN_READWRITE | sqlite.SQLITE_OPEN_DELETEONCLOSE)
    temporary, close = files._files[handle].fd, os.close
    children = []

    def close_and_fork(fd: int) -> None:
        close(fd)
        if fd == temporary:
            children.append(os.fork())
            if not children[0]:
                try:
                    files.abandon()
                    os._exit(0)
                finally:
                    os._exit(1)

    monkeypatch.setattr(os, "close", close_and_fork)
    files.close()

    assert os.waitpid(children[0], 0)[1] == 0


def test_failing_unlock_keeps_no_file_open(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead guest's files are closed, whatever fails meanwhile."""
    before = set(os.listdir("/proc/self/fd"))
    table = FileTable(os.fsencode(database))
    for suffix in (b"", b"-other"):
        handle, _ = table.open(os.fsencode(database) + suffix, DATABASE)
        table.lock(handle, sqlite.SQLITE_LOCK_SHARED)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(file_lock.FileLock, "unlock", fail)
        table.close()

    assert set(os.listdir("/proc/self/fd")) <= before  # what earlier tests have left may be closed meanwhile
    assert "Input/output error" in str(table.failure)
