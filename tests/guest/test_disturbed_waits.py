"""What must not be lost when a wait ends unusually: wake-ups, locks, the tasks that wait for others."""

from __future__ import annotations

import gc
import sqlite3
import threading
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

import rapsqlite
from rapsqlite import _constants as abi
from rapsqlite._guest import polling
from rapsqlite._guest.host_functions import HostFunctions
from rapsqlite._guest.request_queue import RequestQueue
from rapsqlite._loops import current_loop
from rapsqlite._wasm.rings import Request, Rings
from tests.callbacks.lingering import Blocked
from tests.cancellation.interrupting import Interrupter
from tests.guest.watching import let_tasks_poll

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator
    from pathlib import Path

    from rapsqlite._guest.polling import Polling
    from rapsqlite._guest.request import PendingRequest


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that is alone polls for its replies, whatever the machine does."""
    let_tasks_poll(monkeypatch, crowded=False)


@pytest.mark.parametrize("answered", [255, 256, 257])
async def test_reply_rings_after_a_drain_that_took_as_many_as_it_may(answered: int) -> None:
    """After exactly 256 replies no bell was requested: the next reply's task slept until somebody sent a request."""
    first, last = Blocked(1), Blocked(2)
    async with rapsqlite.connect(":memory:") as conn:
        await conn.create_function("first", 0, first)
        await conn.create_function("last", 0, last)

        async def release() -> None:
            first.let_go.set()
            assert last.started.wait(50)  # the loop does not run until all before it are answered
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            last.let_go.set()

        with anyio.fail_after(50):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(conn.fetch_scalar, "SELECT first()")
                await anyio.to_thread.run_sync(first.started.wait, 50)
                for _ in range(answered - 1):
                    tasks.start_soon(conn.fetch_scalar, "SELECT 1")
                await anyio.wait_all_tasks_blocked()
                tasks.start_soon(conn.fetch_scalar, "SELECT last()")
                await anyio.wait_all_tasks_blocked()
                await release()


async def test_request_is_written_although_the_ring_got_space_before_the_bell_was_requested(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The guest replies, releases the frame, and rings if it is asked to: the next request used to wait for ever."""
    monkeypatch.setattr(type(current_loop()), "allows_polling", False)
    ask_for_bell = Rings.ask_for_bell
    in_backlog: list[int] = []
    async with rapsqlite.connect(":memory:") as conn:
        queue = conn._state.guest._queue
        assert await conn.fetch_scalar("SELECT 1") == 1
        rings = queue._rings
        assert rings is not None
        tail, ends = rings.progress(), []
        for size in (80_000, 100_000):
            await conn.fetch_scalar("SELECT length(?)", (bytes(size),))
            while rings.has_unanswered():
                await anyio.lowlevel.checkpoint()
            ends.append(tail[0])
        before, after = ends

        def ask_once_released(rings: Rings) -> None:
            if not in_backlog:
                tail[0] = after
            in_backlog.append(len(queue._backlog))
            ask_for_bell(rings)

        monkeypatch.setattr(Rings, "ask_for_bell", ask_once_released)
        tail[0] = before  # the reply is there, the frame is not released
        with anyio.fail_after(50):
            assert await conn.fetch_scalar("SELECT length(?)", (bytes(110_000),)) == 110_000

    assert in_backlog[0] == 1, "it did not fit"


class AlarmError(Exception):
    """What a handler of SIGALRM may raise: an ordinary exception."""


@pytest.mark.usefixtures("polls")
async def test_exception_of_a_signal_handler_leaves_no_lock(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a KeyboardInterrupt: the request was never published, and its locks were kept until the next one."""
    nap, is_raised = RequestQueue._nap, False

    def disturbed(self: RequestQueue, pending: PendingRequest, loop: Any) -> None:
        nonlocal is_raised
        if not is_raised and self._unpublished is not None and self._prelocks.held is not None:
            is_raised = True
            raise AlarmError
        nap(self, pending, loop)

    monkeypatch.setattr(RequestQueue, "_nap", disturbed)
    async with rapsqlite.connect(database, isolation_level=None) as conn:
        await conn.execute("PRAGMA journal_mode = WAL")
        await conn.execute("CREATE TABLE t (a)")
        with suppress(AlarmError):  # not on Trio, which does not poll
            for _ in range(50):
                await conn.execute("INSERT INTO t VALUES (1)")
        assert is_raised is current_loop().allows_polling
        await anyio.lowlevel.checkpoint()

        def write() -> None:
            with closing(sqlite3.connect(database, timeout=20)) as native, native:
                native.execute("INSERT INTO t VALUES (2)")

        await anyio.to_thread.run_sync(write)
        assert await conn.fetch_scalar("SELECT count(*) FROM t WHERE a = 2") == 1


@pytest.mark.usefixtures("polls")
async def test_malformed_reply_wakes_the_tasks_that_wait_for_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it was polled for they waited for ever, and the guest was not ended."""
    is_hostile, outcomes = False, []

    def corrupted(self: Polling, rings: Rings) -> bool:
        self._host.unpark()
        while not rings.has_replies():
            time.sleep(0)  # as long as it takes, also on one processor
        if is_hostile:
            rings._replies[rings.reply_tail % rings._reply_bytes + 8] = 99  # an unknown kind of reply
        return True

    monkeypatch.setattr(polling.Polling, "spin", corrupted)
    monkeypatch.setattr(HostFunctions, "is_asleep", lambda _self: False)  # whose replies are not spun for
    monkeypatch.setattr(polling.Polling, "should_watch", lambda *_: False)
    conn = await rapsqlite.connect(":memory:", isolation_level=None)

    entered = anyio.Event()

    async def wait_for_the_block() -> None:
        await entered.wait()
        try:
            await conn.fetch_all("SELECT 2")
        except rapsqlite.Error as exc:
            outcomes.append(type(exc))

    with anyio.fail_after(50):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait_for_the_block)
            try:
                async with conn.transaction():
                    entered.set()
                    await anyio.wait_all_tasks_blocked()
                    is_hostile = True
                    for _ in range(3):  # the first of a task is not polled for
                        await conn.fetch_all("SELECT 1")
            except rapsqlite.Error as exc:
                outcomes.append(type(exc))
            is_hostile = False
    await conn.close()

    assert len(outcomes) == (2 if current_loop().allows_polling else 0)


async def test_exception_of_a_signal_handler_before_the_end_is_requested_does_not_keep_the_connection_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Closing waited for ever for the end of a guest that nobody had asked to end."""
    send = RequestQueue._send

    def disturbed(_queue: RequestQueue, _pending: PendingRequest, _loop: Any) -> None:
        monkeypatch.setattr(RequestQueue, "_send", send)
        raise AlarmError

    conn = await rapsqlite.connect(":memory:")
    guest = conn._state.guest
    monkeypatch.setattr(RequestQueue, "_send", disturbed)
    with anyio.move_on_after(20) as limit, pytest.raises(AlarmError):
        await conn.close()

    assert not limit.cancel_called
    assert not guest.is_running()


async def test_cancelled_close_does_not_block_the_loop_while_the_guest_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is sent too late is answered only at the end: the task stopped waiting, and joined the thread."""
    finish, may_end = RequestQueue.finish, threading.Event()
    was_let: list[bool] = []

    def finish_late(queue: RequestQueue, failure: BaseException | None) -> list[PendingRequest]:
        was_let.append(may_end.wait(20))
        return finish(queue, failure)

    conn = await rapsqlite.connect(":memory:")
    guest = conn._state.guest
    monkeypatch.setattr(RequestQueue, "finish", finish_late)

    async def ask_too_late() -> None:
        with suppress(rapsqlite.ProgrammingError):
            await guest.call(Request(abi.OP_CONTROL, target=abi.CONTROL_OP_CHANGES))

    async def close() -> None:
        with scope:
            await guest.close()

    async with anyio.create_task_group() as tasks:
        scope = anyio.CancelScope()
        tasks.start_soon(close)
        while not guest._waiting_for_end:
            await anyio.lowlevel.checkpoint()
        tasks.start_soon(ask_too_late)
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        may_end.set()
    await conn.close()

    assert was_let == [True]


@pytest.fixture
def no_finalizers() -> Iterator[None]:
    """An interrupt in a finalizer would only be reported."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_finalizers")
@pytest.mark.parametrize("lie", ["reply_head", "request_tail"])
async def test_interrupt_key_while_a_lying_guest_is_found_out_leaves_no_task_asleep(lie: str) -> None:
    """What waited was forgotten before it was woken: a KeyboardInterrupt in between left its tasks waiting."""
    place, was_raised = 0, True

    async def refused(operation: Awaitable[object]) -> None:
        outcome = None
        try:
            await operation
        except rapsqlite.Error as error:
            outcome = error
        assert outcome is not None

    while was_raised:
        blocked = Blocked(1)
        conn = await rapsqlite.connect(":memory:", isolation_level=None)
        await conn.create_function("blocked", 0, blocked)
        queue = conn._state.guest._queue
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(refused, conn.fetch_all("SELECT blocked()"))
                assert await anyio.to_thread.run_sync(blocked.started.wait, 30)
                tasks.start_soon(refused, conn.fetch_all("SELECT 1"))
                while len(queue._pending) < 2:
                    await anyio.lowlevel.checkpoint()
                rings = queue._rings
                assert rings is not None
                if lie == "reply_head":
                    rings._words[abi.CONTROL_REPLY_HEAD // 4] = rings.reply_tail + 4  # not a multiple of eight
                else:
                    rings._words[abi.CONTROL_REQUEST_TAIL // 4] = rings.request_head + 8  # answered before it was sent
                interrupter = Interrupter(place)
                with suppress(KeyboardInterrupt), interrupter:
                    send_and_drain(queue)
                send_and_drain(queue)
        blocked.let_go.set()
        await conn.close()
        was_raised = bool(interrupter.where)
        place += 1
    assert place > 10


def send_and_drain(queue: RequestQueue) -> None:
    queue.post(Request(abi.OP_CONTROL, target=abi.CONTROL_OP_CHANGES))
    queue.drain(current_loop())
