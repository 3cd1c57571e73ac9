"""The words of a guest's control block by which host and guest steer each other (docs/abi.md, Control block).

The memory belongs to the guest: what is read here is untrusted, and no word decides anything but when to check or wake.
Every method is called with the guest's lock held.
"""

from __future__ import annotations

from _thread import allocate_lock
from typing import TYPE_CHECKING, Any

from rapsqlite import _constants as abi
from rapsqlite._platform import system

if TYPE_CHECKING:
    from collections.abc import Callable


# x86-64 reorders only a load with earlier stores.
_STRONGLY_ORDERED = system.machine() in ("x86_64", "amd64")


class Words:
    """The control block of one guest."""

    __slots__ = ("_words", "bells_asked")

    def __init__(self, block: memoryview) -> None:
        self._words = block.cast("I")
        self.bells_asked = 0
        """How many rings there can be: the guest rings once, at the most, each time that it is asked to."""

    def _word(self, offset: int) -> int:
        return self._words[offset // 4]

    def _fence(self) -> None:
        """Order what this processor does not order by itself, except earlier stores with later loads."""
        if not _STRONGLY_ORDERED:
            self._full_fence()

    def _full_fence(self) -> None:
        """Order the stores (and loads) before this call before the loads and stores after it.

        Python has no fence. On x86-64 acquiring a lock is one, because it uses a locked instruction. Elsewhere
        releasing a lock keeps earlier accesses before it, and acquiring one keeps later accesses after it. Nothing else
        uses these locks, and dropping one releases it, so no exception, wherever it comes, leaves one locked.
        """
        allocate_lock().acquire()
        if not _STRONGLY_ORDERED:
            allocate_lock().acquire()

    def ask_for_bell(self) -> None:
        """Ask the guest to ring after its next reply."""
        self.bells_asked += 1
        self._fence()  # how to ring was written before
        self._words[abi.CONTROL_NOTIFY // 4] = 1
        # The guest publishes a reply and then checks this word; the host sets it and then checks for replies.
        self._full_fence()

    def ask_to_stop(self) -> None:
        """Ask the guest to leave its service loop before the next request."""
        self._words[abi.CONTROL_STOP // 4] = 1

    def set_spins(self, count: int) -> None:
        """Set how many times the guest checks for a request before it sleeps."""
        self._words[abi.CONTROL_SPINS // 4] = count

    def set_sleep(self, index: int) -> None:
        """Make the guest sleep with the function at index ``index`` of its table."""
        self._words[abi.CONTROL_SLEEP // 4] = index

    def set_bell(self, kind: int) -> None:
        """Make the guest ring by calling (BELL_CALLS) or by writing (BELL_WRITES)."""
        self._words[abi.CONTROL_BELL // 4] = kind

    def set_polls(self, polls: bool) -> None:
        """Say whether the host polls for the reply, and releases at once the locks that it leaves.

        The guest puts such a reply and then checks this word; the host clears the word and then checks for replies.
        """
        self._words[abi.CONTROL_POLLS // 4] = polls
        if not polls:
            self._full_fence()

    def set_prelock(self, handle: int, locks: int, size_bytes: int, companions: int) -> None:
        """Say which locks are held for the next request. Call it before that is written."""
        words = self._words
        words[abi.CONTROL_PRELOCK_LOCKS // 4] = locks
        words[abi.CONTROL_PRELOCK_COMPANIONS // 4] = companions
        words[abi.CONTROL_PRELOCK_SIZE // 4] = size_bytes & 0xFFFF_FFFF
        words[abi.CONTROL_PRELOCK_SIZE // 4 + 1] = size_bytes >> 32
        words[abi.CONTROL_PRELOCK_FD // 4] = handle

    def is_parked(self) -> bool:
        """Return True if the guest sleeps, or is about to, in the function of ``set_sleep``."""
        return bool(self._word(abi.CONTROL_PARKED))

    def wake_if_parked(self, wake: Callable[[Any], object], argument: Any) -> None:
        """Call ``wake``, a C function, once if the guest sleeps, after writing the news for it.

        No exception comes between the word and the call: signal handlers run after calls, not before.
        """
        self._full_fence()
        if self.is_parked():
            self._words[abi.CONTROL_PARKED // 4] = 0
            wake(argument)
