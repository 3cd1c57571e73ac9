"""SQLAlchemy's pools for this dialect: tasks of any event loop wait, and cancelled statements cost no connection.

SQLAlchemy drops a connection whose task was cancelled in a statement, because most drivers leave it in an unknown
state; an in-memory database would go with it. Here such a connection is rolled back and stays in its pool.
https://docs.sqlalchemy.org/en/21/core/pooling.html
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy.pool import AsyncAdaptedQueuePool, StaticPool
from sqlalchemy.pool.base import _ConnectionRecord
from sqlalchemy.util.queue import Empty, Full, QueueCommon

from rapsqlite._client.fair_lock import FairLock, Turn
from rapsqlite._loops import current_loop
from rapsqlite.sqlalchemy.driver import Adapted, await_

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

    from rapsqlite._loops import Loop

_ENDS = (Exception, KeyboardInterrupt, SystemExit)


class Record(_ConnectionRecord):
    """One connection of a pool; a cancellation does not invalidate it."""

    dbapi_connection: DBAPIConnection | None

    def invalidate(self, e: BaseException | None = None, soft: bool = False) -> None:
        """Drop the connection, except one that is still usable after a cancellation."""
        connection: Any = self.dbapi_connection
        if isinstance(connection, Adapted) and not soft and e is not None:
            if isinstance(e, GeneratorExit):
                connection.driver_connection.stop()  # the task's loop no longer runs it, so it cannot wait
            elif not isinstance(e, _ENDS) and connection.recover():
                return
        super().invalidate(e, soft)

    def checkin(self, _fairy_was_created: bool = True) -> None:
        """Return the connection to its pool, or close it if what must run before raises or is cancelled."""
        connection: Any = self.dbapi_connection
        try:
            while connection is not None and self.finalize_callback:
                self.finalize_callback.pop()(connection)
        except BaseException:
            self.finalize_callback.clear()
            if isinstance(connection, Adapted):
                connection.driver_connection.stop()
            self.dbapi_connection = None
            raise
        finally:
            super().checkin(_fairy_was_created)


class WaitQueue(QueueCommon[Any]):
    """The idle connections and the tasks waiting for one, first come, first served, in any event loop and thread."""

    def __init__(self, maxsize: int = 0, use_lifo: bool = False) -> None:
        """Take SQLAlchemy's arguments: at most ``maxsize`` items, 0 for any number."""
        self.maxsize = maxsize
        self.use_lifo = use_lifo
        # Held for a few instructions, never across a wait. A finalizer may run meanwhile and hand an item on.
        self._guard = threading.RLock()
        self._items: deque[Any] = deque()
        self._waiting: deque[_Waiting] = deque()

    def empty(self) -> bool:
        """Return True if there is no item."""
        return not self._items

    def full(self) -> bool:
        """Return True if there is no space."""
        return 0 < self.maxsize <= len(self._items)

    def qsize(self) -> int:
        """Return the number of items."""
        return len(self._items)

    def put_nowait(self, item: Any) -> None:
        """Hand an item to the task that has waited longest, or keep it; Full if there is no space."""
        with self._guard:
            if not self.hand_on(item):
                if self.full():
                    raise Full
                self._items.append(item)

    def hand_on(self, item: Any) -> bool:
        """Hand an item to the task that has waited longest; False if none waits."""
        with self._guard:
            while self._waiting:
                if self._waiting.popleft().hand(item):
                    return True
            return False

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:  # noqa: ARG002
        """Same as `put_nowait`: pools never wait for space."""
        self.put_nowait(item)

    def get_nowait(self) -> Any:
        """Return an item; Empty if there is none."""
        with self._guard:
            if not self._items:
                raise Empty
            return self._items.pop() if self.use_lifo else self._items.popleft()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Return an item; wait for one if there is none, Empty after ``timeout`` seconds."""
        with self._guard:
            if self._items or not block:
                return self.get_nowait()
        return await_(self._wait(timeout))

    async def _wait(self, timeout: float | None) -> Any:
        import anyio

        waiting = _Waiting(current_loop(), anyio.Event())
        try:
            with self._guard:
                if self._items:  # returned by another thread in the meantime
                    return self.get_nowait()
                self._waiting.append(waiting)
            with anyio.move_on_after(timeout):
                await waiting.event.wait()
        except BaseException:
            with self._guard:
                self._withdraw(waiting)
                if waiting.items and not self.hand_on(waiting.items[0]):
                    self._items.append(waiting.items[0])  # even without space: nothing else keeps it
            raise
        self._withdraw(waiting)
        if not waiting.items:
            raise Empty
        return waiting.items.pop()

    def _withdraw(self, waiting: _Waiting) -> None:
        with self._guard, suppress(ValueError):
            self._waiting.remove(waiting)


class _Waiting:
    """A task that waits for an item."""

    __slots__ = ("event", "items", "loop")

    def __init__(self, loop: Loop, event: Any) -> None:
        self.loop = loop
        self.event = event
        self.items: list[Any] = []

    def hand(self, item: Any) -> bool:
        """Give the item to the task and wake it, from any thread; False if its event loop is closed."""
        self.items.append(item)
        if self.loop.post(self.event.set):
            return True
        self.items.clear()
        return False


class FilePool(AsyncAdaptedQueuePool):
    """Pool of connections to a file, or to an in-memory database that is shared by name."""

    _queue_class = WaitQueue

    def _create_connection(self) -> ConnectionPoolEntry:
        return Record(self)

    def _dec_overflow(self) -> Any:
        """A connection could not be opened, or is one too many: the next task that waits may open one instead."""
        queue: Any = self._pool
        return queue.hand_on(Record(self, connect=False)) or super()._dec_overflow()

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        connection: Any = record.dbapi_connection
        if isinstance(connection, Adapted):
            connection.end_streams()  # a statement left running would keep its snapshot and its lock
        super()._do_return_conn(record)


class MemoryPool(StaticPool):
    """The one connection to a private in-memory database."""

    _is_asyncio = True

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._opening = Mutex()

    def _do_get(self) -> ConnectionPoolEntry:
        record = self.__dict__.get("connection")
        if record is not None and not record._is_hard_or_soft_invalidated():
            return cast("ConnectionPoolEntry", record)
        with self._opening:  # tasks that connect at the same time must not open one database each
            record = self.__dict__.get("connection")
            if record is None or record._is_hard_or_soft_invalidated():
                record = self.__dict__["connection"] = Record(self)
            return cast("ConnectionPoolEntry", record)


class Mutex:
    """A lock for SQLAlchemy's code, in which tasks of any event loop wait."""

    __slots__ = ("_lock", "_turns")

    def __init__(self) -> None:
        self._lock = FairLock()
        self._turns: list[Turn] = []  # the holder's

    def __enter__(self) -> bool:
        self._turns.append(await_(self._lock.acquire()))
        return True

    def __exit__(self, *exc_info: object) -> None:
        self._lock.release(self._turns.pop())
