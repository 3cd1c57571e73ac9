"""Sources of executemany's sets: slow and asynchronous iterables, their exceptions and their use of the connection."""

from __future__ import annotations

import sqlite3
import sys
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

import rapsqlite
from rapsqlite import connect, dbapi
from rapsqlite._client import executemany

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

INSERT = "INSERT INTO t VALUES (?)"
COUNTS = [0, 1, 2, 9, 3000]


@pytest.fixture
async def conn() -> AsyncIterator[rapsqlite.Connection]:
    async with connect(":memory:") as connection:
        await connection.execute("CREATE TABLE t (a UNIQUE)")
        yield connection


async def numbers_in(connection: rapsqlite.Connection) -> list[int]:
    return [number for (number,) in await connection.execute_fetchall("SELECT a FROM t ORDER BY rowid")]


class Time:
    """A clock that moves only when asked to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(executemany, "clock", lambda: self.now)

    def spend(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class Ticks:
    """Counts the event loop's iterations."""

    count = 0

    async def run(self) -> None:
        """Count until cancelled."""
        while True:
            self.count += 1
            await anyio.lowlevel.checkpoint()


async def seen_by_source(connection: rapsqlite.Connection, ticks: Ticks, source: Any, numbers: list[int]) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ticks.run)
        await connection.executemany(INSERT, source)
        tasks.cancel_scope.cancel()
    assert await numbers_in(connection) == numbers


@pytest.mark.parametrize("form", ["iterator", "asynchronous"])
async def test_loop_runs_between_slow_sets(
    conn: rapsqlite.Connection, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Producing sets runs user code in the loop's thread: after 5 ms, other tasks run."""
    time, ticks, seen = Time(monkeypatch), Ticks(), []

    def sets() -> Iterator[tuple[int]]:
        for number in range(100):
            seen.append(ticks.count)
            time.spend(0.005)
            yield (number,)

    async def asynchronous_sets() -> AsyncIterator[tuple[int]]:
        for item in sets():
            yield item

    await seen_by_source(conn, ticks, sets() if form == "iterator" else asynchronous_sets(), list(range(100)))

    # Trio runs ready tasks in any order.
    assert all(before < after for before, after in zip(seen, seen[2:], strict=False))


async def test_loop_runs_every_few_milliseconds_while_sets_are_produced(
    conn: rapsqlite.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of sets that take a tenth of a millisecond about twenty are taken at once; Trio may run a task twice in a row."""
    time, ticks, seen = Time(monkeypatch), Ticks(), []

    def sets() -> Iterator[tuple[int]]:
        for number in range(2000):
            seen.append(ticks.count)
            time.spend(0.0001)
            yield (number,)

    await seen_by_source(conn, ticks, sets(), list(range(2000)))

    assert max(seen.count(tick) for tick in set(seen)) <= 3 * executemany.SLICE_S / 0.0001


@pytest.mark.parametrize("is_listed", [True, False])
async def test_loop_runs_every_few_milliseconds_while_values_are_adapted(
    conn: rapsqlite.Connection, monkeypatch: pytest.MonkeyPatch, is_listed: bool
) -> None:
    """Adapters are user code too; as many sets as fit were adapted without a break, up to 1 024."""
    time, ticks, seen = Time(monkeypatch), Ticks(), []

    class Adapted:
        def __init__(self, number: int) -> None:
            self.number = number

        def __conform__(self, _protocol: object) -> int:
            seen.append(ticks.count)
            time.spend(0.0005)
            return self.number

    sets = ((Adapted(number),) for number in range(1000))
    await seen_by_source(conn, ticks, list(sets) if is_listed else sets, list(range(1000)))

    assert max(seen.count(tick) for tick in set(seen)) <= 3 * executemany.SLICE_S / 0.0005


async def test_quick_sets_are_still_sent_by_the_thousand(
    conn: rapsqlite.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    Time(monkeypatch)
    for source in ([(i,) for i in range(10_000)], ((i,) for i in range(10_000, 20_000))):
        before = conn._state.guest.sent_count
        await conn.executemany(INSERT, source)
        assert conn._state.guest.sent_count - before < 20


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("count", [0, 1, 3, 64])
async def test_short_list_of_sets_takes_one_request(conn: rapsqlite.Connection, kind: type, count: int) -> None:
    before = conn._state.guest.sent_count
    await conn.executemany(INSERT, kind((number,) for number in range(count)))
    assert conn._state.guest.sent_count - before == 1
    assert await conn.fetch_all("SELECT * FROM t") == [[number] for number in range(count)]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("verb", ["connection", "execute_many", "cursor", "dbapi"])
async def test_asynchronous_iterables_are_accepted(tmp_path: Path, verb: str, count: int) -> None:
    async def sets() -> AsyncIterator[tuple[int]]:
        for number in range(count):
            if number % 100 == 0:
                await anyio.lowlevel.checkpoint()
            yield (number,)

    open_connection: Any = dbapi.connect if verb == "dbapi" else connect
    async with open_connection(tmp_path / "test.db") as connection:
        await connection.execute("CREATE TABLE t (a UNIQUE)")
        if verb == "cursor":
            cursor = await (await connection.cursor()).executemany(INSERT, sets())
        elif verb == "execute_many":
            cursor = await connection.execute_many(INSERT, sets())
        else:
            cursor = await connection.executemany(INSERT, sets())

        assert cursor.rowcount == count
        assert await numbers_in(connection) == list(range(count))


async def test_asynchronous_sets_may_be_mappings_and_a_stream_of_rows(conn: rapsqlite.Connection) -> None:
    async def mappings() -> AsyncIterator[dict[str, int]]:
        for number in range(5):
            yield {"a": number}

    await conn.executemany("INSERT INTO t VALUES (:a)", mappings())
    async with connect(":memory:") as other:
        await other.execute("CREATE TABLE t (a)")
        await other.executemany(INSERT, conn.stream("SELECT a FROM t"))

        assert await numbers_in(other) == [0, 1, 2, 3, 4]


async def test_rows_of_a_cursor_are_copied_within_their_connection(conn: rapsqlite.Connection) -> None:
    await conn.execute("CREATE TABLE copy (a)")
    await conn.executemany(INSERT, [(number,) for number in range(2000)])

    await conn.executemany("INSERT INTO copy VALUES (?)", await conn.execute("SELECT a FROM t ORDER BY a"))

    assert await conn.fetch_all("SELECT a FROM copy") == [[number] for number in range(2000)]


async def test_asynchronous_iterable_that_uses_the_connection_sees_the_sets_before(conn: rapsqlite.Connection) -> None:
    """As in sqlite3, where each set is executed before the next is made."""
    stock = sqlite3.connect(":memory:")
    stock.execute("CREATE TABLE t (a)")
    theirs, ours = [], []

    def sets() -> Iterator[tuple[int]]:
        for number in range(20):
            theirs.append(stock.execute("SELECT count(*) FROM t").fetchone()[0])
            yield (number,)

    async def asynchronous_sets() -> AsyncIterator[tuple[int]]:
        for number in range(20):
            ours.append(await conn.fetch_scalar("SELECT count(*) FROM t"))
            yield (number,)

    stock.executemany(INSERT, sets())
    await conn.executemany(INSERT, asynchronous_sets())

    assert ours == theirs
    stock.close()


@pytest.mark.parametrize("form", ["iterator", "asynchronous"])
@pytest.mark.parametrize("count", COUNTS)
async def test_sets_before_an_exception_of_the_iterable_are_executed(
    conn: rapsqlite.Connection, count: int, form: str
) -> None:
    """As in sqlite3; the transaction is open, to be committed or rolled back."""

    def sets() -> Iterator[tuple[int]]:
        for number in range(count):
            yield (number,)
        raise LookupError("mine")

    async def asynchronous_sets() -> AsyncIterator[tuple[int]]:
        for item in sets():
            yield item

    with pytest.raises(LookupError, match="mine"):
        await conn.executemany(INSERT, sets() if form == "iterator" else asynchronous_sets())

    assert conn.in_transaction == (count > 0)
    assert await numbers_in(conn) == list(range(count))


@pytest.mark.parametrize("form", ["iterator", "asynchronous"])
async def test_error_of_a_set_ends_executemany_and_names_the_set(conn: rapsqlite.Connection, form: str) -> None:
    def sets() -> Iterator[tuple[int]]:
        for number in range(10_000):
            yield (number if number != 1500 else 7,)

    async def asynchronous_sets() -> AsyncIterator[tuple[int]]:
        for item in sets():
            yield item

    with pytest.raises(rapsqlite.IntegrityError) as raised:
        await conn.executemany(INSERT, sets() if form == "iterator" else asynchronous_sets())

    assert raised.value.parameter_set == 1500
    assert await numbers_in(conn) == list(range(1500))


async def test_invalid_value_ends_executemany_after_the_sets_before_it(conn: rapsqlite.Connection) -> None:
    async def sets() -> AsyncIterator[Any]:
        for number in range(300):
            yield (number,) if number != 250 else 5

    # As in sqlite3 of that Python.
    with pytest.raises(rapsqlite.ProgrammingError if sys.version_info >= (3, 11) else ValueError) as raised:
        await conn.executemany(INSERT, sets())

    assert getattr(raised.value, "parameter_set", 250) == 250  # a ValueError has none
    assert await numbers_in(conn) == list(range(250))


@pytest.mark.parametrize("count", [1, 2, 500])
async def test_cancellation_in_the_iterable_leaves_the_connection_usable(
    conn: rapsqlite.Connection, count: int
) -> None:
    """The executed sets are a prefix, in the open transaction; nothing is executed after the cancellation."""
    async with anyio.create_task_group() as tasks:

        async def sets() -> AsyncIterator[tuple[int]]:
            for number in range(count):
                yield (number,)
            tasks.cancel_scope.cancel()
            await anyio.sleep_forever()

        await conn.executemany(INSERT, sets())

    done = await numbers_in(conn)
    assert done == list(range(len(done)))
    await conn.rollback()
    assert await numbers_in(conn) == []


async def test_statement_is_checked_even_without_sets(conn: rapsqlite.Connection) -> None:
    async def nothing() -> AsyncIterator[tuple[int]]:
        for number in range(0):
            yield (number,)

    with pytest.raises(rapsqlite.OperationalError, match="no such table"):
        await conn.executemany("INSERT INTO missing VALUES (?)", nothing())
    with pytest.raises(rapsqlite.ProgrammingError, match="DML"):
        await conn.executemany("SELECT 1", nothing())


async def test_parameters_that_are_not_iterable_are_refused_as_by_sqlite3(conn: rapsqlite.Connection) -> None:
    with pytest.raises(TypeError, match="not iterable"):
        await conn.executemany(INSERT, 5)  # type: ignore[arg-type]


async def test_an_endless_iterable_is_not_read_ahead(conn: rapsqlite.Connection) -> None:
    """The engine starts with the first set, and an error in it is known after a few more."""
    taken: list[None] = []

    def sets() -> Iterator[tuple[int]]:
        while True:
            taken.append(None)
            yield (1,)

    with pytest.raises(rapsqlite.IntegrityError):
        await conn.executemany(INSERT, sets())

    assert len(taken) < 100
