"""The stress program: everything at once that may go wrong with connections of one process, on one database.

    python -m tests.processes.program DATABASE SECONDS SEED LOOP

Tasks move amounts between accounts and are cancelled once, twice or by a timeout; connections are dropped in the middle
of transactions; event loops are closed with requests in flight; descriptors run short; many connections wait for the
lock; a process with SQLite's own library works at the same time. Prints a JSON object at the end: what was done and
what is wrong.
"""

from __future__ import annotations

import asyncio
import collections
import faulthandler
import gc
import json
import os
import random
import resource
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import anyio.to_thread

import rapsqlite
from rapsqlite._files import descriptors
from rapsqlite._guest import registry
from tests.processes.neighbour import ACCOUNTS, AMOUNT, HALVES, TIMEOUT_S, WHO

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

WORKERS = 6
CROWD = 120
END_S = 20.0  # until nothing may be left
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
SPOIL = "UPDATE account SET amount = amount - 7 WHERE id = 0"
# What may happen to any task here: an interrupt, and no descriptor for a journal.
EXPECTED = {rapsqlite.SQLITE_INTERRUPT, rapsqlite.SQLITE_CANTOPEN}


def collect() -> None:
    """Collect all garbage. ``gc.collect()`` does nothing while another thread collects, which releases the GIL in
    finalizers. A lost loop leaves a cycle of asyncio's; uncollected, its connection would keep its locks.
    """
    begun: list[str] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] == 2:
            begun.append(phase)

    gc.callbacks.append(note)
    try:
        while not begun:
            gc.collect()
            time.sleep(0.0005)
    finally:
        gc.callbacks.remove(note)


class Book:
    """What was done, as reported to the tasks, and any problems."""

    def __init__(self) -> None:
        self.committed: set[tuple[str, int]] = set()
        self.uncertain: set[tuple[str, int]] = set()
        self.counts: collections.Counter[str] = collections.Counter()
        self.problems: list[str] = []

    def note(self, where: str, error: BaseException) -> None:
        """Count an expected error; any other one is a problem."""
        code = getattr(error, "sqlite_errorcode", None)
        if isinstance(error, rapsqlite.Error) and code is not None and code & 0xFF in EXPECTED:
            self.counts[f"{where}: {error.sqlite_errorname}"] += 1
        else:
            self.problem(f"{where}: {type(error).__name__} {code}: {error}")

    def problem(self, text: str) -> None:
        """Keep the first of each kind."""
        if len(self.problems) < 20:
            self.problems.append(text[:300])


class Stress:
    """One run."""

    def __init__(self, path: str, seed: int, loop: str) -> None:
        self.path = path
        self.chance = random.Random(seed)
        self.is_trio = loop == "trio"
        self.book = Book()
        self.until = 0.0
        self.needs_descriptors = anyio.Lock()  # held by tasks that need descriptors, or take them away

    def connect(self) -> rapsqlite.Connection:
        """Return an unopened connection."""
        return rapsqlite.connect(self.path, isolation_level=None, timeout=TIMEOUT_S)

    # -- transfers ---------------------------------------------------------------------------------

    async def transfer(self, conn: rapsqlite.Connection, who: str, number: int) -> None:
        """Move an amount between accounts, with an entry of several parts; roll back whatever happens."""
        chance = self.chance
        source, target = chance.sample(range(ACCOUNTS), 2)
        amount, parts = chance.randrange(1, 50), chance.randrange(1, 5)
        commits = False
        try:
            await conn.execute("BEGIN IMMEDIATE")
            await conn.execute("UPDATE account SET amount = amount - ? WHERE id = ?", (amount, source))
            if chance.random() < 0.3:
                await anyio.sleep(chance.random() * 0.002)
            await conn.execute("UPDATE account SET amount = amount + ? WHERE id = ?", (amount, target))
            entry = [(who, number, part, parts, bytes(chance.randrange(2_000))) for part in range(parts)]
            await conn.executemany("INSERT INTO entry VALUES (?, ?, ?, ?, ?)", entry)
            commits = True
            await conn.commit()
        except BaseException:
            if commits:
                self.book.uncertain.add((who, number))
            await conn.rollback()
            raise
        self.book.committed.add((who, number))

    async def transfer_in_block(self, conn: rapsqlite.Connection, who: str, number: int) -> None:
        """The same, with ``transaction()``."""
        chance = self.chance
        source, target = chance.sample(range(ACCOUNTS), 2)
        amount = chance.randrange(1, 50)
        ends = False
        try:
            async with conn.transaction("IMMEDIATE"):
                await conn.execute("UPDATE account SET amount = amount - ? WHERE id = ?", (amount, source))
                await conn.execute("UPDATE account SET amount = amount + ? WHERE id = ?", (amount, target))
                await conn.execute("INSERT INTO entry VALUES (?, ?, 0, 1, NULL)", (who, number))
                ends = True
        except BaseException:
            if ends:
                self.book.uncertain.add((who, number))
            raise
        self.book.committed.add((who, number))

    async def check(self, conn: rapsqlite.Connection) -> None:
        """Read the accounts twice in one transaction."""
        try:
            await conn.execute("BEGIN")
            first = await conn.fetch_scalar("SELECT sum(amount) FROM account WHERE id < 20")
            if self.chance.random() < 0.5:
                await anyio.sleep(self.chance.random() * 0.005)
            second = await conn.fetch_scalar("SELECT sum(amount) FROM account WHERE id >= 20")
            if first + second != ACCOUNTS * AMOUNT:
                self.book.problem(f"the accounts add up to {first + second}")
            for who, number in await conn.fetch_all(HALVES):
                self.book.problem(f"entry {who} {number} is not whole")
        finally:
            await conn.rollback()

    # -- kinds of cancellation ---------------------------------------------------------------------

    async def undisturbed(self, call: Callable[[], Awaitable[None]]) -> None:
        await call()

    async def in_time(self, call: Callable[[], Awaitable[None]]) -> None:
        """Cancel by a timeout, often of zero: level cancellation, in the handlers as well."""
        with anyio.move_on_after(max(0.0, self.chance.uniform(-0.002, 0.008))):
            await call()

    async def interrupted(self, call: Callable[[], Awaitable[None]], conn: rapsqlite.Connection) -> None:
        """Interrupt, from another task."""
        async with anyio.create_task_group() as tasks:

            async def interrupt() -> None:
                await anyio.sleep(self.chance.random() * 0.004)
                await conn.interrupt()

            tasks.start_soon(interrupt)
            try:
                await call()
            except rapsqlite.Error as error:
                self.book.note("interrupted", error)

    async def cancelled_twice(self, call: Callable[[], Awaitable[None]]) -> None:
        """Cancel, and cancel the handling of that."""
        if self.is_trio:
            await self.in_time(call)
            return
        task = asyncio.ensure_future(call())
        await asyncio.sleep(self.chance.random() * 0.005)
        task.cancel()
        for _ in range(self.chance.randrange(4)):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and task.exception() is not None:
            raise task.exception()  # type: ignore[misc]

    # -- tasks -------------------------------------------------------------------------------------

    async def work(self, who: str) -> None:
        """Transfer and check on one connection after another."""
        conn: rapsqlite.Connection | None = None
        number = 0
        while time.monotonic() < self.until:
            number += 1
            try:
                if conn is None:
                    conn = await self.connect()
                    await conn.execute("PRAGMA synchronous = OFF")
                await self.disturb(conn, who, number)
            except rapsqlite.Error as error:
                self.book.note("work", error)
            if conn is not None and conn.in_transaction:
                self.book.problem("a transaction was left open")
                await conn.rollback()
            if conn is not None and self.chance.random() < 0.03:
                if self.chance.random() < 0.5:
                    await conn.close()
                conn = None  # dropped
        if conn is not None:
            await conn.close()

    async def disturb(self, conn: rapsqlite.Connection, who: str, number: int) -> None:
        """Do one thing while it is disturbed."""
        do = self.chance.choice([self.transfer, self.transfer_in_block, None])
        call = partial(self.check, conn) if do is None else partial(do, conn, who, number)
        ways = [self.undisturbed, self.in_time, partial(self.interrupted, conn=conn), self.cancelled_twice]
        way: Any = self.chance.choice(ways)
        self.book.counts[getattr(way, "__name__", "interrupted")] += 1
        await way(call)

    async def drop(self) -> None:
        """Drop connections in the middle of a transaction: their writes are never seen."""
        while True:
            try:
                conn = await self.connect()
                await conn.execute("BEGIN IMMEDIATE")
                await conn.execute(SPOIL)
                if self.chance.random() < 0.5:
                    cursor = await conn.execute("SELECT a.id FROM account a, account b")
                    await cursor.fetchone()
                    del cursor
                del conn
                self.book.counts["dropped"] += 1
            except rapsqlite.Error as error:
                self.book.note("drop", error)
            collect()
            if time.monotonic() > self.until:
                return
            await anyio.sleep(self.chance.random() * 0.2)

    async def lose_loops(self) -> None:
        """Close event loops with requests in flight."""
        while True:
            async with self.needs_descriptors:
                await anyio.to_thread.run_sync(self.lose_loop)
            collect()
            self.book.counts["lost loops"] += 1
            if time.monotonic() > self.until:
                return
            await anyio.sleep(self.chance.random() * 0.3)

    def lose_loop(self) -> None:
        """Close one, in a separate thread."""

        async def begin() -> tuple[object, ...]:
            conn = await self.connect()
            await conn.execute("BEGIN IMMEDIATE")
            await conn.execute(SPOIL)
            task = asyncio.ensure_future(conn.fetch_all(ENDLESS))
            await asyncio.sleep(0.005)
            return conn, task

        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)  # losing a task is the point
        try:
            kept = loop.run_until_complete(begin())
            del kept
        except rapsqlite.Error as error:
            self.book.note("lost loop", error)
        finally:
            loop.close()

    async def run_short(self) -> None:
        """Open connections while hardly any descriptor is left."""
        while True:
            async with self.needs_descriptors:
                soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
                used = max(int(name) for name in os.listdir("/proc/self/fd"))
                resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1 + self.chance.randrange(8), hard))
                try:
                    async with self.connect() as conn:
                        await conn.fetch_scalar("SELECT count(*) FROM account")
                    self.book.counts["opened with few descriptors"] += 1
                except rapsqlite.Error as error:
                    self.book.note("short", error)
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            if time.monotonic() > self.until:
                return
            await anyio.sleep(self.chance.random() * 0.2)

    async def crowd(self) -> None:
        """Let more than a hundred connections wait for the lock: each gets it in turn."""
        async with self.needs_descriptors, anyio.create_task_group() as tasks:
            for number in range(CROWD):
                tasks.start_soon(self.visit, number)

    async def visit(self, number: int) -> None:
        try:
            async with self.connect() as conn:
                await conn.execute("INSERT INTO visit VALUES (?)", (number,))
        except rapsqlite.Error as error:
            self.book.problem(f"visit: {type(error).__name__}: {error}")

    async def run(self, seconds: float) -> None:
        """Do everything at once, for a given time after the engine is loaded: it may have to be compiled."""
        async with rapsqlite.connect(":memory:"):
            pass
        self.until = time.monotonic() + seconds
        async with anyio.create_task_group() as tasks:
            for number in range(WORKERS):
                tasks.start_soon(self.work, f"worker {number}")
            for task in (self.drop, self.lose_loops, self.run_short, self.crowd):
                tasks.start_soon(task)
        if not self.is_trio:
            waiting = asyncio.all_tasks() - {asyncio.current_task()}
            if waiting:
                self.book.problem(f"{len(waiting)} tasks still wait")


def prepare(path: str, mode: str) -> None:
    """Create the database."""
    with closing(sqlite3.connect(path, isolation_level=None)) as native:
        native.execute(f"PRAGMA journal_mode = {mode}")
        native.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, amount)")
        native.execute("CREATE TABLE entry (who, number, part, parts, filling)")
        native.execute("CREATE TABLE visit (number)")
        native.executemany("INSERT INTO account VALUES (?, ?)", [(number, AMOUNT) for number in range(ACCOUNTS)])


def judge(path: str, book: Book, done: list[int]) -> None:
    """Compare the file's content with what was reported to the tasks."""
    with closing(sqlite3.connect(path)) as native:
        for (line,) in native.execute("PRAGMA integrity_check"):
            if line != "ok":
                book.problem(f"integrity: {line}")
        (total,) = native.execute("SELECT sum(amount) FROM account").fetchone()
        if total != ACCOUNTS * AMOUNT:
            book.problem(f"in the end the accounts add up to {total}")
        for who, number in native.execute(HALVES):
            book.problem(f"in the end entry {who} {number} is not whole")
        found = set(native.execute("SELECT DISTINCT who, number FROM entry"))
        (visits,) = native.execute("SELECT count(DISTINCT number) FROM visit").fetchone()
    committed = book.committed | {(WHO, number) for number in done}
    for who, number in sorted(committed - found)[:5]:
        book.problem(f"entry {who} {number} was committed and is gone")
    for who, number in sorted(found - committed - book.uncertain)[:5]:
        book.problem(f"entry {who} {number} was not committed and is there")
    if visits != CROWD:
        book.problem(f"{visits} of {CROWD} visits")


def left(path: str) -> list[str]:
    """Return what is left of connections."""
    collect()
    descriptors.sweep()
    # Trio keeps its threads for ten seconds.
    threads = [thread.name for thread in threading.enumerate() if not thread.name.startswith("Trio thread")]
    found = [f"thread {name}" for name in threads if name != "MainThread"]
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
        if target.startswith(path):
            found.append(f"descriptor {name} of {target}")
    found += [f"guest of {guest.name}" for guest in registry._live]
    return found


def main() -> None:
    """Run, and report."""
    path, seconds, seed, loop = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    faulthandler.enable()
    faulthandler.dump_traceback_later(seconds + TIMEOUT_S + 20, exit=True)
    prepare(path, "WAL" if seed % 2 else "DELETE")
    neighbour = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("neighbour.py")), path, str(seed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    stress = Stress(path, seed, loop)
    options = {"use_uvloop": loop == "uvloop"} if loop != "trio" else {}
    anyio.run(stress.run, seconds, backend="trio" if loop == "trio" else "asyncio", backend_options=options)
    answer, _ = neighbour.communicate()
    native = json.loads(answer)
    for problem in native["problems"]:
        stress.book.problem(f"the native process: {problem}")
    until = time.monotonic() + END_S
    while (found := left(path)) and time.monotonic() < until:
        time.sleep(0.05)
    for each in found[:5]:
        stress.book.problem(f"left behind: {each}")
    judge(path, stress.book, native["done"])
    counts = {**stress.book.counts, "committed": len(stress.book.committed), "native": len(native["done"])}
    print(json.dumps({"counts": counts, "problems": stress.book.problems}))


if __name__ == "__main__":
    main()
