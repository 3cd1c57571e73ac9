"""``connect()`` and `Connection`: one SQLite database connection, its lifetime, settings and transactions."""

from __future__ import annotations

import sqlite3
import sys
import warnings
from typing import TYPE_CHECKING, Any, TypeVar, cast

from rapsqlite import _constants as abi
from rapsqlite._aiosqlite_attributes import ConnectionAttributes
from rapsqlite._blocking import Worker
from rapsqlite._client.observers import observers
from rapsqlite._client.opening import OpenOptions
from rapsqlite._client.slow_statements import SlowStatements
from rapsqlite._client.state import CLOSED, NOT_CONNECTED, Absent, ConnectionState
from rapsqlite._client.transaction_control import LEGACY_TRANSACTION_CONTROL
from rapsqlite._settings import Settings
from rapsqlite._values.async_only import AsyncBlock
from rapsqlite._values.options import checked_callable, checked_chunk_size, checked_mapping
from rapsqlite._values.pragma import pragma_statement
from rapsqlite._values.uncopied import Uncopied
from rapsqlite.backup import Copies
from rapsqlite.blob import Blobs
from rapsqlite.changeset import Changesets
from rapsqlite.errors import ExceptionAttributes, NotSupportedError, ProgrammingError
from rapsqlite.extensions import Extensions
from rapsqlite.functions import Functions
from rapsqlite.hooks import Hooks
from rapsqlite.savepoint import Savepoint
from rapsqlite.schema import Schema
from rapsqlite.session import Sessions
from rapsqlite.transaction import Transaction, begin_statement, checked_scope

if TYPE_CHECKING:
    import os
    import threading
    from collections.abc import Awaitable, Callable, Generator, Mapping

    from rapsqlite._guest.guest import Guest
    from rapsqlite._values.limits import Limits
    from rapsqlite.types import (
        Adapter,
        AutocommitMode,
        Converter,
        IsolationLevel,
        RowFactory,
        TextFactory,
        TransactionScope,
    )

C = TypeVar("C", bound="Connection")
_LEFT_OPEN = "was deleted before being closed: use `async with` or `await close()`"


class Connection(
    AsyncBlock,
    Uncopied,
    Settings,
    Copies,
    Schema,
    Blobs,
    SlowStatements,
    Functions,
    Hooks,
    Sessions,
    Changesets,
    Extensions,
    ConnectionAttributes,
    ExceptionAttributes,
):
    """One connection to one SQLite database, with its own sandbox and thread; made by `connect`.

    Await it, or use it in ``async with``, to open it. It can be opened once. Any task of any event loop in any thread
    may then use it; statements run in the order in which they arrive.
    """

    def __init__(
        self,
        database: str | bytes | os.PathLike[str] | os.PathLike[bytes],
        *,
        timeout: float = 5.0,
        isolation_level: IsolationLevel | None = "",
        detect_types: int = 0,
        cached_statements: int = 128,
        uri: bool = False,
        autocommit: AutocommitMode = LEGACY_TRANSACTION_CONTROL,
        iter_chunk_size: int = 64,
        row_factory: RowFactory = None,
        text_factory: TextFactory = str,
        pragmas: Mapping[str, float | str | bool] | None = None,
        init_hook: Callable[[Any], Awaitable[object]] | None = None,
        read_only: bool = False,
        limits: Limits | None = None,
        strict_strings: bool = False,
        transaction_mode: IsolationLevel | None = None,
        transaction_scope: TransactionScope = "task",
        aiosqlite_compat: bool = False,
    ) -> None:
        """Check and store the options of `connect`; opens nothing."""
        self._state = ConnectionState(
            isolation_level=isolation_level,
            autocommit=autocommit,
            iter_chunk_size=iter_chunk_size,
            row_factory=row_factory,
            text_factory=text_factory,
            detect_types=detect_types,
            default_shape=tuple if aiosqlite_compat else list,
        )
        self._set_block_defaults(transaction_mode, transaction_scope)
        self._target = OpenOptions(
            database,
            timeout_s=timeout,
            uri=uri,
            read_only=read_only,
            cached_statements=cached_statements,
            limits=limits,
        )
        settings = {**self._target.pragmas, **checked_mapping("pragmas", pragmas)}
        self._pragmas = [pragma_statement(name, value) for name, value in settings.items()]
        self._limits: Limits = {**limits} if limits else {}
        self._strict_strings = bool(strict_strings)
        self._init_hook = init_hook and checked_callable("init_hook", init_hook)
        self._left_open = f"opened at {calling_line()}, {_LEFT_OPEN}"
        self._was_opened = False
        self._worker = Worker(self._state)
        self._guest_thread: threading.Thread | None = None

    def _set_block_defaults(self, mode: str | None, scope: str) -> None:
        begin_statement(mode)  # raises ValueError if it is invalid
        self._state.transaction_mode = mode
        self._state.transaction_scope = checked_scope(scope) or "task"

    # -- lifetime ----------------------------------------------------------------------------------

    def __await__(self: C) -> Generator[Any, Any, C]:
        return self._open().__await__()

    async def _open(self: C) -> C:
        if self._was_opened:
            raise ProgrammingError("this connection was already opened: call connect() again")
        self._was_opened = True
        guest = self._state.guest = await self._target.open()
        try:
            self._guest_thread = guest.thread
            guest.default_scope = self._state.transaction_scope
            self._callbacks = guest.callbacks.hand_over()
            await self._set_up()
        except BaseException:
            self.stop()
            raise
        return self

    async def _set_up(self) -> None:
        if self._strict_strings:
            await self.setconfig(abi.SQLITE_DBCONFIG_DQS_DML, False)
            await self.setconfig(abi.SQLITE_DBCONFIG_DQS_DDL, False)
        for statement in self._pragmas:
            await self._state.run(statement)
        await self._state.open()
        for observe in observers:
            observe(self)
        if self._init_hook is not None:
            await self._init_hook(self)

    async def __aenter__(self: C) -> C:
        return await self

    async def __aexit__(self, *exc_info: object) -> None:
        # Closing rolls back uncommitted changes.
        if exc_info[0] is GeneratorExit:
            self.stop()  # nothing runs the task any more, so it cannot wait
            return
        try:
            if exc_info[0] is None and self._state.guest is not CLOSED:
                await self._state.commit()
        finally:
            await self.close()

    async def close(self) -> None:
        """Finish pending statements, roll back an open transaction, close the database and end the thread; idempotent.

        Cancellation does not stop it; it is raised once the connection is closed.
        """
        guest = self._state.guest
        if isinstance(guest, Absent):
            self._close_unopened()
            return
        try:
            if guest.state == "ok" and not guest.is_inside_block():  # a function may wait for that block
                await self._worker.finish()
            self._state.guest = CLOSED
            await guest.close()
        except BaseException:
            self._state.guest = CLOSED
            guest.stop()  # a KeyboardInterrupt may have come before the guest was told
            raise

    def stop(self) -> Awaitable[None] | None:
        """Interrupt running statements and close without waiting. Prefer `close` or ``async with``.

        Returns an awaitable that completes when the connection is closed, or None without a running event loop.
        """
        guest = self._state.guest
        if isinstance(guest, Absent):
            self._close_unopened()
            return _Ending(None)
        try:
            self._state.guest = CLOSED
            guest.stop()
        except BaseException:
            guest.stop()  # as in `close`
            raise
        return _Ending(guest) if _in_event_loop() else None

    def _close_unopened(self) -> None:
        if self._state.guest is NOT_CONNECTED:
            self._target.release()
        self._state.guest = CLOSED

    def is_alive(self) -> bool:
        """Return True if the connection is open and usable."""
        guest = self._state.guest
        return not isinstance(guest, Absent) and guest.state == "ok"

    def __del__(
        self,
        # At interpreter shutdown this module may have lost its globals, and its guests have ended.
        _warn: Callable[..., None] = warnings.warn,
        _closed: object = CLOSED,
        _absent: type = Absent,
        _warning: type[Warning] = ResourceWarning,
    ) -> None:
        state = getattr(self, "_state", None)
        if state is None or isinstance(state.guest, _absent):
            return
        guest = state.guest
        try:
            state.guest = _closed
            if guest.state == "forked":
                return
            if guest.state == "ok":
                guest.stop()  # first, because warnings may be errors
        except BaseException:
            guest.stop()  # as in `close`: nothing else will
            raise
        _warn(
            f"{self!r}, {self._left_open}",
            _warning,
            stacklevel=1,
            source=self,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__qualname__} {self.path!r}>"

    @property
    def path(self) -> str:
        """The database name as it was passed to `connect`."""
        return self._target.path

    @property
    def limits(self) -> Limits:
        """A copy of the limits passed to `connect`; they cannot change."""
        return {**self._limits}

    # -- transactions ------------------------------------------------------------------------------

    async def begin(self, mode: str | None = None) -> None:
        """Begin a transaction: DEFERRED, IMMEDIATE or EXCLUSIVE; by default as ``transaction_mode`` of `connect` says.

        All tasks that use the connection share it, as they share what SQL begins; `transaction` belongs to its task.
        Raises OperationalError if a transaction is already open, or if the lock that the mode needs is not available
        within `timeout`. https://sqlite.org/lang_transaction.html
        """
        await self._state.begin(begin_statement(self._state.transaction_mode if mode is None else mode))

    async def commit(self) -> None:
        """Commit the open transaction, if there is one.

        If cancelled, it raises the cancellation if SQLite did not commit; otherwise the cancellation is raised later.
        """
        await self._state.commit()

    async def rollback(self) -> None:
        """Roll back the open transaction, if there is one. Cancellation does not stop it."""
        await self._state.rollback()

    def transaction(
        self: C, mode: str | None = None, *, timeout: float | None = None, scope: TransactionScope | None = None
    ) -> Transaction[C]:
        """Return an ``async with`` block that is one transaction; see `Transaction`.

        ``mode``     as for `begin`
        ``timeout``  seconds to wait for other tasks' blocks and for the lock; None: no limit
        ``scope``    who takes part: "task", only the task that enters; "children", also tasks started inside;
                     "connection", all tasks. None: as ``transaction_scope`` of `connect` says
        """
        return Transaction(self, mode, timeout, scope)

    def savepoint(
        self, name: str | None = None, *, timeout: float | None = None, scope: TransactionScope | None = None
    ) -> Savepoint:
        """Return an ``async with`` block that can be rolled back by itself; blocks nest. Any name is allowed.

        ``timeout`` and ``scope`` as for `transaction`; None: the same tasks take part as in the block around it.
        """
        if name is None:
            name = f"rapsqlite_{self._state.next_block()}"
        return Savepoint(self, name, timeout, scope)

    async def interrupt(self) -> None:
        """Interrupt every statement of this connection with OperationalError (SQLITE_INTERRUPT).

        Running and queued statements fail. Statements with rows left return the rows that have arrived, then fail.
        Later statements are not affected. https://sqlite.org/c3ref/interrupt.html
        """
        self._state.guest.interrupt()

    async def statistics(self) -> dict[str, int]:
        """Return counters since opening, and current sizes.

        Counted are statements from the cache, batches, reads of pages, waits, syncs and calls of each host function;
        sizes are ``open_statements`` and, in bytes, ``memory_bytes``, ``page_cache_bytes`` and others.
        https://sqlite.org/c3ref/c_dbstatus_options.html explains what SQLite counts.
        """
        return await self._state.statistics()

    # -- settings ----------------------------------------------------------------------------------

    @property
    def isolation_level(self) -> str | None:
        """Kind of implicit BEGIN before a data change: "", "DEFERRED", "IMMEDIATE", "EXCLUSIVE"; None: none.

        Setting it to None commits an open transaction before the next statement, which raises any error.
        """
        return self._state.isolation_level

    @isolation_level.setter
    def isolation_level(self, value: IsolationLevel | None) -> None:
        self._state.set_isolation_level(value)

    @property
    def autocommit(self) -> bool | int:
        """`LEGACY_TRANSACTION_CONTROL` (`isolation_level` decides), True (SQLite's autocommit), or False (PEP 249).

        With False a transaction is always open: commit and rollback begin the next one. Setting True commits, and
        setting False begins, before the next statement, which raises any error.
        https://docs.python.org/3/library/sqlite3.html#sqlite3.Connection.autocommit
        """
        return self._state.autocommit

    @autocommit.setter
    def autocommit(self, value: AutocommitMode) -> None:
        self._state.set_autocommit(value)

    @property
    def row_factory(self) -> RowFactory:
        """Type or function that makes rows, for cursors created from now on; docs/cursor.md lists the values."""
        return self._state.row_factory

    @row_factory.setter
    def row_factory(self, factory: RowFactory) -> None:
        self._state.set_row_factory(factory)

    @property
    def text_factory(self) -> TextFactory:
        """Type or function that makes a TEXT value from its UTF-8 bytes, for subsequent statements."""
        return self._state.text_factory

    @text_factory.setter
    def text_factory(self, factory: TextFactory) -> None:
        self._state.set_text_factory(factory)

    @property
    def iter_chunk_size(self) -> int:
        """Default number of rows per list of `execute_iter`. Setting it to less than 1 raises ValueError."""
        return self._state.iter_chunk_size

    @iter_chunk_size.setter
    def iter_chunk_size(self, value: int) -> None:
        self._state.iter_chunk_size = checked_chunk_size(value)

    _iter_chunk_size = iter_chunk_size  # aiosqlite's name for it

    def register_adapter(self, type: type[Any], adapter: Adapter[Any]) -> None:
        """Convert parameters of exactly this type with ``adapter``, on this connection only."""
        self._state.adapters.register(type, adapter)

    def enable_adapters(self, *names: str) -> None:
        """Let parameters be UUIDs, Decimals, enums, dataclasses or Structs, on this connection only.

        ``names``: "uuid" and "decimal" are stored as text, "enum" as its value, "dataclass" and "struct" as JSON text;
        without names, all of them. Adapters registered for the exact type come first. ``into=`` reads the first three.
        """
        self._state.adapters.enable(names)

    def register_converter(self, typename: str, converter: Converter) -> None:
        """Convert values of this column type, given as bytes, with ``converter``; ``detect_types`` selects columns."""
        self._state.converters.register(typename, converter)


class _Ending:
    """Returned by `Connection.stop`; need not be awaited."""

    __slots__ = ("_guest",)

    def __init__(self, guest: Guest | None) -> None:
        self._guest = guest

    def __await__(self) -> Generator[Any, Any, None]:
        if self._guest is not None:
            yield from self._guest.close().__await__()


def _in_event_loop() -> bool:
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        return True
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


def calling_line() -> str:
    """Return file and line of the nearest caller outside this package and what calls its context managers."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(("rapsqlite.", "contextlib")):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _checked_factory(factory: Any) -> type[Connection]:
    """Return what makes the connection; sqlite3's class stands for the default."""
    if factory is None or factory is sqlite3.Connection:
        return Connection
    if isinstance(factory, type) and issubclass(factory, sqlite3.Connection):
        raise NotSupportedError(f"factory must be a subclass of rapsqlite.Connection; {factory.__name__} is sqlite3's")
    return cast("type[Connection]", factory)


def connect(
    database: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    *,
    timeout: float = 5.0,
    isolation_level: IsolationLevel | None = "",
    detect_types: int = 0,
    cached_statements: int = 128,
    uri: bool = False,
    autocommit: AutocommitMode = LEGACY_TRANSACTION_CONTROL,
    iter_chunk_size: int = 64,
    row_factory: RowFactory = None,
    text_factory: TextFactory = str,
    pragmas: Mapping[str, float | str | bool] | None = None,
    init_hook: Callable[[Any], Awaitable[object]] | None = None,
    read_only: bool = False,
    limits: Limits | None = None,
    strict_strings: bool = False,
    transaction_mode: IsolationLevel | None = None,
    transaction_scope: TransactionScope = "task",
    loop: object = None,
    check_same_thread: bool = True,  # noqa: ARG001 - for sqlite3 compatibility; a connection works in any thread
    factory: type[Connection] | None = None,
    aiosqlite_compat: bool = False,
) -> Connection:
    """Return a connection to ``database``; await it, or use it in ``async with``, to open it.

    ``database``           a file name or path; ":memory:" for a private in-memory database; "" for a temporary file
    ``timeout``            seconds to wait for locks held by other connections
    ``isolation_level``, ``autocommit``  when transactions begin; see the properties of the same names
    ``detect_types``       PARSE_DECLTYPES, PARSE_COLNAMES, or both: which columns are converted
    ``cached_statements``  size of the statement cache
    ``uri``                whether ``database`` may be a URI: https://sqlite.org/uri.html
    ``iter_chunk_size``    rows per list of `execute_iter`
    ``row_factory``, ``text_factory``  types or functions that make rows and TEXT values
    ``pragmas``            names and values of PRAGMAs to set on opening; checked immediately, as by `set_pragma`
    ``init_hook``          an async function, called with the opened connection
    ``read_only``          whether to open the file read-only; it must exist
    ``limits``             what statements may use and reach, for untrusted SQL: see `Limits`
    ``strict_strings``     whether double-quoted text is always a name; by default it is a string if no name matches
    ``transaction_mode``   "DEFERRED" (the default), "IMMEDIATE" or "EXCLUSIVE": how `transaction` and `begin` begin
    ``transaction_scope``  who takes part in a `transaction` or `savepoint` block: "task", "children" or "connection"
    ``factory``            a subclass of `Connection` to create
    ``aiosqlite_compat``   whether the ``fetch_*`` methods return tuples, as cursors do, instead of lists

    In ``async with`` a clean exit commits, an exception rolls back, and both close. Opening raises OperationalError if
    the file cannot be opened. Cancelling it leaves nothing open.
    """
    if loop is not None:
        warnings.warn("connect() has no use for loop: it works in every event loop", DeprecationWarning, stacklevel=2)
    return _checked_factory(factory)(
        database,
        timeout=timeout,
        isolation_level=isolation_level,
        detect_types=detect_types,
        cached_statements=cached_statements,
        uri=uri,
        autocommit=autocommit,
        iter_chunk_size=iter_chunk_size,
        row_factory=row_factory,
        text_factory=text_factory,
        pragmas=pragmas,
        init_hook=init_hook,
        read_only=read_only,
        limits=limits,
        strict_strings=strict_strings,
        transaction_mode=transaction_mode,
        transaction_scope=transaction_scope,
        aiosqlite_compat=aiosqlite_compat,
    )
