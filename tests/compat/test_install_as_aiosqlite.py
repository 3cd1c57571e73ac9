"""`install_as_aiosqlite` makes this package importable as aiosqlite, with the private attributes that programs use.

docs/compatibility.md names the programs; `scripts/drop_in_suites.sh` runs their own tests.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any, get_type_hints

import anyio
import pytest

import rapsqlite
from rapsqlite import aiosqlite
from tests.programs import run_python

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n"


@pytest.fixture
async def db() -> AsyncIterator[Any]:
    async with aiosqlite.connect(":memory:") as connection:
        await connection.execute("CREATE TABLE t (a)")
        yield connection


def test_every_way_of_importing_aiosqlite_finds_this_package() -> None:
    """This runs in a separate process, because the tests here also need aiosqlite itself."""
    done = run_python(
        "-c",
        "import rapsqlite, importlib.util\n"
        "rapsqlite.install_as_aiosqlite()\n"
        "rapsqlite.install_as_aiosqlite()\n"
        "import aiosqlite, aiosqlite.core, aiosqlite.cursor\n"
        "from aiosqlite.context import contextmanager\n"
        "assert importlib.util.find_spec('aiosqlite') is not None\n"
        "assert aiosqlite.core.Connection is aiosqlite.Connection\n"
        "assert issubclass(aiosqlite.Connection, rapsqlite.Connection)\n"
        "print(aiosqlite.__name__, aiosqlite.cursor.Cursor is rapsqlite.Cursor)\n",
    )

    assert (done.stdout, done.stderr) == ("rapsqlite.aiosqlite True\n", "")


def test_installing_after_aiosqlite_was_imported_is_refused() -> None:
    """Modules that imported aiosqlite hold its classes and may have connections."""
    done = run_python("-c", "import aiosqlite, rapsqlite; rapsqlite.install_as_aiosqlite()")

    assert "RuntimeError: aiosqlite has been imported already" in done.stderr


def test_module_has_every_public_name_of_aiosqlite() -> None:
    import aiosqlite as theirs

    assert set(theirs.__all__) <= set(aiosqlite.__all__)


async def test_leaving_async_with_does_not_commit(database: Path) -> None:
    async with aiosqlite.connect(database) as db:
        await db.execute("CREATE TABLE t (a)")
        await db.execute("INSERT INTO t VALUES (1)")

    async with aiosqlite.connect(database) as db:
        assert await db.execute_fetchall("SELECT * FROM t") == []


async def test_attributes_follow_the_life_of_the_connection() -> None:
    db = aiosqlite.connect(":memory:", iter_chunk_size=7)
    before = (db._connection, db._running, db._thread.is_alive(), db._iter_chunk_size)
    with pytest.raises(ValueError, match="no active connection"):
        _ = db._conn
    db._thread.daemon = True

    assert await db._connect() is db
    opened = (db._connection == db._conn, db._running, db._thread.is_alive(), db._thread.daemon)
    assert await db._connect() is db
    await db.close()
    db._thread.join(10)

    assert before == (None, True, False, 7)
    assert opened == (True, True, True, True)
    assert (db._connection, db._running, db._thread.is_alive()) == (None, False, False)
    with pytest.raises(ValueError, match="closed"):
        await db._execute(print)
    with pytest.raises(ValueError, match="no active connection"):
        await db.execute("SELECT 1")


async def test_function_uses_the_connection_blocking(db: Any) -> None:
    """As sqlspec does it: several statements in one call, off the event loop."""

    def insert(count: int, *, first: int) -> Any:
        conn = db._conn
        cursor = conn.cursor()
        cursor.executemany("INSERT INTO t VALUES (?)", [(first + number,) for number in range(count)])
        rowcount = cursor.rowcount
        with conn:
            conn.execute("DELETE FROM t WHERE a = ?", (first,))
        found = conn.execute("SELECT a FROM t ORDER BY a")
        return rowcount, found.fetchone(), list(found), conn.in_transaction, conn.total_changes

    assert await db._execute(insert, 3, first=5) == (3, (6,), [(7,)], False, 4)


async def test_blocking_block_rolls_back_after_an_exception(db: Any) -> None:
    def insert() -> None:
        with db._conn as conn:
            conn.executescript("BEGIN; INSERT INTO t VALUES (1);")
            conn.execute("nonsense")

    with pytest.raises(sqlite3.OperationalError, match="syntax error"):
        await db._execute(insert)

    assert await db.execute_fetchall("SELECT * FROM t") == []
    assert not db.in_transaction


async def test_functions_run_one_at_a_time_in_order_off_the_event_loop(db: Any) -> None:
    order: list[int] = []
    threads: set[Any] = set()

    def work(number: int) -> None:
        order.append(number)
        threads.add(threading.current_thread())
        db._conn.execute("INSERT INTO t VALUES (?)", (number,))
        order.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(db._execute, work, number)

    assert order[::2] == order[1::2]
    assert sorted(order[::2]) == list(range(5))
    assert threading.current_thread() not in threads
    assert db._tx.empty()


async def test_cancelled_function_is_interrupted_and_leaves_the_connection_usable(db: Any) -> None:
    started = threading.Event()
    ended = threading.Event()

    def endless() -> None:
        started.set()
        try:
            db._conn.execute(ENDLESS)
        finally:
            ended.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(db._execute, endless)
        await anyio.to_thread.run_sync(started.wait)
        tasks.cancel_scope.cancel()

    assert ended.is_set()
    assert await db._execute(lambda: db._conn.execute("SELECT 1").fetchone()) == (1,)


async def test_blocking_call_from_the_event_loop_is_answered(db: Any) -> None:
    """Programs that connect with ``check_same_thread=False`` make such calls."""
    db._conn.row_factory = sqlite3.Row
    db._conn.create_function("twice", 1, lambda value: value * 2)

    row = db._conn.execute("SELECT twice(21) AS answer").fetchone()

    assert row["answer"] == 42
    assert db.row_factory is sqlite3.Row


async def test_blocking_copies_reach_both_kinds_of_connection(db: Any) -> None:
    db._conn.execute("INSERT INTO t VALUES (1)")
    db._conn.commit()

    def copy() -> Any:
        with closing(sqlite3.connect(":memory:")) as native:
            db._conn.backup(native)
            return list(native.execute("SELECT * FROM t")), list(db._conn.iterdump())

    async with aiosqlite.connect(":memory:") as other:
        db._conn.backup(other._conn)

        assert await other.execute_fetchall("SELECT * FROM t") == [(1,)]
    rows, dump = await db._execute(copy)
    assert rows == [(1,)]
    assert 'INSERT INTO "t" VALUES(1);' in dump


async def test_cursor_has_its_blocking_counterpart(db: Any) -> None:
    """Programs pass ``cursor._cursor``'s methods to aiosqlite's private ``_execute``."""
    cursor = await db.execute("SELECT 1 UNION SELECT 2 UNION SELECT 3")

    first = await cursor._execute(cursor._cursor.fetchone)
    rest = [row async for row in cursor._fetch_chunked()]

    assert (first, rest) == ((1,), [(2,), (3,)])
    assert cursor._conn is db
    assert cursor._cursor.connection == db._conn
    assert cursor._cursor.rowcount == -1


async def test_exception_of_a_function_is_raised_in_the_caller(db: Any) -> None:
    def fail() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await db._execute(fail)


def test_queue_accepts_functions_with_and_without_a_future() -> None:
    """As SQLAlchemy's dialect does it; on asyncio only, because the futures are asyncio's."""

    async def main() -> Any:
        async with aiosqlite.connect(":memory:") as db:
            loop = asyncio.get_running_loop()
            good, bad = loop.create_future(), loop.create_future()
            db._tx.put_nowait((None, lambda: setattr(db._conn, "isolation_level", "IMMEDIATE")))
            db._tx.put_nowait((good, lambda: db._conn.isolation_level))
            db._tx.put_nowait((bad, lambda: db._conn.execute("nonsense")))
            return await asyncio.gather(good, bad, return_exceptions=True)

    level, error = asyncio.run(main())

    assert level == "IMMEDIATE"
    assert isinstance(error, sqlite3.OperationalError)


async def test_connection_can_be_made_from_a_function_that_connects(database: Path) -> None:
    """As zigpy does it: the connection takes over the file and the settings of the function's connection."""
    sqlite3.register_converter("twofold", lambda value: int(value) * 2)

    def connector() -> sqlite3.Connection:
        native = sqlite3.connect(
            str(database), isolation_level="IMMEDIATE", timeout=1.5, detect_types=sqlite3.PARSE_DECLTYPES
        )
        native.row_factory = sqlite3.Row
        return native

    async with aiosqlite.Connection(connector, iter_chunk_size=9) as db:
        await db.execute("CREATE TABLE t (a twofold)")
        await db.execute("INSERT INTO t VALUES (21)")
        row = await (await db.execute('SELECT a, 1 AS "b [twofold]" FROM t')).fetchone()
        await db.commit()
        found = (db.isolation_level, db.timeout, db.row_factory, db._iter_chunk_size)

    assert tuple(row) == (42, 1)
    assert row.keys() == ["a", "b [twofold]"]
    assert found == ("IMMEDIATE", 1.5, sqlite3.Row, 9)
    with closing(sqlite3.connect(database)) as native:
        assert list(native.execute("SELECT a FROM t")) == [(21,)]


@pytest.mark.parametrize("pragma", ["foreign_keys", "query_only", None])
async def test_connection_made_from_a_function_refuses_what_the_functions_connection_refuses(
    pragma: str | None, database: Path
) -> None:
    """A file opened read-only was written to, and foreign keys were not enforced."""
    with closing(sqlite3.connect(database)) as native:
        native.executescript("CREATE TABLE parent (id INTEGER PRIMARY KEY); CREATE TABLE t (a REFERENCES parent)")

    def connector() -> sqlite3.Connection:
        native = sqlite3.connect(f"{database.as_uri()}?mode={'rw' if pragma else 'ro'}", uri=True)
        if pragma:
            native.execute(f"PRAGMA {pragma} = ON")
        return native

    with closing(connector()) as native, pytest.raises(sqlite3.DatabaseError) as theirs:
        native.execute("INSERT INTO t VALUES (1)")
    async with aiosqlite.Connection(connector, 64) as db:
        with pytest.raises(theirs.type) as ours:
            await db.execute("INSERT INTO t VALUES (1)")

    assert str(ours.value) == str(theirs.value)


async def test_connection_can_be_made_from_a_function_while_another_writes(database: Path) -> None:
    """Whatever the transactions of the function's connection begin with."""
    with closing(sqlite3.connect(database, isolation_level="IMMEDIATE")) as writer:
        writer.execute("CREATE TABLE t (a)")
        writer.execute("INSERT INTO t VALUES (1)")
        async with aiosqlite.Connection(
            lambda: sqlite3.connect(database, isolation_level="IMMEDIATE", timeout=0), 64
        ) as db:
            assert await db.execute_fetchall("SELECT * FROM t") == []


async def test_function_that_raises_leaves_no_thread_running() -> None:
    def connector() -> sqlite3.Connection:
        raise LookupError("no database")

    db = aiosqlite.Connection(connector, 64)

    with pytest.raises(LookupError, match="no database"):
        await db
    assert not db._running
    await db.close()


async def test_function_whose_in_memory_database_has_tables_is_refused() -> None:
    """Its content would be lost."""

    def connector() -> sqlite3.Connection:
        native = sqlite3.connect(":memory:")
        native.execute("CREATE TABLE t (a)")
        return native

    with pytest.raises(rapsqlite.NotSupportedError, match="in-memory database has tables"):
        await aiosqlite.Connection(connector, 64)


async def test_factory_of_sqlite3_is_the_default_and_a_subclass_of_it_is_refused() -> None:
    class Theirs(sqlite3.Connection):
        pass

    class Ours(rapsqlite.Connection):
        pass

    async with aiosqlite.connect(":memory:", factory=sqlite3.Connection) as db:
        assert type(db) is aiosqlite.Connection
    async with aiosqlite.connect(":memory:", factory=Ours) as db:
        assert isinstance(db, Ours)
    with pytest.raises(rapsqlite.NotSupportedError, match=r"subclass of rapsqlite\.Connection; Theirs is sqlite3's"):
        aiosqlite.connect(":memory:", factory=Theirs)


async def test_no_thread_is_left_after_the_functions_have_run(db: Any) -> None:
    await db._execute(lambda: db._conn.execute("SELECT 1").fetchall())

    for thread in threading.enumerate():
        if thread.name == "rapsqlite worker":
            thread.join(10)
    assert not [thread for thread in threading.enumerate() if thread.name == "rapsqlite worker"]


async def test_function_is_part_of_the_transaction_of_its_task(db: Any) -> None:
    """Its statements come from another thread, and would otherwise wait for the block, which waits for them."""
    with pytest.raises(KeyError):  # noqa: PT012 - the block is what is undone
        async with db.transaction(), db.savepoint():
            await db._execute(lambda: db._conn.execute("INSERT INTO t VALUES (1)"))
            assert await db.fetch_scalar("SELECT count(*) FROM t") == 1
            raise KeyError

    assert await db.execute_fetchall("SELECT * FROM t") == []


def test_except_clauses_catch_the_errors_of_sqlite3_as_well() -> None:
    """In aiosqlite they are the same classes: programs use both modules, and their tests raise sqlite3's."""
    import aiosqlite as theirs

    for name in set(theirs.__all__) & set(rapsqlite.errors.__all__):
        assert getattr(aiosqlite, name) is getattr(sqlite3, name)
        assert issubclass(getattr(rapsqlite, name), getattr(aiosqlite, name))


def test_install_replaces_an_import_that_was_blocked() -> None:
    """``sys.modules["aiosqlite"] = None`` makes ``import aiosqlite`` fail: no module of that name has been imported."""
    done = run_python(
        "-c",
        "import sys, rapsqlite\nsys.modules['aiosqlite'] = None\n"
        "rapsqlite.install_as_aiosqlite()\nimport aiosqlite\nprint(aiosqlite.__name__)",
    )

    assert (done.stdout, done.stderr) == ("rapsqlite.aiosqlite\n", "")


def test_install_may_run_in_many_threads_at_once() -> None:
    done = run_python(
        "-c",
        "import threading, rapsqlite\n"
        "threads = [threading.Thread(target=rapsqlite.install_as_aiosqlite) for _ in range(8)]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]\n"
        "import aiosqlite.core\nprint(aiosqlite.core.Connection is aiosqlite.Connection)",
    )

    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.parametrize("function", [aiosqlite.connect, aiosqlite.Connection.__init__, aiosqlite.core.connect])
def test_annotations_of_connect_can_be_evaluated(function: Any) -> None:
    """Frameworks that inject dependencies evaluate them."""
    hints = get_type_hints(function)

    assert set(hints) >= {"iter_chunk_size", "loop", "return"}


def test_core_has_the_names_that_programs_replace() -> None:
    """They make aiosqlite's threads daemons, or stop them; here threads are daemons and end with their connections."""
    core: Any = aiosqlite.core

    assert core.Thread is threading.Thread
    assert core._STOP_RUNNING_SENTINEL is not None


async def test_insert_and_fetchall_have_their_blocking_counterparts(db: Any) -> None:
    rowid = await db._execute(db._execute_insert, "INSERT INTO t VALUES (?)", (5,))
    rows = await db._execute(db._execute_fetchall, "SELECT a FROM t", ())

    assert (rowid, rows) == ((1,), [(5,)])


async def test_callback_that_blocks_on_its_connection_is_refused(db: Any) -> None:
    """The connection is busy until the callback returns, so the callback would wait for itself."""
    refusals: list[rapsqlite.ProgrammingError] = []

    def callback() -> int:
        with pytest.raises(rapsqlite.ProgrammingError, match="a callback cannot use the connection") as refused:
            db._conn.execute("SELECT 1")
        refusals.append(refused.value)
        return 1

    await db.create_function("callback", 0, callback)

    assert await db.execute_fetchall("SELECT callback()") == [(1,)]
    assert await db._execute(lambda: db._conn.execute("SELECT callback()").fetchone()) == (1,)
    assert len(refusals) == 2


async def test_function_that_waits_for_another_one_is_refused(db: Any) -> None:
    """They run one at a time, so it would wait for itself."""

    def outer() -> None:
        asyncio.run(db._execute(print))

    with pytest.raises(rapsqlite.ProgrammingError, match="would wait for itself"):
        await db._execute(outer)
    assert await db.execute_fetchall("SELECT 1") == [(1,)]


def test_future_of_a_closed_loop_does_not_end_the_worker() -> None:
    """Nobody waits for it; the functions queued behind it are called."""

    async def main() -> int:
        closed = asyncio.new_event_loop()
        future = closed.create_future()
        closed.close()
        async with aiosqlite.connect(":memory:") as db:
            db._tx.put_nowait((future, lambda: 1))
            return int(await db._execute(lambda: 2))

    assert asyncio.run(main()) == 2


async def test_close_comes_after_the_functions_in_the_queue(database: Path) -> None:
    """As in aiosqlite, where closing is one of them."""
    db = await aiosqlite.connect(database, isolation_level=None)
    await db.execute("CREATE TABLE t (a)")
    is_running, may_go_on = threading.Event(), threading.Event()

    def insert(number: int) -> None:
        is_running.set()
        assert may_go_on.wait(10)
        db._conn.execute("INSERT INTO t VALUES (?)", (number,))

    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(db._execute, insert, number)
        await anyio.to_thread.run_sync(is_running.wait)
        tasks.start_soon(db.close)
        await anyio.lowlevel.checkpoint()
        may_go_on.set()

    with closing(sqlite3.connect(database)) as native:
        assert list(native.execute("SELECT count(*) FROM t")) == [(3,)]


async def test_function_may_close_its_connection(db: Any) -> None:
    await db._execute(db._conn.close)

    assert not db._running


async def test_close_inside_a_block_does_not_wait_for_functions_that_wait_for_the_block(db: Any) -> None:
    """Each would wait for the other."""
    is_running, may_go_on = threading.Event(), threading.Event()

    def insert() -> None:
        is_running.set()
        assert may_go_on.wait(10)
        with pytest.raises(ValueError, match="closed"):
            db._conn.execute("INSERT INTO t VALUES (1)")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(db._execute, insert)
        await anyio.to_thread.run_sync(is_running.wait)
        with pytest.raises(rapsqlite.ClosedError):  # noqa: PT012 - the block cannot commit any more
            async with db.transaction():
                may_go_on.set()
                await db.close()
