"""Cancellations that come while a guest works for the task: raised, or held back and raised later.

A request that failed raises the cancellation. A request that finished is returned although its task was cancelled, and
the cancellation arrives at the task's next checkpoint: so nothing done is reported as undone, nor the reverse. The next
checkpoint is at the latest the task's next request, before it is sent. Otherwise a task that does nothing but short
statements could outrun its cancellation: cancelled again and again, each time while it waits for a statement that the
guest has just finished.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rapsqlite._loops import Loop
    from rapsqlite._loops.ticket import Ticket

held_back: dict[int, weakref.ref[Any]] = {}
"""Tasks whose cancellation was held back and that have sent nothing since, by identity."""


def settle(loop: Loop, ticket: Ticket, finished: bool) -> None:
    """Account for a cancellation that came while the ticket was waited for: raise it unless the request finished."""
    cancellation = ticket.cancellation
    if cancellation is None:
        return
    if not finished:
        raise cancellation
    task = loop.current_task()
    key = id(task)
    held_back[key] = weakref.ref(task, lambda _: held_back.pop(key, None))
    loop.redeliver(cancellation)


async def deliver_held_back(loop: Loop) -> None:
    """Raise a cancellation of the running task that was held back and is still due."""
    if held_back.pop(id(loop.current_task()), None) is not None:
        await loop.deliver()
