"""One running guest: its thread, the requests of its connection, its shutdown.

The guest's thread enters wasm once and stays there until the connection closes; in steady state it runs no Python and
needs no GIL. Tasks use a guest only through ``call``, ``collect`` and ``post``.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, cast

from rapsqlite import _constants as abi
from rapsqlite import runtime
from rapsqlite._callbacks.trampoline import RequestContext
from rapsqlite._files import shortage
from rapsqlite._files.imports import file_imports
from rapsqlite._guest import registry
from rapsqlite._guest.bell import bell_here
from rapsqlite._guest.error_reply import reported_error
from rapsqlite._guest.escalation import Escalation
from rapsqlite._guest.gc_pause import FullCollectionsHeldBack
from rapsqlite._guest.host_functions import HostFunctions
from rapsqlite._guest.request import PendingRequest, is_uninterruptible
from rapsqlite._guest.request_queue import RequestQueue
from rapsqlite._guest.task_blocks import BlockRequest, Caller
from rapsqlite._guest.time_limit import Watchdog
from rapsqlite._loops import current_loop
from rapsqlite._loops.cancellation import deliver_held_back, held_back, raise_or_hold_back
from rapsqlite._loops.ticket import wait_shielded
from rapsqlite._values.wire import split_failed
from rapsqlite._wasm import parking
from rapsqlite._wasm.c_functions import reason_of
from rapsqlite._wasm.rings import Reply, Request, Rings
from rapsqlite.errors import InternalError, ProgrammingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite._callbacks.callbacks import Callbacks
    from rapsqlite._files.file_table import FileTable
    from rapsqlite._guest.bell import Bell
    from rapsqlite._guest.task_blocks import TaskBlock
    from rapsqlite._loops import Loop
    from rapsqlite._wasm.linking import Library

# How long one task decodes batches before others run, in seconds: about one batch. A task whose sleep is over needs
# three turns of an asyncio loop, so it is up to three slices late.
_SLICE_S = 0.00025


class _UntilCancelled(PendingRequest, eq=False):
    """What a task waits for that waits no longer once it is cancelled."""

    def on_cancel(self) -> None:
        self.done = True


class Guest:
    """A running guest, from ``start`` to ``close``."""

    def __init__(
        self,
        name: str,
        files: FileTable,
        busy_timeout_s: float,
        *,
        memory_limit_bytes: int = -1,
        result_limit_bytes: int = 0,
        statement_limit_s: float = 0.0,
        grace_period_s: float = 5.0,
        engine: Callable[[], runtime.Engine] = runtime.shared_engine,
    ) -> None:
        self.name = name
        self.files = files
        lock = threading.Lock()
        self._queue = queue = RequestQueue(name, lock, files.prelocks, grace_period_s, result_limit_bytes)
        self.host = HostFunctions(
            lock,
            queue.afterwards,
            busy_timeout_s,
            files.waiter,
            queue.ring,
            queue.body_of,
            queue.is_cancelled,
            result_limit_bytes,
        )
        queue.serve_through(self.host)
        self._escalation = Escalation(queue, self.kill, self._give_up, self._abandon_thread)
        queue.force_answer = self._escalation.force_answer
        queue.kill = self._escalation.kill
        self.prepared: dict[int, bytes] = {}  # the SQL of prepared statements by handle, for reports
        self._memory_limit_bytes = memory_limit_bytes
        self._watchdog = Watchdog(queue, self._escalation, statement_limit_s)
        self._engine = engine  # called on the guest's thread: it may have to compile
        self._instance: runtime.Instance | None = None
        self._loop: Loop | None = None
        self._ended = False
        self._given_up = False  # a user's callback or a system call holds the thread forever
        self._end_lock = threading.Lock()  # files are closed before the memory they are mapped into is freed
        self._waiting_for_end: list[PendingRequest] = []
        self._parking = parking.parking_here()
        self.thread: threading.Thread = threading.Thread(target=self._main, name=f"rapsqlite {name}", daemon=True)

    @property
    def state(self) -> str:
        """Return "ok", "closed", "broken" or "forked"."""
        return self._queue.state

    @property
    def reason(self) -> str:
        """Return the reason why the guest is broken."""
        return self.host.last_message or reason_of(self._queue.failure)

    @property
    def callbacks(self) -> Callbacks:
        """Return the callbacks that the guest may call."""
        return self.host.callbacks

    @property
    def default_scope(self) -> str:
        """Return the default scope of blocks."""
        return self._queue.blocks.default_scope

    @default_scope.setter
    def default_scope(self, scope: str) -> None:
        self._queue.blocks.default_scope = scope

    @property
    def in_transaction(self) -> bool:
        """Return True if SQLite has left autocommit mode, as of the latest reply."""
        return self._queue.in_transaction

    @property
    def total_changes(self) -> int:
        """Return SQLite's ``total_changes`` as of the latest reply."""
        return self._queue.total_changes

    @property
    def last_insert_rowid(self) -> int:
        """Return SQLite's ``last_insert_rowid`` as of the latest reply."""
        return self._queue.last_insert_rowid

    @property
    def sent_count(self) -> int:
        """Return a number that changes with each request."""
        return self._queue.last_id

    def is_working(self) -> bool:
        """Return True if it may still run what a task has sent, other than a request for further rows. Any thread."""
        return self._queue.is_working()

    # -- requests, from any event loop ---------------------------------------------------------------

    async def call(self, request: Request) -> Reply:
        """Send a request that has exactly one reply, and wait for it.

        Raises the error that the guest reports. An error of a later row of a result is the reply's ``error`` instead.
        Cancellation interrupts the request and waits for its reply; if the request finished anyway, its reply is
        returned and the cancellation is raised at the task's next checkpoint.
        """
        loop = self._loop = current_loop(self._loop)
        if held_back and not is_uninterruptible(request):
            await deliver_held_back(loop)
        pending = PendingRequest(self._queue, loop, request)
        try:
            self._queue.submit(pending, loop)
            if pending.yields:
                await loop.checkpoint(pending)
            while not pending.replies and not pending.done:
                await loop.wait(pending)
            return self._take_reply(pending, loop)
        except BaseException as exc:
            self._queue.give_up(pending, exc)
            raise

    async def checkpoint(self) -> None:
        """Raise a cancellation that was held back because a request of this task had finished."""
        if held_back:
            await deliver_held_back(current_loop(self._loop))

    async def give_way(self) -> None:
        """Let other tasks run, for a task that may not wait for long; raises its cancellation."""
        loop = self._loop = current_loop(self._loop)
        if held_back:
            held_back.pop(id(loop.current_task()), None)
        await loop.deliver()

    async def collect(self, request: Request, decode: Callable[[bytes], list[Any]]) -> tuple[list[Any], Reply]:
        """Run a request that is answered in batches; return all rows, decoded, and the last reply.

        The returned reply has the columns of the first one. The event loop runs between batches. Errors and
        cancellation as for ``call``.
        """
        loop = self._loop = current_loop(self._loop)
        if held_back and not is_uninterruptible(request):
            await deliver_held_back(loop)
        pending = PendingRequest(self._queue, loop, request)
        pause = FullCollectionsHeldBack()
        try:
            self._queue.submit(pending, loop)
            if pending.yields:
                await loop.checkpoint(pending)
            while not pending.replies and not pending.done:
                await loop.wait(pending)
            reply = self._take_reply(pending, loop)
            if reply.kind == abi.REPLY_DONE:
                return decode(reply.rows) if reply.row_count else [], reply
            # From here on waiting and decoding alternate, and every batch enlarges the heap of rows.
            with pause:
                pending.drains_itself = True
                rows = decode(reply.rows) if reply.row_count else []
                return rows, await self._collect_rest(pending, loop, decode, rows, reply.columns)
        except BaseException as exc:
            pause.end()
            self._queue.give_up(pending, exc)
            raise

    async def _collect_rest(
        self,
        pending: PendingRequest,
        loop: Loop,
        decode: Callable[[bytes], list[Any]],
        rows: list[Any],
        columns: bytes,
    ) -> Reply:
        """Append the rows of all further batches and return the last reply."""
        resumed = time.perf_counter()
        while True:
            if not pending.is_ready():
                self._queue.drain(loop)
            if not pending.is_ready():
                await loop.wait(pending)
                resumed = time.perf_counter()
                continue
            if pending.replies and time.perf_counter() - resumed > _SLICE_S:
                await loop.checkpoint(pending)
                resumed = time.perf_counter()
            reply = self._take_reply(pending, loop)
            if reply.row_count:
                rows += decode(reply.rows)
            if reply.kind == abi.REPLY_DONE:
                reply.columns = columns
                return reply

    def _take_reply(self, pending: PendingRequest, loop: Loop) -> Reply:
        """Take one reply; raise its error, or the cancellation that it confirms."""
        if pending.done:
            pending.run = None
        if not pending.replies:
            raise_or_hold_back(loop, pending, finished=False)
            raise pending.error or InternalError("the guest ended without an answer")
        reply = pending.replies[0]
        if reply.kind == abi.REPLY_ERROR:
            raise_or_hold_back(loop, pending, finished=False)
            raise reported_error(reply.rows, pending, self.files) from pending.cause
        if reply.kind == abi.REPLY_FAILED:
            reply.rows, error = split_failed(reply.rows)
            reply.error = reported_error(error, pending, self.files)
            reply.error.__cause__ = pending.cause
        if reply.kind != abi.REPLY_BATCH:
            raise_or_hold_back(loop, pending, finished=True)
        del pending.replies[0]  # last: until the caller has the reply, `discard` closes what it has opened
        return reply

    def unsent(self, request: Request) -> PendingRequest:
        """Return a request for ``submit``; it must have exactly one reply."""
        loop = self._loop = current_loop(self._loop)
        return PendingRequest(self._queue, loop, request)

    def enter_block(self, request: Request, block: TaskBlock) -> BlockRequest:
        """Return the request that begins a block, for ``submit`` and, once the block is over, ``end_block``."""
        loop = self._loop = current_loop(self._loop)
        return BlockRequest(self._queue, loop, request, block=block)

    def end_block(self, pending: BlockRequest) -> None:
        """Let other tasks' requests through; idempotent. Any thread, including from a finalizer."""
        self._queue.end_block(pending)

    def let_into_block(self, pending: BlockRequest) -> None:
        """Let other tasks take part in this block: its task ended without leaving it."""
        self._queue.let_in(pending)

    def is_inside_block(self) -> bool:
        """Return True if the running task would wait for itself by waiting for the open block to end."""
        return self._queue.blocks.contain_this_task()

    def refuse_wait_for(self, user: Caller) -> None:
        """Raise ProgrammingError if waiting for what that task does now would be waiting for oneself."""
        self._queue.blocks.refuse_wait_for(user)

    def is_outside_block(self) -> bool:
        """Return True if a block is open that the caller is not part of."""
        if not self._queue.blocks.open:
            return False
        try:
            caller = Caller(current_loop(self._loop))
        except RuntimeError:  # a thread without a loop
            return True
        with self._queue.afterwards, self._queue.lock:
            return self._queue.blocks.exclude(caller)

    def withdraw(self, pending: PendingRequest) -> bool:
        """Take back a submitted request that other tasks' blocks hold back; False if it was sent."""
        return self._queue.withdraw(pending)

    def submit(self, pending: PendingRequest) -> None:
        """Send a request and return immediately; ``result`` waits for the reply.

        This lets the guest work while the caller does something else. The caller stores the request first, and calls
        ``abandon`` if it no longer wants the reply. This is no checkpoint: a task that submits several requests in a
        row calls ``checkpoint`` before each.
        """
        loop = pending.loop
        assert loop is not None, "a task waits for it"
        try:
            if isinstance(pending, BlockRequest):
                self._queue.enter(pending, loop)
            else:
                self._queue.submit(pending, loop)
        except BaseException as exc:
            self._queue.give_up(pending, exc)
            raise

    async def result(self, pending: PendingRequest) -> Reply:
        """Return the reply of a submitted request, possibly in another event loop; otherwise as ``call``."""
        try:
            loop = self._loop = current_loop(self._loop)
            if pending.loop is not None and pending.loop.key is not loop.key:
                self._queue.move(pending, loop)
            if pending.yields:
                await loop.checkpoint(pending)
            while not pending.replies and not pending.done:
                await loop.wait(pending)
            return self._take_reply(pending, loop)
        except BaseException as exc:
            self._queue.give_up(pending, exc)
            raise

    async def let_others_run(self, pending: PendingRequest) -> None:
        """Let other tasks run while a submitted request is in flight; ``result`` raises this task's cancellation."""
        await current_loop(self._loop).checkpoint(pending)

    def abandon(self, pending: PendingRequest) -> None:
        """Interrupt a submitted request and drop its reply. Any thread, including from a finalizer."""
        self._queue.discard(pending)

    def post(self, request: Request) -> None:
        """Send a request without waiting for its reply. Any thread, including from a finalizer."""
        self._queue.post(request)

    def interrupt(self) -> None:
        """Interrupt every request, queued or running, statements with rows left, and a long callback. Any thread."""
        self._queue.cancel_all()
        self._queue.post(Request(abi.OP_CONTROL, target=abi.CONTROL_OP_INTERRUPT))
        self._escalation.interrupt_later()

    def _give_up(self, failure: BaseException) -> None:
        """End the connection while a callback still runs that nothing interrupts; release its files and locks.

        The guest is marked as killed, so it does nothing once the callback returns.
        """
        self.kill()
        if not self._given_up:
            self._given_up = True
            # Closing files may take time, which must not block an event loop.
            try:
                threading.Thread(target=self._close_for_callback, args=(failure,), daemon=True).start()
            except RuntimeError:  # there are too many threads already
                self._close_for_callback(failure)

    def _close_for_callback(self, failure: BaseException) -> None:
        with self._end_lock:
            with self._queue.afterwards, self._queue.lock:
                woken = self._queue.fail_all(failure)
            self.files.close()
        self._wake(woken + self._note_end())

    def _abandon_thread(self, failure: BaseException) -> None:
        """End the connection while its thread is in a system call: tasks stop waiting, the thread keeps the files."""
        if not self._given_up:
            self._given_up = True
            with self._queue.afterwards, self._queue.lock:
                woken = self._queue.fail_all(failure)
            self._wake(woken + self._note_end())

    def _note_end(self) -> list[PendingRequest]:
        """Mark the guest as ended; return the requests that waited for it."""
        registry.forget(self)
        self._watchdog.end()
        with self._queue.afterwards, self._queue.lock:
            self._ended = True
            return self._waiting_for_end

    # -- on the guest's thread -----------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread. Requests may be submitted immediately; they wait until the guest is up."""
        try:
            registry.start(self, self.thread)
            self._watchdog.start(self.name)
        except RuntimeError as exc:
            self.stop()
            if self.thread.ident is None:
                self._end(exc)  # no thread will, and closing waits for it
            raise shortage.too_many_threads(self.name, exc) from exc

    def _main(self) -> None:
        failure: BaseException | None = None
        try:
            functions = {
                **self.host.table(),
                **file_imports(self.files, self._view, self._window, self._unshared),
                "unlock": self._queue.unlock,
            }
            with bell_here(runtime.can_write_output) as (bell, output):
                self._queue.take_bell(bell)
                self._instance = runtime.Instance(self._engine(), functions, self._memory_limit_bytes, output)
            self._serve(self._instance, bell)
        except BaseException as exc:  # noqa: BLE001 - it is raised again in every task that waits
            failure = shortage.explained(exc, self.name) if self.host.rings is None else exc
        self._end(failure)

    def _view(self, address: int, length: int) -> memoryview:
        return self._memory().view(address, length)

    def _window(self, address: int, length: int) -> memoryview:
        return self._memory().window(address, length)

    def _unshared(self, address: int, length: int) -> memoryview:
        if self.host.rings is None:
            raise InternalError("the guest called a file function before its rings were known")
        self.host.rings.check_unshared(address, length)
        return self._view(address, length)

    def _memory(self) -> runtime.Memory:
        if self._instance is None:
            raise InternalError("the guest called a file function before its memory was known")
        return self._instance.memory

    def _serve(self, instance: runtime.Instance, bell: Bell | None) -> None:
        self.host.memory = instance.memory
        self.host.counts = instance.counts
        instance.call("_initialize")
        if instance.call("rapsqlite_abi_version") != abi.ABI_VERSION:
            raise InternalError("engine.wasm was built for another version of this package: run scripts/build_wasm.sh")
        control = instance.call("rapsqlite_control")
        self.host.rings = rings = Rings(instance.memory.view, control)
        rings.page = instance.share_page(control)
        block = rings.argument_block
        self.host.callbacks.attach(
            instance.memory.view,
            block,
            instance.table.add_entrance,
            instance.give_up,
            RequestContext(self._queue.running_context, rings.progress()),
        )
        if bell is not None:
            instance.prepare_output()
        if self._parking is not None and parking.install(self._parking, rings, instance.table.add):
            self.host.park_in(self._parking)
        if self._queue.attach(rings):
            instance.call("rapsqlite_run")

    def _end(self, failure: BaseException | None) -> None:
        """Deliver the last replies, then free the memory and the files and wake the waiting tasks."""
        woken = self._queue.finish(failure)
        self._watchdog.end()
        self.host.stop()
        with self._end_lock:
            self.files.close()
            if self._instance is not None:
                self._instance.close()
        self._queue.close_bell()
        self._wake(woken + self._note_end())

    @staticmethod
    def _wake(woken: list[PendingRequest]) -> None:
        for pending in woken:
            pending.done = True
            if pending.loop is not None:
                pending.loop.post(pending.loop.wake, pending)

    # -- shutdown ----------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close the database and end the thread; idempotent. A cancellation is raised once that is done."""
        if self.state == "forked":
            return
        if self.host.callbacks.thread:
            self._refuse_in_callback()
        try:
            await self._close()
        except BaseException:
            self.stop()  # without a loop, or in one that is closed meanwhile, nothing can wait
            raise

    async def _close(self) -> None:
        try:
            if self.state == "ok" and not self.host.stopping:
                await self.call(Request(abi.OP_CLOSE))
        except (GeneratorExit, KeyboardInterrupt, SystemExit):
            raise  # nothing should be awaited any more
        except BaseException as exc:
            another_closed_it = isinstance(exc, ProgrammingError) and self.state != "ok"
            self.post(Request(abi.OP_CLOSE))  # a signal handler's exception may have come before it was sent
            await self._wait_for_end()
            if not another_closed_it:
                raise
        else:
            await self._wait_for_end()

    async def close_unshielded(self) -> None:
        """Close the database and end the thread; a cancelled task waits no longer. After an exception call `stop`."""
        if self.state == "forked":
            return
        loop = self._loop = current_loop(self._loop)
        pending = _UntilCancelled(self._queue, loop, Request(0))
        self.post(Request(abi.OP_CLOSE))
        self._note_waiting(pending)
        while not pending.done:
            await loop.wait(pending)
        raise_or_hold_back(loop, pending, finished=False)
        self._join()

    def _refuse_in_callback(self) -> None:
        try:
            self.host.callbacks.refuse_use()
        except ProgrammingError:
            self.stop()  # it ends as soon as the callback returns
            raise

    async def _wait_for_end(self) -> None:
        loop = current_loop(self._loop)
        pending = PendingRequest(self._queue, loop, Request(0))
        was_stopped = self._note_waiting(pending)
        if was_stopped and not pending.done:
            await wait_shielded(loop, pending)  # running statements are not awaited
        while not pending.done:
            await loop.wait(pending)
        self._join()
        raise_or_hold_back(loop, pending, finished=True)

    def _note_waiting(self, pending: PendingRequest) -> bool:
        """Wake the task once the guest has ended; return True if it is being stopped."""
        with self._queue.afterwards, self._queue.lock:
            pending.done = self._ended
            self._waiting_for_end.append(pending)
            return self.host.stopping and not self._queue.has_stopped

    def _join(self) -> None:
        """Wait for the thread of a guest that has ended: it has finished everything except returning."""
        if not self._given_up and self.thread.ident is not None:
            self.thread.join()

    def stop(self) -> None:
        """Make the guest stop immediately, interrupting what runs; does not wait. Any thread, also a finalizer."""
        self._queue.stop()

    def open_library(self, wasm: bytes) -> Library:
        """Return a side module for this guest (`runtime.Instance.open_library`). Call from a callback."""
        return cast("runtime.Instance", self._instance).open_library(wasm)

    def kill(self) -> bool:
        """Trap a guest that does not answer; its connection is lost. False if it runs on all the same. Any thread."""
        if self._instance is None:
            return True
        is_trapped = self._instance.kill()
        self.host.wake_unconditionally()
        self._queue.let_ring()
        return is_trapped

    def join(self, timeout_s: float) -> None:
        """Wait until the thread has ended, if it was started."""
        if self.thread.ident is not None:
            self.thread.join(timeout_s)

    def is_running(self) -> bool:
        """Return True while the guest's thread exists."""
        return self.thread.is_alive()

    def abandon_after_fork(self) -> None:
        """In a forked child: close the files; everything else belongs to the parent."""
        self._queue.abandon_after_fork()
        self.files.abandon()

    def statistics(self) -> dict[str, int]:
        """Return the number of calls of each host function, the waits for locks, and the bytes transferred by calls."""
        counts = dict(self._instance.counts) if self._instance is not None else {}
        return {**counts, "busy_waits": self.host.busy_waits, **self.files.statistics()}
