"""Callbacks for one request, by which the guest reads and writes changesets and asks what to do.

https://sqlite.org/session/sqlite3changegroup_add_strm.html
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rapsqlite._guest.guest import Guest


@contextmanager
def held(guest: Guest, *callbacks: tuple[int, Callable[..., Any] | None]) -> Iterator[list[int]]:
    """Register functions, each given with its kind, for the duration of the block; yields their handles, 0 for None."""
    handles: list[int] = []
    try:
        for kind, function in callbacks:
            handles.append(guest.callbacks.hold(kind, function) if function is not None else 0)
        yield handles
    finally:
        for handle in handles:
            guest.callbacks.release(handle)


def reader(data: bytes | bytearray | memoryview) -> Callable[[int], memoryview]:
    """Return a function that returns the next bytes, at most as many as requested."""
    view = memoryview(data).cast("B")
    position = 0

    def read(most: int) -> memoryview:
        nonlocal position
        start, position = position, min(position + max(most, 0), len(view))
        return view[start:position]

    return read
