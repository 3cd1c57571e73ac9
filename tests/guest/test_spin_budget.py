"""Which guests spin: those with frequent requests, at most half of the processors' number, and in turns if more do."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from rapsqlite._guest import spin_budget
from rapsqlite._guest.spin_budget import (
    FEW_SPINS,
    MANY_SPINS,
    TURN_SPINS,
    SpinBudget,
    forget,
    is_crowded,
    may_spin,
)
from tests.played_time import PlayedTime

if TYPE_CHECKING:
    from rapsqlite._wasm.control_block import Words


class PlayedWords:
    """The only word that is set, and how often it was set."""

    def __init__(self) -> None:
        self.spins = 0
        self.stores = 0

    def set_spins(self, count: int) -> None:
        self.spins = count
        self.stores += 1


class Talk:
    """A guest, and a task that sends it requests."""

    def __init__(self) -> None:
        self.budget = SpinBudget()
        self.words = PlayedWords()

    def ask(self) -> int:
        """Send a request; returns how long the guest should spin for the next one."""
        self.budget.note_request(cast("Words", self.words))
        self.budget.answered()
        return self.words.spins

    def end_turn(self) -> int:
        """Let other tasks run; returns how long the guest spins meanwhile."""
        self.budget.end_turn(cast("Words", self.words))
        return self.words.spins


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> PlayedTime:
    played = PlayedTime(100.0)
    monkeypatch.setattr(spin_budget, "perf_counter", played.perf_counter)
    monkeypatch.setattr(spin_budget, "usable_processors", lambda: 4)
    monkeypatch.setattr(spin_budget, "_spinners", [])
    monkeypatch.setattr(spin_budget, "_crowded_until", 0.0)
    return played


def test_guest_spins_long_once_requests_are_frequent(clock: PlayedTime) -> None:
    talk = Talk()

    assert talk.ask() == FEW_SPINS
    clock.now += 0.0001
    assert talk.ask() == MANY_SPINS
    clock.now += 0.01
    assert talk.ask() == FEW_SPINS


def test_word_is_stored_only_when_it_changes(clock: PlayedTime) -> None:
    talk = Talk()
    for _ in range(100):
        clock.now += 0.0001
        talk.ask()

    assert talk.words.stores == 2


def test_guest_spins_only_in_its_turn_while_too_many_are_active(clock: PlayedTime) -> None:
    talks = [Talk() for _ in range(3)]
    spins, spins_afterwards = [], []
    for _ in range(20):
        clock.now += 0.00005
        spins = [talk.ask() for talk in talks]
        spins_afterwards = [talk.end_turn() for talk in talks]

    assert spins == [TURN_SPINS] * 3
    assert spins_afterwards == [0] * 3
    assert is_crowded()


def test_guest_that_may_spin_does_so_after_its_turn(clock: PlayedTime) -> None:
    talk = Talk()
    for _ in range(3):
        clock.now += 0.0001
        talk.ask()

    assert talk.end_turn() == MANY_SPINS


def test_budget_of_idle_guests_is_free(clock: PlayedTime) -> None:
    earlier, later = [Talk() for _ in range(2)], [Talk() for _ in range(2)]
    for pair in (earlier, later):
        spins: list[int] = []
        for _ in range(3):
            clock.now += 0.00005
            spins = [talk.ask() for talk in pair]
        assert spins == [MANY_SPINS] * 2
        clock.now += 0.002
    assert not is_crowded()


def test_past_crowd_is_forgotten(clock: PlayedTime) -> None:
    """A guest that is alone again may spin for as long as before."""
    talks = [Talk() for _ in range(3)]
    for _ in range(20):
        clock.now += 0.00005
        for talk in talks:
            talk.ask()

    for _ in range(200):
        clock.now += 0.0001
        talks[0].ask()

    assert talks[0].words.spins == MANY_SPINS
    assert not is_crowded()


def test_stopped_guest_returns_its_budget(clock: PlayedTime) -> None:
    talks = [Talk() for _ in range(3)]
    for talk in talks[:2]:
        talk.ask()
        talk.ask()
    forget(talks[0].budget)

    talks[2].ask()
    assert talks[2].ask() == MANY_SPINS
    assert not is_crowded()
    assert len(spin_budget._spinners) == 2


def test_no_guest_spins_on_a_single_processor(clock: PlayedTime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spinning there keeps the other side, whose reply it waits for, from running."""
    monkeypatch.setattr(spin_budget, "usable_processors", lambda: 1)
    talk = Talk()

    spins = set()
    for _ in range(20):
        clock.now += 0.00005
        spins.add(talk.ask())

    assert spins == {0}
    assert not may_spin()


def test_guest_spins_again_once_there_is_another_processor(clock: PlayedTime, monkeypatch: pytest.MonkeyPatch) -> None:
    processors = [1]
    monkeypatch.setattr(spin_budget, "usable_processors", lambda: processors[0])
    talk = Talk()
    for _ in range(20):
        clock.now += 0.00005
        talk.ask()

    processors[0] = 4
    clock.now += 0.006  # forgets the crowd on the single processor
    talk.ask()
    clock.now += 0.0001

    assert talk.ask() == MANY_SPINS
    assert may_spin()
