"""How many processors a process may use: its affinity and the quota of its control group, as they are now."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from rapsqlite._guest import processors
from rapsqlite._platform import system

if TYPE_CHECKING:
    from pathlib import Path


COUNT_SWITCHES = processors._involuntary_switches


@pytest.fixture(autouse=True)
def nothing_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is cached, and there is no control group."""
    monkeypatch.setattr(processors, "_CGROUPS", tmp_path)
    for name in ("_affinity_until", "_quota_until", "_quota", "_looked_at", "_busy_until"):
        monkeypatch.setattr(processors, name, 0.0)
    monkeypatch.setattr(processors, "_involuntary_switches", lambda: 0)
    monkeypatch.setattr(processors, "_may_lack_processors", lambda: True)


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The control group's files, on a machine with four processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    "quota, expected",
    [
        ("max 100000", 4),
        ("200000 100000", 2),
        ("150000 100000", 1),
        ("50000 100000", 1),
        ("900000 100000", 4),
        ("", 4),
        ("what 0", 4),
    ],
)
def test_cgroup_v2_quota_bounds_the_processors(groups: Path, quota: str, expected: int) -> None:
    """A container's quota bounds the processors: https://docs.kernel.org/admin-guide/cgroup-v2.html"""
    (groups / "cpu.max").write_text(quota, encoding="ascii")

    assert processors.usable_processors() == expected


@pytest.mark.parametrize("quota, expected", [("-1", 4), ("200000", 2), ("50000", 1)])
def test_cgroup_v1_quota_bounds_the_processors(groups: Path, quota: str, expected: int) -> None:
    """A container's quota bounds the processors, also under version 1 of control groups."""
    (groups / "cpu").mkdir()
    (groups / "cpu" / "cpu.cfs_quota_us").write_text(quota, encoding="ascii")
    (groups / "cpu" / "cpu.cfs_period_us").write_text("100000", encoding="ascii")

    assert processors.usable_processors() == expected


def test_number_of_processors_of_the_machine_counts_without_affinity(
    groups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rapsqlite._platform import darwin  # not on Windows

    monkeypatch.setattr(system, "processor_count", darwin.Darwin().processor_count)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)

    assert processors.usable_processors() == 3


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_change_of_affinity_is_seen_within_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(processors, "perf_counter", lambda: now[0])
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        pytest.skip("the process has a single processor already")
    try:
        assert processors.usable_processors() > 1
        os.sched_setaffinity(0, {min(before)})
        now[0] += 0.005

        assert processors.usable_processors() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_frequent_preemption_leaves_one_processor_for_a_while(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other work wants the processors: a spinning thread keeps it, and the other side, from running. Switches counted
    while nobody spins mean nothing, so the next check starts over.
    """
    now, switches = [100.0], [7]
    monkeypatch.setattr(processors, "perf_counter", lambda: now[0])
    monkeypatch.setattr(processors, "_involuntary_switches", lambda: switches[0])
    seen = []
    for taken_away in (0, 1, 3, 4, 50, 50, 50, 50, 50, 2, 0, 5):
        switches[0] += taken_away
        seen.append(processors.usable_processors())
        now[0] += 0.009

    assert seen == [4, 4, 4, 1, 1, 1, 1, 1, 4, 4, 4, 1]


def test_preemption_counts_only_while_a_thread_waits_for_a_processor(
    groups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process's own threads, and the kernel's, take processors from each other on an idle machine too: five
    connections counted as pushed aside most of the time, and nobody spun.
    """
    now, switches, waits = [100.0], [7], [False]
    monkeypatch.setattr(processors, "perf_counter", lambda: now[0])
    monkeypatch.setattr(processors, "_involuntary_switches", lambda: switches[0])
    monkeypatch.setattr(processors, "_may_lack_processors", lambda: waits[0])
    seen = []
    for waits[0] in (False, False, False, True):
        switches[0] += 50
        seen.append(processors.usable_processors())
        now[0] += 0.009

    assert seen == [4, 4, 4, 1]


def test_preemption_always_counts_under_a_quota(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The threads of the whole machine, which the system counts, say nothing of the processors of a container."""
    (groups / "cpu.max").write_text("200000 100000", encoding="ascii")
    now, switches = [100.0], [7]
    monkeypatch.setattr(processors, "perf_counter", lambda: now[0])
    monkeypatch.setattr(processors, "_involuntary_switches", lambda: switches[0])
    monkeypatch.setattr(processors, "_may_lack_processors", lambda: False)
    seen = []
    for _ in range(3):
        switches[0] += 50
        seen.append(processors.usable_processors())
        now[0] += 0.009

    assert seen == [2, 1, 1]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how many threads wait")
@pytest.mark.parametrize(
    "load, affinity, expected",
    [
        ("0.20 0.18 0.12 4/80 11206", {0, 1, 2, 3}, False),
        ("0.20 0.18 0.12 5/80 11206", {0, 1, 2, 3}, True),
        ("9.20 9.18 9.12 1/80 11206", {0, 1, 2, 3}, False),
        ("0.20 0.18 0.12 1/80 11206", {0, 1}, True),
        ("0.00 0.00 0.00 0/0 0", {0, 1, 2, 3}, True),
        ("", {0, 1, 2, 3}, True),
        ("0.20 0.18 0.12 x/80 11206", {0, 1, 2, 3}, True),
        (None, {0, 1, 2, 3}, True),
    ],
)
def test_threads_wait_if_more_can_run_than_there_are_processors(
    load: str | None, affinity: set[int], expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a process that may not use all of them nobody knows, nor where the system does not count: this thread runs."""
    from rapsqlite._platform import linux  # not on Windows

    if load is not None:
        (tmp_path / "loadavg").write_text(load, encoding="ascii")
    monkeypatch.setattr(linux, "_LOAD", str(tmp_path / "loadavg"))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: affinity)

    assert linux.Linux().may_lack_processors() is expected


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how many threads wait")
def test_number_of_runnable_threads_is_where_it_is_looked_for() -> None:
    """The test's own thread runs."""
    from rapsqlite._platform import linux  # not on Windows

    with open(linux._LOAD, encoding="ascii") as load:
        assert int(load.read().split()[3].partition("/")[0]) >= 1


def test_preemption_long_ago_does_not_count(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, switches = [100.0], [7]
    monkeypatch.setattr(processors, "perf_counter", lambda: now[0])
    monkeypatch.setattr(processors, "_involuntary_switches", lambda: switches[0])
    assert processors.usable_processors() == 4
    now[0] += 1
    switches[0] += 50

    assert processors.usable_processors() == 4


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not count them")
def test_involuntary_switches_of_the_process_are_counted() -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    counted = COUNT_SWITCHES()

    assert before <= counted <= resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
