"""The differences between operating systems, as far as one system can test them."""

from __future__ import annotations

import ast
import errno
import json
import os
import sys
from pathlib import Path

import pytest

from rapsqlite._files import grants
from rapsqlite._files.file_error import FileError
from rapsqlite._platform.interface import System
from tests.programs import run_python
from tests.systems import not_on_windows

ROOT = Path(__file__).resolve().parents[2]
PLATFORM = Path(sys.modules[System.__module__].__file__ or "").parent


@pytest.mark.skipif(sys.platform != "linux", reason="the stand-ins are for Linux")
def test_macos_shares_databases_with_sqlite3_through_its_own_locks_and_syncs(tmp_path: Path) -> None:
    """With macOS's numbers and structures, without posix_fallocate and, in some builds, preadv."""
    done = run_python("-m", "tests.vfs.macos", os.fspath(tmp_path), cwd=ROOT)

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    wanted = {"F_OFD_SETLK", "F_OFD_GETLK", "F_FULLFSYNC", "F_BARRIERFSYNC", "F_GETPATH", "minherit", "fstatfs"}
    assert wanted <= told["asked"].keys()
    assert "needs a local file system" in told["network"]
    assert "bell" in told["lacks"]


@not_on_windows("its module needs POSIX")
@pytest.mark.parametrize("full", [False, True])
def test_macos_reports_a_sync_that_failed(tmp_path: Path, full: bool) -> None:
    """Another sync would succeed: the system reports lost writes only once."""
    from rapsqlite._platform.darwin import Darwin

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with (tmp_path / "file").open("wb") as file, pytest.raises(OSError, match=os.strerror(errno.EIO)):
        Darwin(fail).sync(file.fileno(), full=full)


@not_on_windows("its module needs POSIX")
@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOTTY, errno.EINVAL])
def test_macos_syncs_without_a_barrier_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    from rapsqlite._platform.darwin import Darwin

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with (tmp_path / "file").open("wb") as file:
        Darwin(refuse).sync(file.fileno(), full=False)

        assert synced == [file.fileno()]


def spell_as_stored(fd: int, command: int, argument: bytes) -> bytes:
    """Answer F_GETPATH as a file system does that ignores case, on which ``data`` was created as ``Data``."""
    assert command == 50
    path = os.fsencode(os.readlink(f"/proc/self/fd/{fd}"))
    return path.replace(b"/data", b"/Data").ljust(len(argument), b"\0")


@pytest.mark.skipif(sys.platform != "linux", reason="the stand-ins are for Linux")
@pytest.mark.parametrize(
    "directories, name", [((), b"own.db"), ((b"",), b"other.db"), ((b"/below",), b"below/other.db")]
)
def test_macos_grants_what_is_named_in_other_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, directories: tuple[bytes, ...], name: bytes
) -> None:
    from rapsqlite._platform.darwin import Darwin

    monkeypatch.setattr(grants, "system", Darwin(spell_as_stored))
    (tmp_path / "data" / "below").mkdir(parents=True)
    given = os.fsencode(tmp_path / "data")
    files = grants.Grants(given + b"/own.db", [given + each for each in directories], lambda _descriptor: False)

    found, _ = files.resolve(given + b"/" + name)

    assert found == os.fsencode(tmp_path / "Data") + b"/" + name


@pytest.mark.skipif(sys.platform != "linux", reason="the stand-ins are for Linux")
def test_macos_tells_sql_nothing_about_links_outside_its_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rapsqlite._platform.darwin import Darwin

    monkeypatch.setattr(grants, "system", Darwin(spell_as_stored))
    (tmp_path / "secret").mkdir()
    (tmp_path / "link").symlink_to("secret")
    files = grants.Grants(None, [], lambda _descriptor: False)

    with pytest.raises(FileError, match="not granted") as caught:
        files.resolve(os.fsencode(tmp_path / "link" / "x.db"))

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("module, name", [("windows", "Windows"), ("linux", "Linux"), ("darwin", "Darwin")])
def test_every_system_implements_the_whole_interface(module: str, name: str) -> None:
    """Read from the source: a system's module can be imported on that system only."""
    defined: set[str] = set()
    for file in (module, *(["_posix"] if module != "windows" else [])):
        tree = ast.parse((PLATFORM / f"{file}.py").read_text(encoding="utf-8"))
        for kind in (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name in (name, "Posix")):
            for node in ast.walk(kind):
                if isinstance(node, ast.FunctionDef):
                    defined.add(node.name)
                elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    defined.add(node.id)
                elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                    defined.add(node.attr)

    missing = (set(System.__abstractmethods__) | set(System.__annotations__)) - defined

    assert not missing


def test_first_connection_does_not_ask_for_the_system_s_release() -> None:
    """On Windows, Python asks a service for it, which took up to a second. Only mapped reads need it."""
    code = """
import asyncio, platform, rapsqlite
def refuse(): raise AssertionError
platform.release = refuse
async def main():
    async with rapsqlite.connect(":memory:"): pass
asyncio.run(main())
"""
    done = run_python("-c", code)

    assert (done.returncode, done.stderr) == (0, "")
