"""`AsyncioLoop`: it is found; a posted callback runs to its end once, whatever a KeyboardInterrupt ends or loses."""

from __future__ import annotations

import asyncio
import sys
from types import ModuleType

import pytest

from rapsqlite._loops import current_loop
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


def test_loop_of_asyncio_is_found_while_another_thread_imports_trio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its module is there before its names are: every use of a connection failed meanwhile."""

    async def main() -> None:
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, "trio", ModuleType("trio"))
            loop = current_loop()
        assert isinstance(loop, AsyncioLoop)

    asyncio.run(main())
