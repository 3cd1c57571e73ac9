"""`Pool`: connections to one database that tasks share; in WAL mode, one writer and several readers.

A pool belongs to one event loop and everything here runs in its thread, so there are no locks: code between two
``await`` is atomic. SQLite lets one connection write at a time, so a pool has one writer; tasks queue for it, first
come, first served, and never get SQLITE_BUSY because of each other. https://sqlite.org/wal.html
"""

from __future__ import annotations

import os
import time
import warnings
import weakref
from collections import deque
from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

from rapsqlite import _constants as abi
from rapsqlite._client.shared_memory import SharedMemory
from rapsqlite._loops import current_loop, worker
from rapsqlite._pooled import Pooled, has_lost_its_file
from rapsqlite._values.options import checked_callable, checked_seconds
from rapsqlite._values.uncopied import Uncopied
from rapsqlite.connection import Connection, calling_line, connect
from rapsqlite.errors import OperationalError, PoolClosed, PoolTimeout, ProgrammingError, TooManyWaiting
from rapsqlite.memory import connect_memory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator

    from rapsqlite._loops import Loop
    from rapsqlite.cursor import Cursor
    from rapsqlite.types import Parameters, ParameterSets, TransactionScope

    Hook = Callable[[Connection], Awaitable[object]]

_READ_ONLY = "this pool connection is read-only: write through the pool's acquire(), transaction() or execute()"

_numbers = count()


class _Waiter:
    """A task waiting for a connection, or for permission to open one."""

    def __init__(self) -> None:
        from anyio import Event  # slow to import: only programs with a pool pay for it

        self.event = Event()
        self.lane: _Lane | None = None  # set at its turn: the lane that gives it a connection or lets it open one
        self.pooled: Pooled | None = None
        self.error: Exception | None = None

    @property
    def is_done(self) -> bool:
        return self.event.is_set()


class _Lane:
    """The connections of one kind: the readers, or the writer."""

    def __init__(self, most: int, *, read_only: bool) -> None:
        self.most = most
        self.read_only = read_only
        self.size = 0  # idle, being opened, or lent
        self.idle: deque[Pooled] = deque()  # the most recently used is last
        self.waiting: deque[_Waiter] = deque()

    def put(self, pooled: Pooled) -> None:
        """Give a connection to the task that has waited longest, or keep it idle."""
        pooled.idle_since = time.monotonic()
        waiter = self._next_waiter()
        if waiter is None:
            self.idle.append(pooled)
        else:
            waiter.lane, waiter.pooled = self, pooled
            waiter.event.set()

    def let_open(self) -> None:
        """Let waiting tasks open connections up to the maximum."""
        while self.size < self.most:
            waiter = self._next_waiter()
            if waiter is None:
                return
            self.size += 1
            waiter.lane = self
            waiter.event.set()

    def take_waiting_from(self, other: _Lane) -> None:
        """Make the tasks that wait in another lane wait in this one."""
        self.waiting.extend(other.waiting)
        other.waiting.clear()
        for pooled in [self.idle.popleft() for _ in range(len(self.idle))]:
            self.put(pooled)

    def _next_waiter(self) -> _Waiter | None:
        while self.waiting:
            waiter = self.waiting.popleft()
            if not waiter.is_done:
                return waiter
        return None


class _Loan:
    """A connection that is out: where, when and by which task it was acquired."""

    __slots__ = ("acquired_at", "lane", "lent", "pooled", "since", "task")

    def __init__(self, lane: _Lane, pooled: Pooled, acquired_at: str, task: object) -> None:
        self.lane = lane
        self.pooled = pooled
        self.acquired_at = acquired_at
        self.since = time.monotonic()
        self.task = weakref.ref(task) if task is not None else None
        self.lent: weakref.ref[Connection] | None = None


class Acquisition(Uncopied):
    """A connection being acquired: await it and pass the connection to `Pool.release`, or use it in ``async with``.

    ``async with`` commits an open transaction on a clean exit and rolls it back after an exception.
    """

    __slots__ = ("_acquired_at", "_connection", "_is_tasks", "_pool", "_read_only", "_timeout_s")

    def __init__(self, pool: Pool, timeout_s: float | None, read_only: bool, *, is_tasks: bool = True) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self._read_only = read_only
        self._is_tasks = is_tasks  # whether the acquiring task returns it; a stream's iterator may end in another one
        self._acquired_at = calling_line()
        self._connection: Connection | None = None

    def __await__(self) -> Generator[Any, Any, Connection]:
        return self._pool._acquire(self._timeout_s, self._read_only, self._acquired_at, self._is_tasks).__await__()

    async def __aenter__(self) -> Connection:
        connection = self._connection = await self
        return connection

    async def __aexit__(self, *exc_info: Any) -> None:
        connection, self._connection = self._connection, None
        assert connection is not None, "it was entered"
        error = exc_info[1]
        try:
            if error is None and connection.is_alive() and connection.in_transaction:
                await connection.commit()
        except BaseException as exc:
            error = exc
            raise
        finally:
            await self._pool._take_back(connection, error)


class Pool(Uncopied):
    """Connections to one database; made by `create_pool`. Use it in ``async with``, or await it and call `aclose`."""

    def __init__(
        self,
        database: str | bytes | os.PathLike[str] | os.PathLike[bytes],
        *,
        min_size: int = 1,
        max_size: int = 8,
        acquire_timeout: float | None = 30.0,
        idle_timeout: float | None = 600.0,
        max_lifetime: float | None = None,
        max_waiting: int | None = None,
        init_hook: Hook | None = None,
        check: Hook | None = None,
        reset: Hook | None = None,
        **connect_options: Any,
    ) -> None:
        _check_sizes(min_size, max_size)
        for name, hook in (("init_hook", init_hook), ("check", check), ("reset", reset)):
            if hook is not None:
                checked_callable(name, hook)
        if connect_options.get("autocommit") is False:
            raise ValueError("a pool cannot use autocommit=False, which keeps a transaction open while idle")
        self._database = database
        self._options = {"transaction_mode": "IMMEDIATE", "init_hook": init_hook, **connect_options}
        # Keeps an in-memory database, which outlives each connection.
        self._memory_name = f"rapsqlite pool {next(_numbers)}" if database in (":memory:", b":memory:") else None
        self._memory = SharedMemory(self._memory_name) if self._memory_name is not None else None
        connect(database, **self._options)  # raises for an invalid option
        self._min_size = min_size
        self._max_size = max_size
        self._acquire_timeout_s = None if acquire_timeout is None else checked_seconds(acquire_timeout)
        self._idle_timeout_s = None if idle_timeout is None else checked_seconds(idle_timeout)
        self._max_lifetime_s = None if max_lifetime is None else checked_seconds(max_lifetime)
        self._max_waiting = max_waiting
        self._check = check
        self._reset = reset
        self._loop: Loop | None = None
        self._process = os.getpid()
        self._lanes: list[_Lane] = []  # once open: the writer's, then the readers' if there are separate readers
        self._opening: Any = None
        self._can_read_beside = False
        self._loans: dict[int, _Loan] = {}  # by the identity of the connection that was lent
        self._all_back: Any = None
        self._generation = 0
        self._is_closed = False
        self._created_at = calling_line()
        self._counts = dict.fromkeys(
            ("acquired", "waited", "opened", "closed", "replaced", "timeouts", "refused", "errors"), 0
        )
        self._wait_s = self._longest_wait_s = 0.0

    # -- lifetime ----------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, Any, Pool]:
        return self.wait_ready().__await__()

    async def __aenter__(self) -> Pool:
        return await self.wait_ready()

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def wait_ready(self, timeout: float | None = None) -> Pool:
        """Open connections until there are ``min_size``; return the pool.

        Raises PoolTimeout after ``timeout`` seconds, by default ``acquire_timeout``, and any error from opening.
        """
        with self._time_limit(timeout):
            await self._open_lanes()
            for lane in self._lanes:
                while lane.size < min(self._least(lane), lane.most):
                    self._check_use()  # the pool may have been closed meanwhile
                    lane.size += 1
                    self._put_back(lane, await self._open_connection(lane), is_good=True)
            return self
        raise self._timed_out("the pool's connections to open")

    async def aclose(self, timeout: float | None = None) -> None:
        """Close the pool and wait for connections that are out; tasks that wait for a connection get PoolClosed.

        After ``timeout`` seconds (None: no limit) the connections still out are closed while in use, and a
        ResourceWarning says where they were acquired. Idempotent.
        """
        if self._process != os.getpid():
            return
        self._is_closed = True
        for lane in self._lanes:
            while (waiter := lane._next_waiter()) is not None:
                waiter.error = self._refusal()
                waiter.event.set()
        await self._close_idle()
        if self._loans:
            await self._wait_for_loans(timeout)
        memory, self._memory = self._memory, None
        if memory is not None:
            worker.start(memory.release)

    async def _wait_for_loans(self, timeout: float | None) -> None:
        from anyio import Event, move_on_after

        try:
            while self._loans:
                if self._all_back is None or self._all_back.is_set():
                    self._all_back = Event()  # shared by concurrent calls
                with move_on_after(timeout) as scope:
                    await self._all_back.wait()
                if scope.cancelled_caught:
                    break
        finally:
            left, self._loans = list(self._loans.values()), {}
            for loan in left:
                loan.pooled.abandon()
            if self._all_back is not None:
                self._all_back.set()
        if left:
            warnings.warn(
                f"a pool was closed with connections still out, acquired at {', '.join(x.acquired_at for x in left)}",
                ResourceWarning,
                stacklevel=3,
            )

    async def drain(self) -> None:
        """Replace every connection: close idle ones now, the others when they are returned."""
        self._check_use()
        self._generation += 1
        await self._close_idle()

    async def resize(self, *, min_size: int | None = None, max_size: int | None = None) -> None:
        """Change the sizes. Surplus connections are closed: idle ones now, the others when they are returned."""
        self._check_use()
        least = self._min_size if min_size is None else min_size
        most = self._max_size if max_size is None else max_size
        _check_sizes(least, most)
        self._min_size, self._max_size = least, most
        self._set_lanes()
        self._close_surplus()

    def __del__(self, _warn: Callable[..., None] = warnings.warn, _warning: type[Warning] = ResourceWarning) -> None:
        pooled = [each for lane in getattr(self, "_lanes", ()) for each in lane.idle]
        if pooled and self._process == os.getpid():
            for each in pooled:
                each.abandon()
            _warn(
                f"a pool of {self._database!r}, created at {self._created_at}, was deleted before being closed:"
                " use `async with` or `await aclose()`",
                _warning,
                stacklevel=1,
                source=self,
            )

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else f"{sum(lane.size for lane in self._lanes)} of {self._max_size}"
        return f"<rapsqlite.Pool {self._database!r}: {state}>"

    # -- acquiring ---------------------------------------------------------------------------------

    def acquire(self, *, timeout: float | None = None, read_only: bool = False) -> Acquisition:
        """Acquire the writer, or with ``read_only`` a read-only connection; await the result or use ``async with``.

        It belongs to this task until it is returned. Raises PoolTimeout after ``timeout`` seconds (None: the pool's
        ``acquire_timeout``), TooManyWaiting if ``max_waiting`` tasks already wait, PoolClosed, and any error from
        opening.
        """
        return Acquisition(self, timeout, read_only)

    async def release(self, connection: Connection) -> None:
        """Return a connection to the pool. Commit first: an open transaction is rolled back."""
        if id(connection) not in self._loans:
            raise ProgrammingError("this connection was already returned, or belongs to another pool")
        await self._take_back(connection, None)

    async def _acquire(self, timeout: float | None, read_only: bool, acquired_at: str, is_tasks: bool) -> Connection:
        lane, pooled = await self._take(timeout, read_only)
        loop = self._loop
        task = loop.current_task() if loop is not None and is_tasks else None
        loan = _Loan(lane, pooled, acquired_at, task)
        connection = pooled.lend(acquired_at)
        key = id(connection)
        loan.lent = weakref.ref(connection, lambda _: self._lost(key))
        self._loans[key] = loan
        return connection

    async def _take_back(self, connection: Connection, error: BaseException | None) -> None:
        loan = self._loans.pop(id(connection), None)
        if loan is None:
            return  # it was returned inside its block, or the pool was closed
        is_good = False
        try:
            can_go_on = loan.pooled.detach(connection) and not has_lost_its_file(error)
            if isinstance(error, (GeneratorExit, KeyboardInterrupt, SystemExit)):
                # Awaiting is no longer possible.
                is_good = can_go_on and loan.pooled.is_clean() and self._reset is None
                return
            from anyio import CancelScope

            with CancelScope(shield=True):
                is_good = can_go_on and await loan.pooled.restore()
                if is_good and self._reset is not None:
                    is_good = await self._pass(self._reset, loan.pooled)
                if self._is_closed:
                    await loan.pooled.close()
        finally:
            self._put_back(loan.lane, loan.pooled, is_good=is_good)
            if not self._loans and self._all_back is not None:
                self._all_back.set()

    async def _pass(self, hook: Hook, pooled: Pooled) -> bool:
        """Run a user's hook on the pool's connection; return False if it raised or left something behind."""
        try:
            await hook(pooled.connection)
        except Exception:  # noqa: BLE001 - it means that the connection is not good
            self._counts["errors"] += 1
            return False
        return await pooled.restore()

    def _put_back(self, lane: _Lane, pooled: Pooled, *, is_good: bool) -> None:
        if is_good and not self._is_closed and not self._is_over(lane, pooled):
            lane.put(pooled)
            return
        if not is_good:
            self._counts["replaced"] += 1
        self._drop(lane, pooled)

    def _drop(self, lane: _Lane, pooled: Pooled) -> None:
        lane.size -= 1
        self._counts["closed"] += 1
        pooled.abandon()
        lane.let_open()

    def _lost(self, key: int) -> None:
        """Note that a borrower dropped a connection without returning it. Runs in any thread, as the collector does."""
        loan = self._loans.pop(key, None)
        if loan is not None and self._loop is not None:
            self._loop.post(self._give_up, loan)

    def _give_up(self, loan: _Loan) -> None:
        if loan.pooled.idle_since >= 0:  # posted callbacks may run twice
            loan.pooled.idle_since = -1
            self._counts["replaced"] += 1
            self._drop(loan.lane, loan.pooled)
            if not self._loans and self._all_back is not None:
                self._all_back.set()

    async def _take(self, timeout: float | None, read_only: bool) -> tuple[_Lane, Pooled]:
        self._check_use()
        begun = time.monotonic()
        with self._time_limit(timeout):
            if not self._lanes:
                await self._open_lanes()
            self._close_surplus()
            while True:
                self._check_use()  # it may have been closed or resized meanwhile
                lane, pooled = await self._next(self._lanes[-1] if read_only else self._lanes[0])
                if await self._is_usable(lane, pooled):
                    break
            self._counts["acquired"] += 1
            waited = time.monotonic() - begun
            self._wait_s += waited
            self._longest_wait_s = max(self._longest_wait_s, waited)
            return lane, pooled
        raise self._timed_out(
            "the writer" if self._lanes and not self._lanes[-1 if read_only else 0].read_only else "a connection"
        )

    async def _is_usable(self, lane: _Lane, pooled: Pooled) -> bool:
        is_good = False
        try:
            is_good = pooled.connection.is_alive() and not self._is_closed
            is_good = is_good and (self._check is None or await self._pass(self._check, pooled))
        finally:
            if not is_good:
                self._put_back(lane, pooled, is_good=False)
        return is_good

    async def _next(self, lane: _Lane) -> tuple[_Lane, Pooled]:
        """Return an idle connection, a new one, or the next one returned, after its lane."""
        if lane.idle and not lane.waiting:
            return lane, lane.idle.pop()
        if lane.size < lane.most and not lane.waiting:
            lane.size += 1
            return lane, await self._open_connection(lane)
        self._refuse_to_wait(lane)
        waiter = _Waiter()
        lane.waiting.append(waiter)
        self._counts["waited"] += 1
        try:
            await waiter.event.wait()
        except BaseException:
            waiter.event.set()  # others pass it over
            if waiter.lane is not None and waiter.pooled is not None:
                self._put_back(waiter.lane, waiter.pooled, is_good=True)
            elif waiter.lane is not None:
                waiter.lane.size -= 1
                waiter.lane.let_open()
            raise
        if waiter.error is not None:
            raise waiter.error
        assert waiter.lane is not None, "the task had its turn"
        return waiter.lane, waiter.pooled or await self._open_connection(waiter.lane)

    def _refuse_to_wait(self, lane: _Lane) -> None:
        waiting = sum(not waiter.is_done for waiter in lane.waiting)
        if self._max_waiting is not None and waiting >= self._max_waiting:
            self._counts["refused"] += 1
            raise TooManyWaiting(f"{waiting} tasks are already waiting for a connection{self._whereabouts()}")
        task = self._loop.current_task() if self._loop is not None else None
        mine = [x for x in self._loans.values() if x.lane is lane and x.task is not None and x.task() is task]
        if task is not None and len(mine) >= lane.most:
            kind = "all read-only connections" if lane.read_only else "the writer"
            raise ProgrammingError(
                f"this task would wait for itself: it already has {kind} of the pool, acquired at"
                f" {mine[0].acquired_at}; use that connection, or return it first"
            )

    # -- connections -------------------------------------------------------------------------------

    async def _open_lanes(self) -> None:
        """Open the first connection and find out whether others can read while it writes."""
        from anyio import Lock

        self._check_use()
        if self._lanes:
            return
        self._opening = self._opening or Lock()
        async with self._opening:
            if self._lanes:
                return
            read_only = bool(self._options.get("read_only"))
            first = _Lane(self._max_size if read_only else 1, read_only=read_only)
            first.size = 1
            pooled = await self._open_connection(first)
            try:
                mode = await pooled.connection.fetch_scalar("PRAGMA journal_mode")
                if self._is_closed:
                    raise self._refusal()
            except BaseException:
                pooled.abandon()
                raise
            self._can_read_beside = mode in ("wal", b"wal") and not read_only
            self._lanes = [first]
            self._set_lanes()
            first.put(pooled)

    def _set_lanes(self) -> None:
        """Set the maximum of each lane from the sizes and the journal mode."""
        if not self._lanes:
            return
        first = self._lanes[0]
        if first.read_only:
            first.most = self._max_size
        elif self._can_read_beside and self._max_size > 1:
            if len(self._lanes) == 1:
                self._lanes.append(_Lane(0, read_only=True))
            self._lanes[1].most = self._max_size - 1
        elif len(self._lanes) > 1:
            readers = self._lanes.pop()
            readers.most = 0
            first.take_waiting_from(readers)
            while readers.idle:
                self._drop(readers, readers.idle.pop())
        for lane in self._lanes:
            lane.let_open()

    def _least(self, lane: _Lane) -> int:
        return self._min_size - (lane is not self._lanes[0])

    async def _open_connection(self, lane: _Lane) -> Pooled:
        """Open a connection, already counted in ``lane.size``; undo the count if that fails."""
        options = {**self._options, "read_only": True} if lane.read_only else self._options
        name = self._memory_name
        connection = connect(self._database, **options) if name is None else connect_memory(name=name, **options)
        try:
            await connection
            connection._state.guest.files.explain(abi.SQLITE_READONLY, _READ_ONLY if lane.read_only else "")
            pooled = Pooled(connection, self._generation)
            await pooled.prepare()
        except BaseException as exc:
            connection.stop()
            self._counts["errors"] += isinstance(exc, Exception)
            lane.size -= 1
            if self._lanes:
                lane.let_open()
            raise
        self._counts["opened"] += 1
        return pooled

    def _is_over(self, lane: _Lane, pooled: Pooled) -> bool:
        """Return True if a good connection should still be closed: it is too old, or one too many."""
        is_old = self._max_lifetime_s is not None and time.monotonic() - pooled.opened_at > self._max_lifetime_s
        return is_old or pooled.generation != self._generation or lane.size > lane.most

    def _close_surplus(self) -> None:
        """Close idle connections that are too many, too old, or unused for too long."""
        now = time.monotonic()
        for lane in self._lanes:
            for pooled in list(lane.idle):
                unused = self._idle_timeout_s is not None and now - pooled.idle_since > self._idle_timeout_s
                if self._is_over(lane, pooled) or (unused and lane.size > max(self._least(lane), 0)):
                    lane.idle.remove(pooled)
                    self._drop(lane, pooled)

    async def _close_idle(self) -> None:
        for lane in reversed(self._lanes):  # the writer last: readers cannot checkpoint the WAL
            while lane.idle:
                pooled = lane.idle.popleft()
                lane.size -= 1
                self._counts["closed"] += 1
                await pooled.close()
            if not self._is_closed:
                lane.let_open()

    # -- whole results -----------------------------------------------------------------------------
    # On a WAL database these run on a reader; a statement that turns out to write runs on the writer instead.

    async def fetch_all(self, sql: str, parameters: Parameters | None = None, *, into: type[Any] | None = None) -> Any:
        """See `Connection.fetch_all`."""
        return await self._read("fetch_all", sql, parameters, into=into)

    async def fetch_one(self, sql: str, parameters: Parameters | None = None, *, into: type[Any] | None = None) -> Any:
        """See `Connection.fetch_one`."""
        return await self._read("fetch_one", sql, parameters, into=into)

    async def fetch_optional(
        self, sql: str, parameters: Parameters | None = None, *, into: type[Any] | None = None
    ) -> Any:
        """See `Connection.fetch_optional`."""
        return await self._read("fetch_optional", sql, parameters, into=into)

    async def fetch_scalar(self, sql: str, parameters: Parameters | None = None) -> Any:
        """See `Connection.fetch_scalar`."""
        return await self._read("fetch_scalar", sql, parameters)

    async def fetch_blob(self, sql: str, parameters: Parameters | None = None) -> bytes | None:
        """See `Connection.fetch_blob`."""
        found: bytes | None = await self._read("fetch_blob", sql, parameters)
        return found

    async def execute_fetchall(self, sql: str, parameters: Parameters | None = None) -> list[Any]:
        """See `Connection.execute_fetchall`."""
        rows: list[Any] = await self._read("execute_fetchall", sql, parameters)
        return rows

    async def execute(self, sql: str, parameters: Parameters | None = None) -> Cursor:
        """Execute one statement on the writer and commit; return its closed cursor, which has ``rowcount`` etc."""
        cursor: Cursor = await self._write("execute", sql, parameters)
        return cursor

    async def execute_insert(self, sql: str, parameters: Parameters | None = None) -> Any:
        """See `Connection.execute_insert`; commits."""
        return await self._write("execute_insert", sql, parameters)

    async def executemany(self, sql: str, parameters: ParameterSets) -> Cursor:
        """See `Cursor.executemany`; runs in its own transaction, all or nothing."""
        cursor: Cursor = await self._write("executemany", sql, parameters)
        return cursor

    async def executescript(self, sql_script: str) -> None:
        """See `Cursor.executescript`; runs on the writer."""
        await self._write("executescript", sql_script)

    async def stream(
        self, sql: str, parameters: Parameters | None = None, *, into: type[Any] | None = None
    ) -> AsyncIterator[Any]:
        """Return an async iterator over the rows of one statement; it keeps a reader until it ends."""
        lent = Acquisition(self, None, read_only=True, is_tasks=False)
        async with lent as connection, connection.stream(sql, parameters, into=into) as rows:
            async for row in rows:
                yield row

    @asynccontextmanager
    async def transaction(
        self,
        mode: str | None = None,
        *,
        timeout: float | None = None,
        read_only: bool = False,
        scope: TransactionScope | None = None,
    ) -> AsyncIterator[Connection]:
        """Return an ``async with`` block that runs one IMMEDIATE transaction on the writer.

        ``timeout`` as for `acquire`. With ``read_only`` it runs on a reader, and all statements see one snapshot.
        """
        async with self.acquire(timeout=timeout, read_only=read_only) as connection:
            begin = mode or ("DEFERRED" if read_only else None)
            async with connection.transaction(begin, scope=scope):
                yield connection

    async def _read(self, verb: str, sql: str, *arguments: Any, **options: Any) -> Any:
        try:
            return await self._run(verb, sql, *arguments, read_only=True, **options)
        except OperationalError as error:
            if error.sqlite_errorcode & 0xFF != abi.SQLITE_READONLY or self._lanes[0].read_only:
                raise
        return await self._write(verb, sql, *arguments, **options)

    async def _write(self, verb: str, sql: str, *arguments: Any, **options: Any) -> Any:
        return await self._run(verb, sql, *arguments, read_only=False, **options)

    async def _run(self, verb: str, sql: str, *arguments: Any, read_only: bool, **options: Any) -> Any:
        """Run one method on a connection that nobody else sees, so that only its SQL can leave something behind."""
        async with self.acquire(read_only=read_only) as connection:
            if read_only:
                return await getattr(connection, verb)(sql, *arguments, **options)
            connection._state.commit_each_statement()
            if verb == "executemany":
                async with connection.transaction():
                    return await connection.executemany(sql, *arguments)
            result = await getattr(connection, verb)(sql, *arguments, **options)
            if verb == "execute":
                await result.close()
            return result

    # -- state -------------------------------------------------------------------------------------

    def statistics(self) -> dict[str, float]:
        """Return counters: the current connections and waiting tasks, and totals since the pool was created.

        Current: ``size idle out waiting``, and ``oldest_out_s``, how long the longest loan has lasted. Totals:
        ``acquired waited timeouts refused opened closed replaced errors``, and ``wait_s`` and ``longest_wait_s``, the
        time spent acquiring.
        """
        now = time.monotonic()
        return {
            "size": sum(lane.size for lane in self._lanes),
            "idle": sum(len(lane.idle) for lane in self._lanes),
            "out": len(self._loans),
            "waiting": sum(not waiter.is_done for lane in self._lanes for waiter in lane.waiting),
            "min_size": self._min_size,
            "max_size": self._max_size,
            "oldest_out_s": max((now - loan.since for loan in self._loans.values()), default=0.0),
            "wait_s": self._wait_s,
            "longest_wait_s": self._longest_wait_s,
            **self._counts,
        }

    def _check_use(self) -> None:
        """Raise if the pool cannot be used here."""
        if self._process != os.getpid():
            raise ProgrammingError("this pool belongs to the parent process: create another one after fork()")
        if self._is_closed:
            raise self._refusal()
        loop = current_loop(self._loop)
        if self._loop is None:
            self._loop = loop
        elif loop is not self._loop:
            raise ProgrammingError("this pool belongs to another event loop: create one in each")

    def _refusal(self) -> PoolClosed:
        return PoolClosed(f"the pool of {self._database!r} is closed")

    def _time_limit(self, timeout: float | None) -> Any:
        from anyio import move_on_after

        return move_on_after(self._acquire_timeout_s if timeout is None else checked_seconds(timeout))

    def _timed_out(self, awaited: str) -> PoolTimeout:
        self._counts["timeouts"] += 1
        return PoolTimeout(f"timed out waiting for {awaited}{self._whereabouts()}")

    def _whereabouts(self) -> str:
        now = time.monotonic()
        out = [f"{loan.acquired_at} ({now - loan.since:.1f} s ago)" for loan in self._loans.values()]
        return f"; connections are out, acquired at {', '.join(out)}" if out else ""


def _check_sizes(least: object, most: object) -> None:
    if not isinstance(most, int) or most < 1:
        raise ValueError(f"max_size must be at least 1, not {most!r}")
    if not isinstance(least, int) or not 0 <= least <= most:
        raise ValueError(f"min_size must be between 0 and max_size, {most}, not {least!r}")


def create_pool(database: str | bytes | os.PathLike[str] | os.PathLike[bytes], **options: Any) -> Pool:
    """Return a pool of connections to ``database``; await it, or use it in ``async with``, to open it; see `Pool`.

    ``min_size``, ``max_size``  how many connections to keep open, and to open at most; the writer is one of them
    ``acquire_timeout``         seconds to wait for a connection, None: no limit
    ``idle_timeout``            seconds after which an unused connection beyond ``min_size`` is closed
    ``max_lifetime``            seconds after which a connection is replaced
    ``max_waiting``             tasks that may wait for the writer, and for a reader; None: no limit
    ``init_hook``               async function called with each newly opened connection
    ``check``, ``reset``        async functions called with a connection before it is lent and after it is returned; if
                                they raise, it is replaced

    All others are the options of `connect`.
    """
    return Pool(database, **options)
