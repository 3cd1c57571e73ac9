"""Clocks and percentiles: how a workload computes its figures.

A figure's name ends in its unit: ``_per_s`` (more is better), ``_us``, ``_ms``, ``_kib``, ``_ratio``.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Figures = dict[str, float]

TICK_S = 0.001


def rate(count: int, seconds: float, unit: str = "operations") -> Figures:
    """Return ``count`` events in ``seconds`` as events per second."""
    return {f"{unit}_per_s": count / seconds}


def latencies(durations_ns: list[int]) -> Figures:
    """Return the median and the 99th percentile of single operations, in microseconds."""
    ordered = sorted(durations_ns)
    return {
        "p50_us": statistics.median(ordered) / 1000,
        "p99_us": ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] / 1000,
    }


async def seconds_of(awaitable: Awaitable[object]) -> float:
    """Await and return the elapsed time."""
    start = time.perf_counter()
    await awaitable
    return time.perf_counter() - start


async def timed_operations(operation: Callable[[int], Awaitable[object]], count: int) -> tuple[float, list[int]]:
    """Run ``operation(i)`` one after another; return the total seconds and the nanoseconds of each."""
    durations_ns = []
    clock = time.perf_counter_ns
    start = before = clock()
    for index in range(count):
        await operation(index)
        now = clock()
        durations_ns.append(now - before)
        before = now
    return (before - start) / 1e9, durations_ns


class Ticker:
    """Sleeps a millisecond at a time next to the workload and records how late each wake-up was."""

    def __init__(self) -> None:
        self.delays_s: list[float] = []

    async def _tick(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(TICK_S)
            self.delays_s.append(time.perf_counter() - before - TICK_S)

    async def __aenter__(self) -> Ticker:
        self._task = asyncio.create_task(self._tick())
        await asyncio.sleep(2 * TICK_S)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        # Count a tick that was due while the loop was blocked.
        await asyncio.sleep(2 * TICK_S)
        self._task.cancel()

    def largest_ms(self) -> float:
        """Return the latest wake-up, in milliseconds."""
        return max(self.delays_s) * 1000
