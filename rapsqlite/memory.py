"""Databases in memory, private or shared by name."""

from __future__ import annotations

from typing import Any

from rapsqlite._client.shared_memory import SharedMemory
from rapsqlite.connection import Connection


class MemoryConnection(Connection):
    """A connection to a database in memory that others share by name; made by `connect_memory`."""

    def __init__(self, name: str, **options: Any) -> None:
        """Take the options of `connect`; the database exists from now on, until the last such object is closed."""
        super().__init__(SharedMemory(name), **options)
        self.name: str = name
        """What the connections that share the database call it."""


def connect_memory(*, name: str | None = None, **options: Any) -> Connection:
    """Return a connection to a database in memory, to be awaited or used in ``async with``.

    Without ``name`` the database is private, as that of ``connect(":memory:")``. Connections of one process with the
    same ``name`` share one, which lives until the last of them is closed. ``options`` are those of `connect`.
    """
    if name is None:
        return Connection(":memory:", **options)
    return MemoryConnection(name, **options)
