"""Polling for a reply without the event loop: never for long, and never at the cost of other tasks."""

from __future__ import annotations

import threading
import time
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import anyio
import pytest

import rapsqlite
from rapsqlite import _constants as abi
from rapsqlite._guest import polling as polling_module
from rapsqlite._guest import request_queue
from rapsqlite._guest.polling import Polling
from rapsqlite._loops import current_loop
from rapsqlite._wasm.reply_watcher import Unpublished
from rapsqlite._wasm.rings import Request
from tests.played_time import PlayedTime

if TYPE_CHECKING:
    from rapsqlite._guest.host_functions import HostFunctions
    from rapsqlite._guest.request_queue import RequestQueue
    from rapsqlite._wasm.rings import Rings

SELECT, INSERT = Request(abi.OP_FETCH, b"SELECT"), Request(abi.OP_EXECUTE, b"INSERT")
IN_ROW = 32  # as documented: then the task is suspended for once


class PlayedHost:
    """The part of a guest's host functions that polling uses."""

    def __init__(self) -> None:
        self.ringing = False
        self.counts = {"file_lock": 0, "shm_lock": 0, "file_write": 0}


class PlayedRings:
    """A reply ring that answers immediately, or never."""

    def __init__(self, *, answers: bool) -> None:
        self.answers = answers
        self.undrained = False

    def has_replies(self) -> bool:
        return self.undrained

    def poll(self, _spin_count: int) -> bool:
        return self.answers


def tries(polling: Polling, rings: PlayedRings, requests: int) -> list[int]:
    """Return the numbers of the requests that were polled for."""
    waited_for = []
    for number in range(requests):
        if polling.may_start(cast("Rings", rings)):
            waited_for.append(number)
            if not polling.spin(cast("Rings", rings)):
                polling.end_nap(cast("Rings", rings))
    return waited_for


@pytest.fixture
def host() -> PlayedHost:
    return PlayedHost()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> PlayedTime:
    played = PlayedTime(100.0)
    monkeypatch.setattr(polling_module, "time", played)
    return played


@pytest.fixture
def polling(host: PlayedHost, clock: PlayedTime) -> Polling:
    return Polling(cast("HostFunctions", host))


def test_other_tasks_run_after_32_polled_replies(polling: Polling) -> None:
    yields = [polling.should_yield(answered=True) for _ in range(96)]

    assert [number for number in range(96) if yields[number]] == [31, 63, 95]


def test_other_tasks_get_their_turn_although_one_works_between_its_requests(
    polling: Polling, clock: PlayedTime
) -> None:
    """Time that is not spent polling counts as well: the loop does not run meanwhile."""
    yields = []
    for _ in range(12):
        tries(polling, PlayedRings(answers=True), 1)
        yields.append(polling.should_yield(answered=True))
        clock.now += 0.0002

    assert yields == [False, False, False, True] * 3


def test_task_that_waits_in_the_loop_does_not_yield(polling: Polling) -> None:
    for _ in range(10):
        assert not any(polling.should_yield(answered=True) for _ in range(31))
        assert not polling.should_yield(answered=False)


@pytest.mark.parametrize("call", ["file_lock", "shm_lock", "file_write"])
def test_guest_that_called_the_host_last_time_is_expected_to_do_so_again(
    polling: Polling, host: PlayedHost, call: str
) -> None:
    """It then waits for the GIL, which a spin in Python would hold until it ends."""
    found = []
    for calls in (0, 1, 1, 0):  # for this request
        found.append(polling.should_watch(INSERT))
        host.counts[call] += calls
        polling.spin(cast("Rings", PlayedRings(answers=True)))

    assert found == [False, False, True, True]
    assert not polling.should_watch(INSERT)


def test_reply_that_took_longer_than_a_spin_is_watched_for_next_time(polling: Polling) -> None:
    """A nap costs more than such a statement, and a spin that ends too early is lost."""
    assert not polling.should_watch(SELECT)
    polling.spin(cast("Rings", PlayedRings(answers=False)))
    assert polling.should_watch(SELECT)
    polling.spin(cast("Rings", PlayedRings(answers=True)))
    assert not polling.should_watch(SELECT)


def test_other_statements_in_between_do_not_change_what_is_expected(polling: Polling) -> None:
    found = []
    for _ in range(3):
        for statement, is_quick in ((SELECT, True), (INSERT, False)):
            found.append(polling.should_watch(statement))
            polling.spin(cast("Rings", PlayedRings(answers=is_quick)))

    assert found == [False, False, False, True, False, True]


def test_number_of_slow_statements_that_are_remembered_is_bounded(polling: Polling) -> None:
    for number in range(1000):
        polling.should_watch(Request(abi.OP_FETCH, b"%d" % number))
        polling.spin(cast("Rings", PlayedRings(answers=False)))

    assert polling.should_watch(Request(abi.OP_FETCH, b"999"))
    assert 0 < len(polling._slow) <= polling_module._MOST_STATEMENTS


@pytest.mark.parametrize(
    "left, found, watched_again", [(200_000, True, False), (100_000, True, True), (0, False, True)]
)
def test_watching_lasts_as_long_as_replies_take_longer_than_a_spin(
    polling: Polling, monkeypatch: pytest.MonkeyPatch, left: int, found: bool, watched_again: bool
) -> None:
    class PlayedWatcher:
        def watch(self, _page: object, _request: Unpublished, _checks: int) -> int:
            return left

    class PlayedPage(PlayedRings):
        page = object()

    monkeypatch.setattr(polling_module, "watcher_here", PlayedWatcher)
    polling.should_watch(SELECT)

    assert polling.watch(cast("Rings", PlayedPage(answers=True)), Unpublished(0, 64, 0)) == found
    assert polling.should_watch(SELECT) == watched_again


def test_bell_ends_a_nap(polling: Polling) -> None:
    """A bell that rang during the nap counts as a reply found by polling."""
    rings = PlayedRings(answers=False)
    polling.naps = True
    thread = threading.Thread(target=polling.wake)
    thread.start()

    while polling.naps:
        polling.nap(None)
    rings.undrained = True
    polling.end_nap(cast("Rings", rings))
    thread.join()

    assert tries(polling, PlayedRings(answers=True), 10) == list(range(10)), "it paid"


def test_misses_make_polling_rare(polling: Polling) -> None:
    """Polling in vain costs processor time: the gaps grow to 65 requests, and no further."""
    polled = tries(polling, PlayedRings(answers=False), 1000)

    gaps = [later - earlier for earlier, later in pairwise(polled)]
    assert gaps[:6] == [1, 5, 9, 17, 33, 65]
    assert set(gaps[6:]) == {65}


def test_a_hit_after_misses_makes_it_frequent_again(polling: Polling) -> None:
    rings = PlayedRings(answers=False)
    tries(polling, rings, 100)
    rings.answers = True

    polled = tries(polling, rings, 200)

    assert len(polled) > 100


def test_replies_of_other_tasks_are_left_to_the_loop(polling: Polling) -> None:
    rings = PlayedRings(answers=True)
    rings.undrained = True

    assert tries(polling, rings, 10) == []


class LockRungAfter:
    """The queue's lock; when the task that submits releases it, the guest answers and rings before the task goes on."""

    def __init__(self, queue: RequestQueue, lock: threading.Lock) -> None:
        self._queue = queue
        self._lock = lock

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if self._queue._polling.naps and self._queue.lock is not self._lock:
            self._queue.lock = self._lock
            while self._queue._rings is not None and not self._queue._rings.has_replies():
                time.sleep(0.0001)
            self._queue.ring()


async def test_reply_announced_before_the_nap_is_drained(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest then relies on the nap, which was skipped: the reply used to wait for the event loop's next wake-up."""
    monkeypatch.setattr(request_queue, "may_spin", lambda: False)
    async with rapsqlite.connect(":memory:") as conn:
        guest = conn._state.guest
        await conn.fetch_scalar("SELECT 1")
        pending = guest.unsent(Request(abi.OP_FETCH, b"SELECT 2"))
        queue = guest._queue
        monkeypatch.setattr(Polling, "may_start", lambda *_: True)
        monkeypatch.setattr(type(current_loop()), "allows_polling", True)
        monkeypatch.setattr(queue, "_is_of_the_same_task", lambda _: True)
        queue.lock = cast("threading.Lock", LockRungAfter(queue, queue.lock))

        queue.submit(pending, current_loop())

        assert isinstance(queue.lock, type(threading.Lock()))
        assert pending.is_ready()


async def test_other_tasks_run_between_the_statements_of_one() -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with rapsqlite.connect(":memory:") as conn, anyio.create_task_group() as tasks:
        tasks.start_soon(count_turns)
        for number in range(20 * (IN_ROW + 1)):
            assert await conn.fetch_scalar("SELECT ?", (number,)) == number
        tasks.cancel_scope.cancel()

    assert turns >= 20
