"""Scenarios of several processes on one file, for every journal mode and three mixes of libraries.

They cover what SQLite's own multi-process test covers: tables that several clients create, fill, change and empty at
the same time, clients that die in the middle, clients that are locked out, and settings that change under other
clients. The native mix shows that a scenario describes SQLite's behaviour.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from tests.vfs.clients import BUSY, Client, Step, connect, sql

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONG = os.environ.get("RAPSQLITE_LONG") == "1"
ROUNDS = 25 if LONG else 1
CLIENTS = 4
MIXES = {
    "ours": ["ours"] * CLIENTS,
    "ours with native": ["ours", "native"] * (CLIENTS // 2),
    "native": ["native"] * CLIENTS,
}
MODES = ["DELETE", "TRUNCATE", "PERSIST", "WAL"]
VICTIMS = CLIENTS if LONG else 2  # one of each library
ROWS = 30  # that a client inserts in a round

pytestmark = pytest.mark.timeout(1800 if LONG else 240)

Clients = list[Client]


class Crew:
    """The clients of one mix. One that dies is replaced by another of its library."""

    def __init__(self, libraries: list[str]) -> None:
        self.clients = [Client(library) for library in libraries]

    def open(self, database: Path) -> Clients:
        """Let all of them open the database."""
        for client in self.clients:
            client.send(connect(database), sql("PRAGMA cache_size = 10"))
        for client in self.clients:
            assert not client.answer().error
        return self.clients

    def kill(self, index: int, *steps: Step) -> None:
        """Let one client do the steps and die, and replace it."""
        victim = self.clients[index]
        victim.send(*steps, ["die"])
        victim.wait_for_death()
        self.clients[index] = Client(victim.library)

    def end(self) -> None:
        for client in self.clients:
            client.end()


@pytest.fixture(scope="module", params=MIXES)
def crew(request: pytest.FixtureRequest) -> Iterator[Crew]:
    crew = Crew(MIXES[request.param])
    yield crew
    crew.end()


@pytest.fixture
def new_file(quick_disk: Path, crew: Crew) -> Iterator[Path]:
    """A path for the database, which all clients have closed at the end."""
    yield quick_disk / "test.db"
    for client in crew.clients:
        client.run(["close"])


@pytest.fixture(params=MODES)
def database(new_file: Path, request: pytest.FixtureRequest, crew: Crew) -> Path:
    """A database in each journal mode, with a table that all clients write to."""
    crew.clients[0].run(
        connect(new_file),
        sql(f"PRAGMA journal_mode = {request.param}"),
        sql("CREATE TABLE shared (client, number, body, PRIMARY KEY (client, number))"),
        sql("CREATE TABLE counter (transactions)"),
        sql("INSERT INTO counter VALUES (0)"),
        ["close"],
    )
    return new_file


def together(clients: Clients, batches: list[list[Step]]) -> None:
    """Let each client do its batch, all at the same time."""
    for client, steps in zip(clients, batches, strict=True):
        client.send(*steps)
    for client in clients:
        assert not client.answer().error


def transaction(*steps: Step) -> list[Step]:
    return [
        sql("BEGIN IMMEDIATE"),
        *steps,
        sql("UPDATE counter SET transactions = transactions + 1"),
        sql("COMMIT"),
    ]


def check(clients: Clients, rows: int, transactions: int) -> None:
    """Every client finds the database intact, and the same rows in it."""
    for client in clients:
        assert client.run(sql("PRAGMA integrity_check")) == [["ok"]]
        assert client.run(sql("SELECT transactions FROM counter")) == [[transactions]]
        assert client.run(sql("SELECT count(*), count(DISTINCT client || ' ' || number) FROM shared")) == [[rows, rows]]


def insert(client: int, number: int, size: int = 300) -> Step:
    return sql("INSERT INTO shared VALUES (?, ?, randomblob(?))", client, number, size)


def test_clients_insert_update_and_delete_concurrently(crew: Crew, database: Path) -> None:
    clients = crew.open(database)
    transactions = 0

    for round_number in range(ROUNDS):
        start = round_number * ROWS
        numbers = range(start, start + ROWS)
        together(clients, [[s for n in numbers for s in transaction(insert(c, n))] for c in range(CLIENTS)])
        transactions += ROWS * CLIENTS
        check(clients, ROWS * CLIENTS, transactions)

        # Each changes what another has inserted.
        change = "UPDATE shared SET body = ? WHERE client = ? AND number % 3 = ?"
        together(
            clients,
            [
                [s for part in range(3) for s in transaction(sql(change, f"of {c}", (c + 1) % CLIENTS, part))]
                for c in range(CLIENTS)
            ],
        )
        transactions += 3 * CLIENTS
        expected = [[(c + 1) % CLIENTS, f"of {c}", ROWS] for c in range(CLIENTS)]
        found = "SELECT client, body, count(*) FROM shared GROUP BY client, body"
        for client in clients:
            assert client.run(sql(found)) == sorted(expected)

        remove = "DELETE FROM shared WHERE client = ? AND number BETWEEN ? AND ?"
        together(
            clients,
            [
                [s for n in numbers[::5] for s in transaction(sql(remove, (c + 2) % CLIENTS, n, n + 4))]
                for c in range(CLIENTS)
            ],
        )
        transactions += ROWS // 5 * CLIENTS
        check(clients, 0, transactions)


def test_clients_create_fill_and_drop_their_own_tables(crew: Crew, database: Path) -> None:
    """Prepared statements meet a new schema all the time."""
    clients = crew.open(database)

    for round_number in range(ROUNDS):
        together(
            clients,
            [
                [
                    sql(f"CREATE TABLE own{c} (a INTEGER PRIMARY KEY, b)"),
                    *(sql(f"INSERT INTO own{c} VALUES (?, ?)", n, f"{c} {n}") for n in range(ROWS)),
                    sql(f"CREATE INDEX own_b{c} ON own{c} (b)"),
                    sql(f"ALTER TABLE own{c} ADD COLUMN c DEFAULT {round_number}"),
                ]
                for c in range(CLIENTS)
            ],
        )
        for client in clients:
            for c in range(CLIENTS):
                rows = client.run(sql(f"SELECT count(*), sum(a), min(c) FROM own{c} WHERE b LIKE '{c} %'"))
                assert rows == [[ROWS, sum(range(ROWS)), round_number]]
        together(clients, [[sql(f"DROP TABLE own{c}")] for c in range(CLIENTS)])
        check(clients, 0, 0)


@pytest.mark.parametrize("moment", ["begun", "written", "spilled", "committed"])
def test_client_that_dies_leaves_all_or_nothing(crew: Crew, database: Path, moment: str) -> None:
    """The others continue immediately, and roll back what it has left."""
    clients = crew.open(database)
    rows = transactions = 0
    steps = {
        "begun": [sql("BEGIN IMMEDIATE")],
        "written": transaction(insert(99, 1))[:-1],
        "spilled": transaction(*(insert(99, n, 3000) for n in range(60)))[:-1],
        "committed": transaction(insert(99, 1)),
    }[moment]

    for round_number in range(ROUNDS):
        for victim in range(VICTIMS):
            crew.kill(victim, *steps)
            others = [client for c, client in enumerate(clients) if c != victim]
            number = round_number * VICTIMS + victim
            together(others, [transaction(insert(c, number)) for c in range(len(others))])
            rows += len(others)
            transactions += len(others)
            if moment == "committed":
                transactions += 1
                rows += 1
                others[0].run(sql("UPDATE shared SET number = ? WHERE client = 99 AND number = 1", -1 - number))
            check(others, rows, transactions)
            clients[victim].run(connect(database), sql("PRAGMA cache_size = 10"))
    check(clients, rows, transactions)


def test_clients_die_while_the_others_write(crew: Crew, database: Path) -> None:
    clients = crew.open(database)
    rows = transactions = 0

    for round_number in range(ROUNDS):
        victim = round_number % CLIENTS
        others = [(c, client) for c, client in enumerate(clients) if c != victim]
        for c, client in others:
            numbers = range(round_number * ROWS, (round_number + 1) * ROWS)
            client.send(*(step for n in numbers for step in transaction(insert(c, n))))
        for attempt in range(VICTIMS):
            crew.kill(
                victim, connect(database), *transaction(insert(98, attempt), insert(98, attempt + 10, 50_000))[:-1]
            )
        for _, client in others:
            assert not client.answer().error
        rows += ROWS * len(others)
        transactions += ROWS * len(others)
        clients[victim].run(connect(database), sql("PRAGMA cache_size = 10"))
        check(clients, rows, transactions)


def test_locked_out_clients_wait_or_get_an_error(crew: Crew, database: Path) -> None:
    holder, patient, hasty, reader = crew.open(database)
    is_wal = holder.run(sql("PRAGMA journal_mode")) == [["wal"]]
    for round_number in range(ROUNDS):
        holder.run(sql("BEGIN IMMEDIATE"), insert(0, round_number))
        patient.send(*transaction(insert(1, round_number)))

        assert BUSY in hasty.fails(connect(database, 0), sql("BEGIN IMMEDIATE"))
        assert reader.run(sql("SELECT count(*) FROM shared")) == [[2 * round_number]]
        reader.run(sql("BEGIN"), sql("SELECT max(number) FROM shared"))
        if is_wal:
            holder.run(sql("COMMIT"))
            assert not patient.answer().error
            assert reader.run(sql("SELECT count(*) FROM shared")) == [[2 * round_number]], "its own snapshot"
            assert BUSY in reader.fails(insert(2, round_number)), "a snapshot that is not the newest"
        else:
            # The writer cannot commit while another client reads; until then no other may begin to.
            holder.send(sql("COMMIT"))
            while not (answer := hasty_answer(hasty)):
                pass
            assert BUSY in answer
        reader.run(sql("COMMIT"))
        if not is_wal:
            assert not holder.answer().error
            assert not patient.answer().error
        assert reader.run(sql("SELECT count(*) FROM shared")) == [[2 * round_number + 2]]
        check([holder, patient, reader], 2 * round_number + 2, round_number + 1)


def hasty_answer(hasty: Client) -> str:
    """Return why a client that does not wait cannot read, "" if it can: the writer has no PENDING lock yet."""
    hasty.send(sql("SELECT count(*) FROM shared"))
    return hasty.answer().error


@pytest.mark.skipif(
    sys.platform == "win32",
    reason="a journal that another client keeps open cannot be deleted, by native SQLite either",
)
def test_settings_change_while_other_clients_use_the_database(crew: Crew, database: Path) -> None:
    """One client after another changes journal mode, page size and file, while all have the database open."""
    clients = crew.open(database)
    rows = transactions = 0
    changes = [
        [sql("PRAGMA journal_mode = WAL")],
        [sql("PRAGMA wal_checkpoint(TRUNCATE)"), sql("PRAGMA journal_mode = DELETE")],
        [sql("PRAGMA page_size = 1024"), sql("VACUUM")],
        [sql("PRAGMA journal_mode = PERSIST"), sql("PRAGMA auto_vacuum = INCREMENTAL"), sql("VACUUM")],
        [sql("PRAGMA incremental_vacuum(3)"), sql("PRAGMA journal_mode = TRUNCATE")],
        [sql("REINDEX"), sql("ANALYZE"), sql("PRAGMA user_version = 7")],
    ]
    for round_number in range(ROUNDS * len(changes)):
        numbers = range(round_number * 5, round_number * 5 + 5)
        together(clients, [[s for n in numbers for s in transaction(insert(c, n))] for c in range(CLIENTS)])
        rows += 5 * CLIENTS
        transactions += 5 * CLIENTS
        others = [client for c, client in enumerate(clients) if c != round_number % CLIENTS]
        for client in others:
            client.run(sql("SELECT count(*) FROM shared"))
        for _ in range(2):  # changing the mode needs the others idle, not gone; only the last leaves WAL mode
            clients[round_number % CLIENTS].send(*changes[round_number % len(changes)])
            error = clients[round_number % CLIENTS].answer().error
            if not error:
                break
            assert BUSY in error
            for client in others:
                client.run(["close"])
        for client in others:
            client.run(connect(database), sql("PRAGMA cache_size = 10"))
        check(clients, rows, transactions)
