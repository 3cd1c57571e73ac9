"""In-memory databases that connections share by name."""

from __future__ import annotations

import gc
import os
import queue
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

import rapsqlite
from rapsqlite import connect_memory
from rapsqlite._client import private_directory, shared_memory
from tests.programs import run_python


def exists(path: str) -> bool:
    return os.path.exists(path)


async def test_same_name_is_the_same_database() -> None:
    async with connect_memory(name="same") as one, connect_memory(name="same") as other:
        await one.execute("CREATE TABLE t (a)")
        await one.execute("INSERT INTO t VALUES (1)")
        await one.commit()

        assert await other.fetch_all("SELECT * FROM t") == [[1]]


async def test_other_names_and_unnamed_databases_are_separate() -> None:
    async with connect_memory(name="one") as one:
        await one.execute("CREATE TABLE t (a)")
        for options in ({"name": "two"}, {}, {}):
            async with connect_memory(**options) as other:
                assert await other.fetch_all("SELECT name FROM sqlite_schema") == []


async def test_database_is_freed_with_its_last_connection() -> None:
    async with connect_memory(name="gone") as one:
        await one.execute("CREATE TABLE t (a)")
        directory = os.path.dirname(one.path)
        async with connect_memory(name="gone"):
            pass
        assert exists(directory)

    assert not exists(directory)
    async with connect_memory(name="gone") as again:
        assert await again.fetch_all("SELECT name FROM sqlite_schema") == []


def test_connection_that_was_never_opened_leaves_nothing() -> None:
    conn = connect_memory(name="never")
    directory = os.path.dirname(conn.path)

    del conn
    gc.collect()

    assert not exists(directory)


async def test_stop_frees_the_database() -> None:
    conn = await connect_memory(name="stopped")
    directory = os.path.dirname(conn.path)

    ending = conn.stop()
    assert ending is not None
    await ending

    assert not exists(directory)


async def test_connection_has_the_name_of_its_shared_database() -> None:
    async with connect_memory(name="shared") as conn:
        assert isinstance(conn, rapsqlite.MemoryConnection)
        assert conn.name == "shared"


def test_invalid_option_leaves_no_database() -> None:
    with pytest.raises(TypeError, match="pool_size"):
        connect_memory(name="wrong", pool_size=1)
    gc.collect()

    assert shared_memory._shared == {}


async def test_closing_and_stopping_free_the_database_in_the_guest_s_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Freeing half a gigabyte takes a fifth of a second, which used to block the event loop."""
    threads: queue.SimpleQueue[threading.Thread] = queue.SimpleQueue()
    remove = shared_memory._Directory.remove

    def noting(directory: shared_memory._Directory) -> None:
        threads.put(threading.current_thread())
        remove(directory)

    monkeypatch.setattr(shared_memory._Directory, "remove", noting)
    async with connect_memory(name="closed"):
        pass
    conn = await connect_memory(name="stopped")
    ending = conn.stop()
    assert ending is not None
    await ending

    seen = [await anyio.to_thread.run_sync(threads.get) for _ in range(2)]

    assert threading.main_thread() not in seen


def test_process_that_exits_without_closing_leaves_no_files() -> None:
    program = (
        "import asyncio, rapsqlite\n"
        "async def main():\n"
        "    global conn\n"
        "    conn = await rapsqlite.connect_memory(name='x')\n"
        "    print(conn.path)\n"
        "asyncio.run(main())\n"
    )
    done = run_python("-c", program, check=True)

    assert not Path(done.stdout.strip()).parent.exists()


async def test_lock_file_that_cannot_be_removed_does_not_keep_a_connection_from_closing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its guest's thread died, and the task waited for it for ever."""

    def refuse(*_: object, **_options: object) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr(shared_memory, "_MEMORY_FILE_SYSTEM", str(tmp_path))
    conn = await connect_memory(name="x")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refuse)
        await conn.close()

    assert [Path(name).suffix for name in os.listdir(tmp_path)] == [".lock"]


_SHARES = """
import asyncio, os, sys, threading
import rapsqlite
from rapsqlite._client import shared_memory

folder, forks = sys.argv[1:]
shared_memory._MEMORY_FILE_SYSTEM = folder

async def main():
    async with rapsqlite.connect_memory(name="x") as conn:
        await conn.execute("CREATE TABLE t (a)")
        for thread in threading.enumerate():
            if thread.name == "rapsqlite copy":
                thread.join()
        if forks != "forks" or os.fork():
            print(conn.path, flush=True)
        sys.stdin.read()

asyncio.run(main())
"""


def sharing(folder: Path, *, forks: bool = False) -> tuple[subprocess.Popen[str], Path]:
    """Start a process that shares a database in memory, and forks; return it and the database's directory."""
    program = [sys.executable, "-c", _SHARES, str(folder), "forks" if forks else "does not"]
    process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline()).parent


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows cannot delete what a process uses")
async def test_databases_of_killed_processes_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They used to stay in memory until a reboot. Databases of running processes must be kept."""
    (tmp_path / "rapsqlite_other").mkdir()
    killed, left = await anyio.to_thread.run_sync(lambda: sharing(tmp_path, forks=True))
    with killed:
        killed.kill()
        killed.wait()
        living, kept = await anyio.to_thread.run_sync(lambda: sharing(tmp_path))
        assert (left.exists(), kept.exists()) == (False, True)
    with living:
        living.kill()
    assert kept.exists()

    monkeypatch.setattr(shared_memory, "_MEMORY_FILE_SYSTEM", str(tmp_path))
    monkeypatch.setattr(private_directory, "_reclaimed", set[str]())
    async with connect_memory(name="ours") as conn:
        for thread in threading.enumerate():
            if thread.name == "rapsqlite copy":
                await anyio.to_thread.run_sync(thread.join)
        ours = Path(conn.path).parent.name
        assert sorted(os.listdir(tmp_path)) == sorted(["rapsqlite_other", ours, f"{ours}.lock"])

    assert os.listdir(tmp_path) == ["rapsqlite_other"]


async def test_writers_of_a_shared_database_wait_for_each_other() -> None:
    async def add(number: int) -> None:
        async with connect_memory(name="busy", timeout=30) as conn:
            for _ in range(10):
                async with conn.transaction("IMMEDIATE"):
                    await conn.execute("INSERT INTO t VALUES (?)", [number])

    async with connect_memory(name="busy") as conn:
        await conn.execute("CREATE TABLE t (a)")
        await conn.commit()
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(add, number)

        assert await conn.fetch_scalar("SELECT count(*) FROM t") == 50


SHARED_URIS = [
    "file:shared?mode=memory&cache=shared",
    "file:shared?cache=shared&mode=memory",
    "file:sh%61red?mode=ro&mode=mem%6Fry&cache=shared#part",
    "file:///shared?mode=memory&cache=shared",
    "file::memory:?cache=shared",
    "file:/shared?vfs=memdb",
]


@pytest.mark.parametrize("uri", SHARED_URIS)
async def test_uri_with_shared_cache_shares_an_in_memory_database(uri: str) -> None:
    """Without the check, each connection silently has its own database."""
    async with rapsqlite.connect(uri, uri=True) as one, rapsqlite.connect(uri.encode(), uri=True) as other:
        await one.execute("CREATE TABLE t (a)")
        await one.execute("INSERT INTO t VALUES (1)")
        await one.commit()

        assert await other.fetch_all("SELECT a FROM t") == [[1]]
        assert one.path == uri
        directory = os.path.dirname(await one.fetch_scalar("SELECT file FROM pragma_database_list"))

    assert not exists(directory)
    async with rapsqlite.connect(uri, uri=True) as again:
        assert await again.fetch_all("SELECT name FROM sqlite_schema") == []


@pytest.mark.parametrize(
    "uri, shares",
    [
        ("file:shared?mode=memory", False),
        ("file:shared?mode=memory&cache=private", False),
        ("file:shared?mode=memory&cache=shared&cache=private", False),
        ("file::memory:", False),
        ("file:?mode=memory&cache=shared", False),
        ("file:shared?vfs=memdb", False),
        ("file:shared?mode=memory&cache=shared", True),
    ],
)
async def test_uri_shares_an_in_memory_database_exactly_if_sqlite3_does(uri: str, shares: bool) -> None:
    stock = [sqlite3.connect(uri, uri=True, isolation_level=None) for _ in range(2)]
    stock[0].execute("CREATE TABLE t (a)")
    async with rapsqlite.connect(uri, uri=True) as one, rapsqlite.connect(uri, uri=True) as other:
        await one.execute("CREATE TABLE t (a)")

        seen = await other.execute_fetchall("SELECT name FROM sqlite_schema")

    assert seen == stock[1].execute("SELECT name FROM sqlite_schema").fetchall()
    assert bool(seen) is shares
    for each in stock:
        each.close()


async def test_uri_and_connect_memory_share_by_the_same_name() -> None:
    async with connect_memory(name="x") as one, rapsqlite.connect("file:x?mode=memory&cache=shared", uri=True) as other:
        await one.execute("CREATE TABLE t (a)")

        assert await other.get_tables() == ["t"]


async def test_subclass_shares_by_uri_too() -> None:
    class Own(rapsqlite.Connection):
        pass

    uri = "file:own?mode=memory&cache=shared"
    async with rapsqlite.connect(uri, uri=True, factory=Own) as one, rapsqlite.connect(uri, uri=True) as other:
        await one.execute("CREATE TABLE t (a)")

        assert isinstance(one, Own)
        assert await other.get_tables() == ["t"]


@pytest.mark.parametrize("uri", ["file:x?mode=memory&cache=shared", "file::memory:?cache=shared", "file:/x?vfs=memdb"])
async def test_attach_refuses_to_share_by_uri(uri: str) -> None:
    """It would create a database that is not shared. Without URIs enabled, it is a file name."""
    async with rapsqlite.connect(":memory:", uri=True, isolation_level=None) as conn:
        for attach in (
            conn.execute("ATTACH ? AS other", (uri,)),
            conn.execute(f"ATTACH '{uri}' AS other"),
            conn.executescript(f"ATTACH '{uri}' AS other;"),
        ):
            with pytest.raises(rapsqlite.OperationalError, match="database_list"):
                await attach

        await conn.execute("ATTACH ? AS other", ("file:x?mode=memory",))
        assert await conn.get_tables("other") == []


async def test_attach_takes_the_file_of_a_shared_database() -> None:
    async with connect_memory(name="attached") as one, rapsqlite.connect(":memory:", isolation_level=None) as conn:
        await one.execute("CREATE TABLE t (a)")
        file = await one.fetch_scalar("SELECT file FROM pragma_database_list")

        await conn.execute("ATTACH ? AS other", (file,))

        assert await conn.fetch_all("SELECT name FROM other.sqlite_schema") == [["t"]]


@pytest.mark.parametrize("vfs", ["unix", "unix-none", "no-such", "rapsqlite2"])
async def test_unknown_vfs_is_refused(vfs: str, database: Path) -> None:
    async with rapsqlite.connect(":memory:", uri=True) as conn:
        for uri in (f"file:{database}?vfs={vfs}", f"file:x?mode=memory&cache=shared&vfs={vfs}"):
            with pytest.raises(rapsqlite.OperationalError, match=f"no such vfs: {vfs}"):
                await rapsqlite.connect(uri, uri=True)
            with pytest.raises(rapsqlite.OperationalError, match=f"no such vfs: {vfs}|database_list"):
                await conn.execute("ATTACH ? AS other", (uri,))

    assert not exists(str(database))


_FORKED_WHILE_ANOTHER_THREAD_SHARES = """
import os, signal, threading
from rapsqlite._client.shared_memory import SharedMemory, _lock
shared, held, over = SharedMemory("ours"), threading.Event(), threading.Event()

def hold():
    with _lock:
        held.set()
        over.wait()

threading.Thread(target=hold).start()
held.wait()
child = os.fork()
if not child:
    signal.alarm(5)
    own = SharedMemory("ours")
    is_new = str(os.fspath(own)) != os.fspath(shared)
    own.release()
    os._exit(0 if is_new else 1)
_, status = os.waitpid(child, 0)
over.set()
assert status == 0, status
assert os.path.isdir(os.path.dirname(shared.path))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_child_forked_while_another_thread_creates_a_database_has_its_own() -> None:
    """That thread holds the lock while it creates a directory, and does not exist in the child."""
    subprocess.run([sys.executable, "-c", _FORKED_WHILE_ANOTHER_THREAD_SHARES], check=True, timeout=30)


@pytest.mark.parametrize("kind", ["private", "named", "pool"])
async def test_in_memory_databases_take_every_option_of_connect(kind: str) -> None:
    class Special(rapsqlite.Connection):
        pass

    options: dict[str, Any] = {"loop": None, "check_same_thread": False}
    if kind == "named":
        async with rapsqlite.connect_memory(name="options", **options) as conn:
            assert await conn.fetch_scalar("SELECT 1") == 1
    elif kind == "private":
        async with rapsqlite.connect_memory(factory=Special, **options) as conn:
            assert isinstance(conn, Special)
    else:
        async with rapsqlite.create_pool(":memory:", factory=Special, **options) as pool, pool.acquire() as conn:
            assert isinstance(conn, Special)
