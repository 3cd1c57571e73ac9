"""Lets guests take their time, so that a busy machine is like an idle one."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rapsqlite._guest import time_limit
from rapsqlite._guest.escalation import Escalation
from rapsqlite._guest.request_queue import RequestQueue

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

LATE_S = 300  # longer than any test


class PlayedTime:
    """A module ``time`` for one module of the package: it passes only when the test says so."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def perf_counter(self) -> float:
        return self.now

    monotonic = perf_counter


class LimitClock:
    """The module ``time`` of the limit on a statement's time: it passes only while this is running."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._tick_s = 0.0

    def monotonic(self) -> float:
        self._now += self._tick_s
        return self._now

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let time pass whenever a guest's watchdog looks, which is every few milliseconds."""
        self._tick_s = 0.01
        yield
        self._tick_s = 0.0

    def leap(self) -> None:
        """Let more time pass at once than any limit and grace period, as for a process that was stopped."""
        self._now += 10 * LATE_S


def play_time_limits(monkeypatch: pytest.MonkeyPatch) -> LimitClock:
    """Let no statement reach its limit because the machine is busy."""
    clock = LimitClock()
    monkeypatch.setattr(time_limit, "time", clock)
    return clock


def let_killed_guests_end_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave behind no guest that was killed, however short its grace period is and long it takes to end."""
    monkeypatch.setattr(Escalation, "end_guest", Escalation.kill)


def let_guests_answer_late() -> None:
    """Kill no guest of this process for a late answer: waiting for one that never answers hangs.

    Except where a test makes the time short, to see what follows.
    """
    make = RequestQueue.__init__

    def made(queue: RequestQueue, *arguments: Any) -> None:
        make(queue, *arguments)
        if queue.grace_period_s >= 1:
            queue.grace_period_s = LATE_S

    RequestQueue.__init__ = made  # type: ignore[assignment, method-assign]
