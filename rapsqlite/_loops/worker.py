"""Work that may block, in a thread of its own, for a task of either event loop.

Not in a thread of anyio's: that keeps the loop it works for, and with it the tasks of a loop that was closed meanwhile,
what they hold, and so their connections.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any, TypeVar, cast

from rapsqlite._loops import current_loop
from rapsqlite._loops.cancellation import settle

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite._loops import Loop

    R = TypeVar("R")


class _Work:
    """One function that a thread runs, and what its task waits for (a ``Ticket``)."""

    def __init__(self, loop: Loop, function: Callable[[], object], grace_period_s: float) -> None:
        self.grace_period_s = grace_period_s
        self.waiter: Any = None
        self.cancellation: BaseException | None = None
        self.result: object = None
        self.error: BaseException | None = None
        self.abandoned = False
        self._done = False
        self._loop = loop
        self._function = function

    def run(self) -> None:
        try:
            self.result = self._function()
        except BaseException as exc:  # noqa: BLE001 - it is raised again in the task
            self.error = exc
        self._done = True
        self._loop.post(self._wake)

    def _wake(self) -> None:
        if not self.abandoned:
            self._loop.wake(self)

    def is_ready(self) -> bool:
        return self._done or self.abandoned

    def on_cancel(self) -> None:
        """Nothing: it cannot be interrupted."""

    def on_timeout(self) -> None:
        self.abandoned = True


async def in_thread(function: Callable[[], R], *, grace_period_s: float) -> R:
    """Return what ``function`` returns, or raise what it raises.

    A cancelled task waits for so long until it has ended. If it has then, the cancellation comes at the task's next
    checkpoint; otherwise it is raised, and the thread goes on by itself.
    """
    loop = current_loop()
    work = _Work(loop, function, grace_period_s)
    start(work.run)
    try:
        while not work.is_ready():
            await loop.wait(work)
    except BaseException:
        work.abandoned = True
        raise
    settle(loop, work, finished=not work.abandoned and work.error is None)
    if work.error is not None:
        try:
            raise work.error
        finally:
            del work  # whose error would lead back to it
    return cast("R", work.result)


def start(function: Callable[[], object], _is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
    """Run ``function`` in a thread that nobody waits for; here where none can be had. Any thread, also a finalizer."""
    if _is_finalizing():
        function()  # a thread that begins now never runs
        return
    try:
        threading.Thread(target=function, name="rapsqlite copy", daemon=True).start()
    except RuntimeError:  # there are too many already
        function()
