"""Blocking work in its own thread, for a task of either event loop.

It does not use anyio's threads: they keep the loop they work for alive, and with it the tasks of a loop that was closed
meanwhile, their objects, and so their connections.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any, TypeVar, cast

from rapsqlite._loops import current_loop
from rapsqlite._loops.cancellation import raise_or_hold_back

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite._loops import Loop

    R = TypeVar("R")


class _Work:
    """One function running in a thread, and what its task waits for (a ``Ticket``)."""

    def __init__(
        self, loop: Loop, function: Callable[[], object], grace_period_s: float, on_cancel: Callable[[], object]
    ) -> None:
        self.grace_period_s = grace_period_s
        self._on_cancel = on_cancel
        self.waiter: Any = None
        self.cancellation: BaseException | None = None
        self.cancellation_count: int = 0
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
        self._on_cancel()

    def on_timeout(self) -> None:
        self.abandoned = True


def _nothing() -> None:
    """Do nothing: the work cannot be interrupted."""


async def in_thread(
    function: Callable[[], R],
    *,
    grace_period_s: float,
    starter: Callable[[Callable[[], object]], object] | None = None,
    on_cancel: Callable[[], object] = _nothing,
) -> R:
    """Run ``function`` in a thread; return its result or raise its exception.

    ``starter`` gets a function to run in the thread, by default in a new one. ``on_cancel`` is called if the task is
    cancelled.

    A cancelled task waits at most this long for it to end. If it does, the cancellation is raised at the task's next
    checkpoint; otherwise it is raised immediately, and the thread continues by itself.
    """
    loop = current_loop()
    work = _Work(loop, function, grace_period_s, on_cancel)
    (starter or start)(work.run)
    try:
        while not work.is_ready():
            await loop.wait(work)
    except BaseException:
        work.abandoned = True
        raise
    raise_or_hold_back(loop, work, finished=not work.abandoned and work.error is None)
    if work.error is not None:
        try:
            raise work.error
        finally:
            del work  # its error would refer back to it
    return cast("R", work.result)


def start(function: Callable[[], object], _is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
    """Run ``function`` in a thread without waiting; here if none can be started. Any thread, also a finalizer."""
    if _is_finalizing():
        function()  # a thread started now would never run
        return
    try:
        threading.Thread(target=function, name="rapsqlite copy", daemon=True).start()
    except RuntimeError:  # there are too many threads already
        function()


def start_thread(thread: threading.Thread) -> None:
    """Start it; RuntimeError if there are too many, or, as Python itself does since 3.12, once the interpreter ends.

    Until 3.11 starting one then waits forever: the new thread never runs.
    """
    if sys.is_finalizing():
        raise RuntimeError("can't create new thread at interpreter shutdown")
    thread.start()
