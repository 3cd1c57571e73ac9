"""Full collections are held back during a large fetch, and only then."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from rapsqlite._guest import gc_pause
from rapsqlite._guest.gc_pause import FullCollectionsHeldBack

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def full_collections() -> Iterator[list[int]]:
    """Count the full collections that run during a test."""
    seen: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] == 2:
            seen.append(1)

    gc.callbacks.append(note)
    yield seen
    gc.callbacks.remove(note)


@pytest.fixture(autouse=True)
def eager_thresholds() -> Iterator[None]:
    """The collector looks through everything only once a quarter has been added: what others have made is set aside."""
    before = gc.get_threshold()
    gc.freeze()
    gc.collect()
    gc.set_threshold(10, 2, 2)
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def make_tracked_objects() -> list[list[int]]:
    return [[number] for number in range(200_000)]


def test_no_full_collection_runs_during_a_fetch(full_collections: list[int]) -> None:
    with FullCollectionsHeldBack():
        kept = make_tracked_objects()

    assert not full_collections
    kept += make_tracked_objects()
    assert full_collections, "without holding back this makes full collections: the test would prove nothing"


def test_nested_contexts_restore_once_the_last_one_ends() -> None:
    before = gc.get_threshold()

    with FullCollectionsHeldBack():
        with FullCollectionsHeldBack():
            pass
        inside = gc.get_threshold()

    assert inside[:2] == before[:2]
    assert inside[2] > before[2]
    assert gc.get_threshold() == before


def test_an_exception_restores_too() -> None:
    """The collector's threshold is the whole process's: no way out may leave it changed."""
    before = gc.get_threshold()

    with pytest.raises(KeyError), FullCollectionsHeldBack():
        raise KeyError

    assert gc.get_threshold() == before


def test_a_threshold_that_the_program_sets_meanwhile_is_kept() -> None:
    with FullCollectionsHeldBack():
        gc.set_threshold(11, 3, 4)

    assert gc.get_threshold() == (11, 3, 4)


def test_an_explicit_collection_still_runs(full_collections: list[int]) -> None:
    with FullCollectionsHeldBack():
        gc.collect()

    assert len(full_collections) == 1


def test_context_ends_although_its_collection_came_while_another_one_began_or_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The collector ends the fetch of a lost task, on CPython from 3.12 on after any call: it waited for itself."""
    before = gc.get_threshold()
    lost, kept = FullCollectionsHeldBack(), FullCollectionsHeldBack()
    ended = threading.Event()

    class Collecting(set[FullCollectionsHeldBack]):
        def add(self, element: FullCollectionsHeldBack) -> None:
            super().add(element)
            if element is kept:
                lost.end()

        def discard(self, element: object) -> None:
            super().discard(element)
            if element is kept:
                lost.end()

    def fetch() -> None:
        with lost, kept:
            pass
        ended.set()

    monkeypatch.setattr(gc_pause._state, "_open", Collecting())
    threading.Thread(target=fetch, daemon=True).start()

    assert ended.wait(30)
    assert gc.get_threshold() == before


FORK = """
import gc, os, sys
from rapsqlite._guest import gc_pause
from rapsqlite._guest.gc_pause import FullCollectionsHeldBack
before = gc.get_threshold()
with FullCollectionsHeldBack():
    child = os.fork()
    if child == 0:
        os._exit(0 if gc.get_threshold() == before else 1)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_forked_during_a_fetch_has_its_threshold_back() -> None:
    assert subprocess.run([sys.executable, "-c", FORK], check=False).returncode == 0
