"""Locks end with the await: no one is locked out while nothing is queued, and not for long while something is."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from typing import IO, TYPE_CHECKING

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

import rapsqlite
from rapsqlite import _constants as abi
from rapsqlite._guest.guest import _SLICE_S as SLICE_S
from rapsqlite._guest.host_functions import HostFunctions
from rapsqlite._values.wire import encode_params
from rapsqlite._wasm.rings import Request
from tests.callbacks.lingering import Blocked
from tests.programs import SLOWNESS
from tests.vfs.native import create, impatient, take_everything

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

MODES = ("delete", "wal")
TASKS = 64
WAIT_S = 20 * SLOWNESS
LONGEST_S = 0.005  # how long a lock may pass from one queued statement to the next


@pytest.fixture(params=MODES)
def path(request: pytest.FixtureRequest, database: Path) -> Path:
    """A database in either kind of journal mode, with one row to change."""
    return create(database, request.param)


@pytest.fixture
async def connection(path: Path) -> AsyncIterator[rapsqlite.Connection]:
    async with rapsqlite.connect(path, isolation_level=None) as opened:
        yield opened


STATEMENTS = {
    "read": "SELECT v FROM t",
    "write": "UPDATE t SET v = v + 1",
    "write with rows": "UPDATE t SET v = v + 1 RETURNING v",
    "script": "BEGIN; UPDATE t SET v = v + 1; COMMIT; SELECT v FROM t",
    "failing write": "INSERT INTO t VALUES (abs('x' || -9223372036854775808))",
    "failing read": "SELECT json_extract(v, 'nowhere') FROM t",
    "schema": "CREATE TABLE IF NOT EXISTS other (v)",
    "table function": "SELECT * FROM pragma_table_info('t')",
}


@pytest.mark.parametrize("kind", STATEMENTS)
async def test_no_lock_is_held_after_the_await(path: Path, connection: rapsqlite.Connection, kind: str) -> None:
    """A native writer that does not wait is never refused, whatever the guest's thread does at that time."""
    run = connection.executescript if kind == "script" else connection.fetch_all
    with closing(impatient(path)) as native:
        for _ in range(30):
            try:
                await run(STATEMENTS[kind])
            except rapsqlite.Error:
                assert kind.startswith("failing")
            take_everything(native)


async def test_no_lock_is_held_after_executemany_and_a_cursor(path: Path, connection: rapsqlite.Connection) -> None:
    await connection.execute("PRAGMA synchronous = OFF")
    with closing(impatient(path)) as native:
        for _ in range(10):
            await connection.executemany("UPDATE t SET v = v + ?", [(number,) for number in range(20)])
            take_everything(native)
            async with connection.execute("SELECT v FROM t, (VALUES (1), (2), (3))") as cursor:
                await cursor.fetchone()
            take_everything(native)
            await connection.execute("BEGIN")
            await connection.fetch_all("SELECT v FROM t")
            await connection.execute("UPDATE t SET v = v + 1")
            await connection.commit()
            take_everything(native)


async def test_no_lock_is_held_after_a_cancelled_statement(path: Path, connection: rapsqlite.Connection) -> None:
    endless = "WITH RECURSIVE c(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c, t"
    with closing(impatient(path)) as native:
        for _ in range(5):
            with anyio.move_on_after(0.01):
                await connection.fetch_all(endless)
            take_everything(native)


async def test_callback_runs_without_locks_of_earlier_statements(path: Path, connection: rapsqlite.Connection) -> None:
    """Queued statements share locks, but not with one that calls Python and reads nothing."""
    with closing(impatient(path)) as native:

        def write() -> int:
            take_everything(native)
            return 1

        await connection.create_function("write_natively", 0, write)
        for _ in range(10):
            async with anyio.create_task_group() as tasks:
                for statement in ("UPDATE t SET v = v + 1", "SELECT v FROM t", "SELECT write_natively()"):
                    tasks.start_soon(connection.fetch_all, statement)


@pytest.mark.parametrize("statement", ["SELECT v FROM t", "UPDATE t SET v = v + 1"])
async def test_long_function_runs_without_locks_of_earlier_statements(
    path: Path, statement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes no steps at which anything could be released."""
    calls = 0
    blocked = Blocked(1)
    with closing(impatient(path)) as native:

        def localtime(_host: HostFunctions, _seconds: int) -> int:
            nonlocal calls
            calls += 1
            take_everything(native)
            return 0

        monkeypatch.setattr(HostFunctions, "localtime", localtime)
        async with rapsqlite.connect(path, isolation_level=None) as connection:
            await connection.create_function("blocked", 0, blocked)
            async with anyio.create_task_group() as tasks:
                for sql in ("SELECT blocked()", statement, statement, "SELECT time(0, 'unixepoch', 'localtime')"):
                    tasks.start_soon(connection.fetch_all, sql)
                    await anyio.wait_all_tasks_blocked()  # it is sent
                blocked.let_go.set()  # now they are all queued

    assert calls > 0


@pytest.mark.parametrize("statement", ["SELECT v FROM t", "UPDATE t SET v = v + 1"])
async def test_queued_statements_share_the_calls_for_their_locks(
    path: Path, connection: rapsqlite.Connection, statement: str
) -> None:
    blocked = Blocked(1)
    await connection.create_function("blocked", 0, blocked)
    await connection.execute("PRAGMA synchronous = OFF")
    await connection.fetch_all(statement)
    before = await connection.statistics()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.fetch_all, "SELECT blocked()")
        await anyio.wait_all_tasks_blocked()  # it is sent
        for _ in range(TASKS):
            tasks.start_soon(connection.fetch_all, statement)
        await anyio.wait_all_tasks_blocked()
        begun = time.perf_counter()
        blocked.let_go.set()

    took_s = time.perf_counter() - begun
    after = await connection.statistics()
    unlocks = sum(after[name] - before[name] for name in ("file_unlock", "shm_unlock"))
    in_delete_mode = (await connection.fetch_scalar("PRAGMA journal_mode")) == "delete"
    if statement.startswith("UPDATE") and in_delete_mode:
        unlocks -= TASKS  # a commit lowers the lock to SHARED
    assert unlocks <= 2 + took_s / LONGEST_S


async def test_changes_of_others_are_seen_immediately(path: Path, connection: rapsqlite.Connection) -> None:
    with closing(sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)) as native:
        for value in range(200):
            # Directly after a statement of this package, whose lock may still be kept; the native one waits in a
            # thread.
            await connection.fetch_all("SELECT v FROM t")
            native.execute("UPDATE t SET v = ?", (value,))
            assert await connection.fetch_scalar("SELECT v FROM t") == value


async def test_others_see_committed_changes(path: Path, connection: rapsqlite.Connection) -> None:
    """A lock that is kept between statements must not keep a commit from other processes."""
    with closing(sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)) as native:
        for value in range(200):
            await connection.fetch_all("SELECT v FROM t")
            await connection.execute("UPDATE t SET v = ?", (value,))
            assert native.execute("SELECT v FROM t").fetchone() == (value,)


async def test_growth_of_the_file_by_others_is_seen(path: Path, connection: rapsqlite.Connection) -> None:
    with closing(sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)) as native:
        for count in range(2, 60):
            await connection.fetch_all("SELECT v FROM t")
            native.execute("INSERT INTO t VALUES (zeroblob(20000))")
            assert await connection.fetch_scalar("SELECT count(*) FROM t WHERE length(v) > 0") == count
        native.execute("DELETE FROM t WHERE length(v) > 1")
        native.execute("VACUUM")
        assert await connection.fetch_all("SELECT v FROM t") == [[0]]
        assert await connection.fetch_scalar("PRAGMA integrity_check") == "ok"


async def test_native_writer_gets_the_lock_while_we_never_pause(path: Path, connection: rapsqlite.Connection) -> None:
    """Locks pass from one queued statement to the next for only a few milliseconds: 30 commits in the native wait."""
    stop = False

    async def read() -> None:
        while not stop:
            await connection.fetch_all("SELECT v FROM t")

    def write() -> None:
        with closing(sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)) as native:
            for _ in range(30):
                native.execute("UPDATE t SET v = v + 1")

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(read)
        await anyio.to_thread.run_sync(write)
        stop = True

    assert await connection.fetch_scalar("SELECT v FROM t") == 30


async def test_native_writer_gets_the_lock_while_we_never_stop_writing(
    path: Path, connection: rapsqlite.Connection
) -> None:
    stop = False

    async def write() -> int:
        count = 0
        while not stop:
            await connection.execute("UPDATE t SET v = v + 1")
            count += 1
        return count

    def write_natively() -> None:
        with closing(sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)) as native:
            for _ in range(30):
                native.execute("UPDATE t SET v = v + 1")

    async with anyio.create_task_group() as tasks:
        counts: list[int] = []

        async def note() -> None:
            counts.append(await write())

        tasks.start_soon(note)
        await anyio.to_thread.run_sync(write_natively)
        stop = True

    assert await connection.fetch_scalar("SELECT v FROM t") == 30 + counts[0]


async def test_reader_that_never_pauses_does_not_make_the_wal_grow(database: Path) -> None:
    with closing(sqlite3.connect(database, timeout=WAIT_S, isolation_level=None, check_same_thread=False)) as native:
        native.execute("PRAGMA journal_mode = WAL")
        native.execute("CREATE TABLE t (v)")
        native.execute("INSERT INTO t VALUES (0)")
        stop = False

        def write() -> None:
            for _ in range(4000):
                native.execute("UPDATE t SET v = v + 1")

        async with rapsqlite.connect(database, isolation_level=None) as reader:

            async def read() -> None:
                while not stop:
                    await reader.fetch_all("SELECT v FROM t")

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                await anyio.to_thread.run_sync(write)
                stop = True
        frames = database.with_name(database.name + "-wal").stat().st_size // 4120
    assert frames < 3000


async def test_kept_lock_of_one_database_is_released_while_another_is_read(path: Path, tmp_path: Path) -> None:
    """A long statement on an attached database must not also hold the main one's lock."""
    other = tmp_path / "other.db"
    long_query = (
        "WITH RECURSIVE c(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM c WHERE x < 100000000) "
        "SELECT count(*) FROM c, other.t"
    )
    async with rapsqlite.connect(path, isolation_level=None) as connection:
        await connection.execute("ATTACH ? AS other", (str(other),))
        await connection.execute("CREATE TABLE other.t (v)")
        await connection.execute("INSERT INTO other.t VALUES (1)")
        with closing(sqlite3.connect(path, timeout=WAIT_S, isolation_level=None, check_same_thread=False)) as native:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(connection.fetch_all, "SELECT v FROM main.t")
                tasks.start_soon(connection.fetch_all, long_query)
                await anyio.to_thread.run_sync(partial(native.execute, "BEGIN EXCLUSIVE"))
                tasks.cancel_scope.cancel()
            native.execute("COMMIT")


async def test_file_that_was_locked_can_be_closed_and_replaced(path: Path) -> None:
    for value in range(20):
        async with rapsqlite.connect(path, isolation_level=None) as connection:
            await connection.fetch_all("SELECT v FROM t")
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as native:
            native.execute("BEGIN EXCLUSIVE")
            native.execute("UPDATE t SET v = ?", (value,))
            native.execute("COMMIT")


async def test_result_that_cannot_be_decoded_leaves_no_lock(path: Path, connection: rapsqlite.Connection) -> None:
    """The guest sleeps behind a full ring, without having rung, when the task gives up; it is still stopped."""
    guest = connection._state.guest
    batches = 0

    def decode(_batch: bytes) -> list[object]:
        nonlocal batches
        batches += 1
        time.sleep(2 * SLICE_S)  # the event loop runs between this batch and the next, with everything posted to it
        if batches < 10:
            return []
        while not guest.host.is_asleep():
            time.sleep(0.001)
        raise ValueError("not what was expected")

    with pytest.raises(ValueError, match="not what was expected"):
        await guest.collect(
            Request(
                abi.OP_FETCH,
                b"WITH RECURSIVE c(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM c) SELECT x, v FROM c, t",
                encode_params(None, connection._state.adapters),
            ),
            decode,
        )

    def take_it_all() -> None:
        with closing(sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)) as native:
            native.execute("BEGIN EXCLUSIVE")
            native.execute("DROP TABLE t")
            native.execute("COMMIT")
            if native.execute("PRAGMA journal_mode").fetchone() == ("wal",):
                assert native.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)

    await anyio.to_thread.run_sync(take_it_all)


PROCESS_THAT_TAKES_EVERYTHING = """
import sqlite3, sys
native = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
print("ready", flush=True)
for _ in sys.stdin:
    try:
        native.execute("BEGIN EXCLUSIVE")
        native.execute("COMMIT")
        print("ok", flush=True)
    except sqlite3.OperationalError as error:
        print(error, flush=True)
"""


@pytest.fixture
def other_process(path: Path) -> Iterator[tuple[IO[str], IO[str]]]:
    """A process that tries to take everything, once for each line it receives, and answers."""
    command = [sys.executable, "-c", PROCESS_THAT_TAKES_EVERYTHING, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process.stdin, process.stdout


@pytest.mark.parametrize("statement", ["SELECT v FROM t", "UPDATE t SET v = v + 1"])
async def test_holding_the_gil_after_the_await_keeps_no_lock(
    connection: rapsqlite.Connection, other_process: tuple[IO[str], IO[str]], statement: str
) -> None:
    tries, answers = other_process
    seen = []
    for _ in range(10):
        for _ in range(5):
            await connection.fetch_all(statement)
        tries.write("now\n")
        sum(range(2_000_000))  # one C call, during which no other thread runs Python
        seen.append(answers.readline())

    assert seen == ["ok\n"] * 10
