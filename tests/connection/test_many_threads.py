"""Threads with their own event loops, running concurrently on their own connections and on a shared one.

Without the GIL nothing else keeps two threads from being in the same function, so these tests also run on free-threaded
Pythons; with it, the tests of single steps let the other thread in where the GIL does so rarely.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import sysconfig
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from rapsqlite import _constants as abi
from rapsqlite._callbacks.failures import Failures
from rapsqlite._files import waiters
from rapsqlite._values import adapters
from rapsqlite._wasm.rings import Request
from tests.played_time import LATE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from rapsqlite._guest.request import PendingRequest

is_gil_enabled: Callable[[], bool] | None = getattr(sys, "_is_gil_enabled", None)
THREADS = 6
ROUNDS = 8
COUNT = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) SELECT ?, i FROM n"


def in_threads(work: Callable[[int], Coroutine[Any, Any, None]]) -> None:
    """Run ``work`` in several threads, each with its own event loop; raise what one of them raised."""
    start = threading.Barrier(THREADS)

    def run(number: int) -> None:
        start.wait()
        asyncio.run(work(number))

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(run, range(THREADS)))


@pytest.mark.skipif(is_gil_enabled is None, reason="every Python before 3.13 has the GIL")
def test_no_import_switches_the_gil_back_on() -> None:
    """An extension module that does not declare itself safe would do so, with a warning."""
    is_free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

    async def use(number: int) -> None:
        async with rapsqlite.connect(":memory:") as conn:
            assert await conn.fetch_scalar("SELECT ?", (number,)) == number

    in_threads(use)

    assert is_gil_enabled is not None
    assert is_gil_enabled() is not is_free_threaded


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_counter_incremented_by_all_threads_is_exact(mode: str, tmp_path: Path) -> None:
    """Each task reads the counter, calls Python and writes it back, so a lost lock, wake-up or reply would show."""
    path = tmp_path / "counter.db"
    with closing(sqlite3.connect(path)) as stock:
        stock.execute(f"PRAGMA journal_mode = {mode}")
        stock.execute("CREATE TABLE counter (value)")
        stock.execute("INSERT INTO counter VALUES (0)")
        stock.commit()

    async def count(_number: int) -> None:
        options: Any = {"timeout": 300, "isolation_level": None, "pragmas": {"synchronous": "OFF"}}
        async with rapsqlite.connect(path, **options) as conn:
            await conn.create_function("next", 1, lambda value: value + 1)
            for _ in range(ROUNDS):
                async with conn.transaction("IMMEDIATE"):
                    value = await conn.fetch_scalar("SELECT value FROM counter")
                    await conn.execute("UPDATE counter SET value = next(?)", (value,))

    in_threads(count)

    with closing(sqlite3.connect(path)) as stock:
        assert stock.execute("SELECT value FROM counter").fetchone() == (THREADS * ROUNDS,)
        assert stock.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_one_connection_serves_the_loops_of_all_threads() -> None:
    """Any loop may drain the replies; each reply must reach the thread that waits for it."""

    async def share(conn: rapsqlite.Connection) -> None:
        async def use(number: int) -> None:
            for turn in range(ROUNDS):
                values = [number * 1000 + turn * 10 + task for task in range(5)]
                found = await asyncio.gather(*[conn.fetch_scalar("SELECT ?", (value,)) for value in values])
                assert found == values
                rows = await conn.fetch_all(COUNT, (number,))
                assert rows == [[number, value] for value in range(1, 3001)]

        await asyncio.to_thread(in_threads, use)

    async def main() -> None:
        async with rapsqlite.connect(":memory:") as conn:
            await share(conn)

    asyncio.run(main())


def test_connections_are_cancelled_and_closed_in_all_threads(tmp_path: Path) -> None:
    """Opening, interrupting and closing change what the process's guests share."""

    async def use(number: int) -> None:
        for _ in range(ROUNDS):
            conn = await rapsqlite.connect(tmp_path / f"{number % 2}.db")
            conn._state.guest._queue.grace_period_s = LATE_S  # so many guests may be slow to answer
            endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
            task = asyncio.ensure_future(conn.fetch_all(endless))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await conn.fetch_scalar("SELECT 1") == 1
            await conn.close()

    in_threads(use)


def test_savepoints_of_all_threads_have_distinct_names() -> None:
    conn = rapsqlite.connect(":memory:")
    names: list[str] = []

    async def name(_number: int) -> None:
        names.extend([conn.savepoint().name for _ in range(200)])

    in_threads(name)

    assert len(set(names)) == len(names) == THREADS * 200


# -- single steps --------------------------------------------------------------------------------------


class Intruded(deque[Any]):
    """The replies of a request; calls ``intrude`` when the draining thread is about to append one."""

    intrude: Callable[[], None]

    def __iadd__(self, replies: Any) -> Any:  # type: ignore[misc] # as deque's own
        self.intrude()
        return super().__iadd__(replies)


def sent(conn: rapsqlite.Connection, sql: bytes, intrude: Callable[[PendingRequest], None]) -> PendingRequest:
    """Send a statement; ``intrude`` is called as its reply arrives."""
    guest = conn._state.guest
    pending = guest.unsent(Request(abi.OP_EXECUTE, sql, argument=1))
    pending.replies = replies = Intruded()
    replies.intrude = lambda: intrude(pending)
    guest.submit(pending)
    return pending


def test_request_is_marked_done_only_after_its_reply_is_stored() -> None:
    """Otherwise its task, in another thread, finds neither and reports a guest that ended without a reply."""
    seen: list[bool] = []

    async def main() -> None:
        async with rapsqlite.connect(":memory:") as conn:
            pending = sent(conn, b"SELECT 1", lambda pending: seen.append(pending.done))
            await conn._state.guest.result(pending)

    asyncio.run(main())

    assert seen == [False]


def test_object_opened_by_a_reply_is_released_if_its_task_leaves_meanwhile() -> None:
    """Another thread drains: it saw the task waiting, and appends the reply after the task has left."""

    async def main() -> None:
        async with rapsqlite.connect(":memory:") as conn:
            await conn.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (1), (2), (3)")
            guest = conn._state.guest

            def leave(pending: PendingRequest) -> None:
                other = threading.Thread(target=guest.abandon, args=(pending,))
                other.start()
                other.join()

            sent(conn, b"SELECT a FROM t", leave)
            await conn.fetch_scalar("SELECT 1")

            assert (await conn.statistics())["open_statements"] == 0

    asyncio.run(main())


def test_adapter_registered_while_adapters_are_counted_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry belongs to sqlite3, and any thread may add to it."""

    class Registry(dict[tuple[type, object], object]):
        def __iter__(self) -> Any:
            yield from list(super().__iter__())
            self[(str, None)] = None

    monkeypatch.setattr(adapters, "_shared", Registry({(int, None): None}))
    known = adapters.Adapters()

    known.plain()

    assert known.plain() == adapters.PLAIN_TYPES - {int, str}


def test_exceptions_are_kept_while_another_thread_takes_them() -> None:
    """The guest's thread adds to them and the loop's takes them: neither may iterate while the other changes them."""
    failures = Failures()

    async def use(number: int) -> None:
        for _ in range(2000):
            if number % 2:
                failures.take(0)
            elif number == 0:
                failures.keep(ValueError())

    in_threads(use)

    assert len(failures) == 2000


def test_waiter_leaves_its_queue_only_once() -> None:
    """The thread that releases a lock makes a waiter leave, at the same time as the guest's own thread does."""

    class Arriving(waiters.Waiter):
        """Another thread removes it from its queue between the first check and the guard."""

        __slots__ = ()

        def _leave(self) -> Any:
            super()._leave()
            return super()._leave()

    waiter = Arriving()
    waiter.refuse((-1, -1), needs_all=True)
    waiter.may_sleep()

    waiter.leave()

    assert not waiters.Contention.anyone_waits()
