"""Files that block a system call: pipes, and file systems that do not respond. Nothing else waits for them."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import textwrap
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

import rapsqlite
from rapsqlite import _constants as abi
from rapsqlite import connect
from rapsqlite._client import image, private_directory
from rapsqlite._files import descriptors, mapping
from tests import blocking_calls
from tests.played_time import play_time_limits
from tests.programs import run_python
from tests.systems import not_on_windows

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]


def make_special(path: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(os.path.relpath(path))  # a socket's name is short
        listener.close()


@not_on_windows("pipes are no files there")
@pytest.mark.parametrize("kind", ["pipe", "directory", "socket"])
@pytest.mark.parametrize("read_only", [False, True])
async def test_database_that_is_not_a_regular_file_is_refused_without_waiting(
    tmp_path: Path, kind: str, read_only: bool
) -> None:
    """open(2) of a pipe waits until its other end is opened."""
    path = tmp_path / "special"
    make_special(path, kind)

    with anyio.fail_after(30), pytest.raises(rapsqlite.OperationalError, match=r"unable to open.*special") as caught:
        await connect(path, read_only=read_only)

    assert caught.value.sqlite_errorcode == abi.SQLITE_CANTOPEN


@not_on_windows("pipes are no files there")
@pytest.mark.parametrize("verb", ["ATTACH '{}' AS other", "ATTACH 'file:{}?mode=ro' AS other", "VACUUM INTO '{}'"])
async def test_sql_that_names_a_pipe_fails_immediately(tmp_path: Path, database: Path, verb: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    async with connect(database, uri=True, isolation_level=None) as conn:
        with anyio.fail_after(30), pytest.raises(rapsqlite.OperationalError):
            await conn.execute(verb.format(tmp_path / "pipe"))

        assert await conn.fetch_scalar("SELECT 1") == 1


@not_on_windows("pipes are no files there")
async def test_csv_table_over_a_pipe_fails_immediately(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    async with connect(":memory:") as conn:
        await conn.enable_load_extension(True)
        try:
            await conn.load_extension("csv")
        except rapsqlite.NotSupportedError:
            pytest.skip("this build has no csv extension")
        with anyio.fail_after(30), pytest.raises(rapsqlite.OperationalError):
            await conn.execute(f"CREATE VIRTUAL TABLE temp.t USING csv(filename='{tmp_path / 'pipe'}')")


@not_on_windows("pipes are no files there")
@pytest.mark.parametrize("suffix", ["-journal", "-wal", "-shm"])
async def test_pipe_instead_of_a_companion_fails_immediately(database: Path, suffix: str) -> None:
    """Any process that can write to the directory can create one there."""
    async with connect(database, pragmas={"journal_mode": "DELETE" if suffix == "-journal" else "WAL"}) as conn:
        await conn.execute("CREATE TABLE t (a)")
    os.mkfifo(f"{database}{suffix}")

    with anyio.fail_after(30), pytest.raises(rapsqlite.OperationalError):
        async with connect(database) as conn:
            await conn.execute("INSERT INTO t VALUES (1)")


@not_on_windows("devices have other names there")
async def test_devices_are_opened_as_in_sqlite3() -> None:
    async with connect("/dev/null") as conn:
        assert await conn.fetch_all("SELECT name FROM sqlite_schema") == []


def fork() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


class Hanging:
    """System calls on one name that block until they are released."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, call: str, name: str) -> None:
        self.reached = threading.Event()
        self.released = threading.Event()
        real = getattr(os, call)

        def hang(path: Any, *args: Any, **options: Any) -> Any:
            if isinstance(path, bytes) and os.path.basename(path) == name.encode():
                self.reached.set()
                self.released.wait()
            return real(path, *args, **options)

        monkeypatch.setattr(os, call, hang)

    async def is_reached(self) -> None:
        assert await anyio.to_thread.run_sync(self.reached.wait, 10)


@contextmanager
def hanging(monkeypatch: pytest.MonkeyPatch, call: str, name: str) -> Iterator[Hanging]:
    """Release them at the end, whatever happens."""
    hang = Hanging(monkeypatch, call, name)
    try:
        yield hang
    finally:
        hang.released.set()


@not_on_windows("replaces calls of POSIX")
@pytest.mark.parametrize("call", ["open", "readlink", "stat"])
async def test_hanging_call_blocks_neither_the_loop_nor_other_connections(
    tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """It runs on its connection's thread, and under no guard that opening, closing or forking takes."""
    # Calls on a local file system, which take a microsecond, keep the GIL; calls that may hang do not.
    monkeypatch.setattr(mapping, "is_shared_by_all", lambda _fd: False)
    stuck = tmp_path / "stuck.db"
    async with connect(stuck) as conn:
        await conn.execute("CREATE TABLE t (a)")
    async with connect(database, isolation_level=None) as before:
        await before.execute("CREATE TABLE t (a)")
        name = "stuck.db-journal" if call == "stat" else "stuck.db"
        with hanging(monkeypatch, call, name) as hang:
            async with anyio.create_task_group() as tasks:

                async def use() -> None:
                    async with connect(stuck) as conn:
                        assert await conn.fetch_all("SELECT * FROM t") == []

                tasks.start_soon(use)
                with anyio.fail_after(10):
                    await hang.is_reached()
                    await before.execute("INSERT INTO t VALUES (1)")
                    async with connect(tmp_path / "other.db") as other:
                        assert await other.fetch_scalar("SELECT 1") == 1
                    assert await before.fetch_scalar("SELECT count(*) FROM t") == 1
                    fork()
                hang.released.set()


@not_on_windows("reads /proc")
async def test_hanging_close_blocks_no_other_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """close(2) of a file on another machine waits for its pending writes."""
    conn = await connect(tmp_path / "stuck.db")
    await conn.execute("CREATE TABLE t (a)")
    stuck = [fd for fd in descriptors._open if "stuck.db" in os.readlink(f"/proc/self/fd/{fd}")]
    reached, released, close = threading.Event(), threading.Event(), os.close

    def hang(fd: int) -> None:
        if fd in stuck:
            reached.set()
            released.wait()
        close(fd)

    monkeypatch.setattr(os, "close", hang)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(conn.close)
            with anyio.fail_after(10):
                assert await anyio.to_thread.run_sync(reached.wait, 10)
                async with connect(tmp_path / "other.db") as other:
                    await other.execute("CREATE TABLE t (a)")
            released.set()
    finally:
        released.set()


@not_on_windows("pipes are no files there")
async def test_task_that_waits_for_a_hanging_file_can_be_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing interrupts the call, so the connection is given up; its thread closes the file when the call returns."""
    other = tmp_path / "other.db"
    conn = await connect(":memory:", isolation_level=None)
    conn._state.guest._queue.grace_period_s = 0.05
    with hanging(monkeypatch, "open", "other.db") as hang:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(conn.execute, f"ATTACH '{other}' AS other")
                await hang.is_reached()
                tasks.cancel_scope.cancel()
        with pytest.raises(rapsqlite.OperationalError, match="file system does not answer"):
            await conn.execute("SELECT 1")
        await conn.close()

    opened = str(other)
    with anyio.fail_after(10):
        while any(opened in os.readlink(f"/proc/self/fd/{fd}") for fd in list(descriptors._open)):  # noqa: ASYNC110
            await anyio.sleep(0.002)


@not_on_windows("pipes are no files there")
async def test_time_limit_ends_a_statement_whose_file_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = play_time_limits(monkeypatch)
    limits: rapsqlite.Limits = {"statement_seconds": 0.05, "directories": [str(tmp_path)]}
    conn = await connect(":memory:", isolation_level=None, limits=limits)
    conn._state.guest._queue.grace_period_s = 0.05
    with hanging(monkeypatch, "open", "other.db"):
        with anyio.fail_after(30), clock.running(), pytest.raises(rapsqlite.OperationalError, match="closed"):
            await conn.execute(f"ATTACH '{tmp_path / 'other.db'}' AS other")
        await conn.close()


@not_on_windows("there is no fork")
def test_child_forked_while_a_file_is_opened_keeps_no_lock_of_it(tmp_path: Path) -> None:
    """The parent's lock would live as long as the child, so the parent opens the file again, and locks that."""
    path = tmp_path / "test.db"
    done = run_python("-c", textwrap.dedent("""
            import os, signal, sys
            from rapsqlite._files import descriptors
            from rapsqlite._platform import system
            path, real, children = sys.argv[1].encode(), os.open, []

            def fork_after(name, flags, mode=0o777, **options):
                fd = real(name, flags, mode, **options)
                if name == path and not children:
                    child = os.fork()
                    if child == 0:
                        signal.pause()
                    children.append(child)
                return fd

            os.open = fork_after
            fd = descriptors.open_file(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644, None)
            system.set_lock(fd, system.WRITE, 0, 0)
            os.close(fd)  # without unlocking, as when a process is killed
            other = real(path, os.O_RDWR)
            print(system.conflicting_lock(other, system.WRITE, 0, 0))
            os.kill(children[0], signal.SIGKILL)
        """), path, cwd=ROOT)  # fmt: skip

    assert (done.stdout, done.stderr) == ("None\n", "")


@contextmanager
def hanging_copy(monkeypatch: pytest.MonkeyPatch, step: str) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Make a step on the directory of a copy hang: events that signal that it is reached, and release it."""
    reached, released = threading.Event(), threading.Event()
    owner: Any = {"_reclaim": private_directory, "rmtree": shutil, "read_bytes": Path}[step]
    real = getattr(owner, step)

    def hang(*arguments: Any, **options: Any) -> Any:
        reached.set()
        released.wait()
        return real(*arguments, **options)

    monkeypatch.setattr(owner, step, hang)
    try:
        yield reached, released
    finally:
        released.set()


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("step", ["_reclaim", "rmtree", "read_bytes"])
async def test_hanging_copy_directory_does_not_block_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, cancelled: bool
) -> None:
    """A copy is a file in a private directory, and removing a large one takes time; it always happens."""
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    monkeypatch.setattr(private_directory, "_reclaimed", set[str]())
    with hanging_copy(monkeypatch, step) as (reached, released):
        async with connect(":memory:") as conn, anyio.create_task_group() as tasks:
            await conn.execute("CREATE TABLE t (a)")
            tasks.start_soon(conn.serialize)
            with anyio.fail_after(10):
                assert await anyio.to_thread.run_sync(reached.wait, 10)
                assert await conn.fetch_scalar("SELECT 1") == 1
            if cancelled:
                tasks.cancel_scope.cancel()
            released.set()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("step", ["_reclaim", "rmtree"])
def test_copy_directory_is_removed_however_often_its_task_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A copy that is complete when its task is cancelled counts as made."""
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))

    async def main(reached: threading.Event, released: threading.Event) -> None:
        async with connect(":memory:") as conn:
            await conn.execute("CREATE TABLE t (a)")
            task = asyncio.create_task(conn.serialize())
            assert await asyncio.to_thread(reached.wait, 10)
            for _ in range(3):
                task.cancel("again")
                for _ in range(10):
                    await asyncio.sleep(0)
            assert not task.done()
            released.set()
            if step == "rmtree":
                assert await task
            else:
                with pytest.raises(asyncio.CancelledError, match="again"):
                    await task
            assert os.listdir(tmp_path) == []

    with hanging_copy(monkeypatch, step) as (reached, released):
        asyncio.run(main(reached, released))


@pytest.mark.parametrize("step", ["_reclaim", "rmtree", "read_bytes"])
async def test_copy_whose_directory_hangs_can_be_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The hanging thread removes the directory once it continues."""
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    monkeypatch.setattr(image, "GRACE_PERIOD_S", 0.01)
    with hanging_copy(monkeypatch, step) as (reached, released):
        async with connect(":memory:") as conn:
            await conn.execute("CREATE TABLE t (a)")
            with anyio.fail_after(10):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(conn.serialize)
                    assert await anyio.to_thread.run_sync(reached.wait, 10)
                    tasks.cancel_scope.cancel()
                assert await conn.fetch_scalar("SELECT 1") == 1
        released.set()
        for thread in threading.enumerate():
            if thread.name == "rapsqlite copy":
                thread.join(10)
    assert os.listdir(tmp_path) == []


def test_copy_is_made_and_removed_even_if_no_thread_can_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))

    async def main() -> None:
        async with connect(":memory:") as conn:
            await conn.execute("CREATE TABLE t (a)")

            def refuse(_thread: threading.Thread) -> None:
                raise RuntimeError("can't start new thread")

            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", refuse)
                assert await conn.serialize()

    asyncio.run(main())
    assert os.listdir(tmp_path) == []
    assert blocking_calls.take(), "without a thread, the loop's own does it"
