"""`Pool`: connections to one database that tasks share; in WAL mode, one writer and several readers.

A pool belongs to one event loop and everything here runs in its thread, so there are no locks: code between two
``await`` is atomic. SQLite lets one connection write at a time, so a pool has one writer; tasks queue for it, first
come, first served, and never get SQLITE_BUSY because of each other. https://sqlite.org/wal.html

A KeyboardInterrupt may be raised after any call, at the entry of a function and before a jump backwards, and nowhere
else. So whatever counts in a lane's size is idle there or owned by a `_Loan`, and moves between the two in a row of
assignments with at most one call, of a C function, at its end. Everything around such rows may run again (`_recover`).
"""

from __future__ import annotations

import os
import time
import warnings
import weakref
from collections import deque
from contextlib import asynccontextmanager
from contextvars import ContextVar
from itertools import count
from typing import TYPE_CHECKING, Any

from rapsqlite import _constants as abi
from rapsqlite._client.shared_memory import SharedMemory
from rapsqlite._loops import current_loop, worker
from rapsqlite._pooled import Pooled, commit_at_exit, has_lost_its_file
from rapsqlite._values.options import checked_callable, checked_seconds
from rapsqlite._values.uncopied import Uncopied
from rapsqlite.connection import Connection, calling_line, connect
from rapsqlite.errors import ClosedError, OperationalError, PoolClosed, PoolTimeout, ProgrammingError, TooManyWaiting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator

    from rapsqlite._loops import Loop
    from rapsqlite.cursor import Cursor
    from rapsqlite.types import Parameters, ParameterSets, TransactionScope

    Hook = Callable[[Connection], Awaitable[object]]

_READ_ONLY = "this pool connection is read-only: write through the pool's acquire(), transaction() or execute()"

_CLOSING_S = 5.0  # how long a pool whose block failed waits for connections that are out

_RESETTING_S = 30.0  # how long a returned connection may take to be reset

_numbers = count()
_inherited: ContextVar[tuple[weakref.ref[_Loan], ...]] = ContextVar("rapsqlite_loans", default=())
"""The loans of the running task and of the tasks that started it: tasks inherit the context."""


class _Lane:
    """The connections of one kind: the readers, or the writer."""

    def __init__(self, most: int, *, read_only: bool) -> None:
        self.most = most
        self.read_only = read_only
        self.size = 0  # idle, being opened, or lent
        self.idle: deque[Pooled] = deque()  # the most recently used is last
        self.waiting: deque[_Loan] = deque()

    def take(self, loan: _Loan) -> bool:
        """Give an idle connection, or permission to open one, to a task; False if there is none, or others wait."""
        return self._longest_waiting() is None and self._assign(loan)

    def put(self, loan: _Loan) -> None:
        """Take a connection from a task for the one that has waited longest, or keep it idle."""
        pooled = loan.pooled
        assert pooled is not None, "the loan has one"
        pooled.idle_since = time.monotonic()
        keep = self.idle.append
        # These steps belong together.
        loan.lane = None
        loan.pooled = None
        keep(pooled)

        self.serve()

    def remove(self, pooled: Pooled) -> None:
        """Close an idle connection without waiting."""
        take_out = self.idle.remove
        # These steps belong together.
        self.size -= 1
        take_out(pooled)

        pooled.abandon()
        self.serve()

    def serve(self) -> None:
        """Give idle connections, and permission to open more up to the maximum, to waiting tasks; idempotent."""
        while (loan := self._longest_waiting()) is not None and self._assign(loan):
            pass

    def refuse(self, error: Callable[[], Exception]) -> None:
        """End the wait of every task; idempotent."""
        while (loan := self._longest_waiting()) is not None:
            loan.error = error()

    def take_waiting_from(self, other: _Lane) -> None:
        """Make the tasks that wait in another lane wait in this one."""
        self.waiting.extend(other.waiting)
        other.waiting.clear()
        self.serve()

    def _assign(self, loan: _Loan) -> bool:
        if self.idle:
            pooled = self.idle[-1]
            # These steps belong together.
            loan.lane = self
            loan.pooled = pooled
            del self.idle[-1]
            return True
        if self.size < self.most:
            # These steps belong together.
            loan.lane = self
            self.size += 1
            return True
        return False

    def _longest_waiting(self) -> _Loan | None:
        """Return the loan that has waited longest. Wakes those whose wait is over first; idempotent."""
        while self.waiting:
            loan = self.waiting[0]
            if not loan.is_ready():
                return loan
            loan.wake()
            del self.waiting[0]
        return None


class _Loan:
    """A connection that a task waits for, opens or has; where, when and by which task it was acquired.

    If it is dropped, it no longer counts in the size of its lane.
    """

    __slots__ = (
        "__weakref__", "acquired_at", "bad_count", "error", "event", "is_over", "is_returned", "is_tasks", "lane",
        "made_by", "pool", "pooled", "rows", "since", "task",
    )  # fmt: skip

    def __init__(self, pool: Pool, by: Acquisition | None = None) -> None:
        self.lane: _Lane | None = None  # in whose size it counts
        self.pooled: Pooled | None = None  # if not, it is about to be opened
        self.pool = pool
        self.acquired_at = pool._created_at if by is None else by.acquired_at
        self.since = time.monotonic()
        self.rows: Callable[[], object] | None = None if by is None else by.rows
        self.is_tasks = by is not None and self.rows is None  # its task returns it; a stream may end in another one
        self.task = pool._reference_to_task()
        self.made_by = self.task if by is None else by.made_by
        self.event: Any = None  # while it waits
        self.error: Exception | None = None  # ends the wait
        self.bad_count = 0  # new connections that were unusable; one may have been bad luck
        self.is_over = False  # no task waits for it any more
        self.is_returned = False  # or is being returned

    def is_ready(self) -> bool:
        """Return True if it need not wait any longer."""
        return self.lane is not None or self.error is not None or self.is_over

    def owner(self) -> object:
        """Return the task that probably has it, or None if all that are known have ended.

        `asyncio.wait_for` of Python 3.11 acquires it in a task of its own, for the one that called `Pool.acquire`.
        """
        loop = self.pool._loop
        return next((task for task in (self.task(), self.made_by()) if loop is not None and loop.runs(task)), None)

    def is_dropped_stream(self) -> bool:
        """Return True if it comes back without anybody's help."""
        return self.rows is not None and self.rows() is None

    def wake(self) -> None:
        """Wake the task that waits, if its loop still runs; idempotent."""
        loop = self.pool._loop
        if self.event is not None and loop is not None and not loop.is_closed():
            self.event.set()

    def give_up(self) -> None:
        """Close its connection without waiting, and let a waiting task open another; idempotent."""
        lane = self.lane
        self._free()
        if lane is not None:
            lane.serve()

    def _free(self) -> None:
        self.is_over = True
        lane, pooled = self.lane, self.pooled
        if lane is None:
            return
        # These steps belong together.
        lane.size -= 1
        self.lane = None
        self.pooled = None

        if pooled is not None:
            self.pool._counts["closed"] += 1
            pooled.abandon()

    def __del__(self) -> None:
        """Runs in any thread, as the collector does."""
        if getattr(self, "lane", None) is None or self.pool._process != os.getpid():
            return
        loop = self.pool._loop
        if loop is None or not loop.post(self.pool._give_up_lost, self):
            self._free()  # the loop is closed, so nothing else uses the pool


def _nothing() -> None:
    """Return None, as a dead weak reference does."""


class Acquisition(Uncopied):
    """A connection being acquired: await it and pass the connection to `Pool.release`, or use it in ``async with``.

    ``async with`` commits an open transaction on a clean exit and rolls it back after an exception.
    """

    __slots__ = ("_connection", "_is_entered", "_pool", "_read_only", "_timeout_s", "acquired_at", "made_by", "rows")

    def __init__(self, pool: Pool, timeout_s: float | None, read_only: bool) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self._read_only = read_only
        self._connection: Connection | None = None
        self._is_entered = False
        self.acquired_at: str = calling_line()
        self.made_by: Callable[[], object] = pool._reference_to_task()
        self.rows: Callable[[], object] | None = None
        """Returns the stream that uses the connection, while that is referenced."""

    def __await__(self) -> Generator[Any, Any, Connection]:
        return self._pool._acquire(self, self._timeout_s, self._read_only).__await__()

    async def __aenter__(self) -> Connection:
        if self._is_entered:
            raise ProgrammingError("this acquire() is in use: call acquire() for each block")
        self._is_entered = True
        try:
            connection = self._connection = await self
        except BaseException:
            self._is_entered = False
            raise
        return connection

    async def __aexit__(self, *exc_info: Any) -> None:
        connection, self._connection, self._is_entered = self._connection, None, False
        assert connection is not None, "it was entered"
        error = exc_info[1]
        try:
            if error is None and self._pool._process == os.getpid():
                await commit_at_exit(connection)
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
        _check_sizes(min_size, max_size, max_waiting)
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
        self._idle_timeout_s = _checked_age("idle_timeout", idle_timeout)
        self._max_lifetime_s = _checked_age("max_lifetime", max_lifetime)
        self._max_waiting = max_waiting
        self._check, self._reset = check, reset
        self._loop: Loop | None = None
        self._process = os.getpid()
        self._lanes: list[_Lane] = []  # once open: the writer's, then the readers' if there are separate readers
        self._readers = _Lane(0, read_only=True)  # once removed it still counts those that are out
        self._opening: Any = None
        self._can_read_beside = False
        self._loans: weakref.WeakKeyDictionary[Connection, _Loan] = weakref.WeakKeyDictionary()  # what is out
        self._preparing: weakref.WeakSet[_Loan] = weakref.WeakSet()  # what tasks are acquiring
        self._one_back: Any = None  # set when a connection comes back while the pool closes
        self._generation = 0
        self._is_closed = False
        self._created_at = calling_line()
        self._counts = dict.fromkeys(
            ("acquired", "waited", "opened", "closed", "replaced", "timeouts", "refused", "errors"), 0
        )
        self._wait_s = self._longest_wait_s = 0.0

    # -- lifetime ----------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, Any, Pool]:
        return self._open().__await__()

    async def __aenter__(self) -> Pool:
        return await self._open()

    async def _open(self) -> Pool:
        """Open ``min_size`` connections or none: if that fails, the caller has nothing that it could close."""
        self._check_use()
        try:
            return await self.wait_ready()
        except BaseException:
            self._close_idle_nowait()
            raise

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._process != os.getpid():
            return
        if kind is GeneratorExit:
            # Nothing runs the task any more, so it cannot wait. The collector ends it, perhaps in another thread.
            if self._is_in_its_loop() or self._loop is None or not self._loop.post(self._abandon):
                self._abandon()
            return
        self._check_process_and_loop(is_closing=True)
        mine = [loan for loan in self._loans_of_this_task() if loan.is_tasks or kind is not None]
        await self._close(None if kind is None else _CLOSING_S, mine, [*self._probably_mine(), *self._nobodys()])

    async def wait_ready(self, timeout: float | None = None) -> Pool:
        """Open connections until there are ``min_size``; return the pool.

        Raises PoolTimeout after ``timeout`` seconds, by default ``acquire_timeout``, and any error from opening.
        """
        with self._time_limit(timeout):
            await self._open_lanes()
            for lane in self._lanes:
                while lane.size < min(self._least(lane), lane.most):
                    self._check_use()  # the pool may have been closed meanwhile
                    await self._open_one_more(lane)
            return self
        raise self._timed_out("the pool's connections to open")

    async def _open_one_more(self, lane: _Lane) -> None:
        loan = _Loan(self)
        try:
            self._preparing.add(loan)
            # These steps belong together.
            loan.lane = lane
            lane.size += 1

            loan.pooled = await self._open_connection(lane)
            self._put_back(loan, is_good=True, is_new=True)
        except BaseException:
            self._recover(loan)
            raise

    async def aclose(self, timeout: float | None = None) -> None:
        """Close the pool and wait for connections that are out; tasks that wait for a connection get PoolClosed.

        After ``timeout`` seconds (None: no limit) the connections still out are closed while in use, and a
        ResourceWarning says where they were acquired; so they are if this is cancelled. Idempotent. Without a limit it
        raises ProgrammingError in a task that has a connection itself.
        """
        if timeout is not None:
            timeout = checked_seconds(timeout)
        if self._process != os.getpid():
            return
        self._check_process_and_loop(is_closing=True)
        mine = self._probably_mine()
        if mine and timeout is None:
            kind = "connection" if mine[0].is_tasks else "stream"
            raise ProgrammingError(
                f"this task would wait for itself: it has a {kind} of the pool, acquired at {mine[0].acquired_at};"
                f" {'return' if mine[0].is_tasks else 'close'} it first, or pass a timeout"
            )
        await self._close(timeout, [], [])

    async def _close(self, timeout_s: float | None, given_up: list[_Loan], doubtful: list[_Loan]) -> None:
        """Close the pool once the loans are returned, at the latest after ``timeout_s``.

        It does not wait for ``given_up``, and for a limited time for ``doubtful``.
        """
        from anyio import move_on_after

        self._is_closed = True
        try:
            self._update_waiting()
            with move_on_after(timeout_s):
                await self._close_idle()
                if self._loop is not None and not self._loop.is_closed():
                    await self._wait_for_loans([*given_up, *doubtful])
                    with move_on_after(_CLOSING_S):
                        await self._wait_for_loans(given_up)
        finally:
            self._abandon()

    async def _wait_for_loans(self, given_up: list[_Loan]) -> None:
        from anyio import Event

        while any(loan not in given_up for loan in self._loans.values()):
            if self._one_back is None or self._one_back.is_set():
                self._one_back = Event()  # shared by concurrent calls
            await self._one_back.wait()

    def _abandon(self) -> None:
        """Close without waiting what is still open, and say so of connections that are out; idempotent."""
        self._is_closed = True
        self._update_waiting()
        self._close_idle_nowait()
        left = []
        for connection, loan in list(self._loans.items()):
            left.append(loan)
            if loan.pooled is not None and not loan.is_returned:
                loan.pooled.take_away(connection)
            loan.give_up()
        self._loans.clear()
        self._note_one_back()
        memory, self._memory = self._memory, None
        if memory is not None:
            worker.start(memory.release)
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
        try:
            self._set_lanes()
            self._close_surplus()
        except BaseException:
            self._update_waiting()
            raise

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
        """Return a connection to the pool, in its event loop. Commit first: an open transaction is rolled back."""
        self._check_process_and_loop()
        loan = self._loan_of(connection)
        if loan is None or loan.is_returned:
            raise ProgrammingError("this connection was already returned, or belongs to another pool")
        await self._take_back(connection, None)

    async def _acquire(self, by: Acquisition, timeout: float | None, read_only: bool) -> Connection:
        self._check_use()
        loan = _Loan(self, by)
        try:
            self._preparing.add(loan)
            pooled = await self._take(loan, timeout, read_only)
            self._preparing.discard(loan)
            connection = pooled.lend(by.acquired_at)
            if loan.is_tasks:
                _inherited.set((*_still_out(), weakref.ref(loan)))
            self._loans[connection] = loan
        except BaseException:
            self._recover(loan)
            raise
        return connection

    def _loan_of(self, connection: object) -> _Loan | None:
        return self._loans.get(connection) if isinstance(connection, Connection) else None

    async def _take_back(self, connection: Connection, error: BaseException | None) -> None:
        loan = self._loans.get(connection)
        if loan is None or loan.is_returned or self._process != os.getpid():
            return  # it was returned inside its block, or the pool was closed
        if isinstance(error, GeneratorExit) and not self._is_in_its_loop():
            if loan.pooled is not None:
                loan.pooled.detach(connection)
            return  # the collector ends the task, perhaps in another thread, and drops the loan next
        self._check_process_and_loop()
        try:
            loan.is_returned = True
            if _inherited.get():
                _inherited.set(_still_out())
            self._put_back(loan, is_good=await self._restore(loan, connection, error))
        except BaseException:
            self._recover(loan)
            raise
        finally:
            self._loans.pop(connection, None)
            self._note_one_back()

    async def _restore(self, loan: _Loan, connection: Connection, error: BaseException | None) -> bool:
        """Undo what the borrower did; return whether the connection can be lent again."""
        pooled = loan.pooled
        if pooled is None:
            return False  # the pool has given it up
        can_go_on = pooled.detach(connection) and not has_lost_its_file(error)
        if isinstance(error, (GeneratorExit, KeyboardInterrupt, SystemExit)):
            # Awaiting is no longer possible.
            return can_go_on and pooled.is_clean() and self._reset is None
        from anyio import move_on_after

        is_good = False
        with move_on_after(_RESETTING_S, shield=True):
            is_good = (
                can_go_on
                and await pooled.restore()
                and (self._reset is None or await self._pass(self._reset, pooled) is None)
            )
            if self._is_closed:
                await pooled.close()
        return is_good

    async def _pass(self, hook: Hook, pooled: Pooled) -> Exception | None:
        """Run a user's hook on the pool's connection; return what it raised, or an error if it left something."""
        try:
            await hook(pooled.connection)
        except Exception as error:  # noqa: BLE001 - it means that the connection is not good
            self._counts["errors"] += 1
            return error
        return None if await pooled.restore() else ProgrammingError("a pool's hook left a connection changed or closed")

    def _put_back(self, loan: _Loan, *, is_good: bool, is_new: bool = False) -> None:
        lane, pooled = loan.lane, loan.pooled
        if lane is None or pooled is None:
            return  # given up meanwhile
        # A new one is never too old: however short its lifetime, opening connections ends.
        is_surplus = not self._is_wanted(lane, pooled) or (not is_new and self._is_old(pooled))
        if is_good and not self._is_closed and not is_surplus:
            lane.put(loan)
            return
        self._counts["replaced"] += not is_good
        loan.give_up()

    def _recover(self, loan: _Loan) -> None:
        """Undo an acquisition or a return that an exception has ended, and finish what it kept from other tasks."""
        loan.give_up()
        self._update_waiting()

    def _update_waiting(self) -> None:
        """Bring lanes and waiting tasks up to date with the pool's state; idempotent."""
        if not self._is_closed:
            self._set_lanes()
            return
        for lane in self._lanes:
            lane.refuse(self._refusal)

    def _note_one_back(self) -> None:
        if self._one_back is not None:
            self._one_back.set()

    def _give_up_lost(self, loan: _Loan) -> None:
        """A borrower dropped a connection without returning it, or a task was broken off before it had it."""
        if loan.lane is not None:  # posted callbacks may run twice
            self._counts["replaced"] += 1
            self._recover(loan)
            self._note_one_back()

    async def _take(self, loan: _Loan, timeout: float | None, read_only: bool) -> Pooled:
        with self._time_limit(timeout):
            if not self._lanes:
                await self._open_lanes()
            self._close_surplus()
            while True:
                self._check_use()  # it may have been closed or resized meanwhile
                pooled = await self._next(loan, self._lanes[-1] if read_only else self._lanes[0])
                if pooled is not None:
                    break
            self._counts["acquired"] += 1
            now = time.monotonic()
            waited, loan.since = now - loan.since, now
            self._wait_s += waited
            self._longest_wait_s = max(self._longest_wait_s, waited)
            return pooled
        raise self._timed_out("the pool's connections to open" if not self._lanes else "", read_only)

    async def _next(self, loan: _Loan, lane: _Lane) -> Pooled | None:
        """Get an idle connection, a new one, or the next one returned; None if it turned out to be unusable."""
        if not lane.take(loan):
            self._refuse_to_wait(lane)
            await self._wait(loan, lane)
        is_new = loan.pooled is None
        if is_new:
            assert loan.lane is not None, "the task has its turn"
            loan.pooled = await self._open_connection(loan.lane)
        pooled = loan.pooled
        assert pooled is not None, "it was idle, or is open"
        failure: Exception | None = None
        if not pooled.connection.is_alive():
            failure = ClosedError("a new connection of the pool was closed by a hook")
        elif self._check is not None:
            failure = await self._pass(self._check, pooled)
        if failure is None and not self._is_closed:
            return pooled
        loan.bad_count += is_new
        if failure is not None and loan.bad_count > 1:
            raise failure
        self._put_back(loan, is_good=False)
        loan.is_over = False
        return None

    async def _wait(self, loan: _Loan, lane: _Lane) -> None:
        from anyio import Event  # slow to import: only programs with a pool pay for it

        loan.event = Event()
        self._counts["waited"] += 1
        lane.waiting.append(loan)
        try:
            await loan.event.wait()
        except BaseException:
            loan.is_over = True  # others pass it over
            self._put_back(loan, is_good=True)
            raise
        if loan.error is not None:
            raise loan.error

    def _refuse_to_wait(self, lane: _Lane) -> None:
        waiting = _count_waiting(lane)
        if self._max_waiting is not None and waiting >= self._max_waiting:
            self._counts["refused"] += 1
            raise TooManyWaiting(f"{waiting} tasks are already waiting for a connection{self._whereabouts()}")
        mine = [loan for loan in self._loans_of_this_task() if loan.is_tasks and loan.lane is lane]
        mine += [loan for loan in self._prepared_here() if loan.lane is lane]
        if mine and len(mine) >= lane.most:
            kind = "all read-only connections" if lane.read_only else "the writer"
            raise ProgrammingError(
                f"this task would wait for itself: it already has {kind} of the pool, acquired at"
                f" {mine[0].acquired_at}; use that connection, or return it first"
            )

    def _prepared_here(self) -> list[_Loan]:
        """Return the loans whose connections this task is preparing: it runs a hook, which they were passed to."""
        task = self._current_task()
        loans = [] if task is None else [loan for loan in self._preparing if loan.task() is task]
        return [loan for loan in loans if loan.lane is not None]

    # -- connections -------------------------------------------------------------------------------

    async def _open_lanes(self) -> None:
        """Open the first connection and find out whether others can read while it writes."""
        from anyio import Lock

        self._check_use()
        if self._lanes:
            return
        if self._prepared_here():
            raise ProgrammingError(
                "this task would wait for itself: a hook of the pool's first connection cannot use the pool; use the"
                " connection that it was called with"
            )
        self._opening = self._opening or Lock()
        async with self._opening:
            if self._lanes:
                return
            read_only = bool(self._options.get("read_only"))
            first = _Lane(self._max_size if read_only else 1, read_only=read_only)
            loan = _Loan(self)
            try:
                self._preparing.add(loan)
                # These steps belong together.
                loan.lane = first
                first.size = 1

                pooled = loan.pooled = await self._open_connection(first)
                mode = await pooled.connection.fetch_scalar("PRAGMA journal_mode")
                if self._is_closed:
                    raise self._refusal()
                self._can_read_beside = mode in ("wal", b"wal") and not read_only
                self._lanes = [first]
                self._set_lanes()
                self._put_back(loan, is_good=True, is_new=True)
            except BaseException:
                self._recover(loan)
                raise

    def _set_lanes(self) -> None:
        """Set the maximum of each lane from the sizes and the journal mode."""
        if not self._lanes:
            return
        first = self._lanes[0]
        if first.read_only:
            first.most = self._max_size
        elif self._can_read_beside and self._max_size > 1:
            if len(self._lanes) == 1:
                self._lanes.append(self._readers)
            self._readers.most = self._max_size - 1
        elif len(self._lanes) > 1:
            readers = self._readers
            readers.most = 0
            first.take_waiting_from(readers)
            while readers.idle:
                self._close_one(readers, readers.idle[-1])
            del self._lanes[1]
        for lane in self._lanes:
            lane.serve()

    def _least(self, lane: _Lane) -> int:
        return self._min_size - (lane is not self._lanes[0])

    async def _open_connection(self, lane: _Lane) -> Pooled:
        """Open a connection, already counted in ``lane.size``."""
        options = {**self._options, "read_only": True} if lane.read_only else self._options
        name = self._memory_name
        database = self._database if name is None else SharedMemory(name)
        generation = self._generation  # first: `drain` means what is being opened too
        connection = connect(database, **options)
        try:
            await connection
            connection._state.guest.files.explain(abi.SQLITE_READONLY, _READ_ONLY if lane.read_only else "")
            pooled = Pooled(connection, generation)
            await pooled.prepare()
        except BaseException as exc:
            connection.stop()
            self._counts["errors"] += isinstance(exc, Exception)
            raise
        self._counts["opened"] += 1
        return pooled

    def _is_wanted(self, lane: _Lane, pooled: Pooled) -> bool:
        """Return True if it was opened since the last `drain`, and is not one too many."""
        return pooled.generation == self._generation and lane.size <= lane.most

    def _is_old(self, pooled: Pooled) -> bool:
        return self._max_lifetime_s is not None and time.monotonic() - pooled.opened_at > self._max_lifetime_s

    def _close_surplus(self) -> None:
        """Close idle connections that are too many, too old, or unused for too long."""
        now = time.monotonic()
        for lane in self._lanes:
            for pooled in list(lane.idle):
                unused = self._idle_timeout_s is not None and now - pooled.idle_since > self._idle_timeout_s
                is_surplus = self._is_old(pooled) or (unused and lane.size > max(self._least(lane), 0))
                if is_surplus or not self._is_wanted(lane, pooled):
                    self._close_one(lane, pooled)

    def _close_one(self, lane: _Lane, pooled: Pooled) -> None:
        self._counts["closed"] += 1
        lane.remove(pooled)

    def _close_idle_nowait(self) -> None:
        for lane in self._lanes:
            while lane.idle:
                self._close_one(lane, lane.idle[0])

    async def _close_idle(self) -> None:
        for lane in reversed(self._lanes):  # the writer last: readers cannot checkpoint the WAL
            while lane.idle:
                pooled = lane.idle[0]
                # These steps belong together.
                lane.size -= 1
                del lane.idle[0]

                self._counts["closed"] += 1
                await pooled.close()
            if not self._is_closed:
                lane.serve()

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

    def stream(
        self, sql: str, parameters: Parameters | None = None, *, into: type[Any] | None = None
    ) -> AsyncIterator[Any]:
        """Return an async iterator over the rows of one statement; it keeps a reader until it ends."""
        lent = Acquisition(self, None, read_only=True)
        rows = _stream(lent, sql, parameters, into)
        lent.rows = weakref.ref(rows)
        return rows

    @asynccontextmanager
    async def transaction(
        self,
        mode: str | None = None,
        *,
        timeout: float | None = None,
        read_only: bool = False,
        scope: TransactionScope | None = None,
    ) -> AsyncIterator[Connection]:
        """Return an ``async with`` block that is one transaction on the writer, IMMEDIATE by default.

        ``timeout`` as for `acquire`, ``scope`` as for `Connection.transaction`. With ``read_only`` it runs on a
        reader, and all statements see one snapshot.
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
                await result._end()
            return result

    # -- state -------------------------------------------------------------------------------------

    def statistics(self) -> dict[str, float]:
        """Return counters: the current connections and waiting tasks, and totals since the pool was created.

        Current: ``size idle out waiting``, and ``oldest_s`` and ``oldest_out_s``, how long the oldest connection has
        been open and how long the longest loan has lasted. Totals: ``acquired waited timeouts refused opened closed
        replaced errors``, and ``wait_s`` and ``longest_wait_s``, the time spent acquiring.
        """
        now = time.monotonic()
        pooled = [each for lane in self._lanes for each in lane.idle]
        pooled += [loan.pooled for loan in self._loans.values() if loan.pooled is not None]
        return {
            "size": sum(lane.size for lane in self._lanes),
            "idle": sum(len(lane.idle) for lane in self._lanes),
            "out": len(self._loans),
            "waiting": sum(_count_waiting(lane) for lane in self._lanes),
            "min_size": self._min_size,
            "max_size": self._max_size,
            "oldest_s": max((now - each.opened_at for each in pooled), default=0.0),
            "oldest_out_s": max((now - loan.since for loan in self._loans.values()), default=0.0),
            "wait_s": self._wait_s,
            "longest_wait_s": self._longest_wait_s,
            **self._counts,
        }

    def _check_use(self) -> None:
        """Raise if the pool cannot be used, or not here."""
        if self._is_closed and self._process == os.getpid():
            raise self._refusal()
        self._check_process_and_loop()

    def _check_process_and_loop(self, *, is_closing: bool = False) -> None:
        """Raise in another process or event loop. A pool whose loop is closed can be closed in any."""
        if self._process != os.getpid():
            raise ProgrammingError("this pool belongs to the parent process: create another one after fork()")
        loop = current_loop(self._loop)
        if self._loop is None:
            self._loop = loop
        elif loop is not self._loop and not (is_closing and self._loop.is_closed()):
            raise ProgrammingError("this pool belongs to another event loop: use it there, or create one in each")

    def _is_in_its_loop(self) -> bool:
        try:
            return self._loop is not None and current_loop(self._loop) is self._loop
        except RuntimeError:
            return False

    def _current_task(self) -> object:
        return self._loop.current_task() if self._loop is not None and self._is_in_its_loop() else None

    def _reference_to_task(self) -> Callable[[], object]:
        task = self._current_task()
        return weakref.ref(task) if task is not None else _nothing

    def _loans_of_this_task(self) -> list[_Loan]:
        task = self._current_task()
        return [] if task is None else [loan for loan in self._loans.values() if loan.task() is task]

    def _probably_mine(self) -> list[_Loan]:
        """Return the loans that no other task will return, as far as known."""
        task = self._current_task()
        loans = [] if task is None else [loan for loan in self._loans.values() if loan.owner() is task]
        return [loan for loan in loans if not loan.is_dropped_stream()]

    def _nobodys(self) -> list[_Loan]:
        return [loan for loan in self._loans.values() if loan.owner() is None and not loan.is_dropped_stream()]

    def _refusal(self) -> PoolClosed:
        return PoolClosed(f"the pool of {self._database!r} is closed")

    def _time_limit(self, timeout: float | None) -> Any:
        from anyio import move_on_after

        return move_on_after(self._acquire_timeout_s if timeout is None else checked_seconds(timeout))

    def _timed_out(self, awaited: str, read_only: bool = False) -> PoolTimeout:
        self._counts["timeouts"] += 1
        lane = self._lanes[-1 if read_only else 0] if self._lanes else None
        awaited = awaited or ("a connection" if lane is None or lane.read_only else "the writer")
        task = self._current_task()
        inherited = [loan for each in _still_out() if (loan := each()) is not None]
        of_parents = [loan for loan in inherited if loan.lane is lane and loan.task() is not task]
        reason = (
            f"; a task that started this one has the connection acquired at {of_parents[0].acquired_at}. If it waits"
            " for this task, neither can go on: use that connection here, or return it first"
            if of_parents
            else ""
        )
        return PoolTimeout(f"timed out waiting for {awaited}{self._whereabouts()}{reason}")

    def _whereabouts(self) -> str:
        now = time.monotonic()
        out = [f"{loan.acquired_at} ({now - loan.since:.1f} s ago)" for loan in self._loans.values()]
        return f"; connections are out, acquired at {', '.join(out)}" if out else ""


async def _stream(
    lent: Acquisition, sql: str, parameters: Parameters | None, into: type[Any] | None
) -> AsyncIterator[Any]:
    async with lent as connection, connection.stream(sql, parameters, into=into) as rows:
        async for row in rows:
            yield row


def _still_out() -> tuple[weakref.ref[_Loan], ...]:
    """Return the loans of this task and of those that started it, without what was returned."""
    return tuple(each for each in _inherited.get() if (loan := each()) is not None and not loan.is_returned)


def _count_waiting(lane: _Lane) -> int:
    return sum(not loan.is_ready() for loan in lane.waiting)


def _check_sizes(least: object, most: object, most_waiting: object = None) -> None:
    if not isinstance(most, int) or most < 1:
        raise ValueError(f"max_size must be at least 1, not {most!r}")
    if not isinstance(least, int) or not 0 <= least <= most:
        raise ValueError(f"min_size must be between 0 and max_size, {most}, not {least!r}")
    if most_waiting is not None and not (isinstance(most_waiting, int) and most_waiting >= 0):
        raise ValueError(f"max_waiting must be a number of tasks, or None for no limit, not {most_waiting!r}")


def _checked_age(name: str, value: float | None) -> float | None:
    """Return a time limit of connections; 0 means no limit in some pools and at once in others, so it is refused."""
    if value is None:
        return None
    seconds = checked_seconds(value)
    if not seconds > 0:  # nor NaN
        raise ValueError(f"{name} must be more than 0 seconds, or None for no limit, not {value!r}")
    return seconds


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
