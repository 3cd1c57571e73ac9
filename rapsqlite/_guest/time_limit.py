"""The limit on a statement's time: interrupts what takes longer, and ends a guest that does not even notice.

A thread of the connection's own looks at what the guest works on. An interrupt is noticed within a thousand steps of
SQLite's virtual machine; but a single step can take for ever, a search for one long string in another, say.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rapsqlite._guest.escalation import Escalation
    from rapsqlite._guest.request import PendingRequest
    from rapsqlite._guest.traffic import RequestQueue

_LOOKS = 8  # in the time that a request may take
_SHORTEST_PAUSE_S = 0.005


class Watchdog:
    """Lets the guest work on one request for ``limit_s`` without a pause; 0: for ever."""

    def __init__(self, traffic: RequestQueue, escalation: Escalation, limit_s: float) -> None:
        self._traffic = traffic
        self._escalation = escalation
        self._limit_s = limit_s
        self._ended = threading.Event()

    def start(self, name: str) -> None:
        """Start the thread, if there is a limit to watch."""
        if self._limit_s:
            threading.Thread(target=self._watch, name=f"rapsqlite watchdog {name}", daemon=True).start()

    def end(self) -> None:
        """Let the thread end soon. Any thread."""
        self._ended.set()

    def _watch(self) -> None:
        seen: PendingRequest | None = None
        since = 0.0
        while not self._ended.wait(max(self._limit_s / _LOOKS, _SHORTEST_PAUSE_S)):
            running = self._traffic.running()
            worked_s = time.monotonic() - since
            if running is not seen or running is None:
                seen, since = running, time.monotonic()
            elif worked_s > self._limit_s + self._traffic.grace_period_s:
                reason = f"a statement took longer than {self._limit_s:g} seconds and could not be interrupted"
                self._traffic.host.last_message = reason
                self._escalation.press_guest()
                if not self._ended.wait(self._traffic.grace_period_s):
                    self._escalation.press_guest()
                return
            elif worked_s > self._limit_s and not running.overdue:
                running.overdue = True
                self._traffic.cancel(running)
