"""The words of a guest's control block by which host and guest steer each other (docs/abi.md, Control block).

The memory is the guest's: what is read here is untrusted, and no word decides about anything but when to look or wake.
Every method is called with the guest's lock held.
"""

from __future__ import annotations

import os
from _thread import allocate_lock
from typing import TYPE_CHECKING, Any

from rapsqlite import _constants as abi

if TYPE_CHECKING:
    from collections.abc import Callable


def _machine() -> str:
    # Not platform.machine(): that module alone takes milliseconds to import.
    name = os.uname().machine if hasattr(os, "uname") else os.environ.get("PROCESSOR_ARCHITECTURE", "")
    return name.lower()


# x86-64 reorders nothing but a load with stores before it.
_STRONGLY_ORDERED = _machine() in ("x86_64", "amd64")


class Words:
    """The control block of one guest."""

    __slots__ = ("_words",)

    def __init__(self, block: memoryview) -> None:
        self._words = block.cast("I")

    def _word(self, offset: int) -> int:
        return self._words[offset // 4]

    def _fence(self) -> None:
        """Order what this processor does not order by itself but for stores before loads."""
        if not _STRONGLY_ORDERED:
            self._full_fence()

    def _full_fence(self) -> None:
        """Order the stores (and loads) before this call before the loads and stores after it.

        Python has no fence. But on x86-64 acquiring a lock is one, for it is a locked instruction; elsewhere releasing
        a lock keeps what comes before it there, and acquiring one keeps what comes after it there. Nobody else sees
        these locks, and dropping one releases it: so no exception, wherever it comes, leaves one locked.
        """
        allocate_lock().acquire()
        if not _STRONGLY_ORDERED:
            allocate_lock().acquire()

    def ask_for_bell(self) -> None:
        """Ask the guest to ring after its next reply."""
        self._fence()  # how to ring was said before
        self._words[abi.CONTROL_NOTIFY // 4] = 1
        # The guest publishes a reply and then looks at this word; the host sets it and then looks for replies.
        self._full_fence()

    def ask_to_stop(self) -> None:
        """Ask the guest to leave its service loop before the next request."""
        self._words[abi.CONTROL_STOP // 4] = 1

    def set_spins(self, count: int) -> None:
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

    def wake_if_parked(self, wake: Callable[[Any], object], argument: Any) -> None:
        """Call ``wake``, a C function, if the guest sleeps, after news for it was written: once for each of its sleeps.

        No exception comes between the word and the call: a signal's handler runs after calls, not before.
        """
        self._full_fence()
        if self.is_parked():
            self._words[abi.CONTROL_PARKED // 4] = 0
            wake(argument)
