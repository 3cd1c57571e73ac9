"""How much work still happens after a cancellation: counted in steps, pages and calls, not measured in time.

Each scenario is cancelled from within: the guest's own thread, in the middle of the work, has the task cancelled and
continues once the guest has been notified. What is counted from then on is the excess.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import rapsqlite
from rapsqlite import connect
from rapsqlite._files.imports import file_imports
from rapsqlite._guest.request import PendingRequest
from rapsqlite._loops import current_loop
from tests.cancellation.verbs import drain, verbs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.cancellation.verbs import Verb

STEPS_PER_CHECK = 1_000  # VDBE steps between two of the guest's checks for cancellation
PAGES_PER_CHECK = 64
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n"
ENDLESS_ROWS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
SLOW_ROWS = f"{ENDLESS_ROWS} WHERE i < 1000 OR i % 100000 = 0"  # more than come with the reply to ``execute``


class Saboteur:
    """Cancels a scope after a number of passes; counts further passes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told = threading.Event()  # the guest has been told to stop
        self.released = threading.Event()  # or never will be: the cancelled work is over
        self.countdown = -1  # remaining passes before it cancels; negative: never
        self.passed = 0
        self.passed_after = 0
        original = PendingRequest.on_cancel

        def on_cancel(request: PendingRequest) -> None:
            original(request)
            self.told.set()
            self.released.set()

        monkeypatch.setattr(PendingRequest, "on_cancel", on_cancel)

    def arm(self, countdown: int) -> anyio.CancelScope:
        """Cancel the returned scope on the pass after ``countdown`` others. Call in an event loop."""
        self.told.clear()
        self.released.clear()
        self.scope = anyio.CancelScope()
        self.loop = current_loop()
        self.passed_after = 0
        self.countdown = countdown
        return self.scope

    def disarm(self) -> bool:
        """Return whether it has cancelled anything."""
        self.countdown = -1
        self.released.set()
        return self.told.is_set()

    def __call__(self, *_: object) -> int:
        """Count a pass, on a guest's thread."""
        self.passed += 1
        if self.told.is_set():
            self.passed_after += 1
        elif self.countdown == 0:
            self.loop.post(self.scope.cancel)
            assert self.released.wait(30)
        self.countdown -= self.countdown >= 0
        return 0


@pytest.fixture
def saboteur(monkeypatch: pytest.MonkeyPatch) -> Saboteur:
    return Saboteur(monkeypatch)


@pytest.fixture
async def conn() -> AsyncIterator[rapsqlite.Connection]:
    async with connect(":memory:") as connection:
        await connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
        await connection.executemany("INSERT INTO t (b) VALUES (?)", [("x" * 100,) for _ in range(2_000)])
        await connection.commit()
        yield connection


async def fetchone(conn: rapsqlite.Connection) -> None:
    async with conn.execute(SLOW_ROWS) as cursor:
        while await cursor.fetchone():
            pass


async def fetchmany(conn: rapsqlite.Connection) -> None:
    async with conn.execute(ENDLESS_ROWS) as cursor:
        while await cursor.fetchmany(100):
            pass


async def fetchall(conn: rapsqlite.Connection) -> None:
    async with conn.execute(SLOW_ROWS) as cursor:
        await cursor.fetchall()


async def iterate(conn: rapsqlite.Connection) -> None:
    async with conn.execute(ENDLESS_ROWS) as cursor:
        await drain(cursor)


async def dump(conn: rapsqlite.Connection) -> None:
    await conn.execute("INSERT INTO t (b) SELECT b FROM t, (SELECT 1 UNION SELECT 2 UNION SELECT 3)")
    await conn.iterdump()


async def in_savepoint(conn: rapsqlite.Connection) -> None:
    async with conn.savepoint():
        await conn.execute(ENDLESS)


VERBS: dict[str, Verb] = {
    **verbs(ENDLESS, ENDLESS_ROWS),
    "execute, rows": lambda conn: conn.execute(f"SELECT * FROM ({ENDLESS_ROWS}) WHERE i < 0"),
    "execute, changes": lambda conn: conn.execute(f"INSERT INTO t (b) {ENDLESS_ROWS}"),
    "fetchone": fetchone,
    "fetchmany": fetchmany,
    "fetchall": fetchall,
    "async for": iterate,
    "prepared fetch_all": lambda conn: conn.prepare(ENDLESS_ROWS).fetch_all(),
    "prepared stream": lambda conn: drain(conn.prepare(ENDLESS_ROWS).stream()),
    "iterdump": dump,
    "savepoint": in_savepoint,
    "integrity_check": lambda conn: conn.fetch_all("PRAGMA integrity_check(1000000)"),
    "create index": lambda conn: conn.execute("CREATE INDEX i ON t (b)"),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_fewer_steps_than_one_interval_follow_a_cancellation(
    conn: rapsqlite.Connection, saboteur: Saboteur, verb: str
) -> None:
    """The user's progress handler is called every 1000 steps, where the guest checks; once cancelled, no more."""
    await conn.set_progress_handler(saboteur, STEPS_PER_CHECK)
    scope = saboteur.arm(3)

    with scope:
        await VERBS[verb](conn)

    assert saboteur.disarm()
    assert scope.cancelled_caught
    assert saboteur.passed_after == 0
    assert await conn.fetch_scalar("SELECT 1") == 1
    await conn.rollback()
    assert await conn.fetch_scalar("SELECT count(*) FROM t") == 2_000


SHORT: dict[str, Verb] = {
    "executemany": lambda conn: conn.executemany("INSERT INTO t (b) VALUES (tick(?))", [(i,) for i in range(5_000)]),
    "executescript": lambda conn: conn.executescript("SELECT tick(1); " * 1_000),
}


@pytest.mark.parametrize("verb", SHORT)
async def test_no_further_short_statement_follows_a_cancellation(
    conn: rapsqlite.Connection, saboteur: Saboteur, verb: str
) -> None:
    """A parameter set takes only a few steps: the guest checks before each set."""
    await conn.create_function("tick", 1, saboteur)
    scope = saboteur.arm(40)

    with scope:
        await SHORT[verb](conn)

    assert saboteur.disarm()
    assert scope.cancelled_caught
    assert saboteur.passed_after == 0
    assert conn.in_transaction == (verb == "executemany")
    await conn.rollback()
    assert await conn.fetch_scalar("SELECT count(*) FROM t") == 2_000


@pytest.fixture
def passed_by_files(saboteur: Saboteur, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Pass the saboteur with every file function that a guest calls; count them by name while it is armed."""
    counts: Counter[str] = Counter()

    def passing_imports(*given: Any) -> dict[str, Callable[..., int]]:
        def passing(name: str, function: Callable[..., int]) -> Callable[..., int]:
            def call(*arguments: int) -> int:
                counts[name] += 1
                saboteur()
                return function(*arguments)

            return call

        return {name: passing(name, function) for name, function in file_imports(*given).items()}

    monkeypatch.setattr("rapsqlite._guest.guest.file_imports", passing_imports)
    return counts


async def filled(database: Path) -> int:
    """Create a database of a few megabytes; return its number of pages."""
    async with connect(database) as conn:
        await conn.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
        await conn.executemany("INSERT INTO t (b) VALUES (?)", [("x" * 1_000,) for _ in range(6_000)])
        await conn.commit()
        return int(await conn.fetch_scalar("PRAGMA page_count"))


async def backup(conn: rapsqlite.Connection) -> None:
    async with connect(":memory:") as target:
        await conn.backup(target)


COPIES: dict[str, Verb] = {"backup": backup, "serialize": lambda conn: conn.serialize()}


@pytest.mark.usefixtures("passed_by_files")
@pytest.mark.parametrize("verb", COPIES)
async def test_cancelled_copy_stops_within_one_interval_of_pages(database: Path, saboteur: Saboteur, verb: str) -> None:
    pages = await filled(database)
    async with connect(database) as conn:
        await conn.fetch_all("SELECT a FROM t")
        saboteur.passed = 0
        await COPIES[verb](conn)
        calls_of_all = saboteur.passed
        scope = saboteur.arm(calls_of_all // 4)

        with scope:
            await COPIES[verb](conn)

        assert saboteur.disarm()
        assert scope.cancelled_caught
        # At most the pages between two checks, each read and written, and closing the image.
        assert saboteur.passed_after <= 2 * PAGES_PER_CHECK
        assert pages > 20 * PAGES_PER_CHECK
        assert await conn.fetch_scalar("SELECT count(*) FROM t") == 6_000


# -- commits: committed if they return, not committed if they raise ------------------------------


async def commit(conn: rapsqlite.Connection, number: int) -> None:
    await conn.execute("UPDATE t SET a = ?", [number])
    await conn.commit()


async def autocommit(conn: rapsqlite.Connection, number: int) -> None:
    conn.isolation_level = None
    await conn.execute("UPDATE t SET a = ?", [number])


async def block(conn: rapsqlite.Connection, number: int) -> None:
    async with conn.transaction():
        await conn.execute("UPDATE t SET a = ?", [number])


async def many(conn: rapsqlite.Connection, number: int) -> None:
    conn.isolation_level = None
    await conn.executemany("UPDATE t SET a = ?", [(number,)])


async def script(conn: rapsqlite.Connection, number: int) -> None:
    await conn.executescript(f"UPDATE t SET a = {number}")


async def chained(conn: rapsqlite.Connection, number: int) -> None:
    conn.autocommit = False
    await conn.execute("UPDATE t SET a = ?", [number])
    await conn.commit()


WRITES = {"commit": commit, "autocommit": autocommit, "block": block, "executemany": many, "script": script}
WRITES["autocommit=False"] = chained


@pytest.mark.usefixtures("passed_by_files")
@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
@pytest.mark.parametrize("write", WRITES)
async def test_commit_cancelled_at_any_call_is_reported_truthfully(
    database: Path, saboteur: Saboteur, write: str, journal: str
) -> None:
    """Cancel at the first file function a write calls, at the second, and so on until one finishes before that."""
    async with connect(database) as conn:
        await conn.executescript(f"PRAGMA journal_mode = {journal}; CREATE TABLE t (a); INSERT INTO t VALUES (-1)")
    outcomes: list[bool] = []
    stock = sqlite3.connect(database)
    expected = -1
    number = 0
    while True:
        async with connect(database) as conn:
            await conn.fetch_all("SELECT * FROM t")
            returned = False
            with saboteur.arm(number):
                await WRITES[write](conn, number)
                returned = True
            fired = saboteur.disarm()
            if not fired:
                assert returned
                break
            await conn.rollback()
        expected = number if returned else expected
        outcomes.append(returned)
        assert stock.execute("SELECT a FROM t").fetchall() == [(expected,)], number
        number += 1
    stock.close()

    assert number > 3  # file functions are called at all
    assert any(outcomes)  # and some of those calls are the commit's


async def test_commit_cancelled_in_its_own_hook_happens(conn: rapsqlite.Connection, saboteur: Saboteur) -> None:
    await conn.set_commit_hook(saboteur)
    await conn.execute("INSERT INTO t (b) VALUES ('kept')")
    returned = False

    with saboteur.arm(0):
        await conn.commit()
        returned = True

    assert saboteur.disarm()
    assert returned
    assert not conn.in_transaction
    assert await conn.fetch_scalar("SELECT count(*) FROM t") == 2_001


async def test_commit_cancelled_in_a_hook_that_rejects_it_is_undone(
    conn: rapsqlite.Connection, saboteur: Saboteur
) -> None:
    await conn.set_commit_hook(lambda: saboteur() or 1)
    await conn.execute("INSERT INTO t (b) VALUES ('undone')")

    with saboteur.arm(0) as scope:
        await conn.commit()
        pytest.fail("it was refused")

    assert scope.cancelled_caught
    assert saboteur.disarm()
    assert not await conn.in_transaction_async()
    assert await conn.fetch_scalar("SELECT count(*) FROM t") == 2_000


async def test_commit_cancelled_while_it_waits_for_a_lock_can_be_retried(database: Path, saboteur: Saboteur) -> None:
    """A reader keeps the writer from committing; waiting for it is not committing."""
    stock = sqlite3.connect(database, isolation_level=None)
    stock.execute("CREATE TABLE t (a)")
    stock.execute("INSERT INTO t VALUES (1)")
    async with connect(database, timeout=60) as conn:
        reader = stock.execute("SELECT a FROM t")
        await conn.execute("INSERT INTO t VALUES (2)")
        await conn.set_busy_handler(lambda attempt: saboteur() or 1)

        with saboteur.arm(2) as scope:
            await conn.commit()
            pytest.fail("the reader still reads")

        assert saboteur.disarm()
        assert scope.cancelled_caught
        assert saboteur.passed_after == 0
        assert await conn.in_transaction_async()
        reader.close()
        await conn.commit()
        assert stock.execute("SELECT count(*) FROM t").fetchone() == (2,)
    stock.close()
