"""Other tasks run between the batches of a large result, although the next batch is already there.

A task whose sleep is over needs three turns of an asyncio loop: one in which its timer is seen, one in which it is
woken, and its own. While a fetch took a millisecond or more of each, it was up to 8 ms late.
"""

from __future__ import annotations

import time as real_time
from typing import Any

import anyio
import sniffio

import rapsqlite
from rapsqlite._guest import guest as guests
from rapsqlite._guest.guest import Guest

ROWS = 40_000
NUMBERS = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {ROWS}) SELECT i, 'some text' FROM n"
BATCH_S = 0.0003  # for one batch of BATCH_BYTES


class PlayedTime:
    """The module ``time`` of guests: a batch passes between two readings."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += BATCH_S
        return self.now

    def __getattr__(self, name: str) -> Any:
        return getattr(real_time, name)


async def test_other_tasks_run_between_the_batches_of_a_large_result(monkeypatch: Any) -> None:
    turns = 0
    turns_at: list[int] = []
    take_reply = Guest._take_reply

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    def noted(self: Guest, *arguments: Any) -> Any:
        turns_at.append(turns)
        return take_reply(self, *arguments)

    monkeypatch.setattr(guests, "time", PlayedTime())
    async with rapsqlite.connect(":memory:") as connection, anyio.create_task_group() as tasks:
        monkeypatch.setattr(Guest, "_take_reply", noted)
        tasks.start_soon(take_turns)
        rows = await connection.fetch_all(NUMBERS)
        monkeypatch.setattr(Guest, "_take_reply", take_reply)
        tasks.cancel_scope.cancel()

    assert [row[0] for row in rows] == list(range(1, ROWS + 1))
    batches = len(turns_at)
    assert batches > 8
    # Trio shuffles the tasks of each turn, so the last of one may be the first of the next.
    most = 2 if sniffio.current_async_library() == "trio" else 1
    assert max(turns_at.count(turn) for turn in turns_at[1:]) <= most, turns_at
