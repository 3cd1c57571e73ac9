"""Puts a guest's thread to sleep in a C function, so that neither sleeping nor waking takes the GIL.

The guest calls ``pthread_mutex_lock``, a function in its table, on a mutex that is always locked; waking it means
unlocking the mutex. Among C functions that wait, this one is not interrupted by signals and returns only 0, which
wasmtime requires of a host function that does not trap. POSIX leaves unlocking in another thread than the one that
locked undefined. Linux's C libraries support it for mutexes of the type PTHREAD_MUTEX_NORMAL, which have no owner, and
``works`` tests it for each guest. https://man7.org/linux/man-pages/man3/pthread_mutex_lock.3p.html,
docs/decisions/0003-how-a-guest-sleeps.md
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite._wasm.control_block import Words

_STRUCT_WORDS = 16  # 128 bytes: more than any C library's pthread_mutex_t and its attributes
_PTHREAD_MUTEX_NORMAL = 0
# Where functions may be called with extra arguments: they are in registers, which the function ignores.
_ARCHITECTURES = ("x86_64", "aarch64")

_Words = ctypes.c_uint64 * _STRUCT_WORDS
_AsHostFunction = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_size_t)


class Parking:
    """Where one guest's thread sleeps."""

    def __init__(self) -> None:
        library = ctypes.PyDLL(None)  # keeps the GIL: none of these calls waits
        attributes = _Words()
        self.mutex = _Words()
        self.unlock = library.pthread_mutex_unlock
        self._try_lock = library.pthread_mutex_trylock
        library.pthread_mutexattr_init(attributes)
        library.pthread_mutexattr_settype(attributes, _PTHREAD_MUTEX_NORMAL)
        library.pthread_mutex_init(self.mutex, attributes)
        self.function = ctypes.cast(library.pthread_mutex_lock, ctypes.c_void_p).value or 0
        self.argument = ctypes.addressof(self.mutex)
        self._try_lock(self.mutex)

    def works(self) -> bool:
        """Test the assumptions. Call in another thread than the one that created it, before the guest runs."""
        as_host_function = _AsHostFunction(self.function)
        was_locked = self._try_lock(self.mutex) != 0
        unlocked = self.unlock(self.mutex) == 0 and self._try_lock(self.mutex) == 0
        self.wake()
        return was_locked and unlocked and int(as_host_function(self.argument, 1, 2, 3)) == 0

    def wake(self) -> None:
        """End the sleep, or the next one immediately if there is none. Any thread."""
        self.unlock(self.mutex)


def is_possible() -> bool:
    """Return True if this machine supports it."""
    return sys.platform == "linux" and os.uname().machine in _ARCHITECTURES and ctypes.sizeof(ctypes.c_void_p) == 8


def parking_here() -> Parking | None:
    """Return a new place to sleep, None if it is not supported."""
    return Parking() if is_possible() else None


def install(parking: Parking, words: Words, add_to_table: Callable[[int, int], int]) -> bool:
    """Make a guest sleep there, before it runs and on its own thread; False if it must sleep in the import.

    ``add_to_table(address, argument)`` puts a C function into its table and returns the index, 0 if there is no space.
    The thread is not the one that made ``parking``, so the test covers waking from another thread.
    """
    index = add_to_table(parking.function, parking.argument) if parking.works() else 0
    if index:
        words.set_sleep(index)
    return bool(index)
