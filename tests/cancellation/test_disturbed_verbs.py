"""Every verb, disturbed in every way, before, during and after the guest's work: what is in the file is what was told.

What ``sqlite3`` leaves in its file decides. A verb that returns has done what it does there; one that reports a
cancellation has left the file as if it had never been called; after an interrupt key it is one of the two. What undoes,
ends or releases has done so in all cases.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
import anyio.lowlevel
import pytest

import rapsqlite
from rapsqlite import connect
from rapsqlite._guest.request import PendingRequest
from rapsqlite._loops import current_loop
from tests.conftest import BACKENDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

PATIENCE_S = 5


@pytest.fixture(scope="module", params=BACKENDS[:2])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """uvloop waits and cancels as asyncio does."""
    backend: tuple[str, dict[str, Any]] = request.param
    return backend


class Verb(NamedTuple):
    """What is awaited, and the statements that do the same in sqlite3, after those that come before."""

    act: Callable[[rapsqlite.Connection], Awaitable[object]]
    sql: str
    before: str = ""
    is_carried_through: bool = False
    then: str = "COMMIT"  # what follows where a transaction is open: it writes what should not be there any more


async def exhaust(rows: Any) -> None:
    async for _ in rows:
        pass


async def many(conn: rapsqlite.Connection) -> None:
    await conn.executemany("INSERT INTO t VALUES (?)", [("new",)])


async def block(conn: rapsqlite.Connection) -> None:
    async with conn.transaction():
        await conn.execute(INSERT)


async def failing_block(conn: rapsqlite.Connection) -> None:
    try:
        async with conn.transaction():
            await conn.execute(INSERT)
            raise KeyError
    except KeyError:
        pass


async def savepoint(conn: rapsqlite.Connection) -> None:
    async with conn.savepoint():
        await conn.execute(INSERT)


async def failing_savepoint(conn: rapsqlite.Connection) -> None:
    try:
        async with conn.savepoint():
            await conn.execute(INSERT)
            raise KeyError
    except KeyError:
        pass


INSERT = "INSERT INTO t VALUES ('new')"
RETURNING = f"{INSERT} RETURNING a"
HALF = "BEGIN; INSERT INTO t VALUES ('half');"
NESTED = f"{HALF} SAVEPOINT s; INSERT INTO t VALUES ('nested');"
VERBS: dict[str, Verb] = {
    "execute": Verb(lambda conn: conn.execute(INSERT), INSERT),
    "execute_insert": Verb(lambda conn: conn.execute_insert(INSERT), INSERT),
    "executemany": Verb(many, INSERT),
    "executescript": Verb(lambda conn: conn.executescript(f"BEGIN; {INSERT}; COMMIT"), INSERT, then="ROLLBACK"),
    "fetch_all": Verb(lambda conn: conn.fetch_all(RETURNING), INSERT),
    "fetch_scalar": Verb(lambda conn: conn.fetch_scalar(RETURNING), INSERT),
    "stream": Verb(lambda conn: exhaust(conn.stream(RETURNING)), INSERT),
    "prepared": Verb(lambda conn: conn.prepare(INSERT).execute(), INSERT),
    "COMMIT": Verb(lambda conn: conn.execute("COMMIT"), "COMMIT", HALF, then="ROLLBACK"),
    "END in a script": Verb(lambda conn: conn.executescript("END"), "COMMIT", HALF, then="ROLLBACK"),
    "transaction()": Verb(block, INSERT),
    "savepoint()": Verb(savepoint, INSERT),
    "transaction() that fails": Verb(failing_block, ""),
    "savepoint() that fails": Verb(failing_savepoint, ""),
    "rollback": Verb(lambda conn: conn.execute("ROLLBACK"), "ROLLBACK", HALF, True),
    "rollback, fetched": Verb(lambda conn: conn.fetch_all("ROLLBACK"), "ROLLBACK", HALF, True),
    "rollback, prepared": Verb(lambda conn: conn.prepare("ROLLBACK").execute(), "ROLLBACK", HALF, True),
    "rollback in a script": Verb(lambda conn: conn.executescript("ROLLBACK"), "ROLLBACK", HALF, True),
    "rollback to": Verb(lambda conn: conn.execute("ROLLBACK TO s"), "ROLLBACK TO s", NESTED, True),
    "release": Verb(
        lambda conn: conn.execute("RELEASE s"), "RELEASE s", "SAVEPOINT s; INSERT INTO t VALUES ('a');", True
    ),
    "close": Verb(lambda conn: conn.close(), "ROLLBACK", HALF, True),
}
KINDS = ["cancelled scope", "timeout of zero", "interrupt key"]
ASYNCIO_KINDS = ["one cancel", "two cancels"]
MOMENTS = ["before", "during", "after"]


class Disturbance:
    """Disturbs one verb once; ``outcome`` is what the verb then told."""

    def __init__(self, conn: rapsqlite.Connection, kind: str, moment: str) -> None:
        self._conn = conn
        self._kind = kind
        self._moment = moment
        self._begun = threading.Event()  # the guest is at the verb
        self._noticed = threading.Event()  # the task has been disturbed
        self._scope = anyio.CancelScope()
        self._cancel: Callable[[], object] = self._scope.cancel
        self.outcome = "nothing"

    async def run(self, act: Callable[[rapsqlite.Connection], Awaitable[object]], patch: pytest.MonkeyPatch) -> None:
        self._loop = current_loop()
        patch.setattr(type(self._loop), "allows_polling", False)
        if self._kind == "interrupt key":
            self._patch_wait(patch)
        self._patch_on_cancel(patch)
        if self._moment != "before":
            await self._conn.set_trace_callback(self._on_statement)
        if self._kind in ASYNCIO_KINDS:
            await self._run_task(act)
            return
        if self._kind == "timeout of zero" and self._moment == "before":
            self._scope.deadline = anyio.current_time()
        elif self._kind == "cancelled scope" and self._moment == "before":
            self._scope.cancel()
        with self._scope:
            await self._await(act)

    async def _run_task(self, act: Callable[[rapsqlite.Connection], Awaitable[object]]) -> None:
        task = asyncio.ensure_future(self._await(act))

        def cancel() -> None:
            task.cancel()
            if self._kind == "two cancels":
                asyncio.get_running_loop().call_soon(task.cancel)

        self._cancel = cancel
        if self._moment == "before":
            await asyncio.sleep(0)  # it has sent its first request, and waits
            cancel()
        await asyncio.wait([task])

    async def _await(self, act: Callable[[rapsqlite.Connection], Awaitable[object]]) -> None:
        try:
            await act(self._conn)
        except anyio.get_cancelled_exc_class():
            self.outcome = "cancelled"
            raise
        except KeyboardInterrupt:
            self.outcome = "broken off"
        else:
            self.outcome = "returned"

    def _on_statement(self, _sql: str) -> None:
        """On the guest's thread: the verb's first statement begins."""
        if self._begun.is_set():
            return
        self._begun.set()
        if self._kind != "interrupt key":
            self._loop.post(self._cancel)
        elif self._moment == "after":
            return
        assert self._noticed.wait(PATIENCE_S)

    def _patch_on_cancel(self, patch: pytest.MonkeyPatch) -> None:
        """A guest that has answered before it is told of the cancellation is one that is not told."""
        on_cancel = PendingRequest.on_cancel

        def noticing(request: PendingRequest) -> None:
            if self._moment != "after":
                on_cancel(request)
            self._noticed.set()

        patch.setattr(PendingRequest, "on_cancel", noticing)

    def _patch_wait(self, patch: pytest.MonkeyPatch) -> None:
        kind = type(self._loop)
        wait: Any = kind.wait

        async def waiting(loop: Any, ticket: Any) -> None:
            if self._moment == "during":
                while not (self._begun.is_set() or ticket.is_ready()):
                    await anyio.lowlevel.checkpoint()
            elif self._moment == "after":
                while not (self._begun.is_set() and ticket.is_ready()):
                    await wait(loop, ticket)
                    if not self._begun.is_set():
                        return
            if self._moment == "before" or self._begun.is_set():
                patch.setattr(kind, "wait", wait)
                self._loop.post(self._noticed.set)  # once the request is given up
                raise KeyboardInterrupt

        patch.setattr(kind, "wait", waiting)


def stock_content(database: Path, then: str, *scripts: str) -> list[Any]:
    """Return what sqlite3 leaves in a file of its own."""
    with closing(sqlite3.connect(database, isolation_level=None)) as stock:
        stock.execute("CREATE TABLE t (a)")
        stock.execute("INSERT INTO t VALUES ('old')")
        for script in scripts:
            for statement in script.split(";"):
                stock.execute(statement)
        if stock.in_transaction:
            stock.execute(then)
    return content(database)


def content(database: Path) -> list[Any]:
    with closing(sqlite3.connect(database)) as stock:
        return [value for (value,) in stock.execute("SELECT a FROM t ORDER BY rowid")]


async def disturb(verb: Verb, kind: str, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undone = stock_content(tmp_path / "undone.db", verb.then, verb.before)
    done = stock_content(tmp_path / "done.db", verb.then, verb.before, verb.sql)
    database = tmp_path / "ours.db"
    async with connect(database, autocommit=True) as conn:
        await conn.executescript(f"CREATE TABLE t (a); INSERT INTO t VALUES ('old'); {verb.before}")
        disturbance = Disturbance(conn, kind, moment)
        with monkeypatch.context() as patch:
            await disturbance.run(verb.act, patch)

        if conn.is_alive():
            await conn.set_trace_callback(None)
            if await conn.in_transaction_async():
                await conn.execute(verb.then)
        allowed = {"returned": [done], "cancelled": [undone], "broken off": [done, undone]}[disturbance.outcome]
        if verb.is_carried_through:
            allowed = [done]
        left = content(database)
        assert left in allowed, disturbance.outcome
        if conn.is_alive():
            async with conn.transaction():
                await conn.execute("INSERT INTO t VALUES ('next')")
            assert content(database) == [*left, "next"]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", VERBS)
async def test_disturbed_verb_leaves_in_the_file_what_it_told(
    verb: str, kind: str, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await disturb(VERBS[verb], kind, moment, tmp_path, monkeypatch)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", ASYNCIO_KINDS)
@pytest.mark.parametrize("verb", VERBS)
def test_cancelled_asyncio_task_leaves_in_the_file_what_it_told(
    verb: str, kind: str, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(disturb(VERBS[verb], kind, moment, tmp_path, monkeypatch))
