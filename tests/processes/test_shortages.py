"""A process short of descriptors, threads, address space or disk space: errors that say so, and never its end."""

from __future__ import annotations

import errno
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from rapsqlite import connect, runtime
from rapsqlite._files import shortage
from rapsqlite._guest.escalation import Escalation
from rapsqlite._platform import system
from rapsqlite._wasm.c_functions import Owned, WasmtimeError
from tests.systems import not_on_windows

if TYPE_CHECKING:
    from collections.abc import Callable

LIMITED = not_on_windows("processes have no such limits there")
ELSEWHERE = not_on_windows("other variables name the directory there")
ROOT = Path(__file__).resolve().parents[2]

COMMON = """
    import asyncio, os, resource, sys, threading, warnings
    import rapsqlite

    rapsqlite.connect  # importing needs descriptors too

    SLOW = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 50000) SELECT sum(i) FROM n"

    def leave(count):
        '''Open files until there are no more than ``count`` descriptors left.'''
        held = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        try:
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
        for _ in range(count):
            os.close(held.pop())

    async def use(name):
        '''Open, write, and have answers announced: by a bell if there is one.'''
        try:
            async with rapsqlite.connect(name) as conn:
                await conn.execute("CREATE TABLE IF NOT EXISTS t (a)")
                await asyncio.gather(*(conn.fetch_all(SLOW) for _ in range(3)))
                await conn.execute("INSERT INTO t SELECT random() WHERE datetime() > ''")
                await conn.commit()
        except rapsqlite.Error as error:
            return f"{type(error).__name__} {error.sqlite_errorname}: {error}"
        return "used"
"""


def run(program: str, *arguments: str, prefix: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program in a separate process, under limits set by a shell."""
    text = textwrap.dedent(COMMON) + textwrap.dedent(program)
    command = [sys.executable, "-c", text, *arguments]
    if prefix:
        command = ["bash", "-c", f'{prefix}; exec "$@"', "bash", *command]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, **options)


@LIMITED
@pytest.mark.parametrize("order", ["first", "later"])
def test_connection_opens_or_reports_too_many_open_files(tmp_path: Path, order: str) -> None:
    """wasmtime's WASI aborts the process unless it gets three descriptors when it first writes, possibly much later."""
    program = """
        async def main():
            if sys.argv[2] == "later":
                earlier = await rapsqlite.connect(":memory:")
            leave(int(sys.argv[3]))
            print(await use(":memory:"))
            print(await use(sys.argv[1]))
            if sys.argv[2] == "later":
                await asyncio.gather(*(earlier.fetch_all(SLOW) for _ in range(3)))
                await earlier.close()

        asyncio.run(main())
    """
    for count in (1, 3, 4, 5, 16):
        done = run(program, str(tmp_path / "test.db"), order, str(count))

        assert (done.returncode, done.stderr) == (0, ""), (count, done.stderr)
        in_memory, in_file = done.stdout.splitlines()
        assert in_memory == "used"
        if in_file != "used":
            assert count < 6
            assert in_file.startswith("OperationalError SQLITE_CANTOPEN: unable to open database file (")
            assert in_file.endswith(
                "Too many open files: raise the limit of the process (ulimit -n), or close connections and files)"
            )


@LIMITED
def test_engine_that_cannot_be_read_for_lack_of_descriptors_is_a_clear_error() -> None:
    program = """
        async def main():
            from rapsqlite import runtime
            def refuse():
                raise OSError(24, "Too many open files", "engine.wasm")
            runtime.module_cache.digest_of_file = lambda path: refuse()
            print(await use(":memory:"))

        asyncio.run(main())
    """
    done = run(program)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        "OperationalError SQLITE_CANTOPEN: unable to open database ':memory:': too many open files"
    )
    assert "ulimit -n" in done.stdout


@LIMITED
def test_address_space_limit_is_a_clear_error(tmp_path: Path) -> None:
    """A connection reserves 4 GiB of addresses, which a limit on them counts although most are never used."""
    program = """
        async def main():
            conns = []
            try:
                while True:
                    conns.append(await rapsqlite.connect(":memory:"))
            except rapsqlite.OperationalError as error:
                print(len(conns), error.sqlite_errorname, error)
            for conn in conns:
                await conn.execute("CREATE TABLE t (a)")
                await conn.close()

        asyncio.run(main())
    """
    done = run(program, prefix="ulimit -v 12000000")

    assert (done.returncode, done.stderr) == (0, "")
    count, name, message = done.stdout.split(" ", 2)
    assert 1 <= int(count) <= 2
    assert name == "SQLITE_CANTOPEN"
    assert message.startswith("unable to open database ':memory:': each connection needs 4 GiB of address space")
    assert "ulimit -v" in message


@pytest.mark.parametrize("where", ["instance", "polling page"])
async def test_limit_of_mappings_is_a_clear_error_that_holds_no_memory(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Linux allows 65 530 mappings. An error that is kept used to keep 4 GiB of address space."""
    stores: list[Owned] = []
    new_store = runtime.Engine.new_store

    def noted(*arguments: Any) -> Owned:
        stores.append(new_store(*arguments))
        return stores[-1]

    def refuse(*_arguments: Any) -> None:
        if where == "instance":
            raise WasmtimeError("Cannot allocate memory (os error 12)")
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(runtime.Engine, "new_store", noted)
        if where == "instance":
            patch.setattr(runtime.Instance, "_instantiate", refuse)
        else:
            patch.setattr(type(system), "make_readable", refuse)
        with pytest.raises(rapsqlite.OperationalError, match=r"':memory:': .* mappings: .*max_map_count") as caught:
            await connect(":memory:")
    assert caught.value.sqlite_errorname == "SQLITE_CANTOPEN"
    if where == "polling page":  # before that, the store holds nothing
        assert [store.address for store in stores] == [0]

    async with connect(":memory:") as conn:
        assert await conn.fetch_scalar("SELECT 1") == 1


class NoThreads:
    """Let only a number of threads start from now on, besides Trio's threads that wait for descriptors."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
        self.left = allowed
        start = threading.Thread.start

        def refuse(thread: threading.Thread) -> None:
            is_trios = thread.name.startswith("Trio thread")
            self.left -= not is_trios
            if self.left < 0 and not is_trios:
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refuse)


@pytest.mark.parametrize("limits", [None, {"statement_seconds": 5}], ids=["the guest's", "the watchdog's"])
async def test_thread_that_cannot_start_is_a_clear_error(
    monkeypatch: pytest.MonkeyPatch, limits: rapsqlite.Limits | None
) -> None:
    async with connect(":memory:"):
        pass
    with monkeypatch.context() as patch:
        NoThreads(patch, allowed=0 if limits is None else 1)
        patch.setattr(Escalation, "force_answer", None)  # nothing is waited for, let alone in vain
        with pytest.raises(rapsqlite.OperationalError, match=r"can't start new thread.*ulimit -u") as caught:
            await connect(":memory:", limits=limits)
    assert caught.value.sqlite_errorname == "SQLITE_CANTOPEN"

    async with connect(":memory:", limits=limits) as conn:
        assert await conn.fetch_scalar("SELECT 1") == 1


async def test_guest_rings_by_a_call_if_wasmtime_cannot_start_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would abort the process. The bell is then a call."""
    with monkeypatch.context() as patch:
        patch.setattr(runtime, "_output_is_prepared", False)
        NoThreads(patch, allowed=1)
        conn = await connect(":memory:")
    answer, bell = await conn.fetch_scalar("SELECT 1"), conn._state.guest._queue._bell
    await conn.close()

    assert (answer, bell) == (1, None)


WITHOUT_CACHE: dict[str, Callable[[Path], dict[str, str]]] = {
    "below a file": lambda path: {"RAPSQLITE_CACHE_DIR": str(path / "file" / "cache")},
    "on a file system that cannot be written": lambda _: {"RAPSQLITE_CACHE_DIR": "/proc/rapsqlite"},
    "of a home below a file": lambda path: {
        "HOME": str(path / "file"),
        "XDG_CACHE_HOME": "",
        "RAPSQLITE_CACHE_DIR": "",
    },
}


@ELSEWHERE
@pytest.mark.parametrize("kind", [*WITHOUT_CACHE, "of a user without a home"])
def test_unwritable_cache_directory_costs_only_time(tmp_path: Path, kind: str) -> None:
    """As in a container with a numeric user: no home directory, or a read-only one."""
    (tmp_path / "file").touch()
    environment = {"PATH": "", **(WITHOUT_CACHE[kind](tmp_path) if kind in WITHOUT_CACHE else {})}
    program = """
        import pwd
        if sys.argv[2] == "of a user without a home":
            def unknown(_):
                raise KeyError
            pwd.getpwuid = unknown
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            print(asyncio.run(use(sys.argv[1])))
        print([str(warning.message)[:38] for warning in told])
    """
    done = run(program, str(tmp_path / "test.db"), kind, env=environment)

    assert (done.returncode, done.stderr) == (0, "")
    used, told = done.stdout.splitlines()
    assert used == "used"
    assert told.startswith("['the compiled module cannot be kept")


@ELSEWHERE
@pytest.mark.parametrize("directory", ["nowhere", "file"])
def test_temporary_files_use_another_directory_if_theirs_is_unusable(tmp_path: Path, directory: str) -> None:
    (tmp_path / "file").touch()
    program = """
        async def main():
            async with rapsqlite.connect("", pragmas={"temp_store": 1, "cache_size": 5}) as conn:
                await conn.execute("CREATE TEMP TABLE t (a)")
                await conn.execute("INSERT INTO temp.t SELECT randomblob(100000) FROM json_each('[1,2,3,4,5,6,7,8]')")
                print(await conn.fetch_scalar("SELECT count(*) FROM temp.t"))

        asyncio.run(main())
    """
    done = run(
        program,
        env={"TMPDIR": str(tmp_path / directory), "SQLITE_TMPDIR": str(tmp_path / directory), "HOME": str(tmp_path)},
    )

    assert (done.returncode, done.stdout) == (0, "8\n"), done.stderr


@LIMITED
def test_file_size_limit_fails_only_its_statement(tmp_path: Path) -> None:
    """The file size limit (ulimit -f) first raises a signal, which Python ignores, and then an error."""
    program = """
        async def main():
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
            async with rapsqlite.connect(sys.argv[1], isolation_level=None, pragmas={"cache_size": 5}) as conn:
                await conn.execute("CREATE TABLE t (a)")
                try:
                    await conn.execute("INSERT INTO t SELECT randomblob(20000) FROM json_each('[1, 2, 3, 4, 5, 6]')")
                except rapsqlite.OperationalError as error:
                    print(error)
                await conn.execute("INSERT INTO t VALUES (1)")
                print(await conn.fetch_all("SELECT a FROM t"))

        asyncio.run(main())
    """
    done = run(program, str(tmp_path / "test.db"))

    assert (done.returncode, done.stderr) == (0, "")
    error, rows = done.stdout.splitlines()
    assert "File too large" in error
    assert rows == "[[1]]"


def test_error_names_descriptors_that_ran_out_at_the_last_moment() -> None:
    """wasmtime opens the guest's end of the bell itself, and says no more than that it could not."""
    error = shortage.explained(RuntimeError("failed to set stdout file"), "a.db")

    assert isinstance(error, rapsqlite.OperationalError)
    assert "too many open files" in str(error)
