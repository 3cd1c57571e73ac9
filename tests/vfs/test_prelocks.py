"""Locks that the loop's thread takes for a statement it polls for: no host call, and the same guarantees."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from rapsqlite import _constants as abi
from rapsqlite._files import facts, file_lock, mapping, open_file, prelocks, waiters, wal_index
from rapsqlite._guest import host_functions, polling, request_queue
from rapsqlite._guest.request import PendingRequest
from rapsqlite._loops import current_loop
from rapsqlite._platform import system
from rapsqlite._wasm.rings import Request, Rings
from tests.systems import LOOPS_THAT_POLL, not_on_windows
from tests.vfs.native import create, impatient, take_everything

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        not system.has_parking,
        reason="guests sleep in Python there, under the lock that a thread that polls holds",
    ),
]

RUNS = 50
READ = "SELECT v FROM t"
WRITE = "UPDATE t SET v = v + 1"


@pytest.fixture(scope="module", params=LOOPS_THAT_POLL)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Not on Trio, whose tasks never wait outside their loop."""
    backend: tuple[str, dict[str, Any]] = request.param
    return backend


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poll for every reply in the thread that sent the request, however long that takes."""

    noticed: dict[int, int] = {}  # not when the spin begins: the guest may be waiting by then

    def needs_queue(host: host_functions.HostFunctions) -> int:
        """Return how often the guest needed the queue's lock: to wait, to ring, or to unlock after the last reply."""
        return host.busy_waits + host._bells + host.counts.get("unlock", 0)

    def spin(self: polling.Polling, rings: Rings) -> bool:
        self._host.unpark()
        before = noticed.get(id(self._host), 0)
        while not rings.has_replies() and needs_queue(self._host) == before:
            time.sleep(0)  # lets the guest have the GIL
        noticed[id(self._host)] = needs_queue(self._host)
        return rings.has_replies()

    monkeypatch.setattr(request_queue, "may_spin", lambda: True)
    monkeypatch.setattr(request_queue, "is_crowded", lambda: False)
    monkeypatch.setattr(polling.Polling, "may_start", lambda _self, _rings: True)
    monkeypatch.setattr(polling.Polling, "should_watch", lambda *_: False)
    monkeypatch.setattr(host_functions.HostFunctions, "is_asleep", lambda _self: False)
    monkeypatch.setattr(polling.Polling, "spin", spin)


@pytest.fixture(params=["delete", "wal"])
def path(request: pytest.FixtureRequest, database: Path) -> Path:
    """A database in either kind of journal mode, with one row to change."""
    return create(database, request.param)


@pytest.fixture
async def connection(path: Path) -> AsyncIterator[rapsqlite.Connection]:
    async with rapsqlite.connect(path, isolation_level=None) as opened:
        await opened.execute("PRAGMA synchronous = NORMAL")
        for _ in range(10):  # a small file is mapped at the eighth read
            await opened.fetch_all(READ)
        yield opened


def numbers(count: int) -> str:
    return f"n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n LIMIT {count})"


async def calls(connection: rapsqlite.Connection, sql: str, runs: int = RUNS) -> dict[str, int]:
    """Return which host functions concerning files some runs of a statement called, how often."""
    before = await connection.statistics()
    for _ in range(runs):
        await connection.fetch_all(sql)
    after = await connection.statistics()
    names = [name for name in after if name.startswith(("file_", "shm_", "unlock"))]
    return {name: after[name] - before[name] for name in names if after[name] > before[name]}


def without_rare_releases(made: dict[str, int]) -> dict[str, int]:
    """Ignore releases by a guest that was preempted after it had replied and then saw that polling had stopped."""
    releases = [made.pop(name, 0) for name in ("unlock", "file_unlock", "shm_unlock")]
    assert sum(releases) < RUNS // 5
    return made


@not_on_windows("without mapped reads, a call reads whether the file has changed")
async def test_repeated_read_makes_no_host_call(connection: rapsqlite.Connection) -> None:
    assert without_rare_releases(await calls(connection, READ)) == {}
    await connection.execute(WRITE)  # now a log has frames
    await calls(connection, READ, 3)
    assert without_rare_releases(await calls(connection, READ)) == {}


async def test_reader_takes_no_lock_of_a_writer_although_it_recovered_the_index(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first reader of a database in WAL mode holds the writer's lock while it makes the index."""
    exclusive: list[int] = []
    try_lock = wal_index.WalIndex.try_lock

    def note(self: wal_index.WalIndex, locks: int) -> int:
        exclusive.append(locks // abi.LOCKS_EXCLUSIVE & 0xFF)
        return try_lock(self, locks)

    create(database, "wal")
    monkeypatch.setattr(wal_index.WalIndex, "try_lock", note)
    async with rapsqlite.connect(database, isolation_level=None) as conn:
        await calls(conn, READ)

    assert len(exclusive) >= RUNS - 2
    assert exclusive == [0] * len(exclusive)


async def test_lock_that_a_statement_did_not_need_is_not_taken_for_it_again(database: Path) -> None:
    """It is released before the statement runs."""
    create(database, "wal")
    async with rapsqlite.connect(database, isolation_level=None) as conn:
        await calls(conn, READ, 3)
        wanted = conn._state.guest._queue._prelocks._wanted
        handle, locks = wanted[hash(READ.encode())]
        wanted[hash(READ.encode())] = (handle, locks | abi.LOCKS_EXCLUSIVE)

        await calls(conn, READ, 3)

        assert wanted[hash(READ.encode())] == (handle, locks)


@not_on_windows("without mapped reads, a call reads whether the file has changed")
async def test_read_of_a_wal_without_frames_takes_one_call_for_its_lock(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size of the database, which such a WAL does not tell, comes with it."""
    monkeypatch.setattr(prelocks.Prelocks, "take", lambda _self, _statement: prelocks.NO_PRELOCK)
    create(database, "wal")
    async with rapsqlite.connect(database, isolation_level=None) as conn:
        for _ in range(10):
            await conn.fetch_all(READ)

        assert without_rare_releases(await calls(conn, READ)) == {"shm_lock": RUNS}


async def test_size_of_a_database_with_an_empty_wal_is_asked_for_with_each_lock(path: Path) -> None:
    """A WAL without frames does not tell it, and after a checkpoint it may be another one."""
    async with rapsqlite.connect(path) as conn:
        with closing(impatient(path)) as native:
            for count in range(1, 20):
                native.execute("INSERT INTO t VALUES (zeroblob(20000))")
                native.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                assert await conn.fetch_scalar("SELECT count(*) FROM t") == count + 1
                assert await conn.fetch_scalar("SELECT total(length(v)) > 1 FROM t") == 1
            native.execute("DELETE FROM t WHERE length(v) > 9")
            native.execute("VACUUM")
            native.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            assert await conn.fetch_scalar("SELECT count(*) FROM t") == 1


async def test_repeated_prepared_statement_makes_no_host_call(connection: rapsqlite.Connection) -> None:
    async with connection.prepare(READ) as statement:
        for _ in range(3):
            await statement.fetch_all()
        before = await connection.statistics()
        for _ in range(RUNS):
            await statement.fetch_all()
        after = await connection.statistics()

    assert [after[name] - before[name] for name in ("file_lock", "file_unlock", "shm_lock", "shm_unlock")] == [0] * 4


async def test_write_in_wal_mode_makes_one_call_for_its_mark_and_one_to_write(database: Path) -> None:
    async with rapsqlite.connect(database, isolation_level=None) as conn:
        for sql in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL", "CREATE TABLE t (v)", *([WRITE] * 3)):
            await conn.execute(sql)
        insert = "INSERT INTO t VALUES (1)"
        await calls(conn, insert, 3)

        assert without_rare_releases(await calls(conn, insert)) == {"shm_lock": RUNS, "file_write": RUNS}


async def test_write_that_begins_a_transaction_makes_one_call_too(database: Path) -> None:
    """SQLite still holds the locks that were taken for it when it is answered."""
    insert = "INSERT INTO t VALUES (1)"
    create(database, "wal")
    made = []
    async with rapsqlite.connect(database) as conn:
        for _ in range(RUNS + 3):
            before = (await conn.statistics())["shm_lock"]
            await conn.execute(insert)
            await conn.commit()
            made.append((await conn.statistics())["shm_lock"] - before)
        with closing(impatient(database)) as native:
            take_everything(native)

    assert made[3:] == [1] * RUNS


@pytest.mark.parametrize("sql", [READ, WRITE, "SELECT 1", "SELECT v FROM t LIMIT 0"])
async def test_no_lock_is_held_after_the_await(path: Path, connection: rapsqlite.Connection, sql: str) -> None:
    with closing(impatient(path)) as native:
        for _ in range(RUNS):
            await connection.fetch_all(sql)
            take_everything(native)


async def test_next_statement_sees_what_others_wrote(path: Path, connection: rapsqlite.Connection) -> None:
    with closing(impatient(path)) as native:
        for value in range(RUNS):
            native.execute("UPDATE t SET v = ?", (value,))
            assert await connection.fetch_all(READ) == [[value]]
        native.execute("INSERT INTO t VALUES (zeroblob(100000))")
        assert len(await connection.fetch_all(READ)) == 2
        native.execute("DELETE FROM t WHERE length(v) > 9")
        native.execute("VACUUM")
        assert len(await connection.fetch_all(READ)) == 1


async def test_conflicting_lock_is_waited_for_and_reported_as_usual(
    path: Path, connection: rapsqlite.Connection
) -> None:
    await connection.execute("PRAGMA busy_timeout = 20")
    for _ in range(3):
        await connection.fetch_all(WRITE)
    with closing(impatient(path)) as native:
        native.execute("BEGIN EXCLUSIVE")
        with pytest.raises(rapsqlite.OperationalError, match="locked"):
            await connection.fetch_all(WRITE)
        native.execute("COMMIT")
        before = native.execute(READ).fetchone()[0]

        await connection.fetch_all(WRITE)

        assert native.execute(READ).fetchone() == (before + 1,)


async def test_statement_in_a_transaction_keeps_its_snapshot(path: Path, connection: rapsqlite.Connection) -> None:
    """No lock is taken for a statement while SQLite holds one, nor dropped with its reply."""
    with closing(impatient(path)) as native:
        is_wal = native.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        for _ in range(5):
            await connection.execute("BEGIN")
            seen = await connection.fetch_all(READ)
            if is_wal:
                native.execute(WRITE)
            else:
                with pytest.raises(sqlite3.OperationalError, match="locked"):
                    native.execute(WRITE)
            assert await connection.fetch_all(READ) == seen
            await connection.commit()
            take_everything(native)


async def test_remaining_rows_keep_their_lock(path: Path, connection: rapsqlite.Connection) -> None:
    with closing(impatient(path)) as native:
        native.execute(f"INSERT INTO t WITH RECURSIVE {numbers(3000)} SELECT i FROM n")
        is_wal = native.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        for _ in range(3):
            async with connection.execute("SELECT a.v FROM t a, t b") as cursor:
                await cursor.fetchone()
                for _ in range(3):
                    await connection.fetch_all("SELECT count(*) FROM t")
                if is_wal:
                    native.execute(WRITE)
                    assert native.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 1
                else:
                    with pytest.raises(sqlite3.OperationalError, match="locked"):
                        native.execute(WRITE)
            take_everything(native)


async def test_statement_that_no_longer_needs_a_lock_runs_without_one(
    path: Path, connection: rapsqlite.Connection
) -> None:
    """The lock it used before is released before it runs, and not taken again."""
    with closing(impatient(path)) as native:

        def write() -> int:
            take_everything(native)
            return 1

        await connection.create_function("f", 0, lambda: 1)
        sql = "SELECT f() FROM t LIMIT 1"
        for _ in range(3):
            await connection.fetch_all(sql)
        await connection.execute("CREATE TEMP TABLE t (v)")
        await connection.execute("INSERT INTO temp.t VALUES (1)")
        await connection.create_function("f", 0, write)

        for _ in range(3):
            assert await connection.fetch_all(sql) == [[1]]


async def test_guest_releases_the_locks_if_the_thread_stops_polling(
    path: Path, connection: rapsqlite.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop gets the reply, and may be busy by then."""
    monkeypatch.setattr(polling.Polling, "spin", lambda _self, _rings: False)
    monkeypatch.setattr(polling.Polling, "nap", lambda _self, _bell: None)
    slow = f"SELECT v, (WITH RECURSIVE {numbers(20_000)} SELECT max(i) FROM n) FROM t"
    with closing(impatient(path)) as native:
        for _ in range(5):
            await connection.fetch_all(slow)
            take_everything(native)
        made = await calls(connection, slow)
    # All of them, unless the reply was there before the thread had stopped.
    assert 0 < made.get("unlock", 0) + made.get("file_unlock", 0) + made.get("shm_unlock", 0) <= RUNS


async def test_interrupt_before_the_request_was_written_leaves_no_lock(
    path: Path, connection: rapsqlite.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_polls = Rings.set_polls

    def interrupted(self: Rings, waits: bool) -> None:
        monkeypatch.setattr(Rings, "set_polls", set_polls)
        raise KeyboardInterrupt

    with closing(impatient(path)) as native:
        for _ in range(3):
            monkeypatch.setattr(Rings, "set_polls", interrupted)
            with pytest.raises(KeyboardInterrupt):
                await connection.fetch_all(READ)
            take_everything(native)
            assert await connection.fetch_all(READ) == [list(row) for row in native.execute(READ)]


async def test_locks_of_a_taken_reply_are_not_released_twice(path: Path, connection: rapsqlite.Connection) -> None:
    """The guest may report the release late, when the next statement's locks are already held."""
    queue = connection._state.guest._queue
    answered = queue.last_id
    held = queue._prelocks.take(READ.encode())
    assert held.locks

    queue.unlock(answered, held.handle, held.locks)

    with closing(impatient(path)) as native, pytest.raises((sqlite3.OperationalError, AssertionError)):
        take_everything(native)
    queue._return_prelocks()
    with closing(impatient(path)) as native:
        take_everything(native)


@pytest.mark.parametrize("handle, locks", [(0, 1), (99, abi.LOCKS_FILE), (1, 0xFFFF_FFFF), (1, 0), (0xFFFF_FFFF, 255)])
async def test_invalid_numbers_from_a_guest_affect_no_other_lock(
    path: Path, connection: rapsqlite.Connection, handle: int, locks: int
) -> None:
    async with rapsqlite.connect(path, isolation_level=None) as other:
        await other.execute("BEGIN IMMEDIATE")
        connection._state.guest._queue._prelocks.drop(handle, locks)
        with closing(impatient(path)) as native, pytest.raises(sqlite3.OperationalError, match="locked"):
            native.execute(WRITE)
        await other.execute(WRITE)
        await other.commit()
    assert len(await connection.fetch_all(READ)) == 1


async def test_no_locks_are_taken_early_on_a_file_system_that_may_block(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping, "is_shared_by_all", lambda _fd: False)
    async with rapsqlite.connect(database, isolation_level=None) as conn:
        await conn.execute("CREATE TABLE t (v)")
        await calls(conn, READ, 3)

        made = await calls(conn, READ)
    assert (made["file_lock"], made["file_unlock"]) == (RUNS, RUNS)


async def test_connection_that_waits_for_a_lock_gets_it_first(
    connection: rapsqlite.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiters.Contention, "anyone_waits", lambda _self: True)

    made = await calls(connection, READ)

    assert sum(made.get(name, 0) for name in ("file_lock", "shm_lock")) == RUNS


async def test_number_of_remembered_statements_is_bounded(connection: rapsqlite.Connection) -> None:
    for number in range(prelocks._MOST_STATEMENTS + 10):
        await connection.fetch_all(f"SELECT v, {number} FROM t")

    wanted = connection._state.guest._queue._prelocks._wanted
    assert 0 < len(wanted) <= prelocks._MOST_STATEMENTS


async def test_no_locks_are_taken_early_for_requests_of_several_statements(connection: rapsqlite.Connection) -> None:
    """Locks are taken only for requests that run one statement: other requests release immediately what they get."""
    guest = connection._state.guest
    for _ in range(3):
        await guest.call(Request(abi.OP_SCRIPT, b"BEGIN IMMEDIATE; ROLLBACK"))
    assert hash(b"BEGIN IMMEDIATE; ROLLBACK") not in guest._queue._prelocks._wanted


def by_a_finalizer(queue: request_queue.RequestQueue, pending: PendingRequest) -> None:
    queue._post(queue._send_posted, pending)


def by_another_thread(queue: request_queue.RequestQueue, pending: PendingRequest) -> None:
    with queue.lock:
        queue._send(pending, current_loop())


def let_naps_begin(monkeypatch: pytest.MonkeyPatch, nap: Callable[[polling.Polling, object], None]) -> None:
    """Call ``nap`` for each reply, however early it arrives: nobody finds it before."""
    begun = False
    has_replies = Rings.has_replies

    def begin(self: polling.Polling, bell: object) -> None:
        nonlocal begun
        begun = True
        nap(self, bell)

    monkeypatch.setattr(polling.Polling, "spin", lambda _self, _rings: False)
    monkeypatch.setattr(polling.Polling, "nap", begin)
    monkeypatch.setattr(Rings, "has_replies", lambda rings: begun and has_replies(rings))


def await_reply(queue: request_queue.RequestQueue) -> None:
    while queue._rings is not None and not queue._rings.has_replies():
        time.sleep(0)


@pytest.mark.parametrize("send", [by_a_finalizer, by_another_thread])
async def test_request_sent_while_another_thread_naps_keeps_its_own_locks(
    path: Path,
    connection: rapsqlite.Connection,
    monkeypatch: pytest.MonkeyPatch,
    send: Callable[[request_queue.RequestQueue, PendingRequest], None],
) -> None:
    """The reply that the nap waits for releases its locks, which would be the next request's by then."""
    queue = connection._state.guest._queue
    begin = PendingRequest(queue, None, Request(abi.OP_FETCH, b"BEGIN IMMEDIATE"))

    def nap(_self: polling.Polling, _bell: object) -> None:
        await_reply(queue)
        if not begin.number:
            send(queue, begin)
        while queue.is_unanswered(begin):
            time.sleep(0)

    await connection.fetch_all(WRITE)
    with monkeypatch.context() as patched:
        let_naps_begin(patched, nap)
        await connection.fetch_all(WRITE)

    assert connection.in_transaction
    with closing(impatient(path)) as native, pytest.raises(sqlite3.OperationalError, match="locked"):
        native.execute("BEGIN IMMEDIATE")
    await connection.rollback()


async def test_interrupted_nap_leaves_no_lock(
    path: Path, connection: rapsqlite.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop may be busy for long before it takes the reply."""
    queue = connection._state.guest._queue

    def nap(_self: polling.Polling, _bell: object) -> None:
        await_reply(queue)
        raise KeyboardInterrupt

    await connection.fetch_all(WRITE)
    with closing(impatient(path)) as native:
        with monkeypatch.context() as patched:
            let_naps_begin(patched, nap)
            with pytest.raises(KeyboardInterrupt):
                await connection.fetch_all(WRITE)
        take_everything(native)


# What the thread that sends requests calls to take and release locks.
STEPS: list[tuple[Any, str]] = [
    (system, "set_lock"),
    (file_lock.FileLock, "try_share"),
    (file_lock.FileLock, "unlock"),
    (facts.Facts, "size"),
    (facts.Facts, "companions"),
    (wal_index.WalIndex, "try_lock"),
    (wal_index.WalIndex, "unlock"),
    (open_file.OpenFile, "prelock"),
    (open_file.OpenFile, "drop"),
    (prelocks.Prelocks, "take"),
    (prelocks.Prelocks, "learn"),
    (prelocks.Prelocks, "drop"),
    (Rings, "set_prelock"),
    (Rings, "set_polls"),
]


class Interrupts:
    """Raises KeyboardInterrupt in this thread before or after the step of this number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.left = number
        self.thread = threading.get_ident()
        for owner, name in STEPS:
            monkeypatch.setattr(owner, name, self._around(getattr(owner, name)))

    def _around(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def around(*args: Any, **kwargs: Any) -> Any:
            self._pass()
            result = step(*args, **kwargs)
            self._pass()
            return result

        return around

    def _pass(self) -> None:
        if threading.get_ident() == self.thread:
            self.left -= 1
            if self.left == -1:
                raise KeyboardInterrupt


async def test_interrupt_while_locks_are_taken_or_dropped_leaves_none(
    path: Path, connection: rapsqlite.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(impatient(path)) as native:
        for number in range(200):
            for _ in range(3):
                await connection.fetch_all(READ)
            with monkeypatch.context() as patch:
                interrupts = Interrupts(patch, number)
                with suppress(KeyboardInterrupt):
                    await connection.fetch_all(READ)
                interrupts.left = 1 << 30 if interrupts.left < 0 else interrupts.left
            take_everything(native)
            assert await connection.fetch_all(READ) == [list(row) for row in native.execute(READ)]
            if 0 <= interrupts.left < 1 << 30:
                break
    assert 5 < number < 199


async def test_marks_locked_by_a_checkpoint_are_not_locked_for_the_next_write(database: Path) -> None:
    """They are other readers' locks; those readers would have to wait until a long INSERT ends."""
    sql = "INSERT INTO t VALUES (1)"
    async with rapsqlite.connect(database, isolation_level=None) as conn:
        for setup in ("PRAGMA journal_mode = WAL", "CREATE TABLE t (v)", "PRAGMA wal_autocheckpoint = 1"):
            await conn.execute(setup)
        with closing(impatient(database)) as native, closing(impatient(database)) as another:
            for reader in (native, another):
                reader.execute("BEGIN")
                reader.execute("SELECT * FROM t").fetchall()
                await conn.fetch_all("INSERT INTO t VALUES (0)")
        queue, taken = conn._state.guest._queue, set()
        for _ in range(6):
            await conn.fetch_all(sql)
            taken.add(queue._prelocks.take(sql.encode()).locks)
            queue._return_prelocks()

    assert any(taken)
    assert all((locks // abi.LOCKS_EXCLUSIVE & 0b1111_1000).bit_count() <= 1 for locks in taken)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
async def test_forked_child_does_not_touch_its_parents_locks(path: Path, connection: rapsqlite.Connection) -> None:
    """Another thread may fork while locks are being taken."""
    queue = connection._state.guest._queue
    assert queue._prelocks.take(READ.encode()).locks
    with queue._prelocks.guard:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(5)
            queue.stop()
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0  # noqa: ASYNC222 - it ends at once

    with closing(impatient(path)) as native, pytest.raises((sqlite3.OperationalError, AssertionError)):
        take_everything(native)
    queue._return_prelocks()
    with closing(impatient(path)) as native:
        take_everything(native)


@not_on_windows("replaces calls of POSIX")
async def test_loops_thread_never_unlocks_a_remote_database(
    path: Path, connection: rapsqlite.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also not the reply to the statement that has attached it."""
    remote = tmp_path / "remote.db"
    with closing(sqlite3.connect(remote, isolation_level=None)) as native:
        native.execute("CREATE TABLE r (v)")

    def is_remote(fd: int) -> bool:
        return os.path.samestat(os.fstat(fd), remote.stat())

    is_local = mapping.is_shared_by_all
    monkeypatch.setattr(mapping, "is_shared_by_all", lambda fd: not is_remote(fd) and is_local(fd))
    threads = []
    set_lock = system.set_lock

    def noted(fd: int, *lock: int) -> None:
        if is_remote(fd):
            threads.append(threading.current_thread())
        set_lock(fd, *lock)

    monkeypatch.setattr(system, "set_lock", noted)
    await connection.execute("ATTACH ? AS other", (os.fspath(remote),))
    for _ in range(3):
        await connection.fetch_all("SELECT v FROM other.r")
    await connection.execute("DETACH other")

    assert len(threads) > 6
    assert threading.current_thread() not in threads
