"""A program that is sent SIGINT again and again while it works on a database.

    python -m tests.processes.interrupted run|old|uvloop|trio ROUNDS SEED DATABASE

Each round opens a connection, works with it in three tasks until the signal comes, and looks whether anything is lost:
tasks that go on get their results, the connection works and closes, the file holds what was reported and no lock, and
no thread is left. Prints the number of rounds that an interrupt ended.

asyncio itself loses a callback if KeyboardInterrupt is raised in its own code. Where that could happen, the handler
raises it in the package's code and this program's alone, and otherwise looks again a little later.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import sys
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import trio

import rapsqlite
from tests.played_time import let_guests_answer_late
from tests.programs import compile_engine, loop_maker

if TYPE_CHECKING:
    from collections.abc import Callable

AT_ONCE_S = 15  # less than a guest has to answer before it is killed
HANGS_S = 20
LONGEST_DELAY_S = 0.012
AGAIN_S = 0.00005
AGAIN_IF_DROPPED_S = 1.0
ROWS = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n LIMIT 300) SELECT i, hex(zeroblob(300)) FROM n"
PLACES = (os.path.dirname(rapsqlite.__file__), __file__)


class Work:
    """What the tasks of one round do."""

    def __init__(self) -> None:
        self.committed = 0
        self.is_over = False
        self.is_interrupted = threading.Event()

    async def write(self, conn: rapsqlite.Connection) -> None:
        """Insert two rows in each transaction."""
        while not self.is_over:
            async with conn.transaction():
                await conn.execute("INSERT INTO t VALUES (1)")
                await conn.execute("INSERT INTO t VALUES (2)")
            self.committed += 1

    async def read(self, conn: rapsqlite.Connection) -> None:
        """Fetch in different ways."""
        while not self.is_over:
            assert len(await conn.fetch_all(ROWS)) == 300
            async with conn.execute(ROWS) as cursor:
                assert await cursor.fetchone() is not None
            assert await conn.fetch_scalar("SELECT 42") == 42

    async def take_turns(self, conn: rapsqlite.Connection) -> None:
        """Enter blocks that wait for others."""
        while not self.is_over:
            async with conn.transaction(timeout=HANGS_S):
                await conn.fetch_scalar("SELECT count(*) FROM t")

    def tasks(self) -> list[Callable[[rapsqlite.Connection], Any]]:
        return [self.write, self.read, self.take_turns]


async def opened(database: str) -> rapsqlite.Connection:
    conn = await rapsqlite.connect(database, isolation_level=None)
    await conn.execute("CREATE TABLE t (v)")
    return conn


def send_soon(work: Work, delay_s: float) -> threading.Thread:
    """Send SIGINT, and again if Python has dropped the exception because it was raised in a finalizer."""

    def send() -> None:
        time.sleep(delay_s)
        while not work.is_interrupted.is_set():
            os.kill(os.getpid(), signal.SIGINT)
            work.is_interrupted.wait(AGAIN_IF_DROPPED_S)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def raise_here_or_later(_number: int, frame: Any) -> None:
    """The handler of SIGINT, and of the timer that stands for it."""
    if (
        frame is not None
        and frame.f_code.co_filename.startswith(PLACES)
        and not frame.f_code.co_name.startswith("with_")
    ):
        raise KeyboardInterrupt
    signal.setitimer(signal.ITIMER_REAL, AGAIN_S)


def check_file(database: str, committed: int) -> None:
    """The package holds no lock; one closed without waiting may still be released a moment later."""
    until = time.monotonic() + AT_ONCE_S
    while any(thread.name.startswith("rapsqlite") for thread in threading.enumerate()):
        assert time.monotonic() < until, threading.enumerate()
        time.sleep(0.001)
    with closing(sqlite3.connect(database, timeout=0, isolation_level=None)) as native:
        native.execute("BEGIN EXCLUSIVE")
        ones, twos = native.execute(
            "SELECT count(*) FILTER (WHERE v = 1), count(*) FILTER (WHERE v = 2) FROM t"
        ).fetchone()
    assert ones == twos
    assert ones in (committed, committed + 1)


def with_old_loop(new_loop: Callable[[], Any], work: Work, database: str, delay_s: float) -> bool:
    loop = new_loop()
    conn = loop.run_until_complete(opened(database))
    tasks = [loop.create_task(task(conn)) for task in work.tasks()]
    loop.call_soon(send_soon, work, delay_s)
    is_interrupted = False
    try:
        loop.run_until_complete(asyncio.wait(tasks))
    except KeyboardInterrupt:
        is_interrupted = True
    work.is_interrupted.set()
    work.is_over = True
    signal.setitimer(signal.ITIMER_REAL, 0)
    loop.run_until_complete(asyncio.wait_for(asyncio.wait(tasks), HANGS_S))
    for task in tasks:
        if not isinstance(task.exception(), KeyboardInterrupt):
            task.result()

    async def end() -> None:
        assert await conn.fetch_scalar("SELECT 42") == 42
        async with conn.transaction(timeout=AT_ONCE_S):
            pass
        await conn.close()

    loop.run_until_complete(asyncio.wait_for(end(), HANGS_S))
    loop.close()
    return is_interrupted


async def _main(work: Work, database: str, delay_s: float) -> None:
    conn = await opened(database)
    try:
        tasks = [asyncio.ensure_future(task(conn)) for task in work.tasks()]
        send_soon(work, delay_s)
        await asyncio.gather(*tasks)
    finally:
        await conn.close()


def with_asyncio_run(work: Work, database: str, delay_s: float) -> bool:
    try:
        asyncio.run(_main(work, database, delay_s))
    except KeyboardInterrupt:
        return True
    finally:
        work.is_interrupted.set()
    return False


def with_trio(work: Work, database: str, delay_s: float) -> bool:
    async def main() -> None:
        conn = await opened(database)
        try:
            async with trio.open_nursery() as nursery:
                for task in work.tasks():
                    nursery.start_soon(task, conn)
                send_soon(work, delay_s)
        finally:
            await conn.close()

    try:
        trio.run(main, strict_exception_groups=True)
    except BaseException as error:  # noqa: BLE001 - KeyboardInterrupt, or a group with it
        assert "KeyboardInterrupt" in repr(error), error  # noqa: PT017 - a program, not a test
        return True
    finally:
        work.is_interrupted.set()
    return False


def run(kind: str, work: Work, database: str, delay_s: float) -> bool:
    if kind == "trio":
        return with_trio(work, database, delay_s)
    if kind == "run":
        return with_asyncio_run(work, database, delay_s)
    return with_old_loop(loop_maker(kind), work, database, delay_s)


def main() -> None:
    asyncio.run(compile_engine())
    let_guests_answer_late()
    kind, rounds, seed, database = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    chance = random.Random(seed)
    raises_anywhere = kind == "trio" or (kind == "run" and sys.version_info >= (3, 11))
    signal.signal(signal.SIGINT, signal.default_int_handler if raises_anywhere else raise_here_or_later)
    signal.signal(signal.SIGALRM, raise_here_or_later)
    interrupted = 0
    for number in range(rounds):
        work, path, begun = Work(), f"{database}{number}", time.monotonic()
        delay_s = chance.uniform(0, LONGEST_DELAY_S)
        try:
            interrupted += run(kind, work, path, delay_s)
            check_file(path, work.committed)
            took_s = time.monotonic() - begun
            assert took_s < AT_ONCE_S, f"{took_s} s"
        except BaseException:
            print("in round", number, "of seed", seed, file=sys.stderr)
            raise
        os.remove(path)
    print(interrupted)


if __name__ == "__main__":
    main()
