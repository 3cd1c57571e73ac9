"""The number of processors that this process may actually use at once.

The machine's count is not enough: the process's affinity (``taskset``, a cpuset) and the quota of its control group (a
container's CPU limit) may leave fewer, down to one, and both may change at run time. So may other work on the machine.
https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files
"""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

from rapsqlite._platform import system

_AFFINITY_S = 0.005  # how long a result is reused: asking takes a microsecond
_QUOTA_S = 1.0  # the same for the quota, which is read from files
_RECENT_S = 0.02  # after a longer pause nothing is known
_MANY_SWITCHES = 4  # in _AFFINITY_S: an idle machine makes less than one, a busy one eight
_BUSY_S = 0.04  # how long the processors count as wanted by others
_CGROUPS = Path("/sys/fs/cgroup")

_involuntary_switches = system.involuntary_switches
_may_lack_processors = system.may_lack_processors

_affinity_until = _quota_until = _looked_at = _busy_until = 0.0
_switches = 0
_count = 1
_quota = 0.0  # in processors; 0: none


def usable_processors() -> int:
    """Return how many processors the process may use at once, at least 1."""
    global _affinity_until, _count
    now = perf_counter()
    if now >= _affinity_until:
        _affinity_until = now + _AFFINITY_S
        _count = _processors_now(now)
    return _count


def _processors_now(now: float) -> int:
    global _quota_until, _quota
    if now >= _quota_until:
        _quota_until = now + _QUOTA_S
        _quota = _read_quota()
    if _is_pushed_aside(now):
        return 1
    count = system.processor_count()
    return max(1, min(count, int(_quota)) if _quota else count)


def _is_pushed_aside(now: float) -> bool:
    """Return True if other work wants the processors: the system has taken them away several times of late.

    Only a time in which threads could spin counts: those that take turns on one processor push each other aside. So do
    the threads of several connections, and for moments the kernel's own, on an idle machine; but then none waits.
    """
    global _looked_at, _switches, _busy_until
    if now < _busy_until:
        _looked_at = 0.0
        return True
    since, _looked_at = now - _looked_at, now
    before, _switches = _switches, _involuntary_switches()
    is_limited = 0 < _quota < system.processor_count()  # then the whole machine's threads say nothing
    if since < _RECENT_S and _switches - before >= _MANY_SWITCHES and (is_limited or _may_lack_processors()):
        _busy_until = now + _BUSY_S
        return True
    return False


def _read_quota() -> float:
    """Return the quota of the process's control group (version 2 or 1) as the container sees it; 0 if there is none."""
    try:
        quota, period = (_CGROUPS / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            quota = (_CGROUPS / "cpu" / "cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (_CGROUPS / "cpu" / "cpu.cfs_period_us").read_text(encoding="ascii")
        except (OSError, ValueError):
            return 0.0
    try:
        return max(0.0, int(quota) / int(period))
    except (ValueError, ZeroDivisionError):
        return 0.0  # "max", or -1
