"""A task that is cancelled repeatedly until it ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

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
