"""A statement that is complete is never reported as cancelled, wherever in it the cancellation comes.

SQLite calls the progress handler once more between the end of a statement, when it is committed, and its return to the
caller. https://sqlite.org/c3ref/progress_handler.html
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest

import rapsqlite

if TYPE_CHECKING:
    from pathlib import Path

STATEMENTS = {
    "insert": ("INSERT INTO t VALUES (2)", "SELECT count(*) FROM t", 2),
    "returning": ("INSERT INTO t VALUES (2) RETURNING a", "SELECT count(*) FROM t", 2),
    "update": ("UPDATE t SET a = 3", "SELECT count(*) FROM t WHERE a = 1", 0),
    "delete": ("DELETE FROM t WHERE a = 1", "SELECT count(*) FROM t", 0),
    "create": ("CREATE TABLE u (a)", "SELECT count(*) FROM sqlite_schema", 2),
}
"""Each with a query and its answer once the statement is committed."""


class Held:
    """A progress handler that is called for each step; its n-th call returns once its request has been cancelled."""

    def __init__(self, conn: rapsqlite.Connection, number: int) -> None:
        self._queue = conn._state.guest._queue
        self._number = number
        self.count = 0
        self.is_reached = threading.Event()

    def __call__(self) -> int:
        self.count += 1
        if self.count == self._number:
            self.is_reached.set()
            while not self._is_request_cancelled():
                pass
        return 0

    def _is_request_cancelled(self) -> bool:
        with self._queue.lock:
            return any(pending.cancelled for pending in self._queue._pending.values())


async def cancelled_at(database: Path, name: str, number: int) -> tuple[bool, bool, bool]:
    """Cancel a statement at the n-th call of its handler.

    Return whether there was one, whether the statement returned, and whether it is committed.
    """
    sql, query, answer = STATEMENTS[name]
    returned = is_over = False
    async with rapsqlite.connect(database, isolation_level=None) as conn:
        await conn.execute("PRAGMA synchronous = OFF")
        await conn.execute("CREATE TABLE t (a)")
        await conn.execute("INSERT INTO t VALUES (1)")
        handler = Held(conn, number)
        await conn.set_progress_handler(handler, 1)
        scope = anyio.CancelScope()

        async def cancel() -> None:
            await anyio.to_thread.run_sync(handler.is_reached.wait)
            if not is_over:
                scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel)
            with scope:
                await conn.fetch_all(sql)
                returned = True
            is_over = True
            was_reached = handler.is_reached.is_set()
            handler.is_reached.set()
        await conn.set_progress_handler(None, 0)
        is_committed = await conn.fetch_scalar(query) == answer
    return was_reached, returned, is_committed


@pytest.mark.parametrize("name", STATEMENTS)
async def test_statement_is_committed_if_and_only_if_it_returned(tmp_path: Path, name: str) -> None:
    """A row whose INSERT had raised the cancellation was there; 1 of some 4000 INSERTs cancelled at random."""
    outcomes, number, was_reached = [], 0, True
    while was_reached:
        number += 1
        was_reached, returned, is_committed = await cancelled_at(tmp_path / f"{number}.db", name, number)
        outcomes.append((returned, is_committed))

    assert set(outcomes) == {(False, False), (True, True)}


COLUMNS = [f"c{number}" for number in range(14)]
HARD_TO_PLAN = "SELECT 1 FROM t WHERE " + " AND ".join(f"{column} IN (1, 2) AND {column} = 1" for column in COLUMNS)


async def test_statement_that_is_compiled_again_within_its_step_is_not_complete() -> None:
    """As after a change of the schema; SQLite then calls the handler while the statement does not run."""
    calls: list[int] = []

    def interrupt() -> bool:
        calls[-1] += 1
        return True

    async with rapsqlite.connect(":memory:") as conn:
        await conn.execute(f"CREATE TABLE t ({', '.join(COLUMNS)})")
        await conn.execute("CREATE VIEW v AS SELECT 1")
        assert await conn.fetch_all("SELECT * FROM v") == [[1]]
        await conn.execute("DROP VIEW v")
        await conn.execute("CREATE VIEW v AS " + " UNION ALL ".join([HARD_TO_PLAN] * 100))
        await conn.execute(f"CREATE INDEX i ON t ({', '.join(COLUMNS)})")
        await conn.set_progress_handler(interrupt, 1000)

        for sql in ("SELECT  * FROM v", "SELECT * FROM v"):  # the second one is in the statement cache
            calls.append(0)
            with pytest.raises(rapsqlite.OperationalError, match="interrupted"):
                await conn.fetch_all(sql)

    assert calls == [1, 1]
