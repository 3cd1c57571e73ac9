"""Requests published, and replies watched for, without the GIL."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from rapsqlite import _constants as abi
from rapsqlite import runtime
from rapsqlite._files import mapping
from rapsqlite._guest import polling, spin_budget
from rapsqlite._wasm import reply_watcher
from rapsqlite._wasm.reply_watcher import ReplyWatcher, SharedPage, Unpublished
from tests.guest.watching import MANY_CHECKS, let_tasks_poll, note_watches
from tests.systems import LOOPS_THAT_POLL

if TYPE_CHECKING:
    from pathlib import Path

    from rapsqlite._wasm.rings import Rings

CHECKS = 1_000
INSERT = "INSERT INTO t VALUES (1)"
pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mremap"), reason="pages are shown twice on Linux only")


class Page:
    """A page of plain memory, with the words of a control block."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        self.words = memoryview(self._memory).cast("I")
        self.words[abi.CONTROL_MAGIC // 4] = abi.MAGIC
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        assert mapping.make_shareable(address)
        self.shared = SharedPage(address)

    def set(self, offset: int, value: int) -> None:
        self.words[offset // 4] = value

    def get(self, offset: int) -> int:
        return self.words[offset // 4]


@pytest.fixture
def watcher() -> ReplyWatcher:
    engine = runtime.shared_engine()
    engine.prepare_watching()
    watcher = engine.new_watcher()
    assert watcher is not None
    return watcher


@pytest.fixture
def page() -> Page:
    return Page()


def show_and_watch(watcher: ReplyWatcher, page: Page, request: Unpublished, checks: int) -> int:
    assert watcher.show(page.shared)
    return watcher.watch(page.shared, request, checks)


def test_page_made_shareable_keeps_its_content(page: Page) -> None:
    assert page.get(abi.CONTROL_MAGIC) == abi.MAGIC


def test_address_inside_a_page_cannot_be_made_shareable() -> None:
    memory = mmap.mmap(-1, mmap.PAGESIZE)

    assert not mapping.make_shareable(ctypes.addressof(ctypes.c_char.from_buffer(memory)) + 64)


def test_request_is_published_even_if_no_reply_arrives(watcher: ReplyWatcher, page: Page) -> None:
    assert not show_and_watch(watcher, page, Unpublished(0, 64, 0), CHECKS)
    assert page.get(abi.CONTROL_REQUEST_HEAD) == 64


def test_reply_that_has_already_arrived_is_found(watcher: ReplyWatcher, page: Page) -> None:
    page.set(abi.CONTROL_REPLY_HEAD, 128)

    assert show_and_watch(watcher, page, Unpublished(0, 64, 0), MANY_CHECKS) == MANY_CHECKS


def test_later_reply_is_found_while_other_threads_run(watcher: ReplyWatcher, page: Page) -> None:
    """The watcher runs without the GIL: otherwise the thread that plays the guest could not reply."""

    def answer() -> None:
        while page.get(abi.CONTROL_REQUEST_HEAD) != 64:
            pass
        page.set(abi.CONTROL_REPLY_HEAD, 128)

    thread = threading.Thread(target=answer)
    thread.start()
    left = show_and_watch(watcher, page, Unpublished(0, 64, 0), MANY_CHECKS)
    thread.join()

    assert 0 < left < MANY_CHECKS


def test_requests_published_by_another_thread_are_not_withdrawn(watcher: ReplyWatcher, page: Page) -> None:
    """The guest may have read them already, and would then find garbage in the ring."""
    page.set(abi.CONTROL_REQUEST_HEAD, 192)

    show_and_watch(watcher, page, Unpublished(0, 64, 0), CHECKS)

    assert page.get(abi.CONTROL_REQUEST_HEAD) == 192


def test_counters_are_compared_as_32_bits(watcher: ReplyWatcher, page: Page) -> None:
    last = 0xFFFF_FFF8
    page.set(abi.CONTROL_REQUEST_HEAD, last)
    page.set(abi.CONTROL_REPLY_HEAD, last)

    assert not show_and_watch(watcher, page, Unpublished(last, 56, last), CHECKS)
    assert page.get(abi.CONTROL_REQUEST_HEAD) == 56


def test_sleeping_guest_is_not_watched(watcher: ReplyWatcher, page: Page) -> None:
    """It must be woken first: it may have checked for requests before this one was published."""
    page.set(abi.CONTROL_PARKED, 1)

    assert not show_and_watch(watcher, page, Unpublished(0, 64, 0), MANY_CHECKS)
    assert page.get(abi.CONTROL_REQUEST_HEAD) == 64


def test_each_guest_gets_its_own_page(watcher: ReplyWatcher) -> None:
    pages = [Page(), Page()]
    for _ in range(2):
        for number, page in enumerate(pages):
            page.set(abi.CONTROL_REQUEST_HEAD, 0)
            show_and_watch(watcher, page, Unpublished(0, 64 + number, 0), CHECKS)

    assert [page.get(abi.CONTROL_REQUEST_HEAD) for page in pages] == [64, 65]


def test_page_that_is_not_mapped_is_not_written_to(watcher: ReplyWatcher) -> None:
    """A signal's handler may have used the thread's watcher for another guest meanwhile."""
    pages = [Page(), Page()]
    for page in pages:
        assert watcher.show(page.shared)

    assert not watcher.watch(pages[0].shared, Unpublished(0, 64, 0), CHECKS)
    assert [page.get(abi.CONTROL_REQUEST_HEAD) for page in pages] == [0, 0]


def test_watcher_that_failed_to_map_a_page_maps_no_other(
    watcher: ReplyWatcher, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux before 6.17 unmaps the old page before it checks whether it can map the new one.

    Another thread may have mapped something there since, which must neither be replaced nor unmapped.
    """

    def refuse(_page: int, _other: int) -> None:
        raise OSError(12, "Cannot allocate memory")

    with monkeypatch.context() as patched:
        patched.setattr(mapping, "share", refuse)
        assert not watcher.show(page.shared)
    before = bytes(page.words)
    store = watcher._store

    assert not watcher.show(page.shared)
    assert not watcher.watch(page.shared, Unpublished(0, 64, 0), CHECKS)
    assert bytes(page.words) == before
    del watcher
    assert store in reply_watcher._lost


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_forked_child_does_not_inherit_the_pages(watcher: ReplyWatcher, page: Page) -> None:
    """The guest belongs to the parent: a child must not write to its control block."""
    show_and_watch(watcher, page, Unpublished(0, 64, 0), CHECKS)
    child = os.fork()
    if not child:
        with open("/proc/self/maps", encoding="ascii") as maps:
            starts = [int(line.partition("-")[0], 16) for line in maps]
        os._exit(page.shared.address in starts or watcher._base in starts)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0


def test_each_thread_has_its_own_watcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one thread at a time may be in an instance."""
    monkeypatch.setattr(runtime, "_watchers", threading.local())
    runtime.shared_engine().prepare_watching()
    found = [runtime.watcher_here()]
    thread = threading.Thread(target=lambda: found.append(runtime.watcher_here()))
    thread.start()
    thread.join()

    first, second = found
    assert first is not None
    assert second is not None
    assert first is not second
    assert runtime.watcher_here() is first


# -- as part of a connection -------------------------------------------------------------------------


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Watch for every reply until it arrives; return, by request, whether it did."""
    let_tasks_poll(monkeypatch, crowded=False)
    for name in ("FEW_SPINS", "MANY_SPINS"):
        monkeypatch.setattr(spin_budget, name, 1 << 30)  # the guest does not sleep in between
    monkeypatch.setattr(polling.Polling, "should_watch", lambda *_: True)
    return note_watches(monkeypatch)


@pytest.fixture(scope="module", params=LOOPS_THAT_POLL)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Not on Trio, whose tasks never wait outside their loop."""
    backend: tuple[str, dict[str, Any]] = request.param
    return backend


@pytest.mark.anyio
async def test_write_rings_no_bell_and_is_in_the_file(database: Path, watched: list[bool]) -> None:
    async with rapsqlite.connect(database, isolation_level=None) as connection:
        for sql in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL", "CREATE TABLE t (v)", INSERT, INSERT):
            await connection.execute(sql)
        watched.clear()
        before = await connection.statistics()
        for _ in range(20):
            await connection.execute(INSERT)
        after = await connection.statistics()

        assert watched == [True] * len(watched)
        assert len(watched) >= 20
        assert after["bells"] == before["bells"]
        assert await connection.fetch_scalar("SELECT count(*) FROM t") == 22


@pytest.mark.anyio
@pytest.mark.usefixtures("watched")
async def test_page_is_mapped_only_while_the_guest_cannot_end(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the page of a new guest may be at the same address, and its requests would be garbage."""
    shown: list[bool] = []
    share = mapping.share

    async with rapsqlite.connect(database, isolation_level=None) as connection:
        lock = connection._state.guest._queue.lock

        def note(page: int, other: int) -> None:
            shown.append(lock.locked())
            share(page, other)

        monkeypatch.setattr(mapping, "share", note)
        await connection.execute("CREATE TABLE t (v)")
        await connection.execute(INSERT)

    assert shown
    assert all(shown)


@pytest.mark.anyio
@pytest.mark.usefixtures("watched")
async def test_request_of_another_thread_meanwhile_gets_its_reply_too(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rapsqlite.connect(database, isolation_level=None) as connection:
        await connection.execute("CREATE TABLE t (v)")
        guest = connection._state.guest
        threads: list[threading.Thread] = []
        watch = polling.Polling.watch

        def submit_and_watch(self: polling.Polling, rings: Rings, request: Unpublished) -> bool:
            if not threads:
                threads.append(threading.Thread(target=guest.interrupt))  # which posts a request
                threads[0].start()
                threads[0].join()
            return watch(self, rings, request)

        monkeypatch.setattr(polling.Polling, "watch", submit_and_watch)
        with pytest.raises(rapsqlite.OperationalError, match="interrupted"):
            await connection.execute(INSERT)
        await connection.execute(INSERT)

        assert await connection.fetch_scalar("SELECT count(*) FROM t") == 1


@pytest.mark.anyio
async def test_requests_are_published_even_if_no_page_can_be_mapped(
    database: Path, watched: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_page: int, _other: int) -> None:
        raise OSError(12, "Cannot allocate memory")

    async with rapsqlite.connect(database, isolation_level=None) as connection:
        monkeypatch.setattr(mapping, "share", refuse)
        monkeypatch.setattr(runtime, "_watchers", threading.local())
        await connection.execute("CREATE TABLE t (v)")
        await connection.execute(INSERT)

        assert watched == []
        assert await connection.fetch_scalar("SELECT count(*) FROM t") == 1
