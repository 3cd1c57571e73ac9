"""Connections of one process that wait for the same lock: each release wakes the next in the queue.

A process that waits with SQLite's own library is not woken. So that it finds the lock free when it tries, connections
of one process hand the lock on only for a limited time, and then leave it free for a moment.
"""

from __future__ import annotations

import contextlib
import sqlite3
from contextlib import AsyncExitStack, closing
from typing import TYPE_CHECKING

import anyio
import pytest

import rapsqlite
from rapsqlite import connect
from rapsqlite._files import waiters as _waiters
from rapsqlite._files.file_table import FileTable
from rapsqlite._files.waiters import Waiter
from rapsqlite._guest import host_functions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODES = ["DELETE", "WAL"]
INSERT = "INSERT INTO t VALUES (1)"


@pytest.fixture(autouse=True)
def _turns_end_with_the_test() -> Iterator[None]:
    """The next test's file may have the number of this one's."""
    yield
    _waiters._turns.clear()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiter tries again unprompted within the time that a test may take.

    SQLite also waits where no lock was refused, because the log grew before it could write: nothing ends that wait.
    """
    nap_s = Waiter.nap_s

    def nap_long_in_a_queue(waiter: Waiter, alone_s: float) -> float:
        return nap_s(waiter, alone_s) if waiter._key is None else 3600.0

    monkeypatch.setattr(Waiter, "nap_s", nap_long_in_a_queue)


async def opened(stack: AsyncExitStack, path: Path, count: int, timeout_s: float = 600) -> list[rapsqlite.Connection]:
    return [
        await stack.enter_async_context(connect(path, isolation_level=None, timeout=timeout_s)) for _ in range(count)
    ]


async def make(path: Path, mode: str) -> None:
    async with connect(path, isolation_level=None, pragmas={"journal_mode": mode}) as conn:
        await conn.execute("CREATE TABLE t (a)")


def waiting() -> int:
    """Return how many connections wait."""
    return sum(map(len, _waiters._queues.values()))


async def until_waiting(count: int) -> None:
    while sum(waiter._is_asleep for queue in list(_waiters._queues.values()) for waiter in queue) < count:  # noqa: ASYNC110
        await anyio.sleep(0.002)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("mode", MODES)
async def test_many_writers_all_get_the_lock_with_few_tries(database: Path, mode: str) -> None:
    """When each waiter polled for the lock, 500 waiters kept the holder from running, and a quarter timed out.

    Tries that a waiter makes unprompted are the fewer the more wait: see below.
    """
    await make(database, mode)
    async with AsyncExitStack() as stack:
        conns = await opened(stack, database, 100)
        async with anyio.create_task_group() as tasks:
            for conn in conns:
                tasks.start_soon(conn.execute, INSERT)

        waits = [(await conn.statistics())["busy_waits"] for conn in conns]
        assert await conns[0].fetch_scalar("SELECT count(*) FROM t") == len(conns)
        assert sum(waits) < 10 * len(conns)
        assert waiting() == 0


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("release", ["COMMIT", "ROLLBACK", "close"])
async def test_each_release_wakes_the_next_writer(database: Path, mode: str, release: str) -> None:
    await make(database, mode)
    async with AsyncExitStack() as stack:
        holder, *conns = await opened(stack, database, 12)
        await holder.execute("BEGIN IMMEDIATE")
        await holder.execute(INSERT)
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for conn in conns:
                    tasks.start_soon(conn.execute, INSERT)
                await until_waiting(len(conns))
                await (holder.close() if release == "close" else holder.execute(release))

        assert await conns[0].fetch_scalar("SELECT count(*) FROM t") == len(conns) + (release == "COMMIT")


@pytest.mark.usefixtures("patient")
async def test_readers_wait_for_a_writer_and_are_all_woken(database: Path) -> None:
    await make(database, "DELETE")
    async with AsyncExitStack() as stack:
        holder, *conns = await opened(stack, database, 12)
        await holder.execute("BEGIN EXCLUSIVE")
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for conn in conns:
                    tasks.start_soon(conn.fetch_all, "SELECT * FROM t")
                await until_waiting(len(conns))
                await holder.execute("COMMIT")


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("mode, blocked", [("DELETE", INSERT), ("WAL", "PRAGMA wal_checkpoint(TRUNCATE)")])
async def test_end_of_the_last_read_wakes_the_writer_that_waits_for_it(database: Path, mode: str, blocked: str) -> None:
    await make(database, mode)
    async with AsyncExitStack() as stack:
        reader, writer = await opened(stack, database, 2)
        await writer.execute(INSERT)
        await reader.execute("BEGIN")
        await reader.fetch_all("SELECT * FROM t")
        await writer.execute("PRAGMA wal_autocheckpoint=0")
        if mode == "WAL":
            await writer.execute(INSERT)
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(writer.execute, blocked)
                await until_waiting(1)
                await reader.execute("COMMIT")


@pytest.mark.usefixtures("patient")
async def test_lock_on_an_attached_database_is_waited_for_there(database: Path, tmp_path: Path) -> None:
    await make(database, "DELETE")
    async with AsyncExitStack() as stack:
        (holder,) = await opened(stack, database, 1)
        (conn,) = await opened(stack, tmp_path / "other.db", 1)
        await conn.execute("CREATE TABLE u (a)")
        await conn.execute("ATTACH ? AS other", [str(database)])
        await holder.execute("BEGIN EXCLUSIVE")
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(conn.execute, "INSERT INTO other.t VALUES (1)")
                await until_waiting(1)
                await holder.execute("COMMIT")


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("end", ["cancel", "interrupt", "stop"])
async def test_cancelled_waiter_leaves_the_queue_immediately(database: Path, end: str) -> None:
    """Otherwise it would be woken in vain, and the waiters behind it not at all."""
    await make(database, "DELETE")
    async with AsyncExitStack() as stack:
        holder, first, second = await opened(stack, database, 3)
        await holder.execute("BEGIN IMMEDIATE")
        ended = anyio.Event()

        async def wait(conn: rapsqlite.Connection) -> None:
            try:
                await conn.execute(INSERT)
            except rapsqlite.Error:
                assert conn is first
            finally:
                if conn is first:
                    ended.set()

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                scope = anyio.CancelScope()

                async def wait_first() -> None:
                    with scope:
                        await wait(first)

                tasks.start_soon(wait_first)
                await until_waiting(1)
                tasks.start_soon(wait, second)
                await until_waiting(2)
                if end == "cancel":
                    scope.cancel()
                elif end == "interrupt":
                    await first.interrupt()
                else:
                    first.stop()
                await ended.wait()
                while waiting() > 1:  # noqa: ASYNC110
                    await anyio.sleep(0.002)
                await holder.execute("COMMIT")
        assert waiting() == 0


async def test_waiters_notice_that_another_process_releases_a_lock(database: Path) -> None:
    """A process wakes only its own waiters; to notice other processes each tries again from time to time."""
    await make(database, "DELETE")
    async with AsyncExitStack() as stack:
        conns = await opened(stack, database, 20)
        with closing(sqlite3.connect(database, isolation_level=None)) as native:
            native.execute("BEGIN IMMEDIATE")
            with anyio.fail_after(30):
                async with anyio.create_task_group() as tasks:
                    for conn in conns:
                        tasks.start_soon(conn.execute, INSERT)
                    await until_waiting(len(conns) // 2)
                    native.execute("COMMIT")


@pytest.mark.usefixtures("patient")
async def test_timeout_ends_the_wait(database: Path) -> None:
    await make(database, "DELETE")
    async with AsyncExitStack() as stack:
        holder, conn = await opened(stack, database, 2, timeout_s=0.05)
        await holder.execute("BEGIN IMMEDIATE")

        with pytest.raises(rapsqlite.OperationalError, match="locked"):
            await conn.execute(INSERT)
        assert waiting() == 0


@pytest.fixture
def resting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long connections were told to leave a lock to other processes, in seconds."""
    rests: list[float] = []
    rest = host_functions.HostFunctions._rest

    def record(host: host_functions.HostFunctions, seconds: float) -> None:
        rests.append(seconds)
        rest(host, seconds)

    monkeypatch.setattr(host_functions.HostFunctions, "_rest", record)
    return rests


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("mode", MODES)
async def test_lock_is_left_free_for_another_library_after_a_turn(
    database: Path, mode: str, monkeypatch: pytest.MonkeyPatch, resting: list[float]
) -> None:
    """Such a library sleeps up to 0.1 s between two tries: it used to wait up to 15 s, because the lock was never free
    then.
    """
    monkeypatch.setattr(_waiters, "_TURN_S", -1.0)  # the second hand-over ends the turn
    monkeypatch.setattr(_waiters, "_PAUSE_S", 3600.0)
    await make(database, mode)
    async with AsyncExitStack() as stack:
        holder, newcomer, *conns = await opened(stack, database, 4)
        (impatient,) = await opened(stack, database, 1, timeout_s=0)
        native = stack.enter_context(closing(sqlite3.connect(database, timeout=20, isolation_level=None)))
        await holder.execute("BEGIN IMMEDIATE")

        async def insert(conn: rapsqlite.Connection) -> None:
            with contextlib.suppress(rapsqlite.OperationalError):
                await conn.execute(INSERT)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                for conn in conns:
                    tasks.start_soon(insert, conn)
                await until_waiting(len(conns))
                await holder.execute("COMMIT")  # the first waiter inserts, and the second one leaves the lock alone
                while not resting:  # noqa: ASYNC110
                    await anyio.sleep(0.002)
                native.execute(INSERT)
                await impatient.execute(INSERT)  # it fails rather than waits
                resting.clear()
                tasks.start_soon(insert, newcomer)
                while not resting:  # noqa: ASYNC110
                    await anyio.sleep(0.002)
                assert native.execute("SELECT count(*) FROM t").fetchone() == (3,)
                for conn in [newcomer, *conns]:
                    await conn.interrupt()  # they wait no longer than necessary


class Queue:
    """Waiters for one file, without connections: which were woken, in order, and how long they left the lock free."""

    def __init__(self) -> None:
        self.woken: list[int] = []
        self.rests: list[float] = []
        self.key = (1, 2)

    def waiter(self, number: int, *, needs_all: bool = False) -> _waiters.Waiter:
        """Return one that sleeps."""
        waiter = _waiters.Waiter()
        waiter.sleep_by(self.rests.append, lambda: self.woken.append(number))
        waiter.refuse(self.key, needs_all=needs_all)
        assert not waiter.may_sleep(), "one who comes tries again first"
        waiter.refuse(self.key, needs_all=needs_all)
        assert waiter.may_sleep()
        return waiter


def test_first_waiter_is_woken_first_and_keeps_its_place() -> None:
    queue = Queue()
    first, second = queue.waiter(1), queue.waiter(2)

    _waiters.wake_next(queue.key)
    first.rise()
    first.refuse(queue.key, needs_all=False)  # somebody else was faster
    assert first.may_sleep()
    _waiters.wake_next(queue.key)
    first.leave()
    _waiters.wake_next(queue.key)
    second.leave()

    assert queue.woken == [1, 1, 2]
    assert waiting() == 0


def test_release_while_the_first_waiter_tries_is_not_lost() -> None:
    queue = Queue()
    first = queue.waiter(1)
    first.rise()

    _waiters.wake_next(queue.key)

    first.refuse(queue.key, needs_all=False)
    assert not first.may_sleep(), "it tries again"
    first.leave()


def test_end_of_a_read_wakes_only_the_waiter_that_needs_it() -> None:
    queue = Queue()
    writer, committing = queue.waiter(1), queue.waiter(2, needs_all=True)

    _waiters.wake_next(queue.key, writer_left=False)

    assert queue.woken == [2]
    writer.leave()
    committing.leave()


def test_waiter_that_gives_up_passes_its_turn_on() -> None:
    queue = Queue()
    first, second = queue.waiter(1), queue.waiter(2)

    _waiters.wake_next(queue.key)
    first.give_up()

    assert queue.woken == [1, 2]
    second.leave()
    assert waiting() == 0


def test_interrupt_while_a_waiter_leaves_keeps_it_in_no_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop's thread takes a reader out as it releases its lock. It could stay for ever, and prelocks with it."""
    queue = Queue()
    first, second = queue.waiter(1), queue.waiter(2)
    begin_try = Waiter._begin_try

    def interrupt(waiter: Waiter) -> None:
        monkeypatch.setattr(Waiter, "_begin_try", begin_try)
        raise KeyboardInterrupt

    for waiter in (first, second):
        monkeypatch.setattr(Waiter, "_begin_try", interrupt)
        with pytest.raises(KeyboardInterrupt):
            waiter.give_up()
        waiter.leave()  # when it next gets a lock, or its connection is closed

    assert waiting() == 0


def test_waiter_that_is_closed_passes_its_turn_on(database: Path) -> None:
    """A guest may be killed between being woken and trying again."""
    queue = Queue()
    files = FileTable(bytes(database))
    for sleeps in (False, True):
        files.waiter.refuse(queue.key, needs_all=False)
        assert files.waiter.may_sleep() == sleeps
    second = queue.waiter(2)

    _waiters.wake_next(queue.key)
    files.close()

    assert queue.woken == [2]
    second.leave()
    assert waiting() == 0


def test_more_waiters_poll_less_often_each() -> None:
    queue = Queue()
    waiters = [queue.waiter(number) for number in range(200)]

    assert waiters[0].nap_s(0.05) == 0.05
    assert waiters[100].nap_s(0.05) > 0.5
    for waiter in waiters:
        waiter.leave()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock for turns and pauses, in seconds."""
    now = [1000.0]
    monkeypatch.setattr(_waiters, "_now", lambda: now[0])
    return now


def hand_on(queue: Queue, clock: list[float], seconds: float) -> None:
    """Hand a writer's lock from one connection to the next for this long."""
    for _ in range(int(seconds / 0.05)):
        waiter = queue.waiter(1)
        _waiters._note_grant(queue.key)
        clock[0] += 0.05
        _waiters.wake_next(queue.key)
        waiter.rise()
        waiter.leave()


def test_lock_that_is_handed_on_is_free_for_one_native_sleep_after_each_turn(clock: list[float]) -> None:
    queue = Queue()

    hand_on(queue, clock, _waiters._TURN_S * 3.5)

    assert [round(rest, 6) for rest in queue.rests if rest >= 0.1] == [_waiters._PAUSE_S] * 3


def test_lock_that_was_free_for_one_native_sleep_is_handed_on_for_a_whole_turn(clock: list[float]) -> None:
    """Others could take the lock; a pause would only cost time."""
    queue = Queue()

    for _ in range(10):
        hand_on(queue, clock, _waiters._TURN_S * 0.8)
        clock[0] += _waiters._PAUSE_S * 1.01

    assert queue.rests == []


def test_files_whose_lock_is_no_longer_handed_on_are_forgotten(clock: list[float]) -> None:
    queue, other = Queue(), Queue()
    other.key = (3, 4)
    hand_on(queue, clock, 0.2)

    clock[0] += 60
    hand_on(other, clock, 0.1)
    clock[0] += 60
    hand_on(queue, clock, 0.05)

    assert list(_waiters._turns) == [queue.key]
