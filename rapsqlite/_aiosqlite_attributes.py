"""Private attributes of aiosqlite's connections and cursors that other programs use.

aiosqlite has a thread with a queue of functions to call, and a `sqlite3` connection in it. Here the connection has a
thread and a queue of its own, and such functions get a `BlockingConnection`. docs/compatibility.md lists the attributes
with the programs that use them.

https://github.com/omnilib/aiosqlite
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rapsqlite._blocking import BlockingConnection, BlockingCursor, Worker
from rapsqlite._client.state import CLOSED, NOT_CONNECTED

if TYPE_CHECKING:
    import threading
    from collections.abc import AsyncIterator, Callable

    from rapsqlite._client.state import ConnectionState
    from rapsqlite.connection import Connection


class _Thread:
    """The thread of a connection: always a daemon, and started when the connection is opened."""

    __slots__ = ("_thread",)

    def __init__(self, thread: threading.Thread | None) -> None:
        self._thread = thread

    @property
    def daemon(self) -> bool:
        """True; setting it does nothing."""
        return True

    @daemon.setter
    def daemon(self, value: bool) -> None:
        pass

    @property
    def name(self) -> str:
        """The thread's name."""
        return "rapsqlite" if self._thread is None else self._thread.name

    def start(self) -> None:
        """Do nothing: opening the connection starts it."""

    def is_alive(self) -> bool:
        """Return True from the opening of the connection until it is closed."""
        return self._thread is not None and self._thread.is_alive()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the thread has ended."""
        if self._thread is not None:
            self._thread.join(timeout)


class _Queue:
    """The queue of functions that a connection's worker calls."""

    __slots__ = ("_worker",)

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def put_nowait(self, item: tuple[Any, Callable[[], Any]]) -> None:
        """Have the function of a pair called; its result or exception becomes the future's, unless that is None."""
        future, function = item

        def resolve(method: str, outcome: object) -> None:
            if not future.done():
                getattr(future, method)(outcome)

        def call() -> None:
            try:
                answer = ("set_result", function())
            except BaseException as error:  # noqa: BLE001 - it is the future's
                answer = ("set_exception", error)
            if future is not None:
                with suppress(RuntimeError):  # its loop is closed: nothing waits for it
                    future.get_loop().call_soon_threadsafe(resolve, *answer)

        self._worker.submit(call)

    put = put_nowait

    def qsize(self) -> int:
        """Return how many functions wait for their turn."""
        return self._worker.waiting_count()

    def empty(self) -> bool:
        """Return True if no function waits."""
        return not self.qsize()


class ConnectionAttributes:
    """The private attributes of aiosqlite's connections: attributes of `Connection`."""

    _state: ConnectionState
    _worker: Worker
    _guest_thread: threading.Thread | None
    _was_opened: bool

    @property
    def _tx(self) -> _Queue:
        return _Queue(self._worker)

    @property
    def _thread(self) -> _Thread:
        return _Thread(self._guest_thread)

    @property
    def _running(self) -> bool:
        guest = self._state.guest
        return guest is not CLOSED and not (self._was_opened and guest is NOT_CONNECTED)

    @property
    def _connection(self) -> BlockingConnection | None:
        guest = self._state.guest
        return None if guest is NOT_CONNECTED or guest is CLOSED else BlockingConnection(self, self._worker)

    @property
    def _conn(self) -> BlockingConnection:
        self._state.guest.state  # noqa: B018 - raises if the connection is not open
        return BlockingConnection(self, self._worker)

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._state.guest.state  # noqa: B018 - raises if the connection is not open
        return await self._worker.run(fn, *args, **kwargs)

    def _execute_insert(self, sql: str, parameters: Any) -> Any:
        """Execute a statement and return a row with the row id of the last inserted row; for `_execute`."""
        return self._conn.execute(sql, parameters).execute("SELECT last_insert_rowid()").fetchone()

    def _execute_fetchall(self, sql: str, parameters: Any) -> Any:
        """Execute a statement and return all its rows; for `_execute`."""
        return self._conn.execute(sql, parameters).fetchall()

    async def _connect(self: Any) -> Any:
        return await self if self._state.guest is NOT_CONNECTED else self


class CursorAttributes:
    """The private attributes of aiosqlite's cursors: attributes of `Cursor`."""

    __slots__ = ()
    _connection: Connection

    @property
    def _conn(self) -> Connection:
        return self._connection

    @property
    def _cursor(self) -> BlockingCursor:
        return BlockingCursor(self, self._connection._worker)

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await self._connection._execute(fn, *args, **kwargs)

    async def _fetch_chunked(self: Any) -> AsyncIterator[Any]:
        async for row in self:
            yield row
