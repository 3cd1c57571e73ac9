"""How long an idle guest spins for a request before it sleeps, and whether tasks spin for replies.

A spinning guest answers within microseconds; a sleeping one has to be woken, which takes at least ten times as long.
But spinning occupies a processor. So a guest spins for long only while requests arrive in quick succession, and only as
many guests do so as half of the processors, which leaves the other half for the tasks. When more guests are active than
that, they take turns: one spins while its task sends request after request, and sleeps once that task lets others run.
On a single processor spinning would keep the other side from running, so nothing spins.
docs/decisions/0001-how-a-lone-task-waits.md has the figures.
"""

from __future__ import annotations

import threading
from time import perf_counter
from typing import TYPE_CHECKING

from rapsqlite._guest.processors import usable_processors

if TYPE_CHECKING:
    from rapsqlite._wasm.control_block import Words

FEW_SPINS = 4_000  # about 4 µs
TURN_SPINS = 100_000  # longer than a task takes to send the next request of its turn
MANY_SPINS = 200_000  # longer than the host takes to sleep and wake up for one reply
_SOON_S = 0.0003  # a request this soon after a reply continues a conversation
_SILENCE_S = 0.001  # without a request for this long a guest counts as idle
_CROWDED_S = 0.005

_lock = threading.Lock()
_spinners: list[SpinBudget] = []
_newest: SpinBudget | None = None  # the latest guest that was refused
_crowded_until = 0.0


class SpinBudget:
    """Spin budget of one guest. Call with the guest's lock held."""

    __slots__ = ("_spin_count", "_spins", "_spoke_s")

    def __init__(self) -> None:
        self._spins = False
        self._spin_count = 0
        self._spoke_s = 0.0

    def answered(self) -> None:
        """The reply to a request was taken."""
        self._spoke_s = perf_counter()

    def note_request(self, words: Words) -> None:
        """A request is sent: set how long to spin for the next one."""
        now = perf_counter()
        soon = now - self._spoke_s < _SOON_S
        self._spoke_s = now
        if soon and not self._spins:
            _add_spinner(self, now)
        if usable_processors() < 2:
            spins = 0
        elif now < _crowded_until:
            spins = TURN_SPINS
        else:
            spins = MANY_SPINS if soon and self._spins else FEW_SPINS
        self._set_spins(words, spins)

    def end_turn(self, words: Words) -> None:
        """The task that sends requests lets others run: if their guests are active too, the processor is theirs."""
        if perf_counter() < _crowded_until:
            self._set_spins(words, 0)

    def _set_spins(self, words: Words, count: int) -> None:
        if count != self._spin_count:
            self._spin_count = count
            words.set_spins(count)


def _add_spinner(guest: SpinBudget, now: float) -> None:
    """Let the guest spin if the budget allows; if all spinners are active, let them take turns for a while."""
    global _newest, _crowded_until
    with _lock:
        if now < _crowded_until:
            if guest is not _newest:
                _newest, _crowded_until = guest, now + _CROWDED_S
            return
        for other in [other for other in _spinners if now - other._spoke_s > _SILENCE_S]:
            _dismiss(other)
        if len(_spinners) < usable_processors() // 2:
            guest._spins = True
            _spinners.append(guest)
            return
        while _spinners:
            _dismiss(_spinners[-1])
        _newest, _crowded_until = guest, now + _CROWDED_S


def _dismiss(guest: SpinBudget) -> None:
    guest._spins = False
    _spinners.remove(guest)


def is_crowded() -> bool:
    """Return True if more guests are active than may spin."""
    return perf_counter() < _crowded_until


def may_spin() -> bool:
    """Return True if a task may spin for a reply, because its guest has another processor."""
    return usable_processors() > 1


def forget(guest: SpinBudget) -> None:
    """The guest has ended."""
    with _lock:
        if guest._spins:
            _dismiss(guest)


def forget_after_fork() -> None:
    """In a forked child: forget the parent's guests, and replace the lock, which a parent's thread may hold."""
    global _lock
    _lock = threading.Lock()
    _spinners.clear()
