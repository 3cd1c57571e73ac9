"""Every method, disturbed in every way, before, during and after the guest's work: the file matches the outcome.

The file that ``sqlite3`` leaves is the reference. A method that returns has done what it does there; one that reports a
cancellation has left the file as if it had never been called; after an interrupt key it is one of the two. Methods that
undo, end or release have done so in all cases.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import AsyncExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import anyio
import anyio.lowlevel
import pytest

import rapsqlite
from rapsqlite import connect
from rapsqlite._guest.request import PendingRequest
from rapsqlite._loops import current_loop
from tests.cancellation.verbs import drain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

LONGEST_S = 5


class Verb(NamedTuple):
    """The awaited call, and the sqlite3 statements with the same effect, after the preceding ones."""

    act: Callable[..., Awaitable[object]]
    sql: str
    before: str = ""
    is_uninterruptible: bool = False
    then: str = "COMMIT"  # what follows if a transaction is open: it writes what should no longer be there
    prepare: Callable[[rapsqlite.Connection, AsyncExitStack], Awaitable[Any]] | None = None  # the argument of ``act``
    is_begun: bool = False  # whether its statement has begun: interrupted it is undone, else it ends with the cursor
    in_memory: bool = False  # its effect is visible only through the connection
    kept_count: int = 0  # statements that stay prepared afterwards


async def many(conn: rapsqlite.Connection) -> None:
    await conn.executemany("INSERT INTO t (a) VALUES (?)", [("new",)])


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


async def other(_conn: rapsqlite.Connection, stack: AsyncExitStack) -> rapsqlite.Connection:
    source = await stack.enter_async_context(connect(":memory:", autocommit=True))
    await source.executescript(f"{TABLE}; {INSERT}")
    return source


async def empty(_conn: rapsqlite.Connection, stack: AsyncExitStack) -> rapsqlite.Connection:
    return await stack.enter_async_context(connect(":memory:"))


async def native(_conn: rapsqlite.Connection, stack: AsyncExitStack) -> sqlite3.Connection:
    source = stack.enter_context(closing(sqlite3.connect(":memory:", check_same_thread=False)))
    source.executescript(f"{TABLE}; {INSERT}")
    return source


async def serialized(conn: rapsqlite.Connection, stack: AsyncExitStack) -> bytes:
    return await (await other(conn, stack)).serialize()


async def changeset(conn: rapsqlite.Connection, stack: AsyncExitStack) -> bytes:
    source = await other(conn, stack)
    await source.execute("DELETE FROM t WHERE a = 'new'")
    async with source.session() as session:
        await source.execute(INSERT)
        return await session.changeset()


async def recording(conn: rapsqlite.Connection, _stack: AsyncExitStack) -> rapsqlite.ChangeSession:
    await conn.execute("CREATE TEMP TABLE u (a PRIMARY KEY)")
    session = await conn.session(name="temp")
    await conn.execute("INSERT INTO u VALUES (1)")
    return session


async def record(conn: rapsqlite.Connection) -> None:
    async with conn.session():
        await conn.execute(INSERT)


async def opened_blob(conn: rapsqlite.Connection, _stack: AsyncExitStack) -> rapsqlite.Blob:
    return await conn.blobopen("t", "b", 1)


async def write_blob(_conn: rapsqlite.Connection, blob: rapsqlite.Blob) -> None:
    async with blob:
        await blob.write(b"new")


async def write_large_blob(_conn: rapsqlite.Connection, blob: rapsqlite.Blob) -> None:
    async with blob:
        await blob.write(bytes([1]) * LARGE)


async def written_blob(conn: rapsqlite.Connection, stack: AsyncExitStack) -> rapsqlite.Blob:
    blob = await opened_blob(conn, stack)
    await blob.write(b"new")
    return blob


async def open_and_write_blob(conn: rapsqlite.Connection) -> None:
    async with conn.blobopen("t", "b", 1) as blob:
        await blob.write(b"new")


async def read_blob(_conn: rapsqlite.Connection, blob: rapsqlite.Blob) -> None:
    async with blob:
        try:
            assert len(await blob.read()) == LARGE
        except anyio.get_cancelled_exc_class():
            assert blob._position == 0
            raise


async def kept_statement(conn: rapsqlite.Connection, stack: AsyncExitStack) -> rapsqlite.PreparedStatement:
    """It lives on, so that only the end of a call ends its execution."""
    statement = await stack.enter_async_context(conn.prepare(INSERT_MANY))
    await statement._prepare()
    return statement


async def begun_cursor(conn: rapsqlite.Connection, _stack: AsyncExitStack) -> rapsqlite.Cursor:
    cursor = await conn.execute(INSERT_MANY)
    await cursor.fetchone()
    return cursor


async def reading_cursor(conn: rapsqlite.Connection, _stack: AsyncExitStack) -> rapsqlite.Cursor:
    cursor = await conn.execute(SELECT_MANY)
    await cursor.fetchone()
    return cursor


async def begun_stream(conn: rapsqlite.Connection, _stack: AsyncExitStack) -> Any:
    rows = aiter(conn.stream(INSERT_MANY))
    await anext(rows)
    return rows


async def fetch_in_parts(_conn: rapsqlite.Connection, cursor: rapsqlite.Cursor) -> None:
    while await cursor.fetchmany(10):
        pass


async def fetch_one_by_one(_conn: rapsqlite.Connection, cursor: rapsqlite.Cursor) -> None:
    while await cursor.fetchone():
        pass


TABLE = "CREATE TABLE t (a PRIMARY KEY, b); INSERT INTO t (a) VALUES ('old')"
LARGE = 400_000
NUMBERS = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 300)"
INSERT_MANY = f"{NUMBERS} INSERT INTO t (a) SELECT i FROM n RETURNING a, printf('%1000s', '')"
SELECT_MANY = f"{NUMBERS} SELECT i, printf('%1000s', ''), now_at(i) FROM n"
TEXT = "UPDATE t SET b = 'old'"
INSERT = "INSERT INTO t (a) VALUES ('new')"
RETURNING = f"{INSERT} RETURNING a"
HALF = "BEGIN; INSERT INTO t (a) VALUES ('half');"
NESTED = f"{HALF} SAVEPOINT s; INSERT INTO t (a) VALUES ('nested');"
VERBS: dict[str, Verb] = {
    "execute": Verb(lambda conn: conn.execute(INSERT), INSERT),
    "execute, rows left": Verb(lambda conn: conn.execute(INSERT_MANY), INSERT_MANY),
    "execute_insert": Verb(lambda conn: conn.execute_insert(INSERT), INSERT),
    "executemany": Verb(many, INSERT),
    "executescript": Verb(lambda conn: conn.executescript(f"BEGIN; {INSERT}; COMMIT"), INSERT, then="ROLLBACK"),
    "fetch_all": Verb(lambda conn: conn.fetch_all(RETURNING), INSERT),
    "fetch_scalar": Verb(lambda conn: conn.fetch_scalar(RETURNING), INSERT),
    "stream": Verb(lambda conn: anext(conn.stream(RETURNING)), INSERT),  # one await
    "prepared": Verb(lambda conn: conn.prepare(INSERT).execute(), INSERT),
    "prepared, rows left": Verb(
        lambda _, statement: statement.execute(), INSERT_MANY, prepare=kept_statement, kept_count=1
    ),
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
        lambda conn: conn.execute("RELEASE s"), "RELEASE s", "SAVEPOINT s; INSERT INTO t (a) VALUES ('a');", True
    ),
    "close": Verb(lambda conn: conn.close(), "ROLLBACK", HALF, True),
    "backup to it": Verb(lambda conn, source: source.backup(conn), INSERT, prepare=other),
    "backup of it": Verb(lambda conn, target: conn.backup(target, pages=1), "", prepare=empty),
    "restore": Verb(lambda conn, source: conn.restore(source), INSERT, prepare=native),
    "serialize": Verb(lambda conn: conn.serialize(), ""),
    "deserialize": Verb(lambda conn, data: conn.deserialize(data), INSERT, prepare=serialized, in_memory=True),
    "session()": Verb(record, INSERT),
    "changeset": Verb(lambda _, session: session.changeset(), "", prepare=recording),
    "end of a session": Verb(lambda _, session: session.close(), "", "", True, prepare=recording),
    "apply_changeset": Verb(lambda conn, data: conn.apply_changeset(data), INSERT, prepare=changeset),
    "apply_changeset, inside": Verb(lambda conn, data: conn.apply_changeset(data), INSERT, HALF, prepare=changeset),
    "blobopen": Verb(open_and_write_blob, "UPDATE t SET b = 'new'", TEXT),
    "blob.write": Verb(write_blob, "UPDATE t SET b = 'new'", TEXT, prepare=opened_blob),
    "blob.write, large": Verb(
        write_large_blob,
        f"UPDATE t SET b = x'{'01' * LARGE}'",
        f"UPDATE t SET b = zeroblob({LARGE})",
        prepare=opened_blob,
    ),
    "blob.close": Verb(lambda _, blob: blob.close(), "UPDATE t SET b = 'new'", TEXT, True, prepare=written_blob),
    "blob.read": Verb(read_blob, "", f"UPDATE t SET b = zeroblob({LARGE})", prepare=opened_blob),
    "cursor.fetchall": Verb(lambda _, cursor: cursor.fetchall(), INSERT_MANY, prepare=begun_cursor, is_begun=True),
    "cursor.fetchmany": Verb(fetch_in_parts, INSERT_MANY, prepare=begun_cursor, is_begun=True),
    "cursor.fetchone": Verb(fetch_one_by_one, INSERT_MANY, prepare=begun_cursor, is_begun=True),
    "rows of a cursor": Verb(lambda _, cursor: drain(cursor), INSERT_MANY, prepare=begun_cursor, is_begun=True),
    "rows that are read": Verb(lambda _, cursor: drain(cursor), "", prepare=reading_cursor),
    "cursor.close": Verb(lambda _, cursor: cursor.close(), INSERT_MANY, "", True, prepare=begun_cursor),
    "rows of a stream": Verb(lambda _, rows: drain(rows), INSERT_MANY, prepare=begun_stream, is_begun=True),
    "aclose of a stream": Verb(lambda _, rows: rows.aclose(), INSERT_MANY, "", True, prepare=begun_stream),
}
ROWS = "SELECT a, substr(b, 1, 3) FROM t ORDER BY rowid"
KINDS = ["cancelled scope", "timeout of zero", "interrupt key"]
ASYNCIO_KINDS = ["one cancel", "two cancels"]
MOMENTS = ["before", "during", "after"]


class Disturbance:
    """Disturbs one call once; ``outcome`` is what the call then returned or raised."""

    def __init__(self, conn: rapsqlite.Connection, kind: str, moment: str) -> None:
        self._conn = conn
        self._kind = kind
        self._moment = moment
        self._begun = threading.Event()  # the guest is running it
        self._noticed = threading.Event()  # the task has been disturbed
        self._scope = anyio.CancelScope()
        self._cancel: Callable[[], object] = self._scope.cancel
        self._is_on = False
        self.outcome = "nothing"

    async def run(self, act: Callable[[rapsqlite.Connection], Awaitable[object]], patch: pytest.MonkeyPatch) -> None:
        """Await a call, which is disturbed at its next action on the guest's thread."""
        self._loop = current_loop()
        patch.setattr(type(self._loop), "allows_polling", False)
        if self._kind == "interrupt key":
            self._patch_wait(patch)
        self._patch_on_cancel(patch)
        if self._moment != "before":
            self._patch_guest(patch)
            await self._conn.set_trace_callback(self.on_work)
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
        del cancel
        self._cancel = bool  # the cancel function keeps the task alive, and so what its exception refers to

    async def _await(self, act: Callable[[rapsqlite.Connection], Awaitable[object]]) -> None:
        self._is_on = True
        try:
            await act(self._conn)
        except anyio.get_cancelled_exc_class():
            self.outcome = "cancelled"
            raise
        except KeyboardInterrupt:
            self.outcome = "broken off"
        else:
            self.outcome = "returned"
        finally:  # a statement with rows left may be working still: there is nobody left to disturb
            self._is_on = False
            self._noticed.set()

    def on_work(self, *_: object) -> None:
        """On the guest's thread: the call's first statement begins, or it reads, writes, locks, or calls a function."""
        if not self._is_on or self._begun.is_set():
            return
        self._begun.set()
        if self._kind != "interrupt key":
            self._loop.post(self._cancel)
        elif self._moment == "after":
            return
        assert self._noticed.wait(LONGEST_S)

    def _patch_guest(self, patch: pytest.MonkeyPatch) -> None:
        """Observe each host call except those that sleep."""
        functions: Any = cast("Any", self._conn._state.guest)._instance.functions
        for name in set(functions) - {"park", "bell", "callback", "callback_answer"}:
            patch.setitem(functions, name, partial(self._after_noticing, functions[name]))

    def _after_noticing(self, function: Callable[..., Any], *arguments: int) -> Any:
        self.on_work()
        return function(*arguments)

    def _patch_on_cancel(self, patch: pytest.MonkeyPatch) -> None:
        """A guest that has answered before it hears of the cancellation counts as one that never hears of it."""
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
                self._loop.post(self._noticed.set)  # once the request is abandoned
                raise KeyboardInterrupt

        patch.setattr(kind, "wait", waiting)


def stock_content(database: Path, then: str, *scripts: str) -> list[Any]:
    """Return what sqlite3 leaves in a separate file."""
    with closing(sqlite3.connect(database, isolation_level=None)) as stock:
        stock.executescript(TABLE)
        for script in scripts:
            for statement in script.split(";"):
                stock.execute(statement).fetchall()
        if stock.in_transaction:
            stock.execute(then)
    return content(database)


def content(database: Path) -> list[Any]:
    with closing(sqlite3.connect(database)) as stock:
        return stock.execute(ROWS).fetchall()


async def disturb(verb: Verb, kind: str, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undone = stock_content(tmp_path / "undone.db", verb.then, verb.before)
    done = stock_content(tmp_path / "done.db", verb.then, verb.before, verb.sql)
    database = tmp_path / "ours.db"

    async def seen() -> list[Any]:
        return [tuple(row) for row in await conn.fetch_all(ROWS)] if verb.in_memory else content(database)

    async with connect(database, autocommit=True) as conn, AsyncExitStack() as stack:
        await conn.executescript(f"{TABLE}; {verb.before}")
        disturbance = Disturbance(conn, kind, moment)
        await conn.create_function("now_at", 1, disturbance.on_work)
        prepared = [await verb.prepare(conn, stack)] if verb.prepare is not None else []
        with monkeypatch.context() as patch:
            await disturbance.run(lambda conn: verb.act(conn, *prepared), patch)

        prepared.clear()  # as in sqlite3, this ends statements with rows left
        if conn.is_alive():
            await conn.set_trace_callback(None)
            if await conn.in_transaction_async():
                await conn.execute(verb.then)
        cancelled = [done, undone] if verb.is_begun else [undone]
        allowed = {"returned": [done], "cancelled": cancelled, "broken off": [done, undone]}[disturbance.outcome]
        if verb.is_uninterruptible:
            allowed = [done]
        left = await seen()
        assert left in allowed, disturbance.outcome
        if conn.is_alive():
            async with conn.transaction():
                await conn.execute("INSERT INTO t (a) VALUES ('next')")
            left.append(("next", None))
            assert await seen() == left
            assert (await conn.statistics())["open_statements"] == verb.kept_count
    if not verb.in_memory:
        assert content(database) == left


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", VERBS)
async def test_file_matches_the_outcome_of_a_disturbed_verb(
    verb: str, kind: str, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await disturb(VERBS[verb], kind, moment, tmp_path, monkeypatch)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", ASYNCIO_KINDS)
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("options", [{}, {"use_uvloop": True}], ids=["asyncio", "uvloop"])
def test_file_matches_the_outcome_of_a_cancelled_asyncio_task(
    options: dict[str, Any], verb: str, kind: str, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    anyio.run(disturb, VERBS[verb], kind, moment, tmp_path, monkeypatch, backend="asyncio", backend_options=options)
