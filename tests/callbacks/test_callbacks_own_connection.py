"""A callback that uses the connection that calls it: an immediate error in every case, and no deadlock."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import rapsqlite
from tests.callbacks.misbehaviour import KINDS, prepared, use

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

WORDS = "a callback cannot use the connection that calls it"
BACKENDS = pytest.mark.parametrize("inside", ["asyncio", "trio"])  # the event loop that the callback runs
MANY = (
    "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 50000) SELECT hex(zeroblob(99)) FROM n"
)


async def drained(rows: Any) -> None:
    async for _ in rows:
        pass


class Held:
    """Objects that were opened before the callback is called."""

    def __init__(self, conn: rapsqlite.Connection, other: rapsqlite.Connection) -> None:
        self.conn = conn
        self.other = other
        self.blob: Any = None
        self.cursor: Any = None
        self.statement: Any = None
        self.session: Any = None


USES: dict[str, Callable[[Held], Awaitable[object]]] = {
    "execute": lambda held: held.conn.execute("SELECT 1"),
    "executemany": lambda held: held.conn.executemany("INSERT INTO t VALUES (?)", [(1,)]),
    "executescript": lambda held: held.conn.executescript("SELECT 1"),
    "fetch_all": lambda held: held.conn.fetch_all("SELECT 1"),
    "fetch_scalar": lambda held: held.conn.fetch_scalar("SELECT 1"),
    "stream": lambda held: drained(held.conn.stream("SELECT 1")),
    "execute_iter": lambda held: drained(held.conn.execute_iter("SELECT 1")),
    "begin": lambda held: held.conn.begin(),
    "commit": lambda held: held.conn.commit(),
    "rollback": lambda held: held.conn.rollback(),
    "transaction": lambda held: held.conn.transaction().__aenter__(),
    "changes": lambda held: held.conn.changes(),
    "statistics": lambda held: held.conn.statistics(),
    "rows of a cursor": lambda held: held.cursor.fetchall(),
    "prepared statement": lambda held: held.statement.fetch_one(),
    "read a blob": lambda held: held.blob.read(1),
    "write a blob": lambda held: held.blob.write(b"1"),
    "close a blob": lambda held: held.blob.close(),
    "open a blob": lambda held: held.conn.blobopen("t", "b", 1),
    "backup": lambda held: held.conn.backup(held.other),
    "backup onto it": lambda held: held.other.backup(held.conn),
    "restore": lambda held: held.other.restore(held.conn),
    "serialize": lambda held: held.conn.serialize(),
    "deserialize": lambda held: held.conn.deserialize(b"none"),
    "iterdump": lambda held: held.conn.iterdump(),
    "session": lambda held: held.conn.session(),
    "changeset": lambda held: held.session.changeset(),
    "get_tables": lambda held: held.conn.get_tables(),
    "create_function": lambda held: held.conn.create_function("g", 0, int),
    "remove itself": lambda held: held.conn.create_function("f", 0, None),
    "set_trace_callback": lambda held: held.conn.set_trace_callback(None),
    "set_pragma": lambda held: held.conn.set_pragma("user_version", 1),
    "getlimit": lambda held: held.conn.getlimit(0),
    "close": lambda held: held.conn.close(),
}


@pytest.fixture
async def held(database: Path) -> AsyncIterator[Held]:
    async with rapsqlite.connect(database) as conn, rapsqlite.connect(":memory:") as other:
        await conn.executescript("CREATE TABLE t (b); INSERT INTO t VALUES (zeroblob(10))")
        opened = Held(conn, other)
        opened.session = await conn.session()
        opened.blob = await conn.blobopen("t", "b", 1)
        opened.cursor = await conn.execute(MANY)
        opened.statement = conn.prepare("SELECT 1")
        await opened.statement.fetch_one()
        yield opened


def refused(what: Callable[[], Awaitable[object]], inside: str) -> bool:
    """Try it in an event loop of this thread; return whether it was rejected with the right message."""

    async def attempt() -> None:
        await what()

    try:
        anyio.run(attempt, backend=inside)
    except rapsqlite.ProgrammingError as error:
        return WORDS in str(error)
    return False


@BACKENDS
@pytest.mark.parametrize("name", sorted(USES))
async def test_every_call_that_waits_for_the_connection_is_refused(held: Held, name: str, inside: str) -> None:
    answers: list[bool] = []

    def call() -> int:
        answers.append(refused(lambda: USES[name](held), inside))
        return 1

    await held.conn.create_function("f", 0, call)
    with anyio.fail_after(30):
        assert await held.conn.fetch_scalar("SELECT f()") == 1

    assert answers == [True]
    if name == "close":  # it closes once the callback has returned
        with pytest.raises(rapsqlite.ProgrammingError):
            await held.conn.fetch_scalar("SELECT 2")
        return
    assert await held.conn.fetch_scalar("SELECT 2") == 2
    assert await held.blob.read() == bytes(10)
    await held.blob.close()


@BACKENDS
@pytest.mark.parametrize("name", sorted(KINDS))
async def test_callbacks_of_every_kind_are_refused_and_run_in_the_connections_thread(
    database: Path, name: str, inside: str
) -> None:
    answers: list[bool] = []
    threads: set[int] = set()
    with prepared(database, name) as kind:
        async with rapsqlite.connect(database, isolation_level=None) as conn:
            own = conn._state.guest.thread.ident

            def call(*_: object) -> int | None:
                threads.add(threading.get_ident())
                answers.append(refused(lambda: conn.fetch_all("SELECT 1"), inside))
                return None if name.endswith("init") else 0

            await kind.register(conn, call)
            # The busy handler gives up, which ends its statement.
            ending = pytest.raises(rapsqlite.OperationalError, match="locked") if name == "busy" else nullcontext()
            with ending, anyio.fail_after(30):
                await use(conn, kind)
            await kind.register(conn, None)

            assert answers
            assert all(answers)
            assert threads == {own}
            assert await conn.fetch_scalar("SELECT 1") == 1
