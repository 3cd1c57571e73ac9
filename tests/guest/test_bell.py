"""The pipe that wakes an event loop: which loop hears it, and that it is closed."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from collections import Counter
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, cast

import anyio.lowlevel
import pytest

import rapsqlite
from rapsqlite import _constants as abi
from rapsqlite import runtime
from rapsqlite._guest import bell as _bell
from rapsqlite._guest import guest as _guest
from rapsqlite._guest import polling
from rapsqlite._guest.bell import Bell, bell_here
from rapsqlite._guest.host_functions import HostFunctions
from rapsqlite._guest.request_queue import RequestQueue
from rapsqlite._loops import current_loop
from rapsqlite._loops.asyncio_loop import AsyncioLoop
from rapsqlite._platform import system
from tests.programs import run_python

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rapsqlite._wasm.control_block import Words

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="guests ring by an import here")


@pytest.fixture
def bell() -> Iterator[Bell]:
    opened = Bell()
    yield opened
    opened.close()


def ring(bell: Bell) -> None:
    """Write as the guest does: through a separate descriptor."""
    with open(bell.path, "wb", buffering=0) as output:
        output.write(b"\1")


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def descriptors_status() -> list[os.stat_result]:
    """Return what is open in this process; a thread of an earlier test may close its own meanwhile."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.append(os.fstat(int(name)))
    return found


class PlayedWords:
    """The only word that is set."""

    def __init__(self) -> None:
        self.bell = abi.BELL_CALLS

    def set_bell(self, kind: int) -> None:
        self.bell = kind


def watch_from(bell: Bell, loop: asyncio.AbstractEventLoop) -> int:
    """Let the loop watch the bell; returns how the guest should ring."""
    words = PlayedWords()
    bell.watch_from(AsyncioLoop(loop), cast("Words", words), lambda _loop: None)
    return words.bell


def test_loop_that_watches_hears_it(bell: Bell) -> None:
    heard: list[object] = []

    async def listen() -> None:
        loop, words = current_loop(), PlayedWords()
        done = asyncio.Event()

        def drain(whose: object) -> None:
            heard.append(whose)
            done.set()

        bell.watch_from(loop, cast("Words", words), drain)
        assert words.bell == abi.BELL_WRITES
        ring(bell)
        await done.wait()
        for _ in range(3):
            await asyncio.sleep(0)
        assert heard == [loop], "rings that were taken are not heard again"
        bell.unwatch()

    asyncio.run(listen())


def test_second_loop_does_not_hear_it_while_the_first_lives(bell: Bell) -> None:
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()

    assert watch_from(bell, first) == abi.BELL_WRITES
    assert watch_from(bell, second) == abi.BELL_CALLS
    assert watch_from(bell, first) == abi.BELL_CALLS, "the import finds out now which tasks wait"
    for loop in (first, second):
        loop.close()


def test_second_loop_takes_over_once_the_first_is_closed(bell: Bell) -> None:
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    assert watch_from(bell, first) == abi.BELL_WRITES
    first.close()

    assert watch_from(bell, second) == abi.BELL_WRITES
    second.close()


def test_guest_calls_the_host_if_the_loop_cannot_watch(bell: Bell) -> None:
    class NoReaders(asyncio.SelectorEventLoop):
        def add_reader(self, *_: object) -> None:
            raise NotImplementedError

    loop = NoReaders()
    assert watch_from(bell, loop) == abi.BELL_CALLS
    loop.close()


def test_wait_ends_with_a_ring_or_its_timeout(bell: Bell) -> None:
    ring(bell)
    bell.wait(0.9)
    bell.wait(0.0001)  # the first one has consumed the ring: otherwise this one would hang, or find it again
    assert bell.drain()


def test_closed_writing_end_is_reported(bell: Bell) -> None:
    bell.hand_over()

    assert not bell.drain()


def test_bell_that_is_dropped_closes_its_pipe() -> None:
    opened = Bell()
    pipe = os.fstat(opened._reader)
    assert [os.path.samestat(pipe, other) for other in descriptors_status()].count(True) == 2

    del opened

    assert not any(os.path.samestat(pipe, other) for other in descriptors_status())


def test_guest_calls_the_host_if_too_many_files_are_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_flags: int) -> tuple[int, int]:
        raise OSError(24, "too many open files")

    monkeypatch.setattr(os, "pipe2", refuse)

    with bell_here(lambda: True) as (bell, output):
        assert bell is None
        assert output == ""


async def test_no_descriptor_is_left_of_a_connection(tmp_path: Path) -> None:
    async with rapsqlite.connect(tmp_path / "a.db") as conn:
        await conn.execute("CREATE TABLE t (v)")
    gc.collect()  # for other tests' connections
    before = open_descriptors()

    for _ in range(20):
        async with rapsqlite.connect(tmp_path / "a.db") as conn:
            await conn.fetch_all("SELECT * FROM t")

    # The event loop closes the last bell soon, and uvloop may open a descriptor.
    assert open_descriptors() < before + 10


@pytest.mark.parametrize("step", ["__init__", "call"])
async def test_guest_that_does_not_start_closes_its_pipe(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stayed open until the collector found the guest, which the failure's traceback refers to."""
    bells: list[Bell] = []
    open_pipe = Bell.__init__

    def noted(bell: Bell) -> None:
        open_pipe(bell)
        bells.append(bell)

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Bell, "__init__", noted)
    monkeypatch.setattr(runtime.Instance, step, fail)
    with pytest.raises(rapsqlite.OperationalError):
        await rapsqlite.connect(":memory:")

    assert [(bell._reader, bell._writer) for bell in bells] == [(-1, -1)]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the calls of two imports that a guest does not use on this system."""
    counted: Counter[str] = Counter()

    def park(self: HostFunctions, reason: int) -> int:
        counted["park"] += 1
        return original_park(self, reason)

    def ring(self: RequestQueue) -> None:
        counted["bell"] += 1
        original_ring(self)

    original_park, original_ring = HostFunctions.park, RequestQueue.ring
    monkeypatch.setattr(HostFunctions, "park", park)
    monkeypatch.setattr(RequestQueue, "ring", ring)
    return counted


async def test_guest_sleeps_and_rings_without_calling_the_host(
    monkeypatch: pytest.MonkeyPatch, calls: Counter[str], anyio_backend_name: str
) -> None:
    monkeypatch.setattr(polling.Polling, "may_start", lambda *_: False)  # a reply that is polled for needs no bell
    async with rapsqlite.connect(":memory:") as conn:
        await conn.fetch_one("SELECT 1")
        calls.clear()
        before = await conn.statistics()
        for number in range(20):
            while not conn._state.guest.host.is_asleep():  # otherwise it may answer before it is asked to ring
                await anyio.lowlevel.checkpoint()
            assert await conn.fetch_one("SELECT ?", (number,)) == [number]
        after = await conn.statistics()

    assert after["parks"] - before["parks"] >= 20
    assert after["bells"] - before["bells"] >= 20
    assert calls["park"] == 0
    if anyio_backend_name == "asyncio":
        assert calls["bell"] == 0


async def test_guest_works_without_pipes_and_parking(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, calls: Counter[str]
) -> None:
    monkeypatch.setattr(system, "has_parking", False)
    monkeypatch.setattr(_bell, "_open", lambda _: None)
    async with rapsqlite.connect(tmp_path / "a.db") as conn:
        await conn.execute("CREATE TABLE t (v)")
        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(conn.execute, "INSERT INTO t VALUES (?)", (number,))
        assert await conn.fetch_scalar("SELECT sum(v) FROM t") == sum(range(50))
        while not conn._state.guest.host.is_asleep():
            await anyio.lowlevel.checkpoint()

    assert calls["park"] > 0
    assert calls["bell"] > 0


def test_connection_moves_between_loops(tmp_path: Path) -> None:
    """Each hears the guest in turn; two at once are both woken."""
    conn = rapsqlite.connect(tmp_path / "a.db")
    asyncio.run(_use(conn, 0))
    for number in range(1, 4):
        asyncio.run(_use(conn, number))
    threads = [threading.Thread(target=lambda n=number: asyncio.run(_use(conn, n))) for number in range(10, 14)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(_finish(conn, 8))


async def _use(conn: rapsqlite.Connection, number: int) -> None:
    if number == 0:
        await conn
        await conn.execute("CREATE TABLE t (v)")
    await conn.execute("INSERT INTO t VALUES (?)", (number,))
    await conn.commit()


async def _finish(conn: rapsqlite.Connection, count: int) -> None:
    assert await conn.fetch_scalar("SELECT count(*) FROM t") == count
    await conn.close()


SIGPIPE_PROGRAM = """
import signal
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
import gc, os, sys, threading
from contextlib import suppress
import anyio
from rapsqlite import _constants as abi
from rapsqlite import runtime
from rapsqlite._wasm.rings import Request
sys.path[:0] = [{directory!r}]
import rapsqlite
from played import AWAIT_REQUEST, RING_BY_WRITING, RING_ONCE, guest_of

async def main():
    for body in (RING_BY_WRITING, RING_ONCE) * 5:
        guest = guest_of(AWAIT_REQUEST + f"(loop $l {{body}} (br $l)) (i32.const 0)", grace_period_s=0.05)
        guest.start()
        while guest._queue._rings is None:
            await anyio.sleep(0)
        with anyio.move_on_after(0.02), suppress(rapsqlite.OperationalError):
            await guest.call(Request(abi.OP_FETCH, b"SELECT 1"))
        assert guest.state == "broken"
        await guest.close()

anyio.run(main, backend={backend!r})
for thread in threading.enumerate():
    if thread is not threading.current_thread():
        thread.join(10)
assert threading.active_count() == 1, threading.enumerate()
print("alive")
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_guest_that_is_stopped_while_it_rings_raises_no_signal(backend: str) -> None:
    """If SIGPIPE has its default action, as in many command-line tools, writing to a pipe without a reader ends the
    process.
    """
    program = SIGPIPE_PROGRAM.format(directory=os.path.dirname(__file__), backend=backend)
    done = run_python("-c", program)

    assert done.stdout == "alive\n", (done.returncode, done.stderr)


async def test_guest_that_cannot_write_to_the_pipe_calls_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed write Rust's library would read the error where a small guest has no memory."""
    monkeypatch.setattr(_guest, "bell_here", lambda _can_write: nullcontext((None, "/dev/full")))
    async with rapsqlite.connect(":memory:") as conn:
        rings = conn._state.guest._queue._rings
        assert rings is not None
        rings.set_bell(abi.BELL_WRITES)

        assert await conn.fetch_scalar("SELECT length(hex(zeroblob(1000000)))") == 2_000_000


def test_forked_child_closes_its_copy_even_if_another_thread_was_closing_the_bell(bell: Bell) -> None:
    """That thread does not exist in the child, so nothing would release its lock."""
    with bell._closing:
        bell.abandon_after_fork()

    assert (bell._reader, bell._writer) == (-1, -1)
