"""A writer in a separate process: ``python -m tests.vfs.worker LIBRARY DATABASE NUMBER TRANSACTIONS [OPTIONS...]``.

Each transaction moves an amount between two accounts and logs it, so that a torn or a lost one shows in the sums. A
line on stdout acknowledges each commit.
"""

from __future__ import annotations

import random
import sqlite3
import sys
from typing import Any, Protocol

from rapsqlite.errors import OperationalError
from tests.programs import SLOWNESS
from tests.vfs.driver import Driven

ACCOUNTS = 20
TOTAL = 1000 * ACCOUNTS
PATIENCE_S = 60 * SLOWNESS
CHECKPOINT_PATIENCE_MS = 500


class Library(Protocol):
    """What both libraries can do here."""

    def run(self, sql: str, *parameters: object) -> list[Any]: ...
    def close(self) -> None: ...


class Ours:
    """This project."""

    def __init__(self, database: str) -> None:
        self._connection = Driven(database, timeout_s=PATIENCE_S)

    def run(self, sql: str, *parameters: object) -> list[Any]:
        return self._connection.sql(sql, *parameters)

    def close(self) -> None:
        self._connection.close()


class Native:
    """The standard library's sqlite3."""

    def __init__(self, database: str) -> None:
        self._connection = sqlite3.connect(database, timeout=PATIENCE_S, isolation_level=None)

    def run(self, sql: str, *parameters: object) -> list[Any]:
        return self._connection.execute(sql, parameters).fetchall()

    def close(self) -> None:
        self._connection.close()


def open_library(name: str, database: str) -> Library:
    return Ours(database) if name == "ours" else Native(database)


def prepare(database: str, mode: str) -> None:
    """Make the database with native SQLite."""
    native = sqlite3.connect(database)
    native.execute(f"PRAGMA journal_mode = {mode}")
    native.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, amount)")
    native.execute("CREATE TABLE log (writer, number, note, PRIMARY KEY (writer, number)) WITHOUT ROWID")
    native.executemany("INSERT INTO account VALUES (?, 1000)", [(number,) for number in range(ACCOUNTS)])
    native.commit()
    native.close()


def check(database: str) -> dict[int, int]:
    """Return how many transactions each writer has logged, after checking that none is torn or missing."""
    native = sqlite3.connect(database, timeout=PATIENCE_S)
    try:
        assert native.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert native.execute("SELECT sum(amount) FROM account").fetchone() == (TOTAL,)
        rows = native.execute("SELECT writer, count(*), max(number) FROM log GROUP BY writer").fetchall()
    finally:
        native.close()
    assert all(count == last + 1 for _, count, last in rows)
    return {writer: count for writer, count, _ in rows}


def transfer(library: Library, writer: int, number: int, chance: random.Random) -> None:
    library.run("BEGIN IMMEDIATE")
    source, target = chance.sample(range(ACCOUNTS), 2)
    amount = chance.randrange(100)
    library.run("UPDATE account SET amount = amount - ? WHERE id = ?", amount, source)
    total = library.run("SELECT sum(amount) FROM account")[0][0]
    assert total == TOTAL - amount
    library.run("UPDATE account SET amount = amount + ? WHERE id = ?", amount, target)
    library.run("INSERT INTO log VALUES (?, ?, ?)", writer, number, "x" * chance.randrange(400))
    library.run("COMMIT")


def work(name: str, database: str, writer: int, transactions: int, options: list[str]) -> None:
    """Run the transactions, with checkpoints and new connections in between if the options ask for them."""
    chance = random.Random(writer)
    library = open_library(name, database)
    library.run("PRAGMA synchronous = NORMAL")
    for number in range(transactions):
        transfer(library, writer, number, chance)
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        if "truncate" in options and chance.random() < 0.2:
            # It holds the writer's lock while it waits for readers: for one that waits to write, it would wait in vain.
            library.run(f"PRAGMA busy_timeout = {CHECKPOINT_PATIENCE_MS}")
            try:
                library.run("PRAGMA wal_checkpoint(TRUNCATE)")
            except (OperationalError, sqlite3.OperationalError) as error:
                if "locked" not in str(error):
                    raise
            library.run(f"PRAGMA busy_timeout = {PATIENCE_S * 1000}")
        if "reopen" in options and chance.random() < 0.1:
            library.close()
            library = open_library(name, database)
    library.close()


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
