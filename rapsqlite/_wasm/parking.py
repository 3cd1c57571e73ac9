"""Puts a guest's thread to sleep in a C function, so that neither sleeping nor waking takes the GIL.

The guest calls the function through its table. docs/decisions/0003-how-a-guest-sleeps.md
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rapsqlite._platform import system

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite._platform.interface import Parking
    from rapsqlite._wasm.control_block import Words


def parking_here() -> Parking | None:
    """Return a new `Parking`, None if it is not supported."""
    return system.new_parking() if system.has_parking else None


def install(parking: Parking, words: Words, add_to_table: Callable[[int, int], int]) -> bool:
    """Make a guest sleep there, before it runs and on its own thread; False if it must sleep in the import.

    ``add_to_table(address, argument)`` puts a C function into its table and returns the index, 0 if there is no space.
    The thread is not the one that made ``parking``, so the test covers waking from another thread.
    """
    index = add_to_table(parking.function, parking.argument) if parking.works() else 0
    if index:
        words.set_sleep(index)
    return bool(index)
