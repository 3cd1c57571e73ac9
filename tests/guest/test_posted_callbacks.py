"""`AsyncioLoop.post`: a callback runs to its end once, whatever a KeyboardInterrupt ends or loses."""

from __future__ import annotations

import asyncio

import pytest

from rapsqlite._loops.asyncio_loop import AsyncioLoop


@pytest.mark.parametrize("interrupted", [0, 1])
def test_posted_callback_runs_again_only_if_it_was_interrupted(interrupted: int) -> None:
    runs: list[str] = []

    def callback(name: str) -> None:
        runs.append(name)
        if len(runs) <= interrupted:
            raise KeyboardInterrupt

    loop = asyncio.new_event_loop()
    assert AsyncioLoop(loop).post(callback, "a")
    loop.call_soon(loop.stop)
    for _ in range(interrupted):
        with pytest.raises(KeyboardInterrupt):
            loop.run_forever()
    loop.run_forever()
    loop.close()

    assert runs == ["a"] * (1 + interrupted)
