"""A process that uses SQLite's own library next to the stress program: transfers and checks until its input ends.

    python neighbour.py DATABASE SEED

Prints a JSON object: the numbers of its committed transfers, and any problems.
"""

from __future__ import annotations

import json
import random
import sqlite3
import sys
import threading

ACCOUNTS = 40
AMOUNT = 1_000
WHO = "native"
TIMEOUT_S = 60.0  # under load it has waited for 15 s: SQLite polls, and the lock is seldom free


def transfer(native: sqlite3.Connection, number: int, chance: random.Random) -> None:
    """Move an amount between accounts, with an entry of several parts."""
    source, target = chance.sample(range(ACCOUNTS), 2)
    amount, parts = chance.randrange(1, 50), chance.randrange(1, 5)
    native.execute("BEGIN IMMEDIATE")
    native.execute("UPDATE account SET amount = amount - ? WHERE id = ?", (amount, source))
    native.execute("UPDATE account SET amount = amount + ? WHERE id = ?", (amount, target))
    entry = [(WHO, number, part, parts, bytes(chance.randrange(2_000))) for part in range(parts)]
    native.executemany("INSERT INTO entry VALUES (?, ?, ?, ?, ?)", entry)
    native.execute("COMMIT")


def faults(native: sqlite3.Connection) -> list[str]:
    """Return the problems in what one transaction sees."""
    found = []
    native.execute("BEGIN")
    (total,) = native.execute("SELECT sum(amount) FROM account").fetchone()
    if total != ACCOUNTS * AMOUNT:
        found.append(f"the accounts add up to {total}")
    found += [f"entry {who} {number} is not whole" for who, number in native.execute(HALVES)]
    native.execute("COMMIT")
    return found


HALVES = "SELECT who, number FROM entry GROUP BY who, number HAVING count(*) != max(parts) OR count(*) != min(parts)"


def main() -> None:
    """Work until the input ends."""
    path, seed = sys.argv[1], int(sys.argv[2])
    chance = random.Random(seed)
    ended = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    done: list[int] = []
    problems: list[str] = []
    native = sqlite3.connect(path, isolation_level=None, timeout=TIMEOUT_S)
    native.execute("PRAGMA synchronous = OFF")
    number = 0
    while not ended.is_set() and len(problems) < 10:
        try:
            if chance.random() < 0.6:
                number += 1
                transfer(native, number, chance)
                done.append(number)
            else:
                problems += faults(native)
        except sqlite3.Error as error:
            problems.append(f"{type(error).__name__}: {error}")
            if native.in_transaction:
                native.rollback()
        ended.wait(chance.random() * 0.01)
    native.close()
    print(json.dumps({"done": done, "problems": problems}))


if __name__ == "__main__":
    main()
