"""What an open connection costs in memory: pages of the engine's memory, mappings, Python objects.

Counts, not bytes of the process: those depend on the allocators of Python and the C library.
"""

from __future__ import annotations

import ctypes
import gc
import struct
import sys
import sysconfig
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import rapsqlite
from tests.threads import threads_but_trios

if TYPE_CHECKING:
    import threading

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="counts pages through Linux's /proc"),
]

PAGE_BYTES = 4096
_PRESENT, _SWAPPED, _OF_A_FILE = 1 << 63, 1 << 62, 1 << 61
POINT = "SELECT body FROM t WHERE id = ?"


@pytest.fixture
async def database(tmp_path: Path) -> Path:
    path = tmp_path / "test.db"
    async with rapsqlite.connect(path) as conn:
        await conn.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT)")
        await conn.executemany("INSERT INTO t (body) VALUES (?)", [("x" * 50,) for _ in range(20_000)])
    return path


def pages_of(conn: rapsqlite.Connection) -> tuple[int, int]:
    """Return how many pages of the engine's memory are its own, and how many are mapped from a file."""
    instance = conn._state.guest._instance
    assert instance is not None
    count = instance._memory_size() // PAGE_BYTES
    with Path("/proc/self/pagemap").open("rb") as pagemap:
        pagemap.seek(instance.memory.base // PAGE_BYTES * 8)
        pages = struct.unpack(f"<{count}Q", pagemap.read(count * 8))
    present = [page for page in pages if page & (_PRESENT | _SWAPPED)]
    shared = sum(1 for page in present if page & _OF_A_FILE)
    return len(present) - shared, shared


def function_classes() -> int:
    """Return how many classes of C functions exist: ctypes makes one whenever a library is opened."""
    (base,) = type(ctypes.pythonapi.Py_IsInitialized).__bases__
    return len(base.__subclasses__())


async def test_connection_that_has_read_a_row_has_few_private_pages(database: Path) -> None:
    """By default SQLite touches 200 kB in advance: all slots for small allocations, and space for twenty pages."""
    async with rapsqlite.connect(database) as conn:
        await conn.fetch_one(POINT, (7,))

        own, shared = pages_of(conn)

    assert own <= 27
    assert shared <= 48  # of the engine's constants, the same for all connections


async def test_connection_that_has_read_a_row_maps_no_file(database: Path) -> None:
    """The kernel maps fifteen other pages around each page that is read from a mapped file."""
    async with rapsqlite.connect(database) as conn:
        await conn.fetch_one(POINT, (7,))

        assert (await conn.statistics())["window_map"] == 0
        for number in range(20):
            await conn.fetch_one(POINT, (number + 1,))
        assert (await conn.statistics())["window_map"] == 1


async def test_connections_need_few_python_objects_and_no_classes(database: Path) -> None:
    """A class for each connection stays until the garbage collector runs, and takes a kilobyte or two.

    Without the GIL each object has its own mutex and two reference counts. From 3.14 on each thread also takes memory
    for all classes and functions of the process, 160 KB and more even if it does nothing.
    """
    most = 48_000 if sys.version_info < (3, 14) else 56_000
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        most = 80_000 if sys.version_info < (3, 14) else sys.maxsize
    async with rapsqlite.connect(database) as first:
        await first.fetch_one(POINT, (7,))
        gc.collect()
        classes = function_classes()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            conns = [await rapsqlite.connect(database) for _ in range(10)]
            for conn in conns:
                await conn.fetch_one(POINT, (7,))
            each = (tracemalloc.get_traced_memory()[0] - before) / len(conns)
        finally:
            tracemalloc.stop()
        assert each < most
        assert function_classes() == classes
        for conn in conns:
            await conn.close()


async def test_closed_connections_leave_nothing(database: Path) -> None:
    """Forty connections, one after the other: no thread, descriptor or mapping remains."""

    def left() -> tuple[set[threading.Thread], int, int]:
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        reserved = sum(
            1 for line in Path("/proc/self/maps").read_text().splitlines() if _size(line.split()[0]) >= 1 << 30
        )
        return threads_but_trios(), descriptors, reserved

    async with rapsqlite.connect(database) as conn:
        await conn.fetch_one(POINT, (7,))
    gc.collect()  # for other tests' connections
    threads, descriptors, mappings = left()

    for _ in range(40):
        async with rapsqlite.connect(database) as conn:
            await conn.fetch_one(POINT, (7,))

    # What earlier tests have left may have gone meanwhile. uvloop may open a descriptor.
    assert left()[0] <= threads
    assert left()[1] < descriptors + 10
    assert left()[2] <= mappings


def _size(addresses: str) -> int:
    start, end = (int(part, 16) for part in addresses.split("-"))
    return end - start
