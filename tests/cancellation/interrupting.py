"""Raises KeyboardInterrupt wherever CPython may raise it while this package's code runs, one place after another.

CPython runs signal handlers when a function is entered, after a call, and before a jump backwards, and nowhere else.
Here a trace function finds these places in the code of the package; at the n-th it raises, as the handler of SIGINT
would. Then the other tasks must get their answers, the connection must answer or say that it is closed, the file must
hold what was reported and no lock, and all of that at once.

    python -m tests.cancellation.interrupting asyncio|uvloop|trio SCENARIO FIRST STEP DATABASE [LAST]
"""

from __future__ import annotations

import asyncio
import dis
import faulthandler
import gc
import os
import sqlite3
import sys
import time
import warnings
from contextlib import closing
from typing import TYPE_CHECKING, Any

import anyio
import trio
from trio._core._ki import ki_protection_enabled

import rapsqlite
from rapsqlite._guest import polling, request_queue
from tests.played_time import let_guests_answer_late
from tests.programs import compile_engine, loop_maker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PACKAGE = os.path.dirname(rapsqlite.__file__)
NUMBERS = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n LIMIT 600)"
ROWS = f"{NUMBERS} SELECT i, printf('%400d', i) FROM n"
ENDLESS = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
AT_ONCE_S = 15  # less than a guest has to answer before it is killed
HANGS_S = 20
_CHECKED_AFTER = ("CALL", "JUMP_BACKWARD", "JUMP_ABSOLUTE", "POP_JUMP_BACKWARD")
_NOT_CHECKED = ("CALL_INTRINSIC", "JUMP_BACKWARD_NO_INTERRUPT")
# CPython 3.10 does not check for signals if one of these comes next.
_NOT_CHECKED_BEFORE = ("SETUP_FINALLY", "SETUP_WITH", "BEFORE_ASYNC_WITH", "YIELD_FROM")


class Interrupter:
    """Raises at the n-th place."""

    def __init__(
        self, place: int, is_protected: Callable[[Any], bool] = lambda _frame: False, within: str = PACKAGE
    ) -> None:
        self._is_protected = is_protected
        self._within = within  # how the path of a file begins in whose code it raises
        self._left = place
        self._checking: dict[Any, int] = {}  # by frame: the instruction after which CPython looks for signals
        self.where = ""

    def __enter__(self) -> Interrupter:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        self._checking.clear()

    def _trace(self, frame: Any, event: str, _argument: object) -> Any:
        if event == "call":
            if not frame.f_code.co_filename.startswith(self._within):
                return None
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
            self._checking[frame] = -1
            if _is_entry(frame):
                self._pass(frame)
        elif event == "opcode":
            name = dis.opname[_bytes_of(frame.f_code)[frame.f_lasti]]
            if self._is_checked_before(frame, name):
                self._pass(frame)
            is_checking = name.startswith(_CHECKED_AFTER) and not name.startswith(_NOT_CHECKED)
            self._checking[frame] = frame.f_lasti if is_checking else -1
        elif event == "return":
            self._checking.pop(frame, None)
        return self._trace

    def _is_checked_before(self, frame: Any, name: str) -> bool:
        checking = self._checking.get(frame, -1)
        if checking < 0 or name in _NOT_CHECKED_BEFORE:
            return False
        if "JUMP" in dis.opname[_bytes_of(frame.f_code)[checking]] and frame.f_lasti > checking:
            return False  # there was no jump
        # An exception of CPython belongs to the instruction before; one raised here, to this one.
        return _handler(frame.f_code, checking) == _handler(frame.f_code, frame.f_lasti)

    def _pass(self, frame: Any) -> None:
        if self._left == 0 and not self._is_protected(frame):
            self.where = f"{os.path.relpath(frame.f_code.co_filename, PACKAGE)}:{frame.f_lineno} {frame.f_code.co_name}"
            sys.settrace(None)
            self._left = -1
            self._checking.clear()  # it keeps frames, and with them what should be collected
            raise KeyboardInterrupt
        self._left -= self._left > 0


_codes: dict[Any, bytes] = {}


def _bytes_of(code: Any) -> bytes:
    found = _codes.get(code)
    if found is None:
        found = _codes[code] = code.co_code
    return found


def _is_entry(frame: Any) -> bool:
    """Return whether a frame begins: CPython does not check for signals where one resumes after an ``await``."""
    if sys.version_info < (3, 11):
        return bool(frame.f_lasti <= 0)
    code = _bytes_of(frame.f_code)
    return dis.opname[code[frame.f_lasti]] != "RESUME" or code[frame.f_lasti + 1] < 2


_handlers: dict[Any, list[Any]] = {}


def _handler(code: Any, offset: int) -> int:
    """Return where an exception of the instruction at ``offset`` is handled; CPython 3.10 decides that as it runs."""
    if sys.version_info < (3, 11):
        return 0
    table = _handlers.get(code)
    if table is None:
        table = _handlers[code] = dis._parse_exception_table(code)  # type: ignore[attr-defined, unused-ignore]
    return next((entry.target for entry in table if entry.start <= offset < entry.end), 0)


# -- what is interrupted ---------------------------------------------------------------------------


async def fetch(conn: rapsqlite.Connection) -> None:
    assert await conn.fetch_scalar("SELECT 1") == 1
    assert await conn.fetch_scalar("SELECT 2") == 2


async def insert(conn: rapsqlite.Connection) -> None:
    conn.isolation_level = ""
    await conn.execute("INSERT INTO t VALUES (1)")
    await conn.commit()


async def watched(conn: rapsqlite.Connection) -> None:
    """An INSERT whose guest calls the host, so that it is published and its reply watched for without the GIL."""
    for owner, name, answer in (
        (request_queue, "may_spin", True),
        (request_queue, "is_crowded", False),
        (polling.Polling, "may_start", True),
        (polling.Polling, "should_watch", True),
    ):
        setattr(owner, name, lambda *_, answer=answer: answer)
    await conn.fetch_scalar("SELECT 1")
    await conn.execute("INSERT INTO t VALUES (1)")


async def rows(conn: rapsqlite.Connection) -> None:
    found = await conn.fetch_all(ROWS)
    assert [row[0] for row in found] == list(range(1, 601))


async def cursor(conn: rapsqlite.Connection) -> None:
    async with conn.execute(ROWS) as numbers:
        assert [row[0] async for row in numbers] == list(range(1, 601))


async def half_a_cursor(conn: rapsqlite.Connection) -> None:
    async with conn.execute("SELECT * FROM many") as numbers:
        assert await numbers.fetchone() == (1,)


async def prepared(conn: rapsqlite.Connection) -> None:
    async with conn.prepare("SELECT ?") as statement:
        assert await statement.fetch_scalar([1]) == 1


async def transaction(conn: rapsqlite.Connection) -> None:
    async with conn.transaction(timeout=HANGS_S):
        await conn.execute("INSERT INTO t VALUES (1)")


async def an_empty_transaction(conn: rapsqlite.Connection) -> None:
    async with conn.transaction("IMMEDIATE"):
        pass


async def savepoint(conn: rapsqlite.Connection) -> None:
    async with conn.savepoint():
        await conn.execute("INSERT INTO t VALUES (1)")


async def executemany(conn: rapsqlite.Connection) -> None:
    async with conn.transaction():
        await conn.executemany("INSERT INTO t VALUES (?)", [(1,)])


async def blob(conn: rapsqlite.Connection) -> None:
    async with conn.blobopen("b", "v", 1, readonly=True) as value:
        assert await value.read() == b"value"


async def timeout(conn: rapsqlite.Connection) -> None:
    with anyio.move_on_after(0.002):
        await conn.fetch_all(ENDLESS)


async def close(conn: rapsqlite.Connection) -> None:
    await conn.close()


async def stop(conn: rapsqlite.Connection) -> None:
    conn.stop()


async def open_another(_conn: rapsqlite.Connection) -> None:
    async with rapsqlite.connect(":memory:") as other:
        await other.fetch_scalar("SELECT 1")


_ALL = (
    fetch, insert, watched, rows, cursor, half_a_cursor, prepared, transaction, savepoint, executemany, blob, timeout,
    close, stop, open_another,
)  # fmt: skip
SCENARIOS = {scenario.__name__: scenario for scenario in _ALL}
_WRITES = {insert, watched, transaction, savepoint, executemany}
_BLOCKS = {transaction, savepoint, executemany}


def companions(place: int, scenario: object) -> list[Callable[[rapsqlite.Connection], Awaitable[None]]]:
    """Return what other tasks do meanwhile, at every other place; a task that is alone waits without the loop."""
    if not place % 2 or scenario in {close, stop}:
        return []
    return [rows, an_empty_transaction] if scenario is transaction else [rows, rows]


# -- what must be true afterwards ------------------------------------------------------------------


async def opened(database: str) -> rapsqlite.Connection:
    conn = await rapsqlite.connect(database, isolation_level=None)
    await conn.executescript(
        "CREATE TABLE t (v); CREATE TABLE b (v); INSERT INTO b VALUES (x'76616c7565'); CREATE TABLE many (i);"
        f"INSERT INTO many {NUMBERS} SELECT i FROM n"
    )
    return conn


async def check(conn: rapsqlite.Connection, database: str, is_written: bool | None) -> None:
    """The connection works, or is closed, or one and then the other; afterwards the file has no locks."""
    if conn.is_alive():
        assert await conn.fetch_scalar("SELECT 42") == 42
        await rows(conn)
        if conn.isolation_level is not None:
            await conn.rollback()
        async with conn.transaction(timeout=AT_ONCE_S):
            pass
        assert not conn.in_transaction
        await refuse_nobody(database)
        await conn.close()
    await conn.close()
    await refuse_nobody(database)
    with closing(sqlite3.connect(database)) as native:
        (count,) = native.execute("SELECT count(*) FROM t").fetchone()
    assert count in ({is_written} if is_written is not None else {0, 1}), count


async def refuse_nobody(database: str) -> None:
    """The package holds no lock; one closed without waiting may still be released a moment later."""
    until = time.monotonic() + AT_ONCE_S
    while True:
        try:
            with closing(sqlite3.connect(database, timeout=0, isolation_level=None)) as native:
                native.execute("BEGIN EXCLUSIVE")
                native.execute("ROLLBACK")
                return
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
        await anyio.sleep(0.001)


def has_written(scenario: object, returned: bool) -> bool | None:
    """Return whether the row is in the file; None if an interrupted task cannot know."""
    if scenario not in _WRITES:
        return False
    return True if returned else None


def on_asyncio(
    place: int, scenario: Callable[[rapsqlite.Connection], Awaitable[None]], database: str, new_loop: Callable[[], Any]
) -> str:
    loop = new_loop()
    conn = loop.run_until_complete(opened(database))
    guest = conn._state.guest
    others = [loop.create_task(companion(conn)) for companion in companions(place, scenario)]
    main: Any = loop.create_task(scenario(conn))
    interrupter = Interrupter(place)
    try:
        with interrupter:
            loop.run_until_complete(main)
    except KeyboardInterrupt:
        pass
    for _ in range(3):
        try:
            loop.run_until_complete(asyncio.wait_for(asyncio.wait([main, *others]), HANGS_S))
        except RuntimeError:  # of asyncio: the callback that stops the loop when its task has ended runs now
            continue
        break
    for task in (main, *others):
        if not isinstance(task.exception(), KeyboardInterrupt):
            task.result()
    is_written = has_written(scenario, main.exception() is None)
    if scenario not in _BLOCKS:
        # An exception holds what was interrupted where it was to be closed; asyncio leaves it in a cycle.
        del task, main
        others.clear()
        gc.collect()
    loop.run_until_complete(asyncio.wait_for(check(conn, database, is_written), HANGS_S))
    loop.close()
    guest.join(HANGS_S)
    assert not guest.is_running()
    return interrupter.where


def on_trio(place: int, scenario: Callable[[rapsqlite.Connection], Awaitable[None]], database: str) -> str:
    interrupter = Interrupter(place, ki_protection_enabled)

    async def other(companion: Callable[[rapsqlite.Connection], Awaitable[None]], conn: rapsqlite.Connection) -> None:
        try:
            await companion(conn)
        except KeyboardInterrupt:
            pass

    async def main() -> None:
        conn = await opened(database)
        guest = conn._state.guest
        returned = False
        with trio.fail_after(HANGS_S):
            async with trio.open_nursery() as nursery:
                for companion in companions(place, scenario):
                    nursery.start_soon(other, companion, conn)
                    await trio.lowlevel.checkpoint()
                try:
                    with interrupter:
                        await scenario(conn)
                        returned = True
                except KeyboardInterrupt:
                    pass
            await check(conn, database, has_written(scenario, returned))
        guest.join(HANGS_S)
        assert not guest.is_running()

    trio.run(main)
    return interrupter.where


def run(backend: str, place: int, name: str, database: str) -> str:
    if backend == "trio":
        return on_trio(place, SCENARIOS[name], database)
    return on_asyncio(place, SCENARIOS[name], database, loop_maker(backend))


def main() -> None:
    asyncio.run(compile_engine())
    let_guests_answer_late()
    backend, name, first, step, database = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    last = int(sys.argv[6]) if len(sys.argv) > 6 else sys.maxsize
    warnings.simplefilter("ignore")
    sys.unraisablehook = lambda _: None  # an interrupt key in a finalizer
    place, silent, seen = first, 0, 0
    while silent < 3 and place <= last:  # both with other tasks and without them no place is left
        faulthandler.dump_traceback_later(2 * HANGS_S, exit=True)
        begun = time.monotonic()
        where = ""
        try:
            where = run(backend, place, name, database)
            assert time.monotonic() - begun < AT_ONCE_S, f"{time.monotonic() - begun} s"
        except BaseException:
            print("at place", place, where or _newest_place(), file=sys.stderr)
            raise
        finally:
            for suffix in ("", "-journal", "-wal", "-shm"):
                if os.path.exists(database + suffix):
                    os.remove(database + suffix)
        faulthandler.cancel_dump_traceback_later()
        seen += bool(where)
        silent = 0 if where else silent + 1
        place += step
    print("done", seen)


def _newest_place() -> str:
    return ", ".join(each.where for each in gc.get_objects() if isinstance(each, Interrupter) and each.where)


if __name__ == "__main__":
    main()
