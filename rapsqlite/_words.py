"""The words of a guest's control block by which host and guest steer each other (docs/abi.md, Control block).

The memory is the guest's: what is read here is untrusted, and no word decides about anything but when to look or wake.
Every method is called with the guest's lock held.
"""

from __future__ import annotations

import os
import threading

from rapsqlite import _constants as abi


def _machine() -> str:
    # Not platform.machine(): that module alone takes milliseconds to import.
    name = os.uname().machine if hasattr(os, "uname") else os.environ.get("PROCESSOR_ARCHITECTURE", "")
    return name.lower()


# x86-64 never reorders stores with stores nor loads with loads, so program order is enough there.
_STRONGLY_ORDERED = _machine() in ("x86_64", "amd64")


class Words:
    """The control block of one guest."""

    __slots__ = ("_fence_lock", "_words")

    def __init__(self, block: memoryview) -> None:
        self._words = block.cast("I")
        self._fence_lock = threading.Lock()

    def _word(self, offset: int) -> int:
        return self._words[offset // 4]

    def _fence(self) -> None:
        """Order what this processor does not order by itself but for stores before loads."""
        if not _STRONGLY_ORDERED:
            self._full_fence()

    def _full_fence(self) -> None:
        """Order the stores (and loads) before this call before those after it.

        Releasing a lock keeps earlier accesses before it, acquiring it keeps later ones behind; Python has no other
        fence.
        """
        lock = self._fence_lock
        lock.acquire()
        lock.release()
        lock.acquire()
        lock.release()

    def ask_for_bell(self) -> None:
        """Ask the guest to ring after its next reply."""
        self._words[abi.CONTROL_NOTIFY // 4] = 1
        # The guest publishes a reply and then looks at this word; the host sets it and then looks for replies.
        # Store-then-load is the one order that x86-64 does not keep by itself.
        self._full_fence()

    def ask_to_stop(self) -> None:
        """Ask the guest to leave its service loop before the next request."""
        self._words[abi.CONTROL_STOP // 4] = 1

    def set_looks(self, count: int) -> None:
        """Set how often the guest looks for a request before it sleeps."""
        self._words[abi.CONTROL_LOOKS // 4] = count

    def set_sleep(self, place: int) -> None:
        """Have the guest sleep by the function at ``place`` of its table."""
        self._words[abi.CONTROL_SLEEP // 4] = place

    def set_bell(self, kind: int) -> None:
        """Have the guest ring by calling (BELL_CALLS) or by writing (BELL_WRITES)."""
        self._words[abi.CONTROL_BELL // 4] = kind

    def is_parked(self) -> bool:
        """Tell whether the guest sleeps, or is about to, by the function of ``set_sleep``."""
        return bool(self._word(abi.CONTROL_PARKED))

    def take_parked(self) -> bool:
        """Tell the same after having written news for the guest; once True, whoever asked has to wake it."""
        self._full_fence()
        if not self.is_parked():
            return False
        self._words[abi.CONTROL_PARKED // 4] = 0
        return True
