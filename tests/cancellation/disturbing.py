"""Ways to disturb a task: cancel it until it ends, interrupt its wait."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from rapsqlite._loops import current_loop

if TYPE_CHECKING:
    from collections.abc import Coroutine


async def cancelled_until_done(work: Coroutine[object, object, None], is_inside: asyncio.Event) -> None:
    """Run ``work`` as a task, and cancel it at every turn of the loop once it ``is_inside`` the code under test."""
    task = asyncio.create_task(work)
    await is_inside.wait()
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task


def interrupt_next_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next wait for a reply on this kind of event loop raise KeyboardInterrupt, as Ctrl-C would."""
    kind = type(current_loop())
    wait = kind.wait

    async def interrupted(_loop: object, _ticket: object) -> None:
        monkeypatch.setattr(kind, "wait", wait)
        raise KeyboardInterrupt

    monkeypatch.setattr(kind, "wait", interrupted)
