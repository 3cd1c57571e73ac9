"""A cache in a table: bytes under string keys, with optional expiry. Tasks, connections and processes may share it.

Every operation is one statement and therefore atomic. Times are SQLite's: https://sqlite.org/lang_datefunc.html
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rapsqlite import _fetching as fetching
from rapsqlite._identifiers import quoted
from rapsqlite.errors import OperationalError

if TYPE_CHECKING:
    from rapsqlite._wasm.rings import Reply
    from rapsqlite.connection import Connection

_NOW = "unixepoch('subsec')"


class SQLiteCache:
    """A cache in the table ``table_name`` of ``connection``, created on first use.

    If a transaction is open on the connection, operations are part of it; otherwise each one commits. The cache does
    not close the connection.
    """

    __slots__ = ("_connection", "_index", "_table")

    def __init__(self, connection: Connection, *, table_name: str = "rapsqlite_cache") -> None:
        if not table_name or "\0" in table_name:
            raise ValueError("table_name must be a non-empty string without null characters")
        self._connection = connection
        self._table = quoted(table_name)
        self._index = quoted(f"{table_name}_expires")

    async def initialize(self) -> None:
        """Create the table and its index unless they exist."""
        await self._run(
            f"CREATE TABLE IF NOT EXISTS {self._table} (key TEXT PRIMARY KEY, value BLOB NOT NULL, expires REAL)"
        )
        await self._run(
            f"CREATE INDEX IF NOT EXISTS {self._index} ON {self._table} (expires) WHERE expires IS NOT NULL"
        )

    async def get(self, key: str) -> bytes | None:
        """Return the value under ``key``, or None if there is none or it has expired."""
        sql = f"SELECT value FROM {self._table} WHERE key = ? AND (expires IS NULL OR expires > {_NOW})"
        rows = (await self._run_if_there(sql, _checked_key(key)))[0]
        return rows[0][0] if rows else None

    async def set(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        """Store ``value`` under ``key`` for ``ttl`` seconds, or without expiry if ``ttl`` is None."""
        if not isinstance(value, bytes):
            raise TypeError(f"a cached value must be bytes, not {type(value).__name__}")
        if ttl is not None and not (not isinstance(ttl, bool) and ttl >= 0 and math.isfinite(ttl)):
            raise ValueError("ttl must be a finite, non-negative number of seconds, or None")
        sql = (
            f"INSERT INTO {self._table} (key, value, expires) VALUES (?, ?, {_NOW} + ?)"
            " ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires = excluded.expires"
        )
        parameters = (_checked_key(key), bytes(value), ttl if ttl is None else float(ttl))
        try:
            await self._run(sql, *parameters)
        except OperationalError as error:
            if not self._is_missing(error):
                raise
            await self.initialize()
            await self._run(sql, *parameters)

    async def delete(self, key: str) -> bool:
        """Delete the entry under ``key``; return whether there was one, expired or not."""
        _, changes = await self._run_if_there(f"DELETE FROM {self._table} WHERE key = ?", _checked_key(key))
        return changes > 0

    async def cleanup_expired(self, *, limit: int = 1000) -> int:
        """Delete at most ``limit`` expired entries, the oldest first; return how many were deleted."""
        if limit < 1:
            raise ValueError("limit must be at least 1")
        sql = (
            f"DELETE FROM {self._table} WHERE key IN"
            f" (SELECT key FROM {self._table} WHERE expires <= {_NOW} ORDER BY expires LIMIT ?)"
        )
        _, changes = await self._run_if_there(sql, limit)
        return changes

    async def _run(self, sql: str, *parameters: Any) -> tuple[list[Any], int]:
        rows, reply = await fetching.run_by_itself(self._connection, sql.encode(), parameters)
        return rows, _changes(reply)

    async def _run_if_there(self, sql: str, *parameters: Any) -> tuple[list[Any], int]:
        """Run a statement; if the table is missing, return no rows and no changes."""
        try:
            return await self._run(sql, *parameters)
        except OperationalError as error:
            if not self._is_missing(error):
                raise
            return [], 0

    def _is_missing(self, error: OperationalError) -> bool:
        name = self._table[1:-1].replace('""', '"')
        return str(error) in {f"no such table: {name}", f"no such table: main.{name}"}


def _changes(reply: Reply) -> int:
    return max(reply.changes, 0)


def _checked_key(key: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a cache key must be str, not {type(key).__name__}")
    return str.__str__(key)  # not of a subclass
