"""The driver that SQLAlchemy sees: a DB-API module, connections and cursors whose methods are not coroutines.

SQLAlchemy runs its own code in a greenlet and awaits in the task around it. A statement is one coroutine and one
request, whose reply has the rows, the description and the counters; a result that does not fit one batch takes more
replies. Creating, fetching from and closing a cursor is free, and so are commit and rollback without a transaction.

A transaction begins with the first statement that changes data or a schema or sets a savepoint; with isolation level
SNAPSHOT also with the first that reads; with autocommit=LEGACY_TRANSACTION_CONTROL, as in sqlite3, only with the first
that changes data.
https://docs.sqlalchemy.org/en/21/dialects/sqlite.html#sqlite-transactions
"""

from __future__ import annotations

from inspect import isawaitable, iscoroutine
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from sqlalchemy.engine import AdaptedConnection
from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.util import concurrency

import rapsqlite
from rapsqlite import _constants as abi
from rapsqlite import _fetching, errors
from rapsqlite._client.state import encode_sql
from rapsqlite._client.transaction_control import LEGACY_TRANSACTION_CONTROL
from rapsqlite._loops import current_loop
from rapsqlite._loops.cancellation import deliver_held_back, held_back
from rapsqlite._wasm.rings import Request
from rapsqlite.cursor import Cursor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from rapsqlite.connection import Connection
    from rapsqlite.types import Description, IsolationLevel, Parameters

in_greenlet: Callable[[], bool] = concurrency.in_greenlet
await_: Callable[[Awaitable[Any]], Any] = getattr(concurrency, "await_", None) or concurrency.await_only
"""Wait for a coroutine in SQLAlchemy's greenlet. Before SQLAlchemy 2.1 it is called ``await_only``."""


async def _delivering(work: Awaitable[Any]) -> Any:
    """Return the result of a request, but raise a cancellation that came while it finished.

    Later may be too late: SQLAlchemy returns to the program without another checkpoint. It rolls back what the request
    did. A commit is different, and reports what it did.
    """
    result = await work
    if held_back:
        await deliver_held_back(current_loop())
    return result


def _run(work: Awaitable[Any]) -> Any:
    try:
        return await_(_delivering(work))
    except MissingGreenlet:
        if iscoroutine(work):
            work.close()  # SQLAlchemy closed the outer coroutine only
        raise


class AdaptedCursor:
    """Runs one statement at a time; ``execute`` fetches all its rows."""

    __slots__ = ("_connection", "_next", "_rows", "arraysize", "description", "lastrowid", "rowcount")

    server_side = False

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._rows: list[Any] = []
        self._next = 0
        self.arraysize: int = 1
        self.description: Description | None = None
        self.lastrowid: int | None = None
        self.rowcount: int = -1

    def execute(self, operation: str, parameters: Parameters | None = None) -> AdaptedCursor:
        """Run one statement and fetch all its rows."""
        result = _run(_fetching.fetch_result(self._connection, encode_sql(operation, "execute"), parameters))
        self._rows, self.description, self.rowcount, self.lastrowid = result
        self._next = 0
        return self

    def executemany(self, operation: str, seq_of_parameters: Any) -> AdaptedCursor:
        """Run one statement that changes data for each parameter set."""
        cursor = _run(self._connection.executemany(operation, seq_of_parameters))
        self._rows, self._next = [], 0
        self.description, self.rowcount, self.lastrowid = None, cursor.rowcount, None
        return self

    def fetchone(self) -> Any:
        """Return the next row, None after the last one."""
        if self._next == len(self._rows):
            return None
        self._next += 1
        return self._rows[self._next - 1]

    def fetchmany(self, size: int | None = None) -> list[Any]:
        """Return the next ``size`` rows (by default `arraysize`), fewer at the end."""
        start = self._next
        rows = self._rows[start : start + (self.arraysize if size is None else size)]
        self._next = start + len(rows)
        return rows

    def fetchall(self) -> list[Any]:
        """Return all remaining rows."""
        rows = self._rows if self._next == 0 else self._rows[self._next :]
        self._rows, self._next = [], 0
        return rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fetchone, None)

    def setinputsizes(self, *sizes: object) -> None:
        """Do nothing: SQLite needs no sizes."""

    def close(self) -> None:
        """Drop the rows."""
        self._rows, self._next = [], 0

    async def _async_soft_close(self) -> None:
        """Do nothing: the statement has ended."""

    @property
    def _cursor(self) -> Cursor:
        """A closed cursor. SQLAlchemy's own adapters have the driver's here, and close it once they have its rows."""
        cursor = Cursor(self._connection)
        cursor._closed = True
        return cursor


class AdaptedStream:
    """One running statement whose rows are fetched on demand: SQLAlchemy's server-side cursor."""

    __slots__ = ("__weakref__", "_cursor", "_was_ended")

    server_side = True

    def __init__(self, connection: Connection) -> None:
        self._cursor = Cursor(connection)
        self._was_ended = False

    def execute(self, operation: str, parameters: Parameters | None = None) -> AdaptedStream:
        """Run one statement and fetch its first rows."""
        _run(self._cursor.execute(operation, parameters))
        return self

    def executemany(self, operation: str, seq_of_parameters: Any) -> AdaptedStream:
        """Run one statement that changes data for each parameter set."""
        _run(self._cursor.executemany(operation, seq_of_parameters))
        return self

    def fetchone(self) -> Any:
        """Return the next row, None after the last one."""
        return _run(self._running().fetchone())

    def fetchmany(self, size: int | None = None) -> list[Any]:
        """Return the next ``size`` rows (by default `arraysize`), fewer at the end."""
        rows: list[Any] = _run(self._running().fetchmany(size))
        return rows

    def fetchall(self) -> list[Any]:
        """Return all remaining rows."""
        rows: list[Any] = _run(self._running().fetchall())
        return rows

    def _running(self) -> Cursor:
        if self._was_ended:
            raise errors.ProgrammingError(
                "this stream ended when its connection was returned to the pool: fetch its rows before the session or"
                " connection commits, rolls back or is closed"
            )
        return self._cursor

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fetchone, None)

    def setinputsizes(self, *sizes: object) -> None:
        """Do nothing: SQLite needs no sizes."""

    def close(self) -> None:
        """End the statement. Outside SQLAlchemy's greenlet, where nothing can wait, the connection ends it later."""
        if self._cursor._is_running and in_greenlet():
            _run(self._cursor.close())
        else:
            self._cursor._drop_rows()

    def end(self) -> None:
        """End the statement, if it still runs, without waiting; fetching raises from then on."""
        if self._cursor._is_running:
            self._was_ended = True
            self._cursor._drop_rows()

    async def _async_soft_close(self) -> None:
        """Do nothing: the rows are still wanted."""

    @property
    def description(self) -> Description | None:
        """The columns of the result."""
        return self._cursor.description

    @property
    def rowcount(self) -> int:
        """Rows changed by the statement; -1 if it changes none."""
        return self._cursor.rowcount

    @property
    def lastrowid(self) -> int | None:
        """Row id of the connection's last insert."""
        return self._cursor.lastrowid

    @property
    def arraysize(self) -> int:
        """Default number of rows for `fetchmany`."""
        return self._cursor.arraysize

    @arraysize.setter
    def arraysize(self, value: int) -> None:
        self._cursor.arraysize = value


class Adapted(AdaptedConnection):
    """A `Connection` for SQLAlchemy; methods that are not listed here are the connection's, awaited."""

    __slots__ = ("_is_legacy", "_streams", "_unless_autocommit", "has_snapshots")

    _connection: Any  # a Connection, which SQLAlchemy's protocol of drivers does not fit

    def __init__(self, connection: Connection, *, is_legacy: bool) -> None:
        """Adapt a connection; with ``is_legacy``, transactions begin implicitly, as in sqlite3."""
        self._connection = connection
        self._is_legacy = is_legacy
        connection._state.begin_also_for(changes=not is_legacy, reads=False)
        self._unless_autocommit = connection.autocommit
        self._streams: WeakSet[AdaptedStream] = WeakSet()
        self.has_snapshots: bool = False
        """Whether reads begin transactions."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        value = getattr(self._connection, name)
        if not callable(value):
            return value

        def call(*args: Any, **options: Any) -> Any:
            result = value(*args, **options)
            return _run(result) if isawaitable(result) else result

        return call

    def cursor(self, server_side: bool = False) -> AdaptedCursor | AdaptedStream:
        """Return a new cursor."""
        if not server_side:
            return AdaptedCursor(self._connection)
        stream = AdaptedStream(self._connection)
        self._streams.add(stream)
        return stream

    def end_streams(self) -> None:
        """End what was left running. Does not wait."""
        for stream in list(self._streams):
            stream.end()
        self._streams.clear()

    def execute(self, operation: str, parameters: Parameters | None = None) -> AdaptedCursor:
        """Run one statement on a new cursor."""
        return AdaptedCursor(self._connection).execute(operation, parameters)

    def executemany(self, operation: str, parameters: Sequence[Parameters]) -> AdaptedCursor:
        """Run one statement that changes data for each parameter set, on a new cursor."""
        return AdaptedCursor(self._connection).executemany(operation, parameters)

    def executescript(self, script: str) -> None:
        """Run any number of statements; their rows are dropped."""
        _run(self._connection.executescript(script))

    def commit(self) -> None:
        """Commit, if a transaction is open."""
        if self._connection.in_transaction:
            await_(self._commit())

    async def _commit(self) -> None:
        await self._connection.commit()
        if self._connection.autocommit is True:  # then a BEGIN of the program's began it
            await self._connection._state.commit_open()

    def rollback(self) -> None:
        """Roll back, if a transaction is open."""
        if self._connection.in_transaction:
            _run(self._rollback())

    async def _rollback(self) -> None:
        await self._connection.rollback()
        if self._connection.autocommit is True:  # as in `_commit`
            await self._connection._state.roll_back_open()

    def recover(self) -> bool:
        """Roll back after a cancellation, shielded from it; return whether the connection can be used again."""
        try:
            if self._connection.in_transaction:
                await_(self._rollback())  # without delivering: the pool must come to its end
            return not self._connection.in_transaction and self.is_alive()
        except errors.Error:
            return False

    def close(self) -> None:
        """Close the connection. A cancellation is raised once that is done."""
        _run(self._connection.close())

    def terminate(self) -> None:
        """Close the connection, without waiting if nothing can wait: in a finalizer, with or without an event loop."""
        if in_greenlet():
            self.close()
        else:
            self._connection.stop()

    def is_alive(self) -> bool:
        """Return True if the connection is open and usable."""
        return bool(self._connection.is_alive())

    @property
    def isolation_level(self) -> Any:
        """Kind of BEGIN before the first statement of a transaction; None: none."""
        return self._connection.isolation_level

    @isolation_level.setter
    def isolation_level(self, value: IsolationLevel | None) -> None:
        self._connection.isolation_level = value

    @property
    def autocommit(self) -> Any:
        """As `rapsqlite.Connection.autocommit`."""
        return self._connection.autocommit

    @autocommit.setter
    def autocommit(self, value: Any) -> None:
        self._connection.autocommit = value

    def set_transactions(self, *, autocommit: bool, snapshots: bool) -> None:
        """Commit each statement, or begin transactions; with ``snapshots``, before reads too."""
        wanted: Any = True if autocommit else self._unless_autocommit
        if self._connection.autocommit != wanted:
            self._connection.autocommit = wanted
        self._connection._state.begin_also_for(changes=snapshots or not self._is_legacy, reads=snapshots)
        self.has_snapshots = snapshots

    def set_read_uncommitted(self, value: bool) -> None:
        """Set the PRAGMA, whatever cancels the task: also while the connection is returned."""
        await_(self._set_read_uncommitted(value))

    async def _set_read_uncommitted(self, value: bool) -> None:
        state = self._connection._state
        await state.apply_pending_setting()
        sql = b"PRAGMA read_uncommitted = %d" % value
        await state.guest.call(Request(abi.OP_EXECUTE, sql, format=abi.FORMAT_UNINTERRUPTIBLE))


class Driver:
    """This package as the DB-API module that SQLAlchemy calls."""

    paramstyle = "qmark"
    sqlite_version: str = rapsqlite.sqlite_version
    sqlite_version_info: tuple[int, ...] = rapsqlite.sqlite_version_info
    PARSE_DECLTYPES: int = rapsqlite.PARSE_DECLTYPES
    PARSE_COLNAMES: int = rapsqlite.PARSE_COLNAMES
    Binary = memoryview

    def __init__(self) -> None:
        """Add the exceptions."""
        for name in errors.__all__:
            setattr(self, name, getattr(errors, name))

    def connect(self, *arguments: Any, **options: Any) -> Adapted:
        """Open a connection, with ``async_creator_fn`` if given."""
        options.pop("async_fallback", None)  # of SQLAlchemy 2.0
        create = options.pop("async_creator_fn", None) or rapsqlite.connect
        is_legacy = options.get("autocommit") == LEGACY_TRANSACTION_CONTROL
        return Adapted(await_(create(*arguments, **options)), is_legacy=is_legacy)
