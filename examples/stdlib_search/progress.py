"""Show the progress of a job: a bar on a terminal, otherwise a line for every tenth."""

from __future__ import annotations

import sys
import time
from typing import TextIO

BAR_WIDTH = 32
REDRAW_S = 0.05


class Progress:
    """Counts and displays the steps of a job whose total is known.

    Drawing is cheap and rare (at most 20 times a second), so the display does not disturb what it shows.
    """

    def __init__(self, title: str, total: int, stream: TextIO = sys.stdout) -> None:
        self.title = title
        self.total = total
        self.done = 0
        self.stream = stream
        self.started = time.perf_counter()
        self._drawn_at = 0.0
        self._tenth = -1

    def step(self, count: int = 1) -> None:
        """Add ``count`` finished steps."""
        self.done += count
        if self.stream.isatty():
            self._draw_bar()
        else:
            self._write_tenth()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the job was started."""
        return time.perf_counter() - self.started

    def _draw_bar(self) -> None:
        now = time.perf_counter()
        finished = self.done >= self.total
        if now - self._drawn_at < REDRAW_S and not finished:
            return
        self._drawn_at = now
        filled = BAR_WIDTH * self.done // max(self.total, 1)
        bar = "#" * filled + "-" * (BAR_WIDTH - filled)
        self.stream.write(f"\r{self.title:<24} [{bar}] {self.done}/{self.total} {self.elapsed_s:5.1f} s")
        self.stream.write("\n" if finished else "")
        self.stream.flush()

    def _write_tenth(self) -> None:
        tenth = 10 * self.done // max(self.total, 1)
        if tenth > self._tenth:
            self._tenth = tenth
            self.stream.write(f"{self.title}: {self.done}/{self.total}, {self.elapsed_s:.1f} s\n")
            self.stream.flush()
