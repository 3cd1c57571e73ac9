"""The limit on a statement's time: interrupts statements that exceed it, and forces a guest that does not react.

A watchdog thread checks what the guest is working on. SQLite notices an interrupt within a thousand steps of its
virtual machine, but a single step can take forever, such as a search for one long string in another, or a callback.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rapsqlite._guest.escalation import Escalation
    from rapsqlite._guest.request import PendingRequest
    from rapsqlite._guest.request_queue import RequestQueue

_CHECKS = 8  # checks within the time limit
_SHORTEST_PAUSE_S = 0.005


class Watchdog:
    """Lets the guest work on one request for at most ``limit_s`` seconds; 0: no limit."""

    def __init__(self, queue: RequestQueue, escalation: Escalation, limit_s: float) -> None:
        self._queue = queue
        self._escalation = escalation
        self._limit_s = limit_s
        self._ended = threading.Event()

    def start(self, name: str) -> None:
        """Start the thread, if there is a limit."""
        if self._limit_s:
            threading.Thread(target=self._watch, name=f"rapsqlite watchdog {name}", daemon=True).start()

    def end(self) -> None:
        """Make the thread end soon. Any thread."""
        self._ended.set()

    def _watch(self) -> None:
        seen: PendingRequest | None = None
        due = 0.0  # when its next step follows
        while not self._ended.wait(max(self._limit_s / _CHECKS, _SHORTEST_PAUSE_S)):
            running = self._queue.running()
            now = time.monotonic()
            if running is not seen or running is None:
                seen, due = running, now + self._limit_s
            elif now > due:
                if not running.overdue:  # even if the whole process was stopped until long after the limit
                    running.overdue = True
                    self._queue.cancel(running)
                elif not self._escalation.end_callback(running):
                    self._end_guest()
                    return
                due = time.monotonic() + self._queue.grace_period_s  # until then it has time to end

    def _end_guest(self) -> None:
        reason = f"a statement took longer than {self._limit_s:g} seconds and could not be interrupted"
        self._queue.host.last_message = reason
        self._escalation.end_guest()
        if not self._ended.wait(self._queue.grace_period_s):
            self._escalation.end_guest()
