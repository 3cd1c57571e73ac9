"""Authorizer, progress, trace and busy handlers, and hooks on changes; compared with sqlite3 where it has them."""

from __future__ import annotations

import logging
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

COUNT = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 4000) SELECT count(*) FROM c"
ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"


@pytest.fixture
async def conn() -> AsyncIterator[rapsqlite.Connection]:
    async with rapsqlite.connect(":memory:") as connection:
        await connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
        yield connection


def fail(*_: object) -> Any:
    raise ZeroDivisionError("on purpose")


def held(conn: rapsqlite.Connection) -> int:
    """Return how many objects the guest holds."""
    return len(conn._state.guest.callbacks)


# -- authorizer --------------------------------------------------------------------------------------

STATEMENTS = [
    "CREATE TABLE other (a, b)",
    "CREATE TRIGGER log AFTER INSERT ON t BEGIN INSERT INTO other VALUES (new.a, new.b); END",
    "INSERT INTO t VALUES (1, 'x')",
    "SELECT a, b FROM t WHERE a = 1",
    "UPDATE t SET b = upper(b)",
    "PRAGMA user_version",
    "DROP TABLE other",
]


async def test_authorizer_gets_the_same_questions_as_in_sqlite3() -> None:
    """SQLite's versions differ in details, so only the actions common to all are compared."""
    known = {
        sqlite3.SQLITE_CREATE_TABLE, sqlite3.SQLITE_CREATE_TRIGGER, sqlite3.SQLITE_DROP_TABLE,
        sqlite3.SQLITE_PRAGMA, sqlite3.SQLITE_UPDATE,
    }  # fmt: skip
    asked: dict[str, list[tuple[Any, ...]]] = {"theirs": [], "ours": []}

    def authorizer(who: str) -> Any:
        def authorize(*arguments: Any) -> int:
            asked[who].append(arguments)
            return sqlite3.SQLITE_OK

        return authorize

    theirs = sqlite3.connect(":memory:", isolation_level=None)
    theirs.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
    theirs.set_authorizer(authorizer("theirs"))
    for sql in STATEMENTS:
        theirs.execute(sql).fetchall()
    theirs.close()
    async with rapsqlite.connect(":memory:", isolation_level=None) as conn:
        await conn.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
        await conn.set_authorizer(authorizer("ours"))
        for sql in STATEMENTS:
            await conn.fetch_all(sql)

    expected, found = ([call for call in asked[who] if call[0] in known] for who in ("theirs", "ours"))
    assert expected
    assert found == expected


@pytest.mark.parametrize("answer", [sqlite3.SQLITE_DENY, 42, None, "0", 1 << 40])
async def test_denied_action_is_refused(conn: rapsqlite.Connection, answer: object) -> None:
    theirs = sqlite3.connect(":memory:")
    theirs.set_authorizer(lambda *_: answer)  # type: ignore[arg-type]
    with pytest.raises(sqlite3.DatabaseError) as expected:
        theirs.execute("SELECT 1")
    theirs.close()
    await conn.set_authorizer(lambda *_: answer)  # type: ignore[arg-type]

    with pytest.raises(expected.type) as caught:
        await conn.fetch_all("SELECT 1")

    assert str(caught.value) == str(expected.value)
    await conn.set_authorizer(None)
    assert await conn.fetch_scalar("SELECT 1") == 1
    assert held(conn) == 0


async def test_ignored_column_reads_as_null(conn: rapsqlite.Connection) -> None:
    await conn.execute("INSERT INTO t VALUES (1, 2)")
    secret = (sqlite3.SQLITE_READ, "t", "b")
    await conn.set_authorizer(lambda *told: sqlite3.SQLITE_IGNORE if told[:3] == secret else sqlite3.SQLITE_OK)

    assert await conn.fetch_all("SELECT a, b FROM t") == [[1, None]]


async def test_authorizer_applies_to_cached_statements_too(conn: rapsqlite.Connection) -> None:
    await conn.fetch_all("SELECT a FROM t")
    await conn.set_authorizer(lambda action, *_: int(action == sqlite3.SQLITE_READ))

    with pytest.raises(rapsqlite.DatabaseError, match="prohibited"):
        await conn.fetch_all("SELECT a FROM t")


async def test_authorizer_that_raises_denies_and_is_the_cause(conn: rapsqlite.Connection) -> None:
    await conn.set_authorizer(fail)
    with pytest.raises(rapsqlite.DatabaseError, match="not authorized") as caught:
        await conn.fetch_all("SELECT 1")

    assert isinstance(caught.value.__cause__, ZeroDivisionError)


async def test_statement_kind_is_known_under_an_authorizer(conn: rapsqlite.Connection) -> None:
    """Whether to begin a transaction is determined in the callback that also calls the user's authorizer."""
    await conn.commit()
    await conn.set_authorizer(lambda *_: sqlite3.SQLITE_OK)

    await conn.execute("CREATE TABLE other (a)")
    assert not conn.in_transaction
    cursor = await conn.execute("INSERT INTO t VALUES (1, 2)")
    assert conn.in_transaction
    assert cursor.rowcount == 1


# -- progress ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 7, 1000, 5000])
async def test_progress_handler_is_called_once_per_number_of_steps(conn: rapsqlite.Connection, steps: int) -> None:
    calls = 0

    def count() -> int:
        nonlocal calls
        calls += 1
        return 0

    async def calls_with(n: int) -> int:
        nonlocal calls
        await conn.set_progress_handler(count, n)
        calls = 0
        await conn.fetch_all(COUNT)
        return calls

    every = await calls_with(1)
    assert every > 20_000

    assert await calls_with(steps) == pytest.approx(every / steps, rel=0.02, abs=2)


async def test_progress_handler_interrupts(conn: rapsqlite.Connection) -> None:
    """If it returns something true or raises, as in sqlite3; what it raised is the cause."""
    for handler in (lambda: 1, lambda: "yes", fail):
        await conn.set_progress_handler(handler, 100)
        with pytest.raises(rapsqlite.OperationalError, match="interrupted") as caught:
            await conn.fetch_all(ENDLESS)
        assert isinstance(caught.value.__cause__, ZeroDivisionError) == (handler is fail)


@pytest.mark.parametrize("removal", [(None, 1), (fail, 0), (fail, -1)])
async def test_removed_progress_handler_is_not_called(conn: rapsqlite.Connection, removal: tuple[Any, int]) -> None:
    await conn.set_progress_handler(fail, 1)
    await conn.set_progress_handler(*removal)

    assert await conn.fetch_scalar(COUNT) == 4000
    assert held(conn) == 0


async def test_step_limit_holds_under_a_progress_handler() -> None:
    async with rapsqlite.connect(":memory:", limits={"statement_steps": 50_000}) as conn:
        await conn.set_progress_handler(lambda: 0, 10)
        with pytest.raises(rapsqlite.DataError, match="more than 50000 steps"):
            await conn.fetch_all(ENDLESS)


# -- trace -------------------------------------------------------------------------------------------


async def test_trace_gets_the_sql_that_sqlite3_traces(conn: rapsqlite.Connection) -> None:
    """With values filled in, as every supported sqlite3 does."""
    statements: list[tuple[str, tuple[Any, ...]]] = [
        ("INSERT INTO t VALUES (?, ?)", (1, "it's é")), ("SELECT :a, @b", (None, b"\0\xff")),
        ("SELECT a FROM t WHERE b = ?", (1.5,)), ("UPDATE t SET b = 'plain'", ()),
    ]  # fmt: skip
    theirs = sqlite3.connect(":memory:", isolation_level=None)
    theirs.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
    expected: list[str] = []
    found: list[str] = []
    theirs.set_trace_callback(expected.append)
    conn.isolation_level = None
    await conn.set_trace_callback(found.append)
    for sql, parameters in statements:
        if sql.startswith("SELECT :"):
            named = dict(zip("ab", parameters, strict=True))
            theirs.execute(sql, named).fetchall()
            await conn.fetch_all(sql, named)
        else:
            theirs.execute(sql, parameters).fetchall()
            await conn.fetch_all(sql, parameters)
    theirs.executescript("SELECT 1; SELECT 2;")
    await conn.executescript("SELECT 1; SELECT 2;")
    theirs.close()

    assert len(expected) == 6
    assert [sql.strip() for sql in found if sql != "COMMIT"] == [sql.strip() for sql in expected if sql != "COMMIT"]


async def test_trace_reports_transactions_and_triggers(conn: rapsqlite.Connection) -> None:
    await conn.executescript(
        "CREATE TABLE log (a); CREATE TRIGGER tr AFTER INSERT ON t BEGIN INSERT INTO log VALUES (new.a); END"
    )
    seen: list[str] = []
    await conn.set_trace_callback(seen.append)

    await conn.execute("INSERT INTO t VALUES (?, 2)", (1,))
    await conn.commit()
    await conn.set_trace_callback(None)
    await conn.fetch_all("SELECT 'not traced'")

    assert [sql.strip() for sql in seen[:2]] == ["BEGIN", "INSERT INTO t VALUES (1, 2)"]
    assert any(sql.startswith("--") for sql in seen)
    assert seen[-1] == "COMMIT"
    assert held(conn) == 0


async def test_trace_that_raises_is_logged_and_changes_nothing(
    conn: rapsqlite.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    await conn.set_trace_callback(fail)
    with caplog.at_level(logging.ERROR, logger="rapsqlite"):
        assert await conn.fetch_scalar("SELECT 1") == 1
        with pytest.raises(rapsqlite.OperationalError) as caught:
            await conn.fetch_scalar("SELECT abs(-9223372036854775808)")

    assert "ZeroDivisionError" in caplog.text
    assert caught.value.__cause__ is None


# -- update, commit, rollback ------------------------------------------------------------------------


async def test_update_hook_reports_each_row(conn: rapsqlite.Connection) -> None:
    seen: list[tuple[Any, ...]] = []
    await conn.set_update_hook(lambda *told: seen.append(told))

    await conn.executemany("INSERT INTO t VALUES (?, 0)", [(1,), (1 << 62,)])
    await conn.execute("UPDATE t SET b = 1 WHERE a = 1")
    await conn.execute("DELETE FROM t WHERE a = 1")

    insert, update, delete = sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE
    assert seen == [
        (insert, "main", "t", 1), (insert, "main", "t", 1 << 62), (update, "main", "t", 1), (delete, "main", "t", 1),
    ]  # fmt: skip


async def test_update_hook_that_raises_fails_the_statement(conn: rapsqlite.Connection) -> None:
    await conn.set_update_hook(fail)
    with pytest.raises(rapsqlite.OperationalError, match="update hook") as caught:
        await conn.execute("INSERT INTO t VALUES (1, 2)")

    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    await conn.set_update_hook(None)
    await conn.rollback()
    assert await conn.fetch_scalar("SELECT count(*) FROM t") == 0


async def test_commit_hook_allows_a_commit_or_turns_it_into_a_rollback(conn: rapsqlite.Connection) -> None:
    events: list[str] = []
    answers: list[Any] = [0, None, 1, fail]

    def on_commit() -> object:
        events.append("commit")
        answer = answers.pop(0)
        return answer() if callable(answer) else answer

    await conn.commit()
    await conn.set_commit_hook(on_commit)
    await conn.set_rollback_hook(lambda: events.append("rollback"))
    for key in range(2):
        await conn.execute("INSERT INTO t VALUES (?, 0)", (key,))
        await conn.commit()
    for cause in (type(None), ZeroDivisionError):
        await conn.execute("INSERT INTO t VALUES (9, 0)")
        with pytest.raises(rapsqlite.IntegrityError) as caught:
            await conn.commit()
        assert isinstance(caught.value.__cause__, cause)
        assert not conn.in_transaction

    assert events == ["commit", "commit", "commit", "rollback", "commit", "rollback"]
    assert await conn.fetch_all("SELECT a FROM t") == [[0], [1]]


async def test_rollback_hook_that_raises_is_logged(
    conn: rapsqlite.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    await conn.set_rollback_hook(fail)
    await conn.execute("INSERT INTO t VALUES (1, 2)")
    with caplog.at_level(logging.ERROR, logger="rapsqlite"):
        await conn.rollback()

    assert "ZeroDivisionError" in caplog.text
    assert not conn.in_transaction


# -- WAL, busy ---------------------------------------------------------------------------------------


async def test_wal_hook_gets_page_counts_and_checkpoints_continue(database: Path) -> None:
    seen: list[tuple[str, int]] = []
    async with rapsqlite.connect(database, isolation_level=None) as conn:
        await conn.fetch_all("PRAGMA journal_mode = WAL")
        await conn.fetch_all("PRAGMA wal_autocheckpoint = 20")
        await conn.set_wal_hook(lambda *told: seen.append(told))
        await conn.execute("CREATE TABLE t (a)")
        for _ in range(60):
            await conn.execute("INSERT INTO t VALUES (zeroblob(3000))")

        pages = [count for name, count in seen if name == "main"]
        assert len(pages) == 61
        assert max(pages) < 60  # a checkpoint restarts the log
        await conn.set_wal_hook(None)
        assert await conn.fetch_scalar("PRAGMA wal_autocheckpoint") == 20
        assert held(conn) == 0


async def test_wal_hook_that_raises_fails_a_committed_statement(database: Path) -> None:
    async with rapsqlite.connect(database, isolation_level=None) as conn:
        await conn.fetch_all("PRAGMA journal_mode = WAL")
        await conn.set_wal_hook(fail)
        with pytest.raises(rapsqlite.OperationalError) as caught:
            await conn.execute("CREATE TABLE t (a)")

        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert await conn.fetch_all("SELECT name FROM sqlite_schema") == [["t"]]


async def test_busy_handler_decides_how_often_to_retry(database: Path) -> None:
    other = sqlite3.connect(database, isolation_level=None)
    other.execute("CREATE TABLE t (a)")
    other.execute("BEGIN IMMEDIATE")
    attempts: list[int] = []

    def give_up_at_third(attempt: int) -> bool:
        attempts.append(attempt)
        return attempt < 2

    async with rapsqlite.connect(database, isolation_level=None) as conn:
        await conn.set_busy_handler(give_up_at_third)
        with pytest.raises(rapsqlite.OperationalError, match="locked"):
            await conn.execute("INSERT INTO t VALUES (1)")
        assert attempts == [0, 1, 2]

        await conn.set_busy_handler(fail)
        with pytest.raises(rapsqlite.OperationalError, match="locked") as caught:
            await conn.execute("INSERT INTO t VALUES (1)")
        assert isinstance(caught.value.__cause__, ZeroDivisionError)

        await conn.set_busy_handler(None)
        other.execute("COMMIT")
        await conn.execute("INSERT INTO t VALUES (1)")
    other.close()


# -- all ---------------------------------------------------------------------------------------------

SETTERS = ["authorizer", "trace_callback", "update_hook", "commit_hook", "rollback_hook", "wal_hook", "busy_handler"]


@pytest.mark.parametrize("name", SETTERS)
async def test_hook_can_be_replaced_and_must_be_callable(conn: rapsqlite.Connection, name: str) -> None:
    setter = getattr(conn, f"set_{name}")
    for _ in range(50):
        await setter(lambda *_: 0)
        assert held(conn) == 1
    with pytest.raises(TypeError):
        await setter("no function")
    await setter(None)

    assert held(conn) == 0


async def test_extensions_are_built_in_or_refused(conn: rapsqlite.Connection, tmp_path: Path) -> None:
    library = tmp_path / "native.so"
    library.write_bytes(b"\x7fELF")
    with pytest.raises(rapsqlite.OperationalError, match="not authorized"):
        await conn.load_extension("fts5")

    await conn.enable_load_extension(True)
    await conn.load_extension("fts5")
    with pytest.raises(rapsqlite.NotSupportedError, match="sandbox"):
        await conn.load_extension(str(library.with_suffix("")))
    with pytest.raises(rapsqlite.OperationalError, match="no extension"):
        await conn.load_extension("nothing of the kind")
    await conn.execute("CREATE VIRTUAL TABLE f USING fts5(x)")
