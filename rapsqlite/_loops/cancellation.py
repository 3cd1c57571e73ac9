"""Cancellations that arrive while a guest works for the task: raised now, or held back and raised later.

If the request failed, the cancellation is raised. If it finished, its result is returned although its task was
cancelled, and the cancellation is raised at the task's next checkpoint, so work that was done is never reported as
undone, nor the reverse. That is at the latest the task's next request, before it is sent. Otherwise a task that only
runs short statements could outrun its cancellation: cancelled repeatedly, each time while it waits for a statement that
has just finished.

https://anyio.readthedocs.io/en/stable/cancellation.html
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rapsqlite._loops import Loop
    from rapsqlite._loops.ticket import Ticket

held_back: dict[int, weakref.ref[Any]] = {}
"""Tasks whose cancellation was held back and that have sent nothing since, by identity."""


def raise_or_hold_back(loop: Loop, ticket: Ticket, finished: bool) -> None:
    """Handle a cancellation that arrived while the ticket was awaited: raise it unless the request finished."""
    cancellation = ticket.cancellation
    if cancellation is None:
        return
    if not finished:
        ticket.cancellation = None
        try:
            raise cancellation
        finally:
            del cancellation  # whose traceback leads back here, and to all that the task's frames hold
    task = loop.current_task()
    key = id(task)
    held_back[key] = weakref.ref(task, lambda _: held_back.pop(key, None))
    loop.redeliver(ticket)


async def deliver_held_back(loop: Loop) -> None:
    """Raise the running task's cancellation if one was held back and is still due."""
    if held_back.pop(id(loop.current_task()), None) is not None:
        await loop.deliver()
