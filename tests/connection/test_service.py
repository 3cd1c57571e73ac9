"""A service on one connection: a hundred requests at once; some are cancelled, some fail, some do not wait."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import anyio
import pytest

import rapsqlite
from rapsqlite import connect

if TYPE_CHECKING:
    from pathlib import Path

REQUESTS = 100
ACCOUNTS = 10
TOTAL = 1_000


class RefusedError(Exception):
    """Raised by a request in the middle of its transaction."""


class Service:
    """Moves money between accounts; each served request adds a line to the log, in the same transaction."""

    def __init__(self, conn: rapsqlite.Connection) -> None:
        self.conn = conn
        self.asked: list[int] = []
        self.served: list[int] = []
        self.outcomes: dict[int, str] = {}

    async def transfer(self, number: int) -> None:
        """Serve one request; its number decides whether it is cancelled inside, refused inside, or does not wait."""
        self.asked.append(number)
        conn = self.conn
        with anyio.CancelScope() as scope:
            async with conn.transaction("IMMEDIATE", timeout=0 if number % 10 == 7 else None):
                giver, taker = number % ACCOUNTS, (number + 1) % ACCOUNTS
                await conn.execute("UPDATE account SET balance = balance - 1 WHERE id = ?", [giver])
                if number % 10 == 3:
                    scope.cancel()
                    await anyio.lowlevel.checkpoint()
                if number % 10 == 5:
                    raise RefusedError
                await conn.execute("UPDATE account SET balance = balance + 1 WHERE id = ?", [taker])
                await conn.execute("INSERT INTO log (request) VALUES (?)", [number])
            self.served.append(number)

    async def request(self, number: int) -> None:
        self.outcomes[number] = "cancelled"
        try:
            await self.transfer(number)
        except RefusedError:
            self.outcomes[number] = "refused"
        except rapsqlite.OperationalError as error:
            self.outcomes[number] = error.sqlite_errorname
        else:
            if number in self.served:
                self.outcomes[number] = "served"

    async def balances_add_up(self) -> None:
        """Read while others write: one statement on the same connection, between theirs."""
        for _ in range(20):
            assert len(await self.conn.fetch_all("SELECT id FROM account")) == ACCOUNTS


@pytest.mark.parametrize("cancelled_while_waiting", [set(), set(range(4, REQUESTS, 10))], ids=["", "waiting cancelled"])
async def test_requests_are_served_in_order_and_atomically(database: Path, cancelled_while_waiting: set[int]) -> None:
    scopes = {number: anyio.CancelScope() for number in range(REQUESTS)}
    async with connect(database) as conn:
        await conn.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER CHECK (balance >= 0))")
        await conn.execute("CREATE TABLE log (position INTEGER PRIMARY KEY, request)")
        await conn.executemany("INSERT INTO account VALUES (?, ?)", [(i, TOTAL // ACCOUNTS) for i in range(ACCOUNTS)])
        await conn.commit()
        service = Service(conn)

        opened = anyio.Event()

        async def in_scope(number: int) -> None:
            await opened.wait()  # started before the block, because its own child tasks could not wait for it
            with scopes[number]:
                await service.request(number)

        async with anyio.create_task_group() as tasks:
            for number in range(REQUESTS):
                tasks.start_soon(in_scope, number)
            await anyio.wait_all_tasks_blocked()
            async with conn.transaction():  # so that all requests queue up behind it
                opened.set()
                await anyio.wait_all_tasks_blocked()
                for number in cancelled_while_waiting:
                    scopes[number].cancel()
            tasks.start_soon(service.balances_add_up)

        assert not conn.in_transaction
        assert await conn.fetch_scalar("SELECT sum(balance) FROM account") == TOTAL

    expected = {
        **dict.fromkeys(range(REQUESTS), "served"),
        **dict.fromkeys(range(3, REQUESTS, 10), "cancelled"),
        **dict.fromkeys(range(5, REQUESTS, 10), "refused"),
        **dict.fromkeys(range(7, REQUESTS, 10), "SQLITE_BUSY"),
        **dict.fromkeys(cancelled_while_waiting, "cancelled"),
    }
    assert service.outcomes == expected
    in_turn = [number for number in service.asked if expected[number] == "served"]
    assert service.served == in_turn
    with sqlite3.connect(database) as stock:
        assert [request for (request,) in stock.execute("SELECT request FROM log ORDER BY position")] == in_turn
    stock.close()
