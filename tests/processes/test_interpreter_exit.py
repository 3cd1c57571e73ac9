"""Interpreters that exit, in an orderly way or not: none may crash, hang, or lose committed data.

The hard part is the order at exit: the guest's native thread, the event loop, and the interpreter's own teardown. Such
faults show once in many runs, so each exit is run many times; RAPSQLITE_LONG=1 runs it ten times as often.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple, cast

import pytest

from rapsqlite._guest import registry
from rapsqlite._platform import system
from tests.played_time import PlayedTime
from tests.programs import SLOWNESS, run_python

if TYPE_CHECKING:
    from pathlib import Path

    from rapsqlite._callbacks.callbacks import Callbacks

FACTOR = 10 if os.environ.get("RAPSQLITE_LONG") == "1" else 1
CLEAN_RUNS = max(120 * FACTOR // SLOWNESS, 4)
UNCLEAN_RUNS = max(8 * FACTOR // SLOWNESS, 2)
RUN_TIME_S = 40 * SLOWNESS
LOOPS = ("asyncio", "trio", "uvloop") if sys.platform != "win32" else ("asyncio", "trio")
pytestmark = pytest.mark.timeout(300 * FACTOR)

PROGRAM = """
import signal, sys, threading
import anyio
import rapsqlite

# A test run in the background of a shell passes an ignored SIGINT on to its children.
signal.signal(signal.SIGINT, signal.default_int_handler)

path, loop = sys.argv[1:]
ENDLESS = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"

async def prepare(conn):
    await conn.execute("CREATE TABLE IF NOT EXISTS test (id INTEGER PRIMARY KEY, value TEXT)")
    await conn.execute("INSERT INTO test (value) VALUES ('hello')")
    await conn.commit()

{body}

options = {{"use_uvloop": loop == "uvloop"}} if loop != "trio" else {{}}
anyio.run(main, backend="trio" if loop == "trio" else "asyncio", backend_options=options)
"""


class Ending(NamedTuple):
    """The main function of a program, its exit code, and what its standard error must contain."""

    body: str
    code: int
    says: str


ENDINGS = {
    "connection left open": Ending(
        """
        async def main():
            global conn
            conn = await rapsqlite.connect(path)
            await prepare(conn)
        """,
        0,
        "",
    ),
    "exception": Ending(
        """
        async def main():
            async with rapsqlite.connect(path) as conn:
                await prepare(conn)
                await conn.execute("INSERT INTO test (value) VALUES ('not committed')")
                raise RuntimeError("on purpose")
        """,
        1,
        "RuntimeError: on purpose",
    ),
    "exception with the connection open": Ending(
        """
        async def main():
            conn = await rapsqlite.connect(path)
            await prepare(conn)
            await conn.execute("INSERT INTO test (value) VALUES ('not committed')")
            raise RuntimeError("on purpose")
        """,
        1,
        "RuntimeError: on purpose",
    ),
    "sys.exit": Ending(
        """
        async def main():
            conn = await rapsqlite.connect(path)
            await prepare(conn)
            sys.exit(3)
        """,
        3,
        "",
    ),
    "statement running": Ending(
        """
        async def main():
            async with rapsqlite.connect(path) as conn, anyio.create_task_group() as group:
                await prepare(conn)
                group.start_soon(conn.fetch_all, ENDLESS)
                await anyio.sleep(0.02)
                group.cancel_scope.cancel()
        """,
        0,
        "",
    ),
    "statement running in a daemon thread": Ending(
        """
        started = threading.Event()

        async def work():
            conn = await rapsqlite.connect(path)
            await prepare(conn)
            started.set()
            try:
                await conn.fetch_all(ENDLESS)
            except rapsqlite.Error as error:
                # At exit every guest is interrupted and closed, before or after this statement began.
                assert error.sqlite_errorname in ("SQLITE_INTERRUPT", "SQLITE_MISUSE")

        async def main():
            threading.Thread(target=anyio.run, args=(work,), daemon=True).start()
            await anyio.to_thread.run_sync(started.wait)
        """,
        0,
        "",
    ),
    "os._exit": Ending(
        """
        import os

        async def main():
            conn = await rapsqlite.connect(path)
            await prepare(conn)
            await conn.execute("INSERT INTO test (value) VALUES ('not committed')")
            os._exit(4)
        """,
        4,
        "",
    ),
}
CLEAN = Ending(
    """
    async def main():
        async with rapsqlite.connect(path) as conn:
            await prepare(conn)
            print(await conn.fetch_all("SELECT * FROM test"))
    """,
    0,
    "",
)
INTERRUPTED = """
async def announce():
    # Runs once the main task is suspended, so the statement has been sent.
    print("ready", flush=True)

async def main():
    async with rapsqlite.connect(path) as conn, anyio.create_task_group() as group:
        await prepare(conn)
        group.start_soon(announce)
        await conn.fetch_all(ENDLESS)
"""


def program(body: str, loop: str, database: Path) -> list[str]:
    """Return the command that runs one ending."""
    text = PROGRAM.format(body=textwrap.dedent(body))
    # A connection left open warns, which is right, but not under test here.
    return [sys.executable, "-W", "error", "-W", "default::ResourceWarning", "-c", text, str(database), loop]


def run(ending: Ending, loop: str, database: Path) -> str:
    """Run one ending, check how it ended, and return its output."""
    command = program(ending.body, loop, database)
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_TIME_S, check=False)
    assert done.returncode == ending.code, done.stderr
    assert ending.says in done.stderr
    assert "Fatal Python error" not in done.stderr
    if ending.code == 0:
        assert "Traceback" not in done.stderr
    return done.stdout


def last_words(process: subprocess.Popen[str]) -> str:
    """Return the standard error of a process that should be ending; never leave it running."""
    try:
        return process.communicate(timeout=RUN_TIME_S)[1]
    finally:
        process.kill()


def rows_in(database: Path) -> list[tuple[int, str]]:
    """Return the rows that stock SQLite sees, after its integrity check."""
    with closing(sqlite3.connect(database)) as stock:
        assert stock.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return stock.execute("SELECT * FROM test").fetchall()


def run_many(ending: Ending, loop: str, directory: Path, count: int) -> list[str]:
    """Run an ending ``count`` times, two at a time, each on a separate database."""
    databases = [directory / f"{number}.db" for number in range(count)]
    with ThreadPoolExecutor(2) as pool:
        printed = list(pool.map(lambda database: run(ending, loop, database), databases))
    assert [rows_in(database) for database in databases] == [[(1, "hello")]] * count
    return printed


@pytest.mark.parametrize("loop", LOOPS)
def test_quick_example_exits_cleanly_every_time(loop: str, tmp_path: Path) -> None:
    runs = CLEAN_RUNS if loop == "asyncio" else CLEAN_RUNS // 4

    assert run_many(CLEAN, loop, tmp_path, runs) == ["[[1, 'hello']]\n"] * runs


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", sorted(ENDINGS))
def test_unclean_exit_loses_no_committed_row(name: str, loop: str, tmp_path: Path) -> None:
    """Committed rows stay, the rest is gone, and the interpreter exits with its own exit code."""
    run_many(ENDINGS[name], loop, tmp_path, UNCLEAN_RUNS)


def test_no_object_of_wasmtime_is_deleted_while_the_interpreter_ends() -> None:
    """It could call callbacks that are gone: what is in ``sys`` is deleted after all other modules were emptied."""
    program = """
    import os, sys
    from rapsqlite._wasm.c_functions import Owned

    def delete(address, write=os.write):  # a global would be None by then
        write(1, b"%d" % address)

    Owned(1, delete)
    sys.kept = Owned(2, delete)
    """
    assert run_python("-c", textwrap.dedent(program)).stdout == "1"


@pytest.mark.parametrize("needing", ["connect(':memory:')", "sys.left_open._execute(int)"])
def test_finalizer_that_needs_a_thread_at_exit_gets_an_error(needing: str) -> None:
    """Until Python 3.11 a thread started while the interpreter ends never runs, and starting it waits forever."""
    program = f"""
    import asyncio, gc, sys
    from rapsqlite.aiosqlite import connect

    async def use():
        await {needing}

    class Finalized:
        def __del__(self):
            try:
                loop.run_until_complete(use())
            except Exception as error:
                print(error)

    loop = asyncio.new_event_loop()
    sys.left_open = loop.run_until_complete(connect(":memory:"))
    gc.collect()  # the next one is the interpreter's own, when it is already ending
    finalized = Finalized()
    finalized.itself = finalized
    del finalized
    sys.exit(7)
    """

    done = run_python("-W", "ignore::ResourceWarning", "-c", textwrap.dedent(program), timeout=RUN_TIME_S)

    assert (done.returncode, done.stderr) == (7, "")
    assert done.stdout.endswith("can't create new thread at interpreter shutdown\n")


class StuckGuest:
    """A guest whose thread never ends, as in a file system that hangs."""

    name = "stuck"
    callbacks = cast("Callbacks", SimpleNamespace(interrupt=lambda _is_wanted: False))

    def __init__(self, clock: PlayedTime) -> None:
        self._clock = clock
        self.calls: list[str] = []

    def stop(self) -> None:
        self.calls.append("stop")

    def kill(self) -> None:
        self.calls.append("kill")

    def join(self, timeout_s: float) -> None:
        self._clock.now += timeout_s

    def is_running(self) -> bool:
        return True

    def abandon_after_fork(self) -> None:
        """No process is forked."""


def test_exit_waits_no_longer_for_many_stuck_guests_than_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool's connections hang together, when their file system does, and each was waited for by itself."""
    clock = PlayedTime()
    guests = [StuckGuest(clock) for _ in range(8)]
    monkeypatch.setattr(registry, "time", clock)
    monkeypatch.setattr(registry, "_live", set(guests))

    registry._stop_all()

    assert clock.now == 2 * registry._JOIN_S
    assert [guest.calls for guest in guests] == [["stop", "kill"]] * 8


def test_handler_of_the_exit_is_registered_even_after_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the process would not end while a guest runs."""
    registered = []

    def register(function: object) -> None:
        registered.append(function)
        if len(registered) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(registry, "_exit_registered", False)
    monkeypatch.setattr(registry, "atexit", SimpleNamespace(register=register))
    monkeypatch.setattr(system, "at_fork", lambda **hooks: registered.append(hooks["in_child"]))
    with pytest.raises(KeyboardInterrupt):
        registry._register_exit()

    for _ in range(2):
        registry._register_exit()

    assert registered == [registry._stop_all, registry._stop_all, registry._after_fork]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to one process")
@pytest.mark.parametrize("loop", LOOPS)
def test_interrupt_key_ends_a_running_statement(loop: str, database: Path) -> None:
    """Ctrl-C must reach a program whose only task waits for SQLite."""
    for _ in range(3 * FACTOR):
        database.unlink(missing_ok=True)
        command = program(INTERRUPTED, loop, database)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
            errors = last_words(process)

        assert process.returncode in {1, 130, -signal.SIGINT}
        # Before Python 3.11 anyio cannot tell whose cancellation it was, and exits with it.
        assert "KeyboardInterrupt" in errors or (sys.version_info < (3, 11) and "CancelledError" in errors)
        assert rows_in(database) == [(1, "hello")]


@pytest.mark.parametrize("loop", LOOPS)
def test_killed_process_keeps_committed_rows(loop: str, database: Path) -> None:
    """No handler runs: the remaining journal must restore the file."""
    body = """
        async def main():
            async with rapsqlite.connect(path) as conn:
                await prepare(conn)
                await conn.execute("INSERT INTO test (value) VALUES ('not committed')")
                print("ready", flush=True)
                await conn.fetch_all(ENDLESS)
    """
    with subprocess.Popen(program(body, loop, database), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
        process.wait(RUN_TIME_S)

    assert rows_in(database) == [(1, "hello")]
