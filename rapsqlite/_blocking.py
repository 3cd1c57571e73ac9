"""A connection and its cursors with blocking methods like `sqlite3`'s, for programs written for aiosqlite.

aiosqlite has a thread that calls functions which use a `sqlite3.Connection`. Here a `Worker` calls them, with a
`BlockingConnection`; its thread exists while it has functions to call, and runs an event loop for each blocking call.

https://docs.python.org/3/library/sqlite3.html
"""

from __future__ import annotations

import contextvars
import math
import threading
from collections import deque
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any

from rapsqlite._client.state import Absent
from rapsqlite._guest.task_blocks import acting_for
from rapsqlite._loops import current_loop
from rapsqlite._loops.worker import in_thread, start_thread
from rapsqlite.errors import ProgrammingError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

    from rapsqlite._client.state import ConnectionState
    from rapsqlite.connection import Connection


class _Job:
    """A function to call, and whether it should stop: from then on, every blocking call in it raises CancelledError."""

    __slots__ = ("cancelled", "function", "task")

    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function
        self.cancelled = False
        self.task: asyncio.Task[Any] | None = None


class Worker:
    """Calls functions one at a time, in order of submission, in its own thread."""

    __slots__ = ("_job", "_jobs", "_lock", "_loop", "_state", "_thread")

    def __init__(self, state: ConnectionState | None = None) -> None:
        self._state = state  # of the connection that the functions use
        self._lock = threading.Lock()
        self._jobs: deque[_Job] = deque()
        self._job: _Job | None = None  # the one that is running
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def waiting_count(self) -> int:
        """Return how many functions are queued."""
        return len(self._jobs)

    def submit(self, function: Callable[[], object]) -> None:
        """Call ``function``, which must not raise, in the worker thread. Any thread may call this."""
        self._submit(_Job(function))

    def _submit(self, job: _Job) -> None:
        with self._lock:
            self._jobs.append(job)
            if self._thread is None or not self._thread.is_alive():  # after a fork it is gone
                self._thread = threading.Thread(target=self._main, name="rapsqlite worker", daemon=True)
                try:
                    start_thread(self._thread)
                except RuntimeError:  # there are too many threads, or the interpreter ends
                    self._thread = None
                    self._jobs.remove(job)
                    raise

    def _main(self) -> None:
        import asyncio

        loop = self._loop = asyncio.new_event_loop()
        try:
            while (job := self._next()) is not None:
                job.function()
        finally:
            loop.close()

    def _next(self) -> _Job | None:
        with self._lock:
            self._job = self._jobs.popleft() if self._jobs else None
            if self._job is None:
                self._thread = None
            return self._job

    async def run(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a function in the thread and return its result or raise its exception.

        Cancellation interrupts the statement that the function waits for, and waits until the function has ended.
        """
        self._refuse_in_callback()
        if self.is_this_thread():
            raise ProgrammingError(
                "a function that waits for another would wait for itself: they are called one at a time"
            )
        context = contextvars.copy_context()
        context.run(acting_for.set, current_loop().current_task())
        job = _Job(partial(context.run, function, *args, **options))

        def start(run: Callable[[], object]) -> None:
            job.function = run
            self._submit(job)

        return await in_thread(
            job.function, grace_period_s=math.inf, starter=start, on_cancel=partial(self._cancel, job)
        )

    def _cancel(self, job: _Job) -> None:
        """Interrupt what the function waits for. Any thread."""
        with self._lock:
            job.cancelled = True
            task = job.task
            if task is not None:
                task.get_loop().call_soon_threadsafe(task.cancel)

    async def finish(self) -> None:
        """Wait until the functions that are queued now have ended."""
        with self._lock:
            is_idle = self._job is None and not self._jobs
        if not is_idle and not self.is_this_thread():
            await self.run(int)

    def is_this_thread(self) -> bool:
        """Return True if the caller is one of the functions."""
        return threading.current_thread() is self._thread

    def _refuse_in_callback(self) -> None:
        """Raise if the connection is calling this thread: it cannot answer a function until that call returns."""
        guest = None if self._state is None else self._state.guest
        if guest is not None and not isinstance(guest, Absent):
            guest.host.callbacks.refuse_use()

    def block(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a function and, if its result is awaitable, await it; block until that is done. Any thread."""
        if self.is_this_thread():
            return self._block_here(partial(function, *args, **options))
        self._refuse_in_callback()
        from concurrent.futures import Future  # with asyncio

        done: Future[Any] = Future()

        def run() -> None:
            try:
                done.set_result(self._block_here(partial(function, *args, **options)))
            except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
                done.set_exception(error)

        self.submit(run)
        return done.result()

    def _block_here(self, function: Callable[[], Any]) -> Any:
        loop, job = self._loop, self._job
        assert loop is not None, "this is the worker's thread"
        assert job is not None, "it is running a function"
        if loop.is_running():
            raise ProgrammingError("this thread is already in a blocking call: code called from it cannot block too")
        with self._lock:
            task = job.task = loop.create_task(_awaited(function))
            if job.cancelled:
                task.cancel()
        try:
            return loop.run_until_complete(task)
        finally:
            with self._lock:
                job.task = None


async def _awaited(function: Callable[[], Any]) -> Any:
    result = function()
    return await result if hasattr(result, "__await__") else result


class _Blocking:
    """Wraps an object: reads and sets its attributes, and calls its methods until they are done."""

    __slots__ = ("_real", "_worker")

    def __init__(self, real: Any, worker: Worker) -> None:
        object.__setattr__(self, "_real", real)
        object.__setattr__(self, "_worker", worker)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(self._real, name)
        is_method = isinstance(getattr(type(self._real), name, None), FunctionType)
        return partial(self._call, value) if is_method else value

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._real, name, value)

    def _call(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return self._worker.block(method, *args, **options)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Blocking) and self._real is other._real

    def __hash__(self) -> int:
        return hash(self._real)

    def __repr__(self) -> str:
        return f"<blocking {self._real!r}>"


class BlockingCursor(_Blocking):
    """A cursor with the methods of `sqlite3.Cursor`."""

    __slots__ = ()

    @property
    def connection(self) -> BlockingConnection:
        """The connection, with blocking methods too."""
        return BlockingConnection(self._real.connection, self._worker)

    def execute(self, *args: Any) -> BlockingCursor:
        """Execute a statement."""
        self._call(self._real.execute, *args)
        return self

    def executemany(self, *args: Any) -> BlockingCursor:
        """Execute a statement for each parameter set."""
        self._call(self._real.executemany, *args)
        return self

    def executescript(self, *args: Any) -> BlockingCursor:
        """Execute any number of statements."""
        self._call(self._real.executescript, *args)
        return self

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        row = self._call(self._real.fetchone)
        if row is None:
            raise StopIteration
        return row


class BlockingConnection(_Blocking):
    """A connection with the methods of `sqlite3.Connection`."""

    __slots__ = ()
    _real: Connection

    def cursor(self, factory: Callable[[Any], Any] | None = None) -> Any:
        """Return a new cursor: ``factory(self)`` if ``factory`` is given."""
        if factory is not None:
            return factory(self)
        return BlockingCursor(self._call(self._real.cursor), self._worker)

    def execute(self, *args: Any) -> BlockingCursor:
        """Execute a statement on a new cursor."""
        return self.cursor().execute(*args)  # type: ignore[no-any-return]

    def executemany(self, *args: Any) -> BlockingCursor:
        """Execute a statement for each parameter set, on a new cursor."""
        return self.cursor().executemany(*args)  # type: ignore[no-any-return]

    def executescript(self, *args: Any) -> BlockingCursor:
        """Execute any number of statements, on a new cursor."""
        return self.cursor().executescript(*args)  # type: ignore[no-any-return]

    def interrupt(self) -> None:
        """Interrupt every statement of the connection, without waiting for the worker."""
        self._real._state.guest.interrupt()

    def iterdump(self, **options: Any) -> Iterator[str]:
        """Return the lines of a dump."""
        return iter(self._call(self._real.iterdump, **options))

    def backup(self, target: Any, **options: Any) -> None:
        """Copy the database into ``target``, replacing its content."""
        self._call(self._real.backup, target._real if isinstance(target, BlockingConnection) else target, **options)

    def __enter__(self) -> BlockingConnection:
        self._real._state.guest.state  # noqa: B018 - raises if the connection is closed
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._call(self._real.rollback)
            return
        try:
            self._call(self._real.commit)
        except BaseException:
            self._call(self._real.rollback)
            raise
