"""Waiting for a guest on whichever event loop runs: asyncio (uvloop included) or Trio.

A ``Ticket`` is one thing a task waits for. ``Loop.wait`` suspends the task until ``Loop.wake`` is called for the ticket
in the loop's own thread; ``Loop.post`` gets a callback there from any thread, through the loop's public interface.

Cancellation never abandons a ticket: it is remembered on the ticket, ``ticket.on_cancel`` asks the guest to stop, and
the wait goes on until the guest has answered. What the guest did then decides what becomes of it (``cancellation``).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rapsqlite._loops.asyncio_loop import AsyncioLoop
from rapsqlite._loops.trio_loop import TrioLoop

if TYPE_CHECKING:
    Loop = AsyncioLoop | TrioLoop


def current_loop(last: Loop | None = None) -> Loop:
    """Return the event loop that runs in this thread now, as ``last`` if it is still that one.

    Raises RuntimeError outside of an event loop.
    """
    trio_module = sys.modules.get("trio")
    if trio_module is not None and trio_module.lowlevel.in_trio_task():
        token = trio_module.lowlevel.current_trio_token()
        if last is not None and last.key is token:
            return last
        return TrioLoop(trio_module, token)
    asyncio_module = sys.modules.get("asyncio")
    loop = asyncio_module._get_running_loop() if asyncio_module is not None else None
    if loop is None:
        raise RuntimeError("no asyncio or Trio event loop is running in this thread: use rapsqlite inside a coroutine")
    if type(last) is AsyncioLoop and last.key() is loop:
        return last
    return AsyncioLoop(loop)
