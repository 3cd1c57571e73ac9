"""A read transaction sees one state of the database, whatever others commit and checkpoint meanwhile."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest

import rapsqlite
from rapsqlite import _constants as abi
from rapsqlite._files.wal_index import WalIndex

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

ACCOUNTS = 60
FIRST_HALF = f"SELECT sum(amount) FROM account WHERE id < {ACCOUNTS // 2}"
SECOND_HALF = f"SELECT sum(amount) FROM account WHERE id >= {ACCOUNTS // 2}"
SECONDS = 60.0 if os.environ.get("RAPSQLITE_LONG") == "1" else 3.0


def native_connection(path: Path) -> sqlite3.Connection:
    native = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    native.execute("PRAGMA wal_autocheckpoint = 0")
    return native


@pytest.fixture
def bank(database: Path) -> Path:
    """Accounts of 100 each, one per page, in WAL mode."""
    with closing(native_connection(database)) as native:
        native.execute("PRAGMA journal_mode = WAL")
        native.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, amount, padding)")
        native.executemany("INSERT INTO account VALUES (?, 100, zeroblob(3000))", [(row,) for row in range(ACCOUNTS)])
    return database


class Others:
    """A reader, a writer and a checkpointer with the standard library's sqlite3, each on its own connection."""

    def __init__(self, path: Path) -> None:
        self.reader, self.writer, self.checkpointer = (native_connection(path) for _ in range(3))

    def move(self, source: int, target: int) -> None:
        self.writer.execute("BEGIN IMMEDIATE")
        self.writer.execute("UPDATE account SET amount = amount - 10 WHERE id = ?", (source,))
        self.writer.execute("UPDATE account SET amount = amount + 10 WHERE id = ?", (target,))
        self.writer.execute("COMMIT")

    def checkpoint(self) -> None:
        self.checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def close(self) -> None:
        for native in (self.reader, self.writer, self.checkpointer):
            native.close()


@pytest.fixture
def others(bank: Path) -> Iterator[Others]:
    others = Others(bank)
    yield others
    others.close()


class Interruption:
    """Lets ``others`` run at one of our lock calls on the index, but never while we move a mark."""

    def __init__(self, others: Others, nth: int) -> None:
        self.is_armed = self.done = False
        self._others = others
        self._countdown = nth
        self._moving: set[int] = set()

    def before_call(self) -> None:
        if self._moving or not self.is_armed or self.done:
            return
        self._countdown -= 1
        if self._countdown < 0:
            self.done = True
            self._others.reader.execute("COMMIT")
            self._others.move(3, 4)
            self._others.checkpoint()

    def note(self, first: int, flags: int) -> None:
        self._moving.discard(first)
        if self.is_armed and flags & abi.SQLITE_SHM_EXCLUSIVE and first > 2:
            self._moving.add(first)


@pytest.mark.parametrize("nth", range(4))
async def test_checkpoint_at_any_lock_call_tears_no_snapshot(
    bank: Path, others: Others, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """A lock on one mark was once taken for a lock on another that had meanwhile been set to "not used"."""
    interruption = Interruption(others, nth)
    lock = WalIndex.lock

    def interrupted(index: WalIndex, first: int, count: int, flags: int) -> None:
        interruption.before_call()
        lock(index, first, count, flags)
        interruption.note(first, flags)

    monkeypatch.setattr(WalIndex, "lock", interrupted)
    async with rapsqlite.connect(bank, isolation_level=None) as ours:
        await ours.fetch_all("SELECT count(*) FROM account")
        others.reader.execute("BEGIN")
        others.reader.execute("SELECT count(*) FROM account").fetchall()
        others.move(1, 2)
        interruption.is_armed = True

        for _ in range(40):  # until the interruption is reached: locks may be taken without these calls
            await ours.execute("BEGIN")
            first = await ours.fetch_scalar(FIRST_HALF)
            for step in range(5):
                others.move(step + 10, ACCOUNTS - 10 + step)
            others.checkpoint()
            second = await ours.fetch_scalar(SECOND_HALF)
            await ours.execute("COMMIT")
            assert first + second == ACCOUNTS * 100
            if interruption.done:
                break

    assert interruption.done


OTHER_PROCESS = """
import random, sqlite3, sys
path, role, accounts = sys.argv[1], sys.argv[2], int(sys.argv[3])
native = sqlite3.connect(path, isolation_level=None, timeout=20)
native.execute("PRAGMA wal_autocheckpoint = 0")
native.execute("PRAGMA synchronous = OFF")
chance = random.Random(role)
print("ready", flush=True)
while True:
    if role == "checkpoint":
        native.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    elif role == "write":
        native.execute("BEGIN IMMEDIATE")
        for amount in (-10, 10):
            account = chance.randrange(accounts)
            native.execute("UPDATE account SET amount = amount + ? WHERE id = ?", (amount, account))
        native.execute("COMMIT")
    else:
        native.execute("BEGIN")
        native.execute("SELECT sum(amount) FROM account").fetchall()
        native.execute("COMMIT")
"""


@pytest.fixture
def busy_others(bank: Path) -> Iterator[None]:
    """Processes that write, checkpoint and read continuously, and a thread here that never releases the GIL."""
    command = [sys.executable, "-c", OTHER_PROCESS, str(bank)]
    roles = ("write", "checkpoint", "read")
    processes = [
        subprocess.Popen([*command, role, str(ACCOUNTS)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for role in roles
    ]
    over = threading.Event()

    def spin() -> None:
        while not over.is_set():
            pass

    spinner = threading.Thread(target=spin)
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"ready"
    spinner.start()
    yield
    over.set()
    spinner.join()
    ended_early = [process.communicate() for process in processes if process.poll() is not None]
    for process in processes:
        process.kill()
        process.communicate()
    assert not ended_early


def faults_of(copy: Path) -> list[object]:
    """Return the problems in a copy of the bank, as native SQLite sees it."""
    with closing(sqlite3.connect(copy)) as native:
        found = [*native.execute("PRAGMA integrity_check"), *native.execute("SELECT sum(amount) FROM account")]
    return [] if found == [("ok",), (ACCOUNTS * 100,)] else found


@pytest.mark.usefixtures("busy_others")
@pytest.mark.timeout(200)
async def test_transactions_and_copies_are_consistent_during_fast_checkpoints(bank: Path, tmp_path: Path) -> None:
    end = time.monotonic() + SECONDS
    sums: set[object] = set()
    faults: list[object] = []

    async def read() -> None:
        async with rapsqlite.connect(bank, isolation_level=None, timeout=20) as ours:
            while time.monotonic() < end:
                await ours.execute("BEGIN")
                first = await ours.fetch_scalar(FIRST_HALF)
                await anyio.sleep(0.005)
                sums.add(first + await ours.fetch_scalar(SECOND_HALF))
                await ours.execute("COMMIT")

    async def copy() -> None:
        copy = tmp_path / "copy.db"
        async with rapsqlite.connect(bank, isolation_level=None, timeout=20) as ours:
            while time.monotonic() < end:
                copy.unlink(missing_ok=True)
                await ours.execute("VACUUM INTO ?", (str(copy),))
                faults.extend(await anyio.to_thread.run_sync(faults_of, copy))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        tasks.start_soon(copy)

    assert sums == {ACCOUNTS * 100}
    assert not faults
