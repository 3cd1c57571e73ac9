"""Connections that can no longer be closed: their thread ends, their descriptors and locks are released.

Each program runs in a separate process, where it may close event loops, turn warnings into errors, and count.
"""

from __future__ import annotations

import operator
import textwrap
from typing import TYPE_CHECKING

import pytest

import rapsqlite
from tests.programs import run_python

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import asyncio, gc, os, sqlite3, sys, threading, time, warnings
import trio
import rapsqlite

ENDLESS = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
path = sys.argv[1]

async def writing():
    # A connection that holds the write lock.
    conn = await rapsqlite.connect(path)
    await conn.execute("INSERT INTO t VALUES ('not committed')")
    return conn

def old_loop():
    # A loop without asyncio.run's clean-up.
    return asyncio.new_event_loop()

def drive(coroutine):
    # Run a coroutine without an event loop, as a program does that no longer has one.
    try:
        coroutine.send(None)
    except (RuntimeError, StopIteration):
        pass
    coroutine.close()

def guests():
    return [thread for thread in threading.enumerate() if thread.name.startswith("rapsqlite")]

def descriptors():
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0

with sqlite3.connect(path) as native:
    native.execute("CREATE TABLE t (v)")
native.close()

async def once():
    async with rapsqlite.connect(path) as conn:  # what the first connection of a process opens for good
        await conn.fetch_all("SELECT * FROM t")

asyncio.run(once())
before = descriptors()

def main():
{body}

main()
for _ in range(3):
    gc.collect()
for thread in guests():
    thread.join(5)
assert not guests(), guests()
native = sqlite3.connect(path, timeout=0)
native.execute("BEGIN EXCLUSIVE")
assert native.execute("SELECT count(*) FROM t").fetchone() == (0,)
native.close()
gc.collect()
assert descriptors() <= before, (descriptors(), before)
print("nothing is left")
"""

IN_FLIGHT = """
    loop = old_loop()
    conn = loop.run_until_complete(writing())
    {start}
    loop.run_until_complete(asyncio.sleep(0.05))
    loop.close()
"""

CASES = {
    "closed by another loop than that which has ended": """
        conn = asyncio.run(writing())
        asyncio.run(conn.close())
    """,
    "closed by Trio after asyncio has ended": """
        conn = asyncio.run(writing())
        trio.run(conn.close)
    """,
    "closed by asyncio after Trio has ended": """
        conn = trio.run(writing)
        asyncio.run(conn.close())
    """,
    "closed without a loop": """
        conn = asyncio.run(writing())
        drive(conn.close())
        assert not conn.is_alive()
        gc.collect()
        for thread in guests():
            thread.join(5)
        assert not guests()
    """,
    "left without a loop": """
        conn = asyncio.run(writing())
        drive(conn.__aexit__(None, None, None))
        for thread in guests():
            thread.join(5)
        assert not guests()
    """,
    "dropped after its loop": """
        conn = asyncio.run(writing())
        del conn
    """,
    "dropped with a block that no loop leaves": """
        async def block():
            async with rapsqlite.connect(path) as conn:
                await conn.execute("INSERT INTO t VALUES ('not committed')")
                await asyncio.sleep(60)

        loop = old_loop()
        task = loop.create_task(block())
        loop.run_until_complete(asyncio.sleep(0.2))
        loop.close()
        del task, loop
    """,
    "dropped with a transaction block that no loop leaves": """
        async def block(conn):
            async with conn.transaction("IMMEDIATE"):
                await asyncio.sleep(60)

        loop = old_loop()
        conn = loop.run_until_complete(rapsqlite.connect(path)._open())
        task = loop.create_task(block(conn))
        loop.run_until_complete(asyncio.sleep(0.2))
        loop.close()
        del task, loop, conn
    """,
    "a closing that no loop carries on": IN_FLIGHT.format(
        start="tasks = [loop.create_task(conn.fetch_all(ENDLESS)), loop.create_task(conn.close())]"
    )
    + """
    del tasks, conn, loop
    """,
    "a closed loop's request before the closing": IN_FLIGHT.format(
        start="task = loop.create_task(conn.fetch_all(ENDLESS))"
    )
    + """
    asyncio.run(asyncio.wait_for(conn.close(), 30))
    """,
    "a closed loop's request before a request of Trio": IN_FLIGHT.format(
        start="task = loop.create_task(conn.fetch_all(ENDLESS))"
    )
    + """
    async def use():
        with trio.fail_after(30):
            assert await conn.fetch_scalar("SELECT 42") == 42
            await conn.close()
    trio.run(use)
    """,
}
REQUESTS = {
    "a statement": "conn.execute(ENDLESS)",
    "a whole result": "conn.fetch_all(ENDLESS)",
    "a cancelled statement": "cancelled(conn)",
    "an iterator": "iterate(conn)",
    "a cursor": "move_on(conn)",
    "a blob": "read_blob(conn)",
    "a session": "record(conn)",
    "a prepared statement": "conn.prepare(ENDLESS).fetch_all()",
    "an executemany": "conn.executemany('INSERT INTO t VALUES (?)', endless_rows())",
    "a backup": "back_up(conn)",
    "a copy": "copy(conn)",
    "a turn": "wait_for_turn(conn)",
    "an answer nobody took": "conn.fetch_all('SELECT 1')",
}
HELPERS = """
    async def cancelled(conn):
        task = asyncio.current_task()
        asyncio.get_running_loop().call_later(0.01, task.cancel)
        conn._state.guest.host.callbacks  # its answer is never waited for: the loop is closed at once
        await conn.fetch_all(ENDLESS)

    async def iterate(conn):
        async for _ in conn.stream("SELECT 1 FROM t UNION ALL " + ENDLESS):
            pass

    async def move_on(conn):
        cursor = await conn.execute("SELECT 1 UNION ALL SELECT * FROM (" + ENDLESS + ")")
        await cursor.fetchall()

    async def read_blob(conn):
        await conn.execute("CREATE TEMP TABLE b (v)")
        row = (await conn.execute("INSERT INTO b VALUES (zeroblob(1000000))")).lastrowid
        blob = await conn.blobopen("b", "v", row, name="temp")
        await asyncio.gather(conn.fetch_all(ENDLESS), blob.read())

    async def record(conn):
        session = await conn.session()
        await asyncio.gather(conn.fetch_all(ENDLESS), session.changeset())

    def endless_rows():
        while True:
            yield (1,)

    async def back_up(conn):
        target = await rapsqlite.connect(":memory:")
        await asyncio.gather(conn.fetch_all(ENDLESS), conn.backup(target))

    async def copy(conn):
        await conn.rollback()
        await asyncio.gather(conn.serialize(), conn.fetch_all(ENDLESS))

    async def wait_for_turn(conn):
        async def inside():
            async with conn.transaction():
                await conn.fetch_all(ENDLESS)
        await conn.rollback()
        await asyncio.gather(inside(), inside())

    def in_flight(start, spin):
        loop = old_loop()
        conn = loop.run_until_complete(writing())
        task = loop.create_task(_awaiting(start(conn)))
        loop.run_until_complete(asyncio.sleep(spin))
        loop.close()

    async def _awaiting(operation):
        await operation
"""


def run(body: str, database: Path, *options: str) -> str:
    """Run a program and return its standard error; the program reports at the end that nothing is left."""
    text = PROGRAM.replace("{body}", textwrap.indent(textwrap.dedent(body), "    "))
    done = run_python(*options, "-c", text, database)
    assert done.stdout == "nothing is left\n", done.stderr
    return done.stderr


@pytest.mark.parametrize("name", CASES)
def test_abandoned_connection_leaves_nothing(name: str, database: Path) -> None:
    run(CASES[name], database)


@pytest.mark.parametrize("name", REQUESTS)
def test_loop_closed_with_a_request_in_flight_leaves_nothing(name: str, database: Path) -> None:
    """The guest's thread must not keep the task alive, and with it its connection."""
    spin = 0 if name == "an answer nobody took" else 0.1
    run(f"{HELPERS}\n    in_flight(lambda conn: {REQUESTS[name]}, {spin})", database)


KEPT = {"its connection": "conn", "its event loop": "asyncio.get_running_loop()"}
SENT = {
    "waited for": "await conn.fetch_all(ENDLESS)",
    "held back": "asyncio.ensure_future(inside(conn)); await asyncio.sleep(0.02); await conn.fetch_all('SELECT 1')",
    "sent ahead": "await conn.executemany('INSERT INTO t SELECT ? WHERE 0', endless_rows())",
}


@pytest.mark.parametrize("sent", SENT)
@pytest.mark.parametrize("name", KEPT)
def test_context_variables_of_a_closed_loops_request_are_collected(name: str, sent: str, database: Path) -> None:
    """Callbacks run in a copy of the task's context, which may refer to all that must be collected."""
    run(
        f"""
        import contextvars
        variable = contextvars.ContextVar("variable")

        async def inside(conn):
            async with conn.transaction():
                await conn.fetch_all(ENDLESS)

        def endless_rows():
            while True:
                yield (1,)

        async def request(conn):
            variable.set({KEPT[name]})
            {SENT[sent]}

        loop = old_loop()
        conn = loop.run_until_complete(rapsqlite.connect(path, isolation_level=None)._open())
        loop.run_until_complete(conn.create_function("f", 0, lambda: 1))
        task = loop.create_task(request(conn))
        loop.run_until_complete(asyncio.sleep(0.1))
        loop.close()
        """,
        database,
    )


CALLBACKS = {
    "a function": ("await conn.create_function('f', 1, lambda _: conn.in_transaction)", "SELECT f(1)"),
    "a function that many rows call": (
        "await conn.create_function('f', 1, lambda _: conn.in_transaction)",
        "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 500) SELECT f(i) FROM n",
    ),
    "a method of an owner": ("await conn.create_function('f', 1, Owner(conn).method)", "SELECT f(1)"),
    "an object that is called": ("await conn.create_function('f', 1, Callable(conn))", "SELECT f(1)"),
    "a function that raised": ("await conn.create_function('f', 1, lambda _: conn / 1)", "SELECT f(1)"),
    "an aggregate": ("await conn.create_aggregate('f', 1, lambda: Aggregate(conn))", "SELECT f(1)"),
    "an aggregate with rows left": (
        "await conn.create_window_function('f', 1, lambda: Aggregate(conn))",
        "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 3000)"
        " SELECT f(i) OVER (ORDER BY i ROWS 2 PRECEDING) FROM n",
    ),
    "a collation": (
        "await conn.create_collation('f', lambda a, b: conn.in_transaction)",
        "SELECT v FROM t UNION SELECT 'a' UNION SELECT 'b' ORDER BY 1 COLLATE f",
    ),
    "an authorizer": ("await conn.set_authorizer(lambda *_: 0 if conn else 1)", "SELECT 1"),
    "a progress handler": ("await conn.set_progress_handler(lambda: conn.in_transaction and 0, 1)", "SELECT 1"),
    "a trace callback": ("await conn.set_trace_callback(lambda _: conn.in_transaction)", "SELECT 1"),
    "an update hook": ("await conn.set_update_hook(lambda *_: conn.in_transaction)", "INSERT INTO t VALUES (1)"),
    "a preupdate hook": ("await conn.set_preupdate_hook(lambda *_: conn.in_transaction)", "INSERT INTO t VALUES (1)"),
    "a commit hook": ("await conn.set_commit_hook(lambda: conn.in_transaction and 0)", "SELECT 1"),
    "a rollback hook": ("await conn.set_rollback_hook(lambda: conn.in_transaction)", "INSERT INTO t VALUES (1)"),
    "a WAL hook": ("await conn.set_wal_hook(lambda *_: conn.in_transaction)", "SELECT 1"),
    "a busy handler": ("await conn.set_busy_handler(lambda _: conn.in_transaction)", "SELECT 1"),
    "reports of slow statements": ("conn.set_slow_query_threshold(0, lambda *_: conn.in_transaction)", "SELECT 1"),
    "a converter": ("conn.register_converter('x', lambda _: conn)", "SELECT 1"),
    "a row factory": ("conn.row_factory = lambda *_: conn", "SELECT 1"),
}
REGISTERED = """
    class Owner:
        def __init__(self, conn):
            self.conn = conn
        def method(self, _):
            return self.conn.in_transaction

    class Callable:
        __slots__ = ("conn",)
        def __init__(self, conn):
            self.conn = conn
        def __call__(self, _):
            return self.conn.in_transaction
        def __len__(self):
            return 0

    class Aggregate(Owner):
        def step(self, _):
            pass
        def inverse(self, _):
            pass
        def value(self):
            return 0
        finalize = value

    async def use():
        conn = await rapsqlite.connect(path)
        await conn.execute("INSERT INTO t VALUES ('not committed')")
        {register}
        try:
            cursor = await conn.execute({sql!r})
            await cursor.fetchone()
        except rapsqlite.OperationalError:
            pass

    {runner}.run({argument})
    assert guests()
    conn = None
"""


@pytest.mark.parametrize("runner, argument", [("asyncio", "use()"), ("trio", "use")])
@pytest.mark.parametrize("name", CALLBACKS)
def test_connection_in_a_cycle_with_its_own_callback_is_collected(
    name: str, runner: str, argument: str, database: Path
) -> None:
    """Like any object in a cycle: the guest's thread lives on, but must not keep the callback alive."""
    register, sql = CALLBACKS[name]
    run(REGISTERED.format(register=register, sql=sql, runner=runner, argument=argument), database)


async def test_callable_objects_of_every_kind_are_called(database: Path) -> None:
    """Some objects cannot be weakly referenced, and some are false."""

    class Odd:
        __slots__ = ()

        def __call__(self, value: int) -> int:
            return value + 1

        def __len__(self) -> int:
            return 0

    async with rapsqlite.connect(database) as conn:
        await conn.create_function("odd", 1, Odd())
        await conn.create_function("upper", 1, str.upper)
        await conn.create_function("item", 1, operator.itemgetter(0))
        await conn.create_function("length", 1, len)
        sql = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 200)"
        rows = await conn.fetch_all(f"{sql} SELECT odd(i), upper('a'), item('bc'), length('abc') FROM n")
        assert rows == [[i + 1, "A", "b", 3] for i in range(1, 201)]


COPY_STEPS = {
    "makes its directory": ("private_directory.DirectoryLock", "acquire_new"),
    "reads the copy": ("image.Image", "existing"),
    "removes its directory": ("shutil", "rmtree"),
}


@pytest.mark.parametrize("name", COPY_STEPS)
def test_loop_closed_during_a_copy_leaves_nothing(name: str, database: Path) -> None:
    """The thread outlives the loop: it must not keep the loop alive, and what it created is removed."""
    owner, attribute = COPY_STEPS[name]
    run(
        f"""
        import shutil, tempfile
        from rapsqlite._client import image, private_directory
        os.environ["SQLITE_TMPDIR"] = folder = tempfile.mkdtemp(dir=os.path.dirname(path))
        reached, released = threading.Event(), threading.Event()
        original = {owner}.{attribute}

        def hang(*args, **options):
            reached.set()
            released.wait()
            return original(*args, **options)

        loop = old_loop()
        conn = loop.run_until_complete(rapsqlite.connect(path)._open())
        {owner}.{attribute} = hang
        task = loop.create_task(conn.serialize())
        while not reached.is_set():
            loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        del loop, task, conn
        gc.collect()
        for guest in guests():
            if guest.name != "rapsqlite copy":
                guest.join(5)
                assert not guest.is_alive()
        released.set()
        for copying in guests():
            copying.join(5)
        assert os.listdir(folder) == [], os.listdir(folder)
        """,
        database,
    )


def test_connection_is_stopped_even_if_its_warning_is_an_error(database: Path) -> None:
    errors = run(CASES["dropped after its loop"], database, "-W", "error::ResourceWarning")

    assert "was deleted before being closed" in errors


EXITS = {
    "a statement": "await conn.fetch_all(ENDLESS)",
    "a cursor": "await (await conn.execute('SELECT 1 UNION ALL SELECT * FROM (' + ENDLESS + ')')).fetchall()",
    "a transaction": "async with conn.transaction(): await asyncio.sleep(60)",
    "a savepoint": "async with conn.savepoint(): await asyncio.sleep(60)",
    "a connection": "async with rapsqlite.connect(path) as other: await asyncio.sleep(60)",
    "a blob": "async with conn.blobopen('b', 'v', 1): await asyncio.sleep(60)",
    "a session": "async with conn.session(): await asyncio.sleep(60)",
    "an iterator": "async for _ in conn.stream('SELECT 1 UNION ALL SELECT 2'): await asyncio.sleep(60)",
    "a backup": "await conn.backup(await rapsqlite.connect(':memory:'), pages=1, progress=wait)",
}
EXIT = """
import asyncio, sys, time
import rapsqlite

ENDLESS = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
path = sys.argv[1]

def wait(*_):
    time.sleep(0.05)

async def use():
    {body}

async def main():
    global conn, task
    conn = await rapsqlite.connect(path, isolation_level=None)
    await conn.execute("CREATE TABLE b (v)")
    await conn.execute("INSERT INTO b VALUES (zeroblob(100000))")
    task = loop.create_task(use())
    await asyncio.sleep(0.1)

loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
loop.run_until_complete(main())
{end}
"""


@pytest.mark.parametrize("end", ["", "loop.close()", "del conn, task", "loop.close(); del loop, conn, task"])
@pytest.mark.parametrize("name", EXITS)
def test_interpreter_exits_quietly_with_a_task_pending(name: str, end: str, database: Path) -> None:
    """Finalizers that run at the very end find neither modules nor an event loop."""
    text = EXIT.replace("{body}", EXITS[name]).replace("{end}", end)
    done = run_python("-c", text, database)

    assert done.returncode == 0, done.stderr
    # asyncio reports that the task was pending.
    for words in ("Exception ignored", "Traceback", "never awaited", "Fatal"):
        assert words not in done.stderr, done.stderr


def test_connection_is_stopped_after_its_module_was_emptied(database: Path) -> None:
    """At the end of a free-threaded interpreter modules are emptied before the last objects are finalized."""
    run(
        """
        conn = asyncio.run(writing())
        module = sys.modules["rapsqlite.connection"]
        for name in ("warnings", "CLOSED", "NOT_CONNECTED", "sys"):
            setattr(module, name, None)
        unraisable = []
        sys.unraisablehook = unraisable.append
        del conn
        gc.collect()
        assert not unraisable, unraisable
        """,
        database,
    )


HELD = {
    "by one who asks what runs": ("host.is_asleep", "queue.running"),
    "by a guest that rings": ("waiting_loops", "queue.ring"),
    "by one who cancels": ("queue._cancel", "lambda: queue.cancel(request)"),
}


@pytest.mark.parametrize("name", HELD)
def test_connection_dropped_while_the_guests_lock_is_held_is_stopped(name: str, database: Path) -> None:
    """A finalizer does not wait for the guest's lock: its holder sends what was posted meanwhile."""
    step, call = HELD[name]
    owner, _, attribute = step.rpartition(".")
    run(
        f"""
        from rapsqlite._guest import request_queue as _queue
        from rapsqlite._wasm.rings import Request

        conn = asyncio.run(writing())
        queue = conn._state.guest._queue
        host = queue.host
        request = _queue.PendingRequest(queue, None, Request(0))
        entered, may_go_on = threading.Event(), threading.Event()
        owner = {owner or "_queue"}
        original = getattr(owner, {attribute!r})

        def held(*args, **options):
            entered.set()
            may_go_on.wait()
            return original(*args, **options)

        setattr(owner, {attribute!r}, held)
        thread = threading.Thread(target={call})
        thread.start()
        entered.wait()
        setattr(owner, {attribute!r}, original)
        del conn
        may_go_on.set()
        thread.join()
        for guest in guests():
            guest.join(5)
        assert not guests()
        """,
        database,
    )
