"""What works on this machine: versions, the module cache, locks, the write-ahead log, mapped reads, speed.

The first lines describe the machine and how its kind is tested; every other line reports something that was tried.
Paste the whole output into an issue.
"""

from __future__ import annotations

import platform
import sqlite3
import statistics
import tempfile
import time
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from rapsqlite import __version__, runtime
from rapsqlite._cli import platforms
from rapsqlite._constants import SQLITE_VERSION
from rapsqlite._files import module_cache
from rapsqlite._platform import system
from rapsqlite.connection import connect
from rapsqlite.errors import Error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# name of the check, whether it passed (None: information only), what was found
Finding = tuple[str, "bool | None", str]

_QUERIES = 300
# Larger than SQLite's page cache, so that reading all of it reads the file.
_ROWS = 4000
_FILL = """
WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?)
INSERT INTO t SELECT i, randomblob(1000) FROM n
"""


async def examine(directory: Path | None = None) -> AsyncIterator[Finding]:
    """Yield findings about databases in ``directory`` (default: the system's temporary directory)."""
    for finding in (*versions(), *kind()):
        yield finding
    try:
        yield load_engine()
        yield cache()
        with tempfile.TemporaryDirectory(dir=directory, prefix="rapsqlite-doctor-") as temporary:
            path = Path(temporary) / "doctor.db"
            yield await lock(path)
            async for finding in log_and_reads(path):
                yield finding
        yield await speed()
    except (Error, OSError) as error:
        yield "connection", False, f"{type(error).__name__}: {error}"


def versions() -> list[Finding]:
    """Return the installed versions."""
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in ("wasmtime", "msgspec", "anyio"))
    return [
        ("python", None, f"{platform.python_implementation()} {platform.python_version()}, {platform.platform()}"),
        ("sqlite", None, f"{SQLITE_VERSION} here, {sqlite3.sqlite_version} in Python's sqlite3"),
        ("packages", None, f"rapsqlite {__version__}, {packages}"),
        *((feature, None, f"no: {instead}") for feature, instead in system.lacks.items()),
    ]


def kind() -> list[Finding]:
    """Return findings about this machine and how its kind is tested (docs/platforms.md)."""
    row = platforms.row_here()
    return [
        ("interpreter", None, platforms.interpreter()),
        ("platform", None, f"{row.system} {row.processor}".strip() + f": {row.tested}"),
    ]


def load_engine() -> Finding:
    """Load or compile the module."""
    started = time.perf_counter()
    runtime.shared_engine()
    return "module", True, f"ready in {time.perf_counter() - started:.2f} s"


def cache() -> Finding:
    """Check whether the compiled module is cached."""
    directory = module_cache.cache_directory()
    kept = list(directory.glob("*.compiled")) if directory is not None and directory.is_dir() else []
    if not kept:
        return (
            "module cache",
            False,
            f"{directory or 'no home directory'}: nothing is cached, so each process compiles the module again",
        )
    size_mb = sum(path.stat().st_size for path in kept) / 1e6
    return "module cache", True, f"{directory}: {len(kept)} compiled, {size_mb:.1f} MB"


async def lock(path: Path) -> Finding:
    """Hold a write lock and check that Python's own sqlite3 sees it."""
    async with connect(path, isolation_level=None) as conn:
        await conn.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB)")
        await conn.execute("BEGIN EXCLUSIVE")
        with closing(sqlite3.connect(path, timeout=0)) as other:
            try:
                other.execute("SELECT * FROM t")
            except sqlite3.OperationalError as error:
                return "locks", True, f"other programs see them ({error})"
    return "locks", False, f"Python's sqlite3 read {path} despite an exclusive lock: do not share databases there"


async def log_and_reads(path: Path) -> AsyncIterator[Finding]:
    """Try a write-ahead log, and reads through mapped windows."""
    async with connect(path, isolation_level=None) as conn:
        mode = await conn.fetch_scalar("PRAGMA journal_mode = WAL")
        yield "write-ahead log", mode == "wal", "works" if mode == "wal" else f"not here: journal_mode stays {mode}"
        await conn.execute(_FILL, (_ROWS,))
        await conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    if not system.maps_reads:
        return  # `versions` has said so
    async with connect(path) as conn:
        await conn.fetch_scalar("SELECT sum(length(data)) FROM t")
        counts = await conn.statistics()
    windows, reads = counts["window_map"], counts["file_read"]
    # Slower but correct where the file system cannot map files: information, not a failure.
    yield "mapped reads", True if windows else None, f"{windows} windows, {reads} plain reads for {_ROWS // 1000} MB"


async def speed() -> Finding:
    """Time small queries, one after another."""
    times_us = []
    async with connect(":memory:") as conn:
        for number in range(_QUERIES):
            started = time.perf_counter()
            await conn.fetch_scalar("SELECT ?", (number,))
            times_us.append((time.perf_counter() - started) * 1e6)
    return "round trip", True, f"{statistics.median(times_us):.0f} µs, median of {_QUERIES} queries"
