"""SQLite's settings and limits: methods of `Connection`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from rapsqlite import _constants as abi
from rapsqlite import _fetching as fetching
from rapsqlite._client.registration import asked_for_number, checked_int
from rapsqlite._identifiers import quoted
from rapsqlite._queries import Queries
from rapsqlite._values.options import checked_seconds
from rapsqlite._values.pragma import pragma_statement
from rapsqlite.errors import OperationalError

if TYPE_CHECKING:
    from rapsqlite.connection import Connection
    from rapsqlite.types import Parameters


class Settings(Queries):
    """Pragmas, limits, configuration flags, query plans, on top of the statements of `Queries`."""

    async def set_pragma(self, name: str, value: float | str | bool) -> None:
        """Set a PRAGMA, such as ``"journal_mode"`` to ``"WAL"``.

        ``name`` may have a schema name and a dot as prefix. Raises ValueError or TypeError unless ``value`` is a
        number, a bool or a plain word, OperationalError for a pragma SQLite does not know, and any error of setting it.
        https://sqlite.org/pragma.html
        """
        statement = pragma_statement(name, value)
        await self._state.apply_pending_setting()
        await self._state.run(statement)

    async def data_version(self, schema: str = "main") -> int:
        """Return a number that changes whenever another connection has changed the database ``schema``.

        Changes made by this connection do not count. OperationalError for an unknown database.
        https://sqlite.org/pragma.html#pragma_data_version
        """
        decoder = fetching.plain_decoder(self._state, "list")
        sql = f"PRAGMA {quoted(schema)}.data_version".encode()
        ((version,),) = await fetching.fetch_rows(cast("Connection", self), sql, 0, (), decoder)
        return int(version)

    async def explain_query_plan(self, sql: str, parameters: Parameters | None = None) -> list[Any]:
        """Return how SQLite would run a statement, as rows of id, parent, an unused number, and text.

        Rows are made as in `fetch_all`. https://sqlite.org/eqp.html
        """
        if not isinstance(sql, str):
            raise TypeError(f"explain_query_plan() argument 'sql' must be str, not {type(sql).__name__}")
        return await self.fetch_all(f"EXPLAIN QUERY PLAN {sql}", parameters)

    async def getlimit(self, category: int) -> int:
        """Return a limit of the connection; ``category`` is a ``SQLITE_LIMIT_`` number.

        Raises ProgrammingError for an unknown category. https://sqlite.org/c3ref/limit.html
        """
        return await self._control(abi.CONTROL_OP_LIMIT, [checked_int(category, "category")])

    async def setlimit(self, category: int, limit: int) -> int:
        """Set a limit, capped at SQLite's compile-time maximum; return the previous one. Negative: no change."""
        arguments = [checked_int(category, "category"), checked_int(limit, "limit")]
        return await self._control(abi.CONTROL_OP_LIMIT, arguments)

    async def getconfig(self, op: int) -> bool:
        """Return a flag of the connection; ``op`` is a ``SQLITE_DBCONFIG_`` number, otherwise ValueError.

        https://sqlite.org/c3ref/c_dbconfig_defensive.html
        """
        return bool(await self._control(abi.CONTROL_OP_CONFIG, [_checked_flag(op)]))

    async def setconfig(self, op: int, enable: bool = True) -> None:
        """Set a flag; raises OperationalError if SQLite does not set it."""
        flag = bool(enable)  # any object, as in sqlite3
        if bool(await self._control(abi.CONTROL_OP_CONFIG, [_checked_flag(op), int(flag)])) is not flag:
            raise OperationalError("Unable to set config")

    async def _control(self, operation: int, arguments: list[int]) -> int:
        return await asked_for_number(self._state.guest, operation, arguments)

    @property
    def timeout(self) -> float:
        """Seconds that statements wait for locks held by other connections; settable."""
        return self._state.guest.host.busy_timeout_s

    @timeout.setter
    def timeout(self, value: float) -> None:
        if value < 0:
            raise ValueError("timeout must be a non-negative number of seconds")
        self._state.guest.host.busy_timeout_s = checked_seconds(value)


def _checked_flag(op: int) -> int:
    """Return the number of a flag; ValueError, as in sqlite3, if it is not a flag."""
    if not abi.SQLITE_DBCONFIG_ENABLE_FKEY <= checked_int(op, "op") <= abi.SQLITE_DBCONFIG_MAX:
        raise ValueError(f"unknown config 'op': {op}")
    return op
