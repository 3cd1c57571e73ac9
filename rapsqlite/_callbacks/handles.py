"""Integer handles of Python objects that the guest holds.

Handles start at 1 and are never reused, so a stale one finds nothing. Every method is one step under the GIL or takes
the lock: handles are created in the event loops' threads and released in the guest's.
"""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

T = TypeVar("T")

_LAST = 0x7FFF_FFFF  # the guest stores them in 32 bits


class Handles(Generic[T]):
    """The objects by handle."""

    __slots__ = ("_last", "_lock", "_objects", "get")

    def __init__(self) -> None:
        self._objects: dict[int, T] = {}
        self._last = 0
        self._lock = threading.Lock()
        self.get = self._objects.get  # called for every row, so without a method in between

    def hold(self, item: T) -> int:
        """Return a new handle for ``item``."""
        with self._lock:
            self._last += 1
            if self._last > _LAST:
                raise OverflowError("this connection has used up its callback handles: open a new connection")
            self._objects[self._last] = item
            return self._last

    def release(self, handle: int) -> T | None:
        """Forget the object of ``handle`` and return it, if there is one."""
        return self._objects.pop(handle, None)

    def clear(self) -> None:
        """Forget everything."""
        self._objects.clear()

    def __len__(self) -> int:
        return len(self._objects)
