"""How long a guest that has nothing to do looks for a request before it sleeps, and whether anybody waits so.

A guest that looks answers within microseconds, one that sleeps has to be woken, which takes ten times as long and more.
But a processor is busy meanwhile. So only a guest with which a conversation goes on looks for long, and only while
there are processors for all of these at once and for what they talk to: half of them. When more guests than that are
talked to, all of them sleep soon, and their answers are waited for in the event loop. On a single processor a
spin keeps the other side from running: nobody spins there.
"""

from __future__ import annotations

import threading
from time import perf_counter
from typing import TYPE_CHECKING

from rapsqlite._guest.processors import usable_processors

if TYPE_CHECKING:
    from rapsqlite._wasm.control_block import Words

FEW_SPINS = 4_000  # about 4 µs
MANY_SPINS = 200_000  # longer than the host takes to sleep and to be woken for one answer
_SOON_S = 0.0003  # a request that comes sooner after an answer is part of a conversation
_SILENCE_S = 0.001  # and it is over after this
_CROWDED_S = 0.005

_lock = threading.Lock()
_spinners: list[SpinBudget] = []
_newest: SpinBudget | None = None  # to have been refused
_crowded_until = 0.0


class SpinBudget:
    """Spin budget of one guest. Call with the guest's lock held."""

    __slots__ = ("_spin_count", "_spins", "_spoke_s")

    def __init__(self) -> None:
        self._spins = False
        self._spin_count = 0
        self._spoke_s = 0.0

    def answered(self) -> None:
        """The answer to a request was taken."""
        self._spoke_s = perf_counter()

    def note_request(self, words: Words) -> None:
        """A request is sent: say how long to look for the one after it."""
        now = perf_counter()
        soon = now - self._spoke_s < _SOON_S
        self._spoke_s = now
        if soon and not self._spins:
            _add_spinner(self, now)
        looks = (MANY_SPINS if soon and self._spins else FEW_SPINS) if usable_processors() > 1 else 0
        if looks != self._spin_count:
            self._spin_count = looks
            words.set_spins(looks)


def _add_spinner(guest: SpinBudget, now: float) -> None:
    """Give the guest a seat, if there is one; if all who sit talk, nobody is to sit for a while."""
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
    """Tell whether more guests are talked to than can be waited for without sleeping."""
    return perf_counter() < _crowded_until


def may_spin() -> bool:
    """Tell whether an answer may be waited for without giving up the processor: its guest has another one."""
    return usable_processors() > 1


def forget(guest: SpinBudget) -> None:
    """The guest has ended."""
    with _lock:
        if guest._spins:
            _dismiss(guest)


def forget_after_fork() -> None:
    """In a forked child: the parent's guests are not here, and nobody holds the lock."""
    global _lock
    _lock = threading.Lock()
    _spinners.clear()
