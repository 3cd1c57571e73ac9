"""Which names reach which files: granted directories, symbolic links, URIs."""

from __future__ import annotations

import mmap
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import pytest

import rapsqlite
from rapsqlite import _constants as sqlite
from rapsqlite._files.file_error import FileError
from rapsqlite._files.file_table import FileTable
from rapsqlite._files.grants import database_path
from tests.systems import not_on_windows

DATABASE = sqlite.SQLITE_OPEN_READWRITE | sqlite.SQLITE_OPEN_CREATE | sqlite.SQLITE_OPEN_MAIN_DB
JOURNAL = sqlite.SQLITE_OPEN_READWRITE | sqlite.SQLITE_OPEN_CREATE | sqlite.SQLITE_OPEN_SUPER_JOURNAL


def home_beside_a_secret(tmp_path: Path) -> Path:
    """Return a new directory next to the file ``secret.db``, which no one may read from there."""
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "secret.db").write_bytes(b"secret")
    return home


def confined(database: Path, *directories: Path) -> FileTable:
    """The files of a connection that is granted these directories, or otherwise its database's."""
    granted = directories or (database.parent,)
    return FileTable(os.fsencode(database), directories=[os.fsencode(directory) for directory in granted])


def real_name(table: FileTable, name: Path | str) -> str:
    return os.fsdecode(table.full_path(os.fsencode(name))[0])


def test_names_next_to_the_database_and_below_are_reachable(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    table = confined(tmp_path / "main.db")

    for name in (tmp_path / "main.db", tmp_path / "other.db", tmp_path / "below" / "third.db"):
        handle, _ = table.open(os.fsencode(real_name(table, name)), DATABASE)
        table.close_file(handle)

    assert (tmp_path / "below" / "third.db").exists()
    table.close()


@pytest.mark.parametrize("name", ["../secret.db", "sub/../../secret.db", "/etc/secret.db", "..", "."])
def test_names_outside_are_refused(tmp_path: Path, name: str) -> None:
    """No name, however it is written, leads out of the granted directories."""
    home = tmp_path / "home"
    (home / "sub").mkdir(parents=True)
    table = confined(home / "main.db")

    with pytest.raises(FileError, match="not granted") as caught:
        table.full_path(os.fsencode(home / name))

    assert caught.value.code == sqlite.SQLITE_CANTOPEN
    table.close()


@pytest.mark.parametrize("call", ["open", "access", "delete"])
def test_refused_names_fail_in_every_call(tmp_path: Path, call: str) -> None:
    """An ungranted super-journal must not look absent: its journals would then not be rolled back."""
    home = tmp_path / "home"
    home.mkdir()
    secret = tmp_path / "secret.db"
    secret.write_bytes(b"secret")
    table = confined(home / "main.db")

    with pytest.raises(FileError):
        getattr(table, call)(os.fsencode(secret), 0)

    assert secret.read_bytes() == b"secret"
    table.close()


@not_on_windows("making links needs a privilege there, and does nothing under Wine")
def test_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    home = home_beside_a_secret(tmp_path)
    (home / "file.db").symlink_to("../secret.db")
    (home / "directory").symlink_to("..")
    table = confined(home / "main.db")

    for name in ("file.db", "directory/secret.db"):
        with pytest.raises(FileError, match="not granted"):
            table.open(os.fsencode(home / name), DATABASE)
    table.close()


@not_on_windows("making links needs a privilege there, and does nothing under Wine")
def test_links_are_not_followed_once_a_name_is_resolved(tmp_path: Path) -> None:
    """A link may have been created between resolving and opening."""
    home = home_beside_a_secret(tmp_path)
    table = confined(home / "main.db")
    table.open(os.fsencode(home / "main.db"), DATABASE)
    resolved = table.full_path(os.fsencode(home / "other.db"))[0]
    (home / "other.db").symlink_to("../secret.db")

    with pytest.raises(FileError, match="symbolic links"):
        table.open(resolved, DATABASE)
    table.close()


@not_on_windows("making links needs a privilege there, and does nothing under Wine")
def test_guest_learns_nothing_about_the_target_of_a_link(tmp_path: Path) -> None:
    """Also not where its name is not resolved again, because the directory is open."""
    home = home_beside_a_secret(tmp_path)
    (home / "there").symlink_to("../secret.db")
    (home / "absent").symlink_to("../absent.db")
    table = confined(home / "main.db")
    table.open(os.fsencode(home / "main.db"), DATABASE)
    flags = sqlite.SQLITE_OPEN_READWRITE | sqlite.SQLITE_OPEN_CREATE | sqlite.SQLITE_OPEN_MAIN_JOURNAL
    learned: dict[str, list[object]] = {}

    for name in ("there", "absent"):
        link = os.fsencode(home / name)
        learned[name] = [table.access(link, sqlite.SQLITE_ACCESS_READWRITE)]
        with pytest.raises(FileError) as caught:
            table.open(link + b"-journal", flags)
        learned[name] += [caught.value.code, caught.value.reason]

    assert learned["there"] == learned["absent"]
    table.close()


@not_on_windows("making links needs a privilege there, and does nothing under Wine")
def test_linked_database_is_its_target(tmp_path: Path) -> None:
    """As with SQLite itself: the journal belongs next to the target."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "main.db").touch()
    (tmp_path / "link.db").symlink_to("real/main.db")
    table = FileTable(os.fsencode(tmp_path / "link.db"))

    path, followed = table.full_path(os.fsencode(tmp_path / "link.db"))

    assert (os.fsdecode(path), followed) == (str(tmp_path / "real" / "main.db"), True)
    table.close()


@not_on_windows("making links needs a privilege there, and does nothing under Wine")
def test_database_in_a_linked_directory_uses_the_real_one(tmp_path: Path) -> None:
    """Links are resolved once, so that journal and database share a real directory."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    table = FileTable(os.fsencode(tmp_path / "link" / "main.db"))

    assert real_name(table, tmp_path / "link" / "main.db") == str(tmp_path / "real" / "main.db")
    assert real_name(table, tmp_path / "link" / "other.db") == str(tmp_path / "real" / "other.db")
    table.close()


@not_on_windows("making links needs a privilege there, and does nothing under Wine")
def test_circular_links_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    table = FileTable(os.fsencode(tmp_path / "main.db"))

    with pytest.raises(FileError, match="too many symbolic links"):
        table.full_path(os.fsencode(tmp_path / "a"))
    table.close()


def test_relative_names_refer_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = FileTable(b"main.db")

    assert real_name(table, "main.db") == str(tmp_path / "main.db")
    assert real_name(table, "./x/../other.db") == str(tmp_path / "other.db")
    table.close()


def test_granted_directories_are_trees(tmp_path: Path) -> None:
    for name in ("home", "data/deep", "data2"):
        (tmp_path / name).mkdir(parents=True)
    table = confined(tmp_path / "home" / "main.db", tmp_path / "data")

    handle, _ = table.open(os.fsencode(tmp_path / "data" / "deep" / "x.db"), DATABASE)

    table.close_file(handle)
    with pytest.raises(FileError, match="not granted"):
        table.open(os.fsencode(tmp_path / "data2" / "x.db"), DATABASE)
    table.close()


def test_without_limits_everything_is_granted(tmp_path: Path) -> None:
    """As with SQLite itself."""
    table = FileTable(b":memory:")

    handle, _ = table.open(os.fsencode(tmp_path / "x.db"), DATABASE)

    assert table.size(handle) == 0
    table.close()


def test_memory_database_grants_nothing(tmp_path: Path) -> None:
    table = FileTable(b":memory:", directories=[])

    with pytest.raises(FileError, match="not granted"):
        table.open(os.fsencode(tmp_path / "x.db"), DATABASE)
    table.close()


def test_own_database_and_its_companions_are_reachable(tmp_path: Path) -> None:
    table = FileTable(os.fsencode(tmp_path / "main.db"), directories=[])
    table.open(os.fsencode(tmp_path / "main.db"), DATABASE)

    for suffix in ("-journal", "-wal", "-shm", "-mj0F00BA912"):
        name = os.fsencode(tmp_path / f"main.db{suffix}")
        assert table.access(name, sqlite.SQLITE_ACCESS_EXISTS) is False
        table.close_file(table.open(name, JOURNAL)[0])
        table.delete(name, sync_directory=False)
    table.close()


@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
@pytest.mark.parametrize(
    "name", ["other.db", "main.db2", "main.db-other", "main.db-mj0F00BA91", "main.db-journal-wal", "main.db/x", "main"]
)
def test_neighbours_of_the_own_database_are_not_reachable(tmp_path: Path, name: str, first: bool) -> None:
    """This also holds once the directory is open and names are not resolved again."""
    table = FileTable(os.fsencode(tmp_path / "main.db"), directories=[])
    if not first:
        table.open(os.fsencode(tmp_path / "main.db"), DATABASE)
        table.access(os.fsencode(tmp_path / "main.db-wal"), sqlite.SQLITE_ACCESS_EXISTS)

    for call in ("open", "access", "delete"):
        with pytest.raises(FileError):
            getattr(table, call)(os.fsencode(tmp_path / name), JOURNAL)
    table.close()


@pytest.mark.parametrize("suffix", ["-journal", "-wal", "-shm", "-mj0F00BA912"])
def test_companions_cannot_be_attached(tmp_path: Path, suffix: str) -> None:
    """SQL that can attach a journal can forge one."""
    table = FileTable(os.fsencode(tmp_path / "main.db"), directories=[])

    with pytest.raises(FileError, match="not granted"):
        table.open(os.fsencode(tmp_path / f"main.db{suffix}"), DATABASE)
    table.close()


def test_only_databases_get_an_index(tmp_path: Path) -> None:
    """Its name is the file's with a suffix: next to a journal it would be a file that is not granted."""
    table = FileTable(os.fsencode(tmp_path / "main.db"), directories=[])
    handle, _ = table.open(os.fsencode(tmp_path / "main.db-journal"), JOURNAL)

    with pytest.raises(FileError, match="only a database"):
        table.map_index(handle, 0, memoryview(mmap.mmap(-1, 1 << 15)), extend=True)

    assert os.listdir(tmp_path) == ["main.db-journal"]
    table.close()


@not_on_windows("directories have no descriptors there")
def test_file_in_a_revoked_directory_leads_to_no_other_directory(tmp_path: Path) -> None:
    """The directory's descriptor was closed, and the next directory that was opened got its number."""
    for name in ("home", "lent"):
        (tmp_path / name).mkdir()
    lent = os.fsencode(tmp_path / "lent")
    table = FileTable(os.fsencode(tmp_path / "home" / "main.db"), directories=[])
    table.grant(lent)
    handle, _ = table.open(lent + b"/image", DATABASE)
    table.revoke(lent)
    table.access(os.fsencode(tmp_path / "home" / "main.db"), sqlite.SQLITE_ACCESS_EXISTS)

    table.map_index(handle, 0, memoryview(mmap.mmap(-1, 1 << 15)), extend=True)

    assert os.listdir(tmp_path / "home") == []
    assert not table.has_moved(handle)
    used = open_descriptors()
    table.close_file(handle)
    table.access(os.fsencode(tmp_path / "home" / "main.db"), sqlite.SQLITE_ACCESS_EXISTS)
    assert open_descriptors() <= used - 3  # the image, its index and its directory
    table.close()


def test_missing_directory_is_a_clear_error(tmp_path: Path) -> None:
    table = FileTable(os.fsencode(tmp_path / "none" / "x.db"))

    with pytest.raises(FileError, match=r"cannot open directory .*none.*No such file"):
        table.open(os.fsencode(tmp_path / "none" / "x.db"), DATABASE)
    table.close()


@pytest.mark.skipif(getattr(os, "geteuid", lambda: -1)() != 0, reason="needs two users")
def test_directory_may_be_unlistable() -> None:
    """Search permission is enough to open a file in a directory."""
    with tempfile.TemporaryDirectory() as home:
        path = Path(home, "main.db")
        path.touch()
        path.chmod(0o666)
        Path(home).chmod(0o711)
        pid = os.fork()
        if not pid:
            try:
                os.setegid(65534)
                os.seteuid(65534)
                table = FileTable(os.fsencode(path))
                table.open(os.fsencode(path), DATABASE)
                os._exit(0)
            finally:
                os._exit(1)

        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize(
    "name",
    [
        "plain.db",
        "file:plain.db",
        "file:plain.db?mode=rwc",
        "file:with%20space.db",
        pytest.param(
            "file:question%3fmark.db?cache=private", marks=not_on_windows("no name there contains this character")
        ),
        "file:percent%25.db",
        "file:%C3%A9.db#fragment",
        "file:cut%00off.db",
        pytest.param("file://localhost{home}/host.db", marks=not_on_windows("a slash precedes drives in URIs")),
        pytest.param("file://{home}/host.db", marks=not_on_windows("a slash precedes drives in URIs")),
        "file:{home}/absolute.db",
        "file:broken%4.db",
    ],
)
def test_uri_names_the_same_file_as_in_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    name = name.format(home=tmp_path)
    native = sqlite3.connect(name, uri=True)
    native.execute("PRAGMA user_version = 1")
    expected = native.execute("SELECT file FROM pragma_database_list").fetchone()[0]
    native.close()

    path = database_path(os.fsencode(name), uri=True)

    assert path is not None
    assert os.path.realpath(os.fsdecode(path)) == expected


@pytest.mark.parametrize(
    "name", ["", ":memory:", "file::memory:", "file:shared?mode=memory&cache=shared", "file:/x?vfs=memdb"]
)
def test_in_memory_databases_have_no_path(name: str) -> None:
    assert database_path(name.encode(), uri=True) is None


def test_without_uri_names_are_literal() -> None:
    assert database_path(b"file:x.db?mode=ro", uri=False) == b"file:x.db?mode=ro"


def test_a_thousand_nested_directories_are_opened(tmp_path: Path) -> None:
    """Each directory used to take a nested Python call, and a descriptor that stayed open."""
    deep = [os.fsencode(tmp_path) + b"/x" * depth for depth in range(1, 1001)]
    for directory in deep:
        os.mkdir(directory)
    table = FileTable(b":memory:")
    used = open_descriptors()

    handle, _ = table.open(table.full_path(deep[-1] + b"/test.db")[0], DATABASE)
    with pytest.raises(FileError) as caught:
        table.open(os.fsencode(tmp_path) + b"/y" * 1000 + b"/test.db", DATABASE)

    assert caught.value.code == sqlite.SQLITE_CANTOPEN
    assert open_descriptors() <= used + 2  # the file and its directory
    table.close_file(handle)
    table.close()
    os.unlink(deep[-1] + b"/test.db")
    for directory in reversed(deep):
        os.rmdir(directory)


def open_descriptors() -> int:
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        pytest.skip("nothing tells which descriptors are open")


@not_on_windows("making links needs a privilege there, and does nothing under Wine")
def test_too_many_links_are_an_error(tmp_path: Path) -> None:
    for number in range(1500):
        (tmp_path / f"link{number}").symlink_to(f"link{number + 1}")
    table = FileTable(b":memory:")

    with pytest.raises(FileError) as caught:
        table.full_path(os.fsencode(tmp_path / "link0"))

    assert caught.value.code == sqlite.SQLITE_CANTOPEN
    table.close()


LONG_NAMES = [
    "PRAGMA journal_mode = {}",
    "CREATE TABLE IF NOT EXISTS t (a)",
    "INSERT INTO t VALUES (1)",
    "SELECT count(*) FROM t",
    "PRAGMA integrity_check",
    "BEGIN",
    "INSERT INTO t VALUES (2)",
    "ROLLBACK",
    "VACUUM",
    "ATTACH '{}' AS other",
]


@pytest.mark.parametrize("mode", ["delete", "memory", "wal"])
@pytest.mark.parametrize("length", [247, 248, 251, 252, 255, 256])
async def test_name_too_long_for_a_journal_works_as_in_sqlite3(tmp_path: Path, length: int, mode: str) -> None:
    """Companion files that cannot exist do not: the database is read, and written in the modes that need none."""
    small = tmp_path / "small.db"
    with sqlite3.connect(small) as stock:
        stock.execute("CREATE TABLE t (a)")
    stock.close()
    answers = []
    for library in (sqlite3, rapsqlite):
        (tmp_path / library.__name__).mkdir()
        path = tmp_path / library.__name__ / ("x" * length)
        if length < 256:
            shutil.copy(small, path)
        answers.append(await answers_of(library, path, mode))

    assert answers[0] == answers[1]


async def answers_of(library: Any, path: Path, mode: str) -> list[Any]:
    """Return rows or errors of the statements above, on this file."""
    answers: list[Any] = []
    connection = None
    try:
        connection = await in_time(library.connect(path, isolation_level=None))
        for statement in LONG_NAMES:
            sql = statement.format(path if "ATTACH" in statement else mode)
            try:
                cursor = await in_time(connection.execute(sql))
                answers.append(await in_time(cursor.fetchall()))
            except library.Error as error:
                answers.append(type(error).__name__)
    except library.Error as error:
        answers.append(type(error).__name__)
    finally:
        if connection is not None:
            await in_time(connection.close())
    return answers


async def in_time(result: Any) -> Any:
    """Await awaitable results: the same statements serve both libraries."""
    return await result if hasattr(result, "__await__") else result
