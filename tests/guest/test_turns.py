"""Several active connections on one event loop: each request is answered without a bell and without host calls.

A guest that sleeps is woken with its locks taken, and its task watches for the reply without the GIL. Before, each
request took two or three host calls, which waited for the GIL, and a trip through the event loop.
"""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from rapsqlite._guest import polling
from rapsqlite._platform import system
from rapsqlite._wasm.rings import Rings
from tests.guest.watching import let_tasks_poll, note_watches
from tests.systems import LOOPS_THAT_POLL

if TYPE_CHECKING:
    from pathlib import Path

    from rapsqlite._wasm.rings import Reply

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not (system.has_parking and system.has_bells), reason="guests sleep and ring in the host"),
]

READ = "SELECT v FROM t"
INSERT = "INSERT INTO t VALUES (1)"
WRITES = ("PRAGMA synchronous = NORMAL", INSERT, INSERT, INSERT)


@pytest.fixture(scope="module", params=LOOPS_THAT_POLL)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Not on Trio, whose tasks never wait outside their loop."""
    backend: tuple[str, dict[str, Any]] = request.param
    return backend


@pytest.fixture(autouse=True)
def watched(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Several active guests on two processors, whose replies are watched for; return, by request, whether that paid."""
    let_tasks_poll(monkeypatch, crowded=True)
    return note_watches(monkeypatch)


def wait_until_asleep(connection: rapsqlite.Connection) -> None:
    """Otherwise the guest may fall asleep just as it gets a request, and then is woken without being watched."""
    queue = connection._state.guest._queue
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with queue.lock:
            if queue.host.is_asleep():
                return
        time.sleep(0)
    raise AssertionError("the guest does not fall asleep")


NAMES = ("bells", "file_lock", "file_unlock", "shm_lock", "shm_unlock", "file_write")


async def test_sleeping_guests_answer_without_bells_and_host_calls(database: Path, watched: list[bool]) -> None:
    """Except for what a write needs, and one reader that moves the mark in the WAL index after it."""
    async with AsyncExitStack() as stack:
        connections = [
            await stack.enter_async_context(rapsqlite.connect(database, isolation_level=None)) for _ in range(3)
        ]
        writer, first, second = connections
        for sql in ("PRAGMA journal_mode = WAL", "CREATE TABLE t (v)", *WRITES):
            await writer.execute(sql)
        for reader in (first, second):
            for _ in range(10):
                await reader.fetch_all(READ)
        before = [await connection.statistics() for connection in connections]
        watched.clear()

        for _ in range(20):
            for connection, sql in ((writer, INSERT), (first, READ), (second, READ)):
                wait_until_asleep(connection)
                await connection.fetch_all(sql)

        assert watched == [True] * 60
        after = [await connection.statistics() for connection in connections]
        made = [{name: new[name] - old[name] for name in NAMES} for old, new in zip(before, after, strict=True)]
        calls = [{name: count for name, count in counts.items() if count} for counts in made]
        assert calls[0].keys() == {"shm_lock", "file_write"}
        assert calls[1].keys() == {"shm_lock"}
        assert calls[2] == {}
        assert await second.fetch_scalar("SELECT count(*) FROM t") == 23


async def test_only_reply_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no request in flight there is nothing to look for after it."""
    peeks = 0
    peek_reply = Rings.peek_reply

    def counted(self: Rings) -> Reply | None:
        nonlocal peeks
        peeks += 1
        return peek_reply(self)

    async with rapsqlite.connect(":memory:", isolation_level=None) as connection:
        await connection.execute("CREATE TABLE t (v)")
        monkeypatch.setattr(Rings, "peek_reply", counted)
        for _ in range(20):
            wait_until_asleep(connection)
            await connection.execute(INSERT)
        seen = peeks

    assert seen == 20


async def test_late_reply_is_awaited_in_the_loop_and_other_guests_work_meanwhile(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a reply that comes at once is worth keeping them waiting."""
    napped: list[object] = []
    monkeypatch.setattr(polling, "_CHECKS", 1)
    monkeypatch.setattr(polling.Polling, "nap", lambda _self, bell: napped.append(bell))
    async with rapsqlite.connect(database, isolation_level=None) as connection:
        await connection.execute("CREATE TABLE t (v)")
        for _ in range(10):
            await connection.execute(INSERT)

        assert await connection.fetch_scalar("SELECT count(*) FROM t") == 10
    assert napped == []
