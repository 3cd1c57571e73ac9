"""A process killed in the middle of a copy leaves nothing behind for long."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import rapsqlite
from rapsqlite._client import private_directory
from rapsqlite._platform import system

ROOT = Path(__file__).resolve().parents[2]
COPIES = """
import asyncio, os, signal, sys
import rapsqlite

def at_a_step(*_):
    print("copying", flush=True)
    {what}

async def main():
    async with rapsqlite.connect(":memory:") as conn, rapsqlite.connect(":memory:") as copy:
        await conn.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(1000000))")
        await conn.backup(copy, pages=10, progress=at_a_step)

asyncio.run(main())
"""


def copying(folder: Path, what: str) -> subprocess.Popen[str]:
    """Start a process that copies a database and does ``what`` at each step."""
    program = textwrap.dedent(COPIES).format(what=what)
    environment = {**os.environ, "SQLITE_TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def kept_images(folder: Path) -> list[Path]:
    """Return the lock files, each with an image next to it."""
    locks = list(folder.glob("rapsqlite_*.lock"))
    assert all((lock.with_suffix("") / "image").exists() for lock in locks)
    return locks


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="nothing kills a process so")
async def test_next_copy_removes_files_of_a_killed_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But not what belongs to a living process, nor other files there."""
    (tmp_path / "rapsqlite_other").mkdir()
    (tmp_path / "rapsqlite_file.txt").write_text("mine")
    with copying(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)") as killed:
        killed.communicate(timeout=50)
    assert killed.returncode == -signal.SIGKILL
    (left,) = kept_images(tmp_path)
    living = copying(tmp_path, "sys.stdin.read()")
    assert living.stdout is not None
    assert living.stdout.readline() == "copying\n"

    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    monkeypatch.setattr(private_directory, "_reclaimed", set[str]())
    async with rapsqlite.connect(":memory:") as conn:
        await conn.serialize()

    (kept,) = kept_images(tmp_path)
    assert kept != left
    living.communicate(timeout=50)
    assert living.returncode == 0
    assert sorted(os.listdir(tmp_path)) == ["rapsqlite_file.txt", "rapsqlite_other"]


async def test_directory_that_cannot_be_created_leaves_no_lock_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no room")

    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    async with rapsqlite.connect(":memory:") as conn:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "mkdir", refuse)
            with pytest.raises(OSError, match="no room"):
                await conn.serialize()

        assert os.listdir(tmp_path) == []
        assert await conn.serialize()


async def test_copies_are_made_in_a_directory_that_cannot_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of killed processes stay there, which is no reason to make no copy."""

    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if path == str(tmp_path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    async with rapsqlite.connect(":memory:") as conn:
        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", refuse)
            assert await conn.serialize()

    assert os.listdir(tmp_path) == []


async def test_copies_are_made_where_files_cannot_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network drives have no locks. Nothing there can take the directory for a leftover either."""
    tries: list[int] = []

    def refuse(fd: int) -> None:
        tries.append(fd)
        assert len(tries) == 1
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    monkeypatch.setattr(system, "lock_whole_file", refuse)
    async with rapsqlite.connect(":memory:") as conn:
        assert await conn.serialize()

    assert os.listdir(tmp_path) == []
