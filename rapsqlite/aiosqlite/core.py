"""``connect()`` and `Connection`, as ``aiosqlite.core``."""

from __future__ import annotations

import logging
import math
import os  # noqa: TC003 - typing.get_type_hints() evaluates the annotations
import sqlite3
import warnings
from contextlib import closing
from threading import Thread  # noqa: F401 - programs replace it, to make aiosqlite's threads daemons
from typing import TYPE_CHECKING, Any, cast

from rapsqlite import connection, errors
from rapsqlite._client.state import CLOSED
from rapsqlite._client.transaction_control import LEGACY_TRANSACTION_CONTROL
from rapsqlite._loops.worker import in_thread
from rapsqlite.cursor import Cursor

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Connection", "Cursor", "connect"]

LOG = logging.getLogger("aiosqlite")
_PRAGMAS = ("foreign_keys", "ignore_check_constraints", "query_only", "recursive_triggers", "synchronous")
_STOP_RUNNING_SENTINEL = object()  # what a function that ends aiosqlite's thread returns; here it ends by itself


class Connection(connection.Connection):
    """A `rapsqlite.Connection` that closes on leaving ``async with``, without a commit.

    ``connector`` is a database, as for `connect`, or a function that returns a `sqlite3.Connection`. The file and the
    settings are taken from that connection, which is then closed, and so are the PRAGMAs that decide what is checked,
    synced and writable. Its functions, its attached databases and the content of an in-memory database are lost.
    """

    def __init__(self, connector: Any, iter_chunk_size: int = 64, loop: object = None, **options: Any) -> None:
        """Check and store the options of `connect`; opens nothing."""
        self._connector: Callable[[], sqlite3.Connection] | None = connector if callable(connector) else None
        database = ":memory:" if self._connector is not None else connector
        super().__init__(database, iter_chunk_size=iter_chunk_size, **options)
        if loop is not None:
            warnings.warn("aiosqlite.Connection no longer uses the `loop` parameter", DeprecationWarning, stacklevel=2)

    async def _open(self) -> Any:
        connector, self._connector = self._connector, None
        if connector is not None:
            try:
                options = await in_thread(lambda: _described(connector()), grace_period_s=math.inf)
            except BaseException:
                self._state.guest = CLOSED
                raise
            super().__init__(**options, iter_chunk_size=self.iter_chunk_size)
        return await super()._open()

    async def __aexit__(self, *exc_info: object) -> None:
        if exc_info[0] is GeneratorExit:
            self.stop()  # the task's loop no longer runs it, so it cannot wait
        else:
            await self.close()


def _described(native: sqlite3.Connection) -> dict[str, Any]:
    """Return the options with which `rapsqlite.connect` opens the same database, and close this connection to it."""
    with closing(native):
        cursor = native.cursor()
        cursor.row_factory = None
        native.text_factory, text_factory = str, native.text_factory
        files = {name: path for _, name, path in cursor.execute("PRAGMA database_list")}
        if not files["main"] and next(cursor.execute("SELECT count(*) FROM sqlite_master"))[0]:
            raise errors.NotSupportedError("the connector's in-memory database has tables: create them after opening")
        ((busy_ms,),) = cursor.execute("PRAGMA busy_timeout")
        pragmas = {name: next(cursor.execute(f"PRAGMA {name}"))[0] for name in _PRAGMAS}
        cursor.execute("PRAGMA query_only = 0")  # `_detected_types` writes
        return {
            "database": files["main"] or ":memory:",
            "timeout": busy_ms / 1000,
            "isolation_level": native.isolation_level,
            "autocommit": getattr(native, "autocommit", LEGACY_TRANSACTION_CONTROL),
            "row_factory": native.row_factory,
            "text_factory": text_factory,
            "detect_types": _detected_types(cursor),
            "pragmas": pragmas,
            "read_only": _is_read_only(cursor),
        }


def _is_read_only(cursor: sqlite3.Cursor) -> bool:
    """Return whether the database was opened read-only: SQLite then compiles BEGIN IMMEDIATE to begin a read."""
    program = cursor.execute("EXPLAIN BEGIN IMMEDIATE")
    return any((opcode, database, writes) == ("Transaction", 0, 0) for _, opcode, database, writes, *_ in program)


def _detected_types(cursor: sqlite3.Cursor) -> int:
    """Return ``detect_types`` of a connection, found by trial: a connection has no attribute for it."""
    sqlite3.register_converter("rapsqlite_probe", lambda _: None)
    cursor.execute("CREATE TEMP TABLE rapsqlite_probe (a rapsqlite_probe)")
    # sqlite3 begins no transaction before WITH: a BEGIN IMMEDIATE would wait for other writers.
    cursor.execute("WITH row AS (VALUES (1)) INSERT INTO rapsqlite_probe SELECT * FROM row")
    declared = next(cursor.execute("SELECT a FROM rapsqlite_probe"))[0] is None
    named = next(cursor.execute('SELECT 1 AS "a [rapsqlite_probe]"'))[0] is None
    return declared * sqlite3.PARSE_DECLTYPES | named * sqlite3.PARSE_COLNAMES


def connect(
    database: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    *,
    iter_chunk_size: int = 64,
    loop: object = None,
    **kwargs: Any,
) -> Connection:
    """Return a connection to ``database``; see `rapsqlite.connect` for the options."""
    factory = kwargs.pop("factory", None)
    factory = Connection if factory in {None, sqlite3.Connection} else factory
    made = connection.connect(
        database, iter_chunk_size=iter_chunk_size, loop=loop, factory=factory, aiosqlite_compat=True, **kwargs
    )
    return cast("Connection", made)
