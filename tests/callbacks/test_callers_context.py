"""Callbacks see the contextvars of the task whose statement calls them, although they run in the connection's thread.

A request carries a copy of its task's context; what a callback sets stays in that copy.
"""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import rapsqlite
from rapsqlite._guest import request_queue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from rapsqlite._guest.guest import Guest

pytestmark = pytest.mark.anyio

user: ContextVar[str] = ContextVar("user", default="nobody")
NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1200)"


def name_user(*_: object) -> str:
    return user.get()


class Users:
    """An aggregate and window function whose result is who its steps ran for."""

    def __init__(self) -> None:
        self.seen = [user.get()]

    def step(self, *_: object) -> None:
        self.seen.append(user.get())

    inverse = step

    def value(self) -> str:
        return ",".join(sorted({*self.seen, user.get()}))

    finalize = value


@pytest.fixture
async def conn() -> AsyncIterator[rapsqlite.Connection]:
    async with rapsqlite.connect(":memory:", isolation_level=None) as connection:
        await connection.execute("CREATE TABLE t (v)")
        await connection.create_function("who", -1, name_user)
        await connection.create_aggregate("users", -1, Users)
        await connection.create_window_function("window_users", -1, Users)
        yield connection


async def as_user(name: str, act: Callable[[], Any]) -> Any:
    """Run ``act`` in a task of its own whose user is ``name``."""
    results: list[Any] = []
    errors: list[Exception] = []

    async def task() -> None:
        user.set(name)
        try:
            results.append(await act())
        except Exception as error:  # noqa: BLE001 - raised outside the task group
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(task)
    if errors:
        raise errors[0]
    return results[0]


@pytest.mark.parametrize(
    "sql",
    [
        pytest.param("SELECT who()", id="without arguments"),
        pytest.param("SELECT who(1)", id="integer"),
        pytest.param("SELECT who(1.5)", id="float"),
        pytest.param("SELECT who('text')", id="text"),
        pytest.param("SELECT who('text', 2)", id="several arguments"),
        pytest.param("SELECT who(v) FROM (SELECT 1 AS v UNION ALL SELECT 2)", id="deferred calls"),
        pytest.param("SELECT DISTINCT who(i) || '' FROM n", id="immediate calls"),
        pytest.param("SELECT users(i) FROM n", id="aggregate"),
        pytest.param("SELECT window_users(i) OVER (ORDER BY i ROWS 3 PRECEDING) FROM n LIMIT 1", id="window function"),
    ],
)
async def test_a_function_sees_the_contextvars_of_its_statements_task(conn: rapsqlite.Connection, sql: str) -> None:
    sql = f"{NUMBERS} {sql}" if "FROM n" in sql else sql

    assert await as_user("ada", lambda: conn.fetch_scalar(sql)) == "ada"
    assert await as_user("bob", lambda: conn.fetch_scalar(sql)) == "bob"


async def test_every_kind_of_hook_sees_the_contextvars_of_its_statements_task(database: Path) -> None:
    seen: dict[str, set[str]] = {}

    def noting(hook: str, answer: Any = None) -> Callable[..., Any]:
        def note(*_: object) -> Any:
            seen.setdefault(hook, set()).add(user.get())
            return answer

        return note

    async with rapsqlite.connect(database, isolation_level=None) as conn:
        await conn.execute("PRAGMA journal_mode = WAL")
        await conn.execute("CREATE TABLE t (v)")
        await conn.create_collation("noted", noting("collation", 0))
        await conn.set_authorizer(noting("authorizer", rapsqlite.SQLITE_OK))
        await conn.set_progress_handler(noting("progress", False), 1)
        await conn.set_trace_callback(noting("trace"))
        await conn.set_update_hook(noting("update"))
        await conn.set_preupdate_hook(noting("preupdate"))
        await conn.set_commit_hook(noting("commit", False))
        await conn.set_rollback_hook(noting("rollback"))
        await conn.set_wal_hook(noting("wal"))
        seen.clear()

        async def act() -> None:
            await conn.execute("INSERT INTO t VALUES ('a'), ('b')")
            await conn.fetch_all("SELECT v FROM t ORDER BY v COLLATE noted")
            await conn.execute("BEGIN")
            await conn.execute("ROLLBACK")

        await as_user("ada", act)
        async with rapsqlite.connect(database, isolation_level=None) as other:
            await other.execute("BEGIN IMMEDIATE")
            await conn.set_busy_handler(noting("busy", False))
            with pytest.raises(rapsqlite.OperationalError, match="locked"):
                await as_user("ada", lambda: conn.execute("INSERT INTO t VALUES ('c')"))
        seen["trace"] -= {"nobody"}  # this test's own statements

    hooks = "authorizer busy collation commit preupdate progress rollback trace update wal".split()
    assert {hook: seen[hook] - {"nobody"} for hook in hooks} == {hook: {"ada"} for hook in hooks}


async def test_requests_in_flight_at_once_each_see_their_own_tasks_contextvars(conn: rapsqlite.Connection) -> None:
    seen: dict[str, str] = {}

    async def one(name: str) -> None:
        user.set(name)
        for _ in range(5):
            seen[name] = await conn.fetch_scalar(
                f"{NUMBERS} SELECT users(i) FROM n WHERE i < 20 AND who(i) = ?", (name,)
            )
            assert seen[name] == name

    async with anyio.create_task_group() as tasks:
        for number in range(16):
            tasks.start_soon(one, f"user {number}")

    assert len(seen) == 16


async def test_executemany_and_scripts_and_prepared_statements_do_too(conn: rapsqlite.Connection) -> None:
    async def act() -> list[Any]:
        await conn.executemany("INSERT INTO t VALUES (who(?))", [(number,) for number in range(3000)])
        await conn.executescript("INSERT INTO t VALUES (who()); INSERT INTO t SELECT users(v) FROM t;")
        async with conn.prepare("INSERT INTO t VALUES (who(?))") as statement:
            await statement.execute((1,))
        return await conn.fetch_all("SELECT v, count(*) FROM t GROUP BY v")

    assert await as_user("ada", act) == [["ada", 3003]]


async def test_a_block_sees_the_task_that_sent_each_of_its_statements(database: Path) -> None:
    """Also a statement of another task that the block held back; its hook was registered while it waited."""
    seen: list[tuple[str, str]] = []
    async with rapsqlite.connect(database, isolation_level=None) as conn:
        await conn.execute("CREATE TABLE t (v)")
        inside, waiting = anyio.Event(), anyio.Event()

        async def held_back() -> None:
            user.set("bob")
            await inside.wait()
            waiting.set()
            await conn.execute("INSERT INTO t VALUES ('of bob')")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(held_back)
            await anyio.wait_all_tasks_blocked()
            user.set("ada")
            async with conn.transaction():
                inside.set()
                await waiting.wait()
                await anyio.wait_all_tasks_blocked()
                await conn.set_trace_callback(lambda sql: seen.append((user.get(), sql)))
                await conn.execute("INSERT INTO t VALUES ('of ada')")

    assert seen == [
        ("ada", "INSERT INTO t VALUES ('of ada')"),
        ("ada", "COMMIT"),
        ("bob", "INSERT INTO t VALUES ('of bob')"),
    ]


async def test_rows_fetched_by_another_task_see_the_one_that_fetches(conn: rapsqlite.Connection) -> None:
    """As in sqlite3, a row is read ahead: by ``execute`` and by the fetches of the rows before it."""
    rows = await as_user("ada", lambda: conn.execute(f"{NUMBERS} SELECT who(i) FROM n"))

    begun = [await as_user("ada", rows.fetchone), await as_user("ada", rows.fetchone)]
    rest = await as_user("bob", rows.fetchall)

    assert begun == [("ada",), ("ada",)]
    assert rest[0] == ("ada",)
    assert set(rest[1:]) == {("bob",)}


async def test_a_stream_read_by_two_tasks_never_sees_anything_else(conn: rapsqlite.Connection) -> None:
    """Large batches are requested ahead, by the task that took the batch before."""
    seen = set()
    async with conn.stream(f"{NUMBERS} SELECT who(i) FROM n") as rows:
        rows = aiter(rows)
        for name in ("ada", "bob") * 599:
            seen.add((await as_user(name, rows.__anext__))[0])

    assert seen == {"ada", "bob"}


async def test_what_a_callback_sets_stays_with_its_statement(conn: rapsqlite.Connection) -> None:
    """Calls of one statement share one copy of the context; its task and later statements never see the change."""

    def mark(value: str) -> str:
        before = user.get()
        user.set(value)
        return before

    await conn.create_function("mark", 1, mark)
    user.set("ada")

    assert await conn.fetch_all("SELECT mark('x') || ' ', mark('y') || ' '") == [["ada ", "x "]]
    assert await conn.fetch_scalar("SELECT mark('x')") == "ada"
    assert user.get() == "ada"


async def test_a_cancelled_statements_callbacks_see_its_task(conn: rapsqlite.Connection) -> None:
    """A callback that runs on after its task was cancelled, and statements sent before and after."""
    seen: list[str] = []
    entered, cancelled = threading.Event(), threading.Event()

    def linger(_: int) -> int:
        seen.append(user.get())
        entered.set()
        cancelled.wait(10)
        seen.append(user.get())
        return 1

    await conn.create_function("linger", 1, linger)

    async def act() -> None:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(conn.fetch_all, "SELECT linger(1) + 1")
                await anyio.to_thread.run_sync(entered.wait)
                cancelled_too = conn.fetch_all("SELECT who()")
                tasks.start_soon(lambda: cancelled_too)
                await anyio.lowlevel.checkpoint()
                scope.cancel()
                cancelled.set()

    await as_user("ada", act)

    assert seen == ["ada", "ada"]
    assert await as_user("bob", lambda: conn.fetch_scalar("SELECT who()")) == "bob"


async def test_what_no_task_waits_for_sees_empty_contextvars(database: Path) -> None:
    """A block that was dropped is rolled back by no task."""
    seen = []
    async with rapsqlite.connect(database) as conn:
        await conn.execute("CREATE TABLE t (v)")
        await conn.set_rollback_hook(lambda: seen.append(user.get()))
        user.set("ada")
        block = conn.transaction()
        await block.__aenter__()
        await conn.execute("INSERT INTO t VALUES (1)")
        del block
        gc.collect()
        await conn.fetch_scalar("SELECT 1")

        assert seen == ["nobody"]


async def test_logging_about_a_callback_sees_them_too(
    conn: rapsqlite.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """Programs put a request's id into each record by a filter that reads a context variable."""

    class Stamp(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            record.user = user.get()
            return True

    stamp = Stamp()
    logger = logging.getLogger("rapsqlite")
    logger.addFilter(stamp)
    try:
        await conn.set_trace_callback(lambda _: 1 / 0)
        await as_user("ada", lambda: conn.fetch_scalar("SELECT 1"))
        await conn.set_trace_callback(None)
    finally:
        logger.removeFilter(stamp)

    records = [record for record in caplog.records if "a callback raised" in record.message]
    assert records[0].__dict__["user"] == "ada"


async def test_a_blocking_call_sees_the_task_that_waits_for_it(database: Path, anyio_backend_name: str) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("aiosqlite's private attributes need asyncio")
    async with rapsqlite.connect(database) as conn:
        await conn.create_function("who", 0, name_user)

        async def act() -> Any:
            return await conn._execute(lambda: conn._conn.execute("SELECT who()").fetchone())

        assert await as_user("ada", act) == ("ada",)


async def test_a_finished_statement_keeps_no_context_alive(conn: rapsqlite.Connection) -> None:
    class Large:
        pass

    held: ContextVar[Large] = ContextVar("held")
    gone: list[weakref.ref[Large]] = []

    async def act() -> None:
        large = Large()
        gone.append(weakref.ref(large))
        held.set(large)
        assert await conn.fetch_scalar("SELECT who()") == "ada"

    await as_user("ada", act)
    await anyio.wait_all_tasks_blocked()  # the loop lets go of the task's context
    gc.collect()

    assert gone[0]() is None


async def test_a_context_that_refers_to_its_block_does_not_keep_it(conn: rapsqlite.Connection) -> None:
    """The block knows the request that has begun it, and that request's context."""
    current: ContextVar[object] = ContextVar("current")
    gone: list[weakref.ref[Users]] = []

    async def act() -> None:
        large, block = Users(), conn.transaction()
        gone.append(weakref.ref(large))
        current.set((large, block))
        async with block:
            assert await conn.fetch_scalar("SELECT who()") == "ada"

    await as_user("ada", act)
    await anyio.wait_all_tasks_blocked()
    gc.collect()

    assert gone[0]() is None


async def test_a_context_that_refers_to_its_connection_does_not_keep_it(database: Path) -> None:
    """The connection is collected, which ends its thread."""
    kept: ContextVar[object] = ContextVar("kept")
    guests: list[Guest] = []

    async def act() -> None:
        conn = await rapsqlite.connect(database)
        guests.append(conn._state.guest)
        kept.set(conn)
        await conn.create_function("who", 0, name_user)
        await conn.fetch_scalar("SELECT who()")

    async def act_and_collect() -> None:
        await as_user("ada", act)
        await anyio.wait_all_tasks_blocked()  # the loop lets go of the task's context
        gc.collect()

    with pytest.warns(ResourceWarning, match="deleted before being closed"):
        await act_and_collect()

    await anyio.to_thread.run_sync(guests[0].join, 10)
    assert not guests[0].is_running()


async def test_the_event_loop_keeps_no_context_of_a_task_that_used_a_connection(database: Path) -> None:
    """asyncio runs what watches a descriptor in the context in which the watch began, so it must be nobody's."""
    held: ContextVar[object] = ContextVar("held")
    gone: list[weakref.ref[Users]] = []

    async with rapsqlite.connect(database) as conn:

        async def act() -> None:
            large = Users()
            gone.append(weakref.ref(large))
            held.set(large)
            await conn.fetch_scalar("SELECT 1")

        await as_user("ada", act)
        await anyio.wait_all_tasks_blocked()
        gc.collect()

        assert gone[0]() is None


async def test_a_connection_without_callbacks_copies_no_context(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[Context] = []

    def copied() -> Context:
        copies.append(copy_context())
        return copies[-1]

    monkeypatch.setattr(request_queue, "context_for_thread", copied)
    async with rapsqlite.connect(database, isolation_level=None) as conn:
        await conn.execute("CREATE TABLE t (v)")
        await conn.executemany("INSERT INTO t VALUES (?)", [(1,), (2,)])
        async with conn.transaction():
            await conn.fetch_all("SELECT v FROM t")
        assert not copies

        await conn.create_function("who", 0, name_user)
        await conn.fetch_scalar("SELECT who()")
        assert copies
