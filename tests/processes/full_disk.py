"""A full disk for a test's own process, and what its programs need to compare this package with `sqlite3` on it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from contextlib import suppress
from functools import cache
from typing import Any


@cache
def namespace() -> list[str] | None:
    """Return the command that runs another one where it may mount, or None if that is not allowed here."""
    for command in (["unshare", "-m"], ["unshare", "-rm"]):
        allowed = [*command, "sh", "-ec", "mount -t tmpfs -o size=1m full /mnt"]
        if shutil.which("unshare") and not subprocess.run(allowed, capture_output=True, check=False).returncode:
            return command
    return None


def fill(directory: str) -> None:
    """Leave no room on the disk of this directory."""
    file = os.open(directory + "/filling", os.O_CREAT | os.O_WRONLY)
    for size in (65536, 4096, 1):
        with suppress(OSError):
            while True:
                os.write(file, bytes(size))
    os.close(file)


class Blocking:
    """sqlite3's connection, called as rapsqlite's."""

    def __init__(self, name: str) -> None:
        self.conn = sqlite3.connect(name, isolation_level=None)

    async def fetch_all(self, sql: str, parameters: Any = ()) -> list[list[Any]]:
        return [list(row) for row in self.conn.execute(sql, parameters).fetchall()]

    async def execute(self, sql: str, parameters: Any = ()) -> None:
        self.conn.execute(sql, parameters)

    async def close(self) -> None:
        self.conn.close()
