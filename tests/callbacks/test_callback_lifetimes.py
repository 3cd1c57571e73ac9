"""Callbacks of every kind that are replaced, removed and abandoned at any moment: all of them are freed."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import rapsqlite

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rapsqlite._wasm.rings import Reply, Request

    Registration = Callable[[rapsqlite.Connection, Any], Awaitable[None]]

SETUP = "CREATE TABLE t (a); INSERT INTO t SELECT value FROM json_each('[3, 1, 2, 3, 1, 2, 3, 1, 2]')"
MANY_ROWS = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 20000) SELECT i FROM n"
HOOKS: dict[str, Registration] = {
    "authorizer": lambda conn, callback: conn.set_authorizer(callback),
    "progress": lambda conn, callback: conn.set_progress_handler(callback, 1000),
    "trace": lambda conn, callback: conn.set_trace_callback(callback),
    "update": lambda conn, callback: conn.set_update_hook(callback),
    "preupdate": lambda conn, callback: conn.set_preupdate_hook(callback),
    "commit": lambda conn, callback: conn.set_commit_hook(callback),
    "rollback": lambda conn, callback: conn.set_rollback_hook(callback),
    "wal": lambda conn, callback: conn.set_wal_hook(callback),
    "busy": lambda conn, callback: conn.set_busy_handler(callback),
}
USED: dict[str, Registration] = {
    "function": lambda conn, callback: conn.create_function("f", 1, callback),
    "deterministic": lambda conn, callback: conn.create_function("f", 1, callback, deterministic=True),
    "aggregate": lambda conn, callback: conn.create_aggregate("f", 1, callback),
    "window": lambda conn, callback: conn.create_window_function("f", 1, callback),
    "collation": lambda conn, callback: conn.create_collation("f", callback),
}
STATEMENTS = {
    "function": "SELECT f(a) FROM t",
    "deterministic": "SELECT f(a) FROM t",
    "aggregate": "SELECT f(a) FROM t GROUP BY a",
    "window": "SELECT f(a) OVER (ORDER BY a) FROM t",
    "collation": "SELECT a FROM t ORDER BY a || '' COLLATE f",
}


def held(conn: rapsqlite.Connection) -> int:
    return len(conn._state.guest.callbacks)


def noted(log: list[int], number: int) -> int:
    log.append(number)
    return 0


def answering(kind: str, answer: int) -> Any:
    """Return a new callback that returns this number."""
    if kind not in ("aggregate", "window"):
        return lambda *_: answer

    class Answering:
        def step(self, _value: int) -> None: ...

        def inverse(self, _value: int) -> None: ...

        def value(self) -> int:
            return answer

        def finalize(self) -> int:
            return answer

    return Answering


@pytest.mark.parametrize("kind", sorted(HOOKS))
async def test_hook_is_replaced_and_removed_while_statements_are_cached_and_have_rows_left(kind: str) -> None:
    async with rapsqlite.connect(":memory:", isolation_level=None) as conn:
        await conn.executescript(SETUP)
        inside: list[int] = []
        cursor = await conn.execute(f"SELECT hex(zeroblob(50)) FROM ({MANY_ROWS})")  # many batches
        assert await cursor.fetchone() is not None
        for number in range(3):
            await HOOKS[kind](conn, lambda *_, number=number: noted(inside, number))
            assert held(conn) == 1
            assert len(await cursor.fetchmany(3000)) == 3000
            await conn.execute("INSERT INTO t VALUES (?)", (number,))
        await HOOKS[kind](conn, None)

        assert held(conn) == 0
        before = len(inside)
        assert len(await cursor.fetchall()) == 20_000 - 9_001
        await conn.execute("INSERT INTO t VALUES (?)", (9,))
        assert len(inside) == before
        if kind not in ("rollback", "wal", "busy"):
            assert sorted(set(inside)) == [0, 1, 2]
        assert sorted(inside) == inside


class AlarmError(Exception):
    """An exception that a signal handler raises."""


@pytest.mark.parametrize("raised", [KeyboardInterrupt, AlarmError])
@pytest.mark.parametrize("kind", sorted(HOOKS | USED))
async def test_registration_that_was_done_when_a_signal_ended_the_wait_is_complete(
    kind: str, raised: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of one would refuse every commit, or every statement."""
    register = (HOOKS | USED)[kind]
    async with rapsqlite.connect(":memory:", isolation_level=None) as conn:
        await conn.executescript(SETUP)
        call = conn._state.guest.call

        async def call_and_be_interrupted(request: Request) -> Reply:
            await call(request)
            raise raised

        with monkeypatch.context() as patched:
            patched.setattr(conn._state.guest, "call", call_and_be_interrupted)
            with pytest.raises(raised):
                await register(conn, answering(kind, 0))

        assert held(conn) == 1
        await conn.fetch_all(STATEMENTS.get(kind, "SELECT a FROM t"))
        await conn.execute("INSERT INTO t VALUES (1)")


@pytest.mark.parametrize("kind", sorted(USED))
async def test_replaced_callback_is_used_by_cached_statements_but_not_by_one_with_rows_left(
    kind: str,
) -> None:
    sql = STATEMENTS[kind]
    async with rapsqlite.connect(":memory:") as conn:
        await conn.executescript(SETUP)
        for answer in range(5):
            await USED[kind](conn, answering(kind, answer))
            assert held(conn) == 1
            rows = await conn.fetch_all(sql)
            assert kind == "collation" or {row[0] for row in rows} == {answer}
        expected = await conn.fetch_all(sql)
        cursor = await conn.execute(f"{sql} UNION ALL SELECT 7 FROM ({MANY_ROWS})" if kind != "collation" else sql)
        # A collation is needed until the rows are sorted, so a join keeps its statement at its first row.
        if kind == "collation":
            await cursor.close()
            cursor = await conn.execute(f"SELECT b.a FROM t AS b, ({MANY_ROWS}) WHERE b.a || '' >= '' COLLATE f")
        assert await cursor.fetchone() is not None

        with pytest.raises(rapsqlite.OperationalError, match="active statements"):
            await USED[kind](conn, answering(kind, 9))
        with pytest.raises(rapsqlite.OperationalError, match="active statements"):
            await USED[kind](conn, None)
        assert len(await cursor.fetchmany(10)) == 10
        await cursor.close()
        assert await conn.fetch_all(sql) == expected
        assert held(conn) == 1

        await USED[kind](conn, None)
        assert held(conn) == 0
        with pytest.raises(rapsqlite.OperationalError, match="no such"):
            await conn.fetch_all(sql)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # what is kept is the guest's and the callbacks', not the loop's
@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", sorted({**HOOKS, **USED}))
async def test_thousands_of_registrations_of_every_kind_keep_only_the_last(kind: str, count: int) -> None:
    register = {**HOOKS, **USED}[kind]
    async with rapsqlite.connect(":memory:") as conn:
        await conn.executescript(SETUP)
        first = answering(kind, 0)
        gone = weakref.ref(first)
        await register(conn, first)
        del first
        before = (await conn.statistics())["memory_bytes"]

        async def register_many() -> None:
            for _ in range(count // 8):
                await register(conn, answering(kind, 1))

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(register_many)

        assert held(conn) == 1
        gc.collect()
        assert gone() is None
        assert (await conn.statistics())["memory_bytes"] - before < 1 << 20


async def test_closing_frees_callbacks_of_every_kind_and_instances_of_open_statements() -> None:
    conn = await rapsqlite.connect(":memory:")
    await conn.executescript(SETUP)
    kinds = {**HOOKS, **USED}
    callbacks: list[weakref.ref[Any]] = []
    instances = weakref.WeakSet[Any]()

    class Remembered:
        def __init__(self) -> None:
            instances.add(self)

        def step(self, _value: int) -> None: ...

        def finalize(self) -> int:
            return 1

    await conn.create_aggregate("g", 1, Remembered)
    for kind, register in kinds.items():
        callback = answering(kind, 0)
        callbacks.append(weakref.ref(callback))
        await register(conn, callback)
        del callback
    cursor = await conn.execute(f"SELECT g(i) FROM ({MANY_ROWS}) GROUP BY i")
    await cursor.fetchone()
    table = conn._state.guest.callbacks
    assert len(table) >= len(HOOKS) + 3  # functions of one name replaced each other

    await conn.close()

    del cursor
    gc.collect()
    assert len(table) == 0
    assert [callback() for callback in callbacks] == [None] * len(kinds)
    assert not instances
