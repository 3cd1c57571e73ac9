"""Waiting for a guest on the running event loop: asyncio (including uvloop) or Trio.

A ``Ticket`` is something a task waits for. ``Loop.wait`` suspends the task until ``Loop.wake`` is called for the ticket
in the loop's own thread; ``Loop.post`` schedules a callback there from any thread, through the loop's public interface.
Cancellation never abandons a ticket: it is stored on the ticket, ``ticket.on_cancel`` asks the guest to stop, and the
wait continues until the guest has answered. The guest's answer decides what happens to the cancellation
(``cancellation``).
"""

from __future__ import annotations

import sys
from contextvars import copy_context
from typing import TYPE_CHECKING

from rapsqlite._loops.asyncio_loop import AsyncioLoop
from rapsqlite._loops.trio_loop import TrioLoop

if TYPE_CHECKING:
    from contextvars import Context

    Loop = AsyncioLoop | TrioLoop


def current_loop(last: Loop | None = None) -> Loop:
    """Return the event loop running in this thread, as ``last`` if it is the same one.

    Raises RuntimeError outside an event loop.
    """
    trio_module = sys.modules.get("trio")
    lowlevel = getattr(trio_module, "lowlevel", None)  # missing while another thread imports Trio
    if lowlevel is not None and lowlevel.in_trio_task():
        token = lowlevel.current_trio_token()
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


def context_for_thread() -> Context:
    """Return a copy of the running task's context for another thread, in which no event loop runs."""
    context = copy_context()
    sniffio = sys.modules.get("sniffio")
    if sniffio is not None:  # anyio sets its variable, as `anyio.to_thread` resets it
        context.run(sniffio.current_async_library_cvar.set, None)
    return context
