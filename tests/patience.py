"""Lets guests take their time, so that a busy machine looks like a fast one, and a guest that never answers hangs."""

from __future__ import annotations

from typing import Any

from rapsqlite._guest.request_queue import RequestQueue

LATE_S = 300  # longer than any test


def let_guests_answer_late() -> None:
    """Kill no guest of this process for a late answer."""
    make = RequestQueue.__init__

    def made(queue: RequestQueue, *arguments: Any) -> None:
        make(queue, *arguments)
        queue.grace_period_s = LATE_S

    RequestQueue.__init__ = made  # type: ignore[assignment, method-assign]
