"""The cost before the first row: imports, the first query of a new interpreter, opening, memory per connection.

All but the rate of opening come from new interpreters in the peer's environment, isolated (``-I``) with the checkout
last on the path, like the workers.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.bench_select import POINT
from benchmarks.databases import ITEMS
from benchmarks.peers import Peer, load

if TYPE_CHECKING:
    from benchmarks.figures import Figures

ROOT = Path(__file__).resolve().parent.parent
_PATH = f"import sys; sys.path.append({str(ROOT)!r})\n"
_TIMED_IMPORT = "import time; start = time.perf_counter()\n{statement}\nprint(time.perf_counter() - start)"
_REPORTED = """
def print(*values):
    elapsed = time.perf_counter() - start
    builtins.print(*values)
    sys.stderr.write(str(elapsed * 1000))
"""
_MEMORY = "from benchmarks.bench_startup import print_memory; print_memory(*sys.argv[1:])"


def _run(source: str, *arguments: str) -> str:
    command = [sys.executable, "-I", "-c", _PATH + source, *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def _wall_ms(source: str, *arguments: str) -> float:
    start = time.perf_counter()
    _run(source, *arguments)
    return (time.perf_counter() - start) * 1000


def _first_row_ms(source: str, *arguments: str) -> float:
    """Return the time from a program's first line until it has printed a row."""
    timed = _PATH + "import builtins, time\nstart = time.perf_counter()\n" + _REPORTED + source
    done = subprocess.run([sys.executable, "-I", "-c", timed, *arguments], capture_output=True, text=True, check=True)
    return float(done.stderr)


async def import_time(peer: Peer, directory: Path, size: int) -> Figures:
    """Time the import statement in ``size`` fresh interpreters."""
    source = _TIMED_IMPORT.format(statement=peer.IMPORT)
    _run(source)
    return {"import_ms": statistics.median(float(_run(source)) * 1000 for _ in range(size))}


async def first_row(peer: Peer, directory: Path, size: int) -> Figures:
    """Start ``size`` interpreters that open a database and print one row; an extra one first warms the caches."""
    path = str(directory / ITEMS)
    _run(peer.FIRST_ROW, path)
    return {
        "first_row_ms": statistics.median(_first_row_ms(peer.FIRST_ROW, path) for _ in range(size)),
        "whole_process_ms": statistics.median(_wall_ms(peer.FIRST_ROW, path) for _ in range(size)),
        "bare_interpreter_ms": statistics.median(_wall_ms("") for _ in range(size)),
    }


async def opening(peer: Peer, directory: Path, size: int) -> Figures:
    """Open a database, run SELECT 1 and close it, ``size`` times, after one warm-up."""
    path = str(directory / ITEMS)
    start = 0.0
    for number in range(size + 1):
        if number == 1:
            start = time.perf_counter()
        database = await peer.open_database(path, {})
        await database.execute_fetchall("SELECT 1")
        await database.close()
    return {"operations_per_s": size / (time.perf_counter() - start)}


async def memory(peer: Peer, directory: Path, size: int) -> Figures:
    """Open ``size`` connections to one file in a fresh process: memory per connection.

    What the system says the process occupies (RSS), and the same with shared pages divided among their users (PSS).
    """
    figures = _run(_MEMORY, peer.NAME, str(directory / ITEMS), str(size)).split()
    names = ("after_open_kib", "after_open_pss_kib", "after_select_kib", "after_select_pss_kib")
    return dict(zip(names, map(float, figures), strict=True))


def _memory_kib() -> tuple[int, int]:
    with open("/proc/self/smaps_rollup") as rollup:
        found = {line.split()[0]: int(line.split()[1]) for line in rollup if line.startswith(("Rss:", "Pss:"))}
    return found["Rss:"], found["Pss:"]


async def _connection_memory(name: str, path: str, count: int) -> list[float]:
    peer = load(name)
    first = await peer.open_database(path, {})
    await first.execute_fetchall(POINT, (1,))
    before = _memory_kib()
    connections = [await peer.open_database(path, {}) for _ in range(count)]
    opened = _memory_kib()
    for connection in connections:
        await connection.execute_fetchall(POINT, (1,))
    selected = _memory_kib()
    for connection in (*connections, first):
        await connection.close()
    return [(after[kind] - before[kind]) / count for after in (opened, selected) for kind in range(2)]


def print_memory(name: str, path: str, count: str) -> None:
    """Print KiB per connection after opening and after one SELECT each; runs in a process of its own."""
    if not os.path.exists("/proc/self/smaps_rollup"):
        raise RuntimeError("memory per connection is read from /proc: Linux only")
    print(*asyncio.run(_connection_memory(name, path, int(count))))
