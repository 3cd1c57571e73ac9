"""In-memory databases, private or shared by name.

https://sqlite.org/inmemorydb.html
"""

from __future__ import annotations

from typing import Any

from rapsqlite._client.shared_memory import SharedMemory
from rapsqlite.connection import Connection, connect


class MemoryConnection(Connection):
    """A connection to an in-memory database that is shared by name; made by `connect_memory`."""

    def __init__(self, name: str, **options: Any) -> None:
        """Take the options of `connect`. The database exists from now on, until the last such object is closed."""
        super().__init__(SharedMemory(name), **options)
        self.name: str = name
        """The name shared by the database's connections."""


def connect_memory(*, name: str | None = None, **options: Any) -> Connection:
    """Return a connection to an in-memory database; await it, or use it in ``async with``.

    Without ``name`` the database is private, as with ``connect(":memory:")``. Connections of one process with the same
    ``name`` share a database, which lives until the last of them closes. ``options`` are the options of `connect`; with
    ``name`` all but ``factory``.
    """
    if name is None:
        return connect(":memory:", **options)
    return connect(name, factory=MemoryConnection, **options)
