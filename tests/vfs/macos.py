"""Runs the package on Linux as on macOS, with test doubles that behave as Apple documents.

``python -m tests.vfs.macos DIRECTORY`` uses databases there, and prints how the test doubles were called.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import sqlite3
import struct
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

# Chosen while the package is imported, and only then.
linux, sys.platform = sys.platform, "darwin"
import rapsqlite._platform  # noqa: E402

sys.platform = linux
from rapsqlite._platform import darwin  # noqa: E402

XNU = struct.Struct("@qqihh")  # start, length, pid, type, whence
LINUX = struct.Struct("@hhqqi0q")  # type, whence, start, length, pid
TO_LINUX = {1: fcntl.F_RDLCK, 2: fcntl.F_UNLCK, 3: fcntl.F_WRLCK}
TO_XNU = {kind: number for number, kind in TO_LINUX.items()}
MNT_LOCAL = 0x1000

asked: Counter[str] = Counter()


def control(fd: int, command: int, argument: Any = 0) -> Any:
    """Do what XNU's fcntl(2) does."""
    names = {number: name for name, number in vars(darwin).items() if name.startswith("F_")}
    name = names[command]  # no other command is used
    asked[name] += 1
    if name in ("F_FULLFSYNC", "F_BARRIERFSYNC"):
        os.fsync(fd)
        return 0
    if name == "F_DUPFD_CLOEXEC":
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, argument)
    if name == "F_GETPATH":
        return os.fsencode(os.readlink(f"/proc/self/fd/{fd}")).ljust(len(argument), b"\0")
    start, length, _, kind, whence = XNU.unpack(argument)
    lock = LINUX.pack(TO_LINUX[kind], whence, start, length, 0)
    if name == "F_OFD_SETLK":
        return fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)
    found, whence, start, length, pid = LINUX.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, lock))
    return XNU.pack(start, length, pid, TO_XNU[found], whence)


class Library:
    """The functions of the C library that Linux lacks, or that differ."""

    flags = MNT_LOCAL

    def minherit(self, _address: object, _length: object, inherit: int) -> int:
        assert inherit == 2  # VM_INHERIT_NONE
        asked["minherit"] += 1
        return 0

    def fstatfs(self, _fd: int, status: Any) -> int:
        asked["fstatfs"] += 1
        struct.pack_into("@I", status, 64, self.flags)
        return 0


library = Library()
system = rapsqlite._platform.system
assert isinstance(system, darwin.Darwin)
system.__init__(control, library, preadv=lambda *_: 1 / 0)  # type: ignore[misc]
system._preadv = None  # as in builds for macOS before 11
system.library_of_wasmtime = lambda: (f"linux-{os.uname().machine}", "_libwasmtime.so")  # type: ignore[method-assign]
del os.posix_fallocate, os.preadv

import rapsqlite  # noqa: E402


async def alternate(database: Path, mode: str) -> None:
    """Write alternately with Python's sqlite3, and check that both see each other's locks."""
    with closing(sqlite3.connect(database, isolation_level=None, timeout=0)) as native:
        native.execute(f"PRAGMA journal_mode = {mode}")
        native.execute("CREATE TABLE t (v)")
        async with rapsqlite.connect(database, isolation_level=None, timeout=0) as ours:
            for number in range(20):
                await ours.execute("INSERT INTO t VALUES (?)", (number,))
                native.execute("INSERT INTO t VALUES (?)", (number,))
            await ours.execute("BEGIN IMMEDIATE")
            for refused in ("BEGIN IMMEDIATE", "PRAGMA wal_checkpoint(FULL)" if mode == "WAL" else "BEGIN EXCLUSIVE"):
                try:
                    answer = native.execute(refused).fetchone()
                except sqlite3.OperationalError:
                    continue
                assert answer is not None, refused
                assert answer[0] == 1
            await ours.execute("ROLLBACK")
            native.execute("BEGIN IMMEDIATE")
            try:
                await ours.execute("BEGIN IMMEDIATE")
            except rapsqlite.OperationalError:
                native.execute("ROLLBACK")
            await ours.execute("PRAGMA fullfsync = 1")
            await ours.execute("INSERT INTO t VALUES (20)")
            assert await ours.fetch_scalar("SELECT count(*) FROM t") == 41
        assert native.execute("SELECT count(*), sum(v) FROM t").fetchone() == (41, 2 * 190 + 20)
        assert native.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def on_a_network_volume(database: Path) -> str:
    """Return the error of opening a database in WAL mode there."""
    with closing(sqlite3.connect(database)) as native:
        native.execute("PRAGMA journal_mode = WAL")
    library.flags = 0
    try:
        async with rapsqlite.connect(database) as ours:
            await ours.execute("CREATE TABLE t (v)")
    except rapsqlite.OperationalError as error:
        return str(error)
    return "opened"


async def main() -> None:
    directory = Path(sys.argv[1])
    for mode in ("DELETE", "WAL"):
        await alternate(directory / f"{mode}.db", mode)
    answer = await on_a_network_volume(directory / "network.db")
    print(json.dumps({"asked": asked, "network": answer, "lacks": list(system.lacks)}))


if __name__ == "__main__":
    asyncio.run(main())
