"""Requests in flight: from the task that submits one to the task that gets its replies.

Any thread that runs an event loop submits requests. After a bell, replies are drained in a loop's thread and passed to
the waiting tasks. ``lock`` guards the rings, the table of requests and the state; it is held for microseconds, never
across a wait, and requests that finalizers post meanwhile are sent afterwards. Once the state is not "ok" the rings are
gone and nothing touches the guest's memory any more.

A KeyboardInterrupt may be raised in the main thread after any call, at the entry of a function and before a jump
backwards, and nowhere else. Steps that belong together are therefore a row of assignments with at most one call, of a C
function, at its end. Everything around such rows may run twice, and does when the lock is next held: work stays in
``_posts``, ``_backlog`` and ``_woken`` until it is done.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from faulthandler import is_enabled
from typing import TYPE_CHECKING, Any

from rapsqlite import _constants as abi
from rapsqlite._files.prelocks import NO_PRELOCK
from rapsqlite._guest.bell import check_bells
from rapsqlite._guest.polling import Polling
from rapsqlite._guest.refusal import refusal_of
from rapsqlite._guest.request import PendingRequest, waiting_loops
from rapsqlite._guest.spin_budget import SpinBudget, forget, is_crowded, may_spin
from rapsqlite._guest.task_blocks import BlockRequest, Caller, TaskBlocks
from rapsqlite._loops import context_for_thread
from rapsqlite._platform import system
from rapsqlite._wasm.reply_watcher import Unpublished
from rapsqlite._wasm.rings import MalformedReplyError, Reply, Request, Rings
from rapsqlite.errors import interrupted

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite._files.prelocks import Prelocks
    from rapsqlite._guest.bell import Bell
    from rapsqlite._guest.host_functions import HostFunctions
    from rapsqlite._loops import Loop

_FRAMES_PER_DRAIN = 256  # then the event loop runs before the rest
_IN_BATCHES = frozenset({abi.OP_FETCH, abi.OP_FETCH_PREPARED, abi.OP_BLOB_READ})
_WITH_ROWS = frozenset({abi.OP_FETCH, abi.OP_FETCH_PREPARED, abi.OP_EXECUTE, abi.OP_EXECUTE_PREPARED, abi.OP_NEXT})
_OF_STATEMENTS = frozenset({abi.OP_EXECUTE, abi.OP_EXECUTE_PREPARED, abi.OP_FETCH, abi.OP_FETCH_PREPARED, abi.OP_MANY})
RELEASED_BY = {
    abi.OP_EXECUTE: abi.OP_FINISH,
    abi.OP_EXECUTE_PREPARED: abi.OP_FINISH,
    abi.OP_PREPARE: abi.OP_RELEASE,
    abi.OP_BACKUP_OPEN: abi.OP_DROP,
    abi.OP_DESERIALIZE: abi.OP_DROP,
    abi.OP_BLOB_OPEN: abi.OP_DROP,
    abi.OP_SESSION_OPEN: abi.OP_DROP,
}  # the request that ends what another one has opened
_HEAD_BYTES = 64  # at most, around rows and error texts
_KINDS = frozenset({abi.REPLY_BATCH, abi.REPLY_DONE, abi.REPLY_ERROR, abi.REPLY_FAILED})
_NOTHING = Request(0)
_WITHOUT_WAITING = (False,)

_had_faulthandler = is_enabled()


def _note_faulthandler() -> None:
    """Python's faulthandler was enabled or disabled: when enabled, it replaces handlers that turn faults into traps."""
    global _had_faulthandler
    _had_faulthandler = is_enabled()
    system.mend_fault_handlers()


class _Afterwards:
    """Sends what was posted while the lock was held: ``with queue.afterwards, queue.lock``.

    Not a lock class itself: a KeyboardInterrupt between two Python steps would leave it locked.
    """

    __slots__ = ("_queue",)

    def __init__(self, queue: RequestQueue) -> None:
        self._queue = queue

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if self._queue._posts:
            self._queue._flush_posts()


class RequestQueue:
    """The requests and replies of one guest."""

    host: HostFunctions
    force_answer: Callable[[PendingRequest], None]
    kill: Callable[[], None]
    _polling: Polling

    def __init__(
        self, name: str, lock: threading.Lock, prelocks: Prelocks, grace_period_s: float, result_limit_bytes: int = 0
    ) -> None:
        self.name = name
        self.lock = lock
        self._prelocks = prelocks
        self.afterwards = _Afterwards(self)
        self.grace_period_s = grace_period_s
        self._result_limit_bytes = result_limit_bytes
        self.state = "ok"
        self.failure: BaseException | None = None
        self.in_transaction = False
        self.total_changes = 0
        self.last_insert_rowid = 0
        self._rings: Rings | None = None
        self._pending: dict[int, PendingRequest] = {}  # by id, oldest first
        self._backlog: deque[PendingRequest] = deque()  # have an id, but no space in the ring yet
        self._posts: deque[tuple[Callable[[PendingRequest], None], PendingRequest]] = deque()  # idempotent steps
        self._woken: deque[PendingRequest] = deque()  # answered, but their tasks are not woken yet
        self.last_id = 0
        self._newest_key: object = None
        self._newest_task: weakref.ref[object] | None = None
        self._several_loops = False
        self._polls = False  # a thread polls for the reply to the request in flight
        self._is_in_time = False  # that reply: it came while a thread polled, and so may leave its locks to the host
        self._unpublished: Unpublished | None = None  # the request that ``_nap`` publishes
        self._closing = False
        self.has_stopped = False
        self.blocks = TaskBlocks()
        self._open_blocks = self.blocks.open  # one step for each request

    def serve_through(self, host: HostFunctions) -> None:
        """Connect the guest's host functions with this."""
        self.host = host
        self._drain_posted: object = None  # the key of the loop that is about to drain
        self._rung: set[object] = set()  # the keys of the loops that are about to drain because the guest rang
        self._spin_budget = SpinBudget()
        self._bell: Bell | None = None
        self._polling = Polling(host)

    # -- submitting, any thread --------------------------------------------------------------------

    def submit(self, pending: PendingRequest, loop: Loop) -> None:
        """Send a request that ``loop``'s running task will wait for. Raises if the connection cannot accept it.

        After an exception call ``give_up``: the request may have been sent.
        """
        callbacks = self.host.callbacks
        if callbacks.are_used:
            callbacks.refuse_use()
            pending.run = loop.keep(context_for_thread().run)
        if is_enabled() is not _had_faulthandler:
            _note_faulthandler()
        with self.lock:
            self._send(pending, loop)
            naps = self._polling.naps  # the guest clears it when it rings, and then counts on the nap to drain
            if not naps:
                self._end_turn(pending)
        if naps:
            self._nap(pending, loop)
        if self._posts:
            self._flush_posts()

    def _end_turn(self, pending: PendingRequest) -> None:
        """Decide whether the task lets others run now, or waits; then its guest need not spin for its next request."""
        is_answered = pending.is_ready()
        pending.yields = self._polling.should_yield(answered=is_answered)
        if self._rings is not None and (pending.yields or not is_answered):
            self._spin_budget.end_turn(self._rings)

    def enter(self, pending: BlockRequest, loop: Loop) -> None:
        """Send the request that begins a block, which opens now or once the blocks before it have ended.

        Other tasks' requests wait until ``end_block``. After an exception call ``give_up`` and ``end_block``.
        """
        self.host.callbacks.refuse_use()
        with self.afterwards, self.lock:
            if self._posts:
                self._send_posts()  # as in `_send`
            is_held = bool(self._open_blocks) and self._hold_back(pending, loop)
            if not is_held:
                self.blocks.add(pending.block)
        if not is_held:
            self.submit(pending, loop)

    def end_block(self, pending: BlockRequest) -> None:
        """Note that this request's block has ended; idempotent. Any thread, including from a finalizer."""
        self._post(self._end_block, pending)

    def _send(self, pending: PendingRequest, loop: Loop) -> None:
        """Write the request; poll for its reply if worthwhile, otherwise request a bell. Call with the lock held."""
        self._take_polled_reply()
        if self.state != "ok":
            raise self.refusal()
        if self._posts:
            self._send_posts()  # what the same task posted earlier is sent first, and interrupts no later request
        if self._open_blocks and self._hold_back(pending, loop):
            return
        self._return_prelocks()
        if loop.key is not self._newest_key:
            self._drop_orphans()
            self._newest_key, self._several_loops = loop.key, bool(self._pending)
        elif not self._pending:
            self._several_loops = False
        rings = self._rings
        if rings is None:
            self._enqueue(pending)
            return
        self._spin_budget.note_request(rings)
        if self._bell is not None:
            self._bell.watch_from(loop, rings, self.drain)
        waits_here = not self._pending and loop.allows_polling and self._is_of_the_same_task(loop)
        waits_here = waits_here and self._polling.may_start(rings)
        watches = spins = False
        if waits_here and may_spin():
            is_asleep = self.host.is_asleep()
            watches = self._polling.should_watch(pending.request) or is_asleep or is_crowded()
            watches = watches and self._polling.can_watch(rings)
            spins = not watches and not is_asleep
            waits_here = watches or spins
        if waits_here:
            self._prelock(pending, rings)
        if watches:
            self._enqueue_unpublished(pending, rings)
            self._polling.naps = True
            return
        self._enqueue(pending)
        if spins and self._polling.spin(rings):
            self._take_spun_reply(loop)
            return
        rings.ask_for_bell()
        if self._backlog:  # there may be space since before the bell was requested
            self._flush_backlog()
        if waits_here:
            self._polling.naps = True
        # It may have answered before the bell was requested, or sleep behind replies that nothing waited for.
        elif rings.has_replies() and self._drain_posted is not loop.key:
            loop.post(self.drain, loop)
            self._drain_posted = loop.key  # once for all requests submitted before it runs
        self.host.unpark()

    def _take_spun_reply(self, loop: Loop) -> None:
        woken: deque[PendingRequest] = deque()  # the running task; no other waits for a reply
        self._take_replies(woken)
        self._end_polling()
        self._polls = False
        if self.state != "ok":  # a malformed reply: others may wait for a block of this task
            self._woken += woken
            loop.post(self.drain, loop)

    def _hold_back(self, pending: PendingRequest, loop: Loop) -> bool:
        """Keep the request if it must wait for another task's block. Call with the lock held."""
        caller = Caller(loop)
        if not self.blocks.hold_back(pending, caller):
            return False
        if self._bell is not None and self._rings is not None:
            self._bell.watch_from(loop, self._rings, self.drain)
        if pending.run is None:  # callbacks may be registered before its turn
            pending.run = loop.keep(context_for_thread().run)
        self.blocks.held[pending] = caller
        return True

    def _end_block(self, pending: PendingRequest) -> None:
        assert isinstance(pending, BlockRequest), "only these are posted with this step"
        self._take_polled_reply()
        self.blocks.held.pop(pending, None)
        self.blocks.remove(pending.block)
        if self.state == "ok":
            self._send_held()

    def withdraw(self, pending: PendingRequest) -> bool:
        """Take back a request that is held back; False if it is not. Any thread."""
        with self.afterwards, self.lock:
            return self.blocks.held.pop(pending, None) is not None

    def let_in(self, pending: BlockRequest) -> None:
        """Give the block to every task: its own task ended without leaving it."""
        self._post(self._let_in, pending)

    def _let_in(self, _pending: PendingRequest) -> None:
        if self.state == "ok":
            self._take_polled_reply()
            self._send_held()

    def _send_held(self) -> None:
        """Send the requests that no open block holds back any more. An exception may have ended the last attempt."""
        held, rings = self.blocks.held, self._rings
        for pending, caller in list(held.items()):
            is_over = pending.number or pending.discarded or (pending.loop is not None and pending.loop.is_closed())
            if not is_over:
                if self.blocks.still_holds_back(pending, caller):
                    continue
                if isinstance(pending, BlockRequest):
                    self.blocks.add(pending.block)
                self._several_loops = True  # perhaps
                self._enqueue(pending)
            held.pop(pending, None)
        if rings is None or not self._pending:
            return
        rings.ask_for_bell()  # also where nothing is held: an exception may have come after the last one was sent
        self._flush_backlog()  # as in `_send`
        waiting = next((pending.loop for pending in self._pending.values() if pending.loop is not None), None)
        if rings.has_replies() and waiting is not None:
            waiting.post(self.drain, waiting)  # it may have answered before the bell was requested

    def _prelock(self, pending: PendingRequest, rings: Rings) -> None:
        """Take the locks for a request whose reply is polled for, and promise to release what that leaves."""
        self._polls = self._is_in_time = True
        if pending.request.op in _OF_STATEMENTS:
            pending.expects_locks = True
            rings.set_prelock(*self._prelocks.take(pending.request.sql or pending.request.target))
        rings.set_polls(True)

    def _end_polling(self) -> None:
        """The reply is not polled for any longer: the guest releases its locks itself. Call with the lock held."""
        if self._rings is not None:
            self._rings.set_polls(False)
            self._is_in_time = self._rings.has_replies()

    def _take_polled_reply(self) -> None:
        """Take a reply that is polled for, with its locks, before another request can run under them.

        Another thread may nap, or an exception may have ended its nap. Call with the lock held.
        """
        if self._polls:
            self._end_polling()
            self._take_replies(self._woken)
            self._polls = False  # last: after an exception above, all is done again

    def _abort_polling(self, _pending: PendingRequest) -> None:
        self._flush_backlog()  # its locks are the request's, which must be written to release them
        self._take_polled_reply()
        self._return_prelocks()

    def _return_prelocks(self) -> None:
        """Release what was taken for a request that an exception kept from being written. Call with the lock held."""
        if self._prelocks.held is not None and not self._pending:
            if self._rings is not None:
                self._rings.set_prelock(*NO_PRELOCK)
            self._prelocks.recover()

    def unlock(self, number: int, handle: int, locks: int) -> None:
        """Release the locks that a reply leaves to the host, unless it has been taken. The guest's thread."""
        with self.afterwards, self.lock:
            pending = self._pending.get(number)
            if pending is not None:
                self._unlock(pending, handle, locks)

    def _unlock(self, pending: PendingRequest, handle: int, locks: int) -> None:
        if not pending.unlocked:
            self._prelocks.drop(handle, locks)  # releases only what is held: a second time does no harm
            pending.unlocked = True

    def _is_of_the_same_task(self, loop: Loop) -> bool:
        """Return True if this request's task also sent the last one; several active tasks share wake-ups."""
        task = loop.current_task()
        is_same = self._newest_task is not None and self._newest_task() is task
        if not is_same:
            self._newest_task = None if task is None else weakref.ref(task)
        return is_same

    def _nap(self, pending: PendingRequest, loop: Loop) -> None:
        """Watch for the reply or nap until the bell rings, for a moment; a later reply goes through the event loop."""
        with self.lock:  # the memory of a guest that has ended must not be read
            rings = self._rings
            request, self._unpublished = self._unpublished, None
            is_answered = rings is None or (request is None and rings.has_replies())
        if rings is not None and request is not None:
            is_answered = self._watch(rings, request) or is_crowded()  # other guests have work to do
        if not is_answered:
            self._polling.nap(self._bell)
        with self.lock:
            self._polling.end_nap(self._rings)
            self._drain(loop)
            self._end_turn(pending)
        self._after_drain()

    def _watch(self, rings: Rings, request: Unpublished) -> bool:
        """Publish the request and watch for its reply; if that does not arrive soon, ask for the bell."""
        if self._polling.watch(rings, request):
            return True
        with self.lock:
            if self._rings is None:
                return True  # the guest has ended
            self._flush_backlog()
            rings.ask_for_bell()
            self.host.unpark()
            return rings.has_replies()

    def post(self, request: Request) -> None:
        """Send a request without waiting for its reply. Any thread, also from a finalizer."""
        self._post(self._send_posted, PendingRequest(self, None, request))

    def stop(self) -> None:
        """Make the guest stop immediately, interrupting what runs. Any thread, including from a finalizer."""
        self._post(self._stop, PendingRequest(self, None, _NOTHING))

    def _post(self, step: Callable[[PendingRequest], None], pending: PendingRequest) -> None:
        try:
            self._posts.append((step, pending))
            self._flush_posts()
        except BaseException:
            self._flush_posts()
            raise

    def cancel(self, pending: PendingRequest) -> None:
        """Interrupt one request; if it has not begun, its task stops waiting. Any thread."""
        with self.afterwards, self.lock:
            self._cancel(pending)
            if not pending.is_uninterruptible and self.blocks.held.pop(pending, None) is not None:
                pending.done = pending.discarded = True
            is_queued = pending.number != 0 and not pending.done  # a task that waits for the guest's end sends nothing
            if is_queued and not pending.is_uninterruptible and self._has_not_begun(pending):
                # The guest sees the mark before it begins, however long that takes.
                pending.done = pending.discarded = True

    def _has_not_begun(self, pending: PendingRequest) -> bool:
        """Return True if the guest is certainly still busy with an older request."""
        for other in self._pending.values():
            if other is pending:
                return self._rings is None or pending.position is None
            if self._rings is None or other.position is None or self._rings.is_unanswered(other.position):
                return True
        return False

    def _drop_orphans(self) -> None:
        """Interrupt the requests of closed event loops: nothing waits for them, and other requests wait behind them."""
        for pending in self._pending.values():
            if pending.loop is not None and pending.loop.is_closed():
                pending.discarded = True
                self._cancel(pending)

    def cancel_all(self) -> None:
        """Interrupt every request, queued or running. Any thread, including a signal handler or finalizer."""
        self._post(self._cancel_all, PendingRequest(self, None, _NOTHING))

    def _cancel_all(self, _pending: PendingRequest) -> None:
        # The newest first: once the running request is marked, the guest ends it and would begin the next one.
        for pending in reversed(self._pending.values()):
            self._cancel(pending)
        for pending in [held for held in self.blocks.held if not held.is_uninterruptible]:
            pending.error = interrupted()
            pending.done = True
            if pending.loop is not None:
                pending.loop.post(pending.loop.wake, pending)
            # Last: after a KeyboardInterrupt this runs again, and what is no longer held would not be woken.
            self.blocks.held.pop(pending, None)

    def discard(self, pending: PendingRequest) -> None:
        """Drop the replies of a request that nothing awaits any more. Any thread, including a finalizer."""
        pending.discarded = True
        self._post(self._drop, pending)
        if pending.drains_itself and pending.loop is not None and not pending.done:
            # Its task no longer drains, and the guest may sleep behind a full ring without having rung.
            pending.drains_itself = False
            pending.loop.post(self.drain, pending.loop)

    def _drop(self, pending: PendingRequest) -> None:
        """Release what the replies have opened, and interrupt the rest. Call with the lock held."""
        while pending.replies:
            release = self._release_of(pending, pending.replies[0])
            # These steps belong together.
            del pending.replies[0]
            if release is not None:
                self._posts.append(release)
        if pending.number and not pending.done:
            self._cancel(pending)

    def _release_of(
        self, pending: PendingRequest, reply: Reply
    ) -> tuple[Callable[[PendingRequest], None], PendingRequest] | None:
        """Return the step that releases the handle opened by the request, if there is one."""
        operation = RELEASED_BY.get(pending.request.op)
        if not reply.handle or operation is None:
            return None
        return self._send_posted, PendingRequest(self, None, Request(operation, target=reply.handle))

    def give_up(self, pending: PendingRequest, exc: BaseException) -> None:
        """Discard a request whose task was interrupted, and finish what the task may have been doing for others."""
        self.discard(pending)
        # A signal handler may have raised anything while the task polled, whose locks nothing else would release.
        was_disturbed = self._polls or self._polling.naps or not isinstance(exc, Exception)
        if was_disturbed and pending.loop is not None:
            self._polling.naps, self._unpublished = False, None
            self._post(self._abort_polling, pending)
            pending.loop.post(self.drain, pending.loop)

    def move(self, pending: PendingRequest, loop: Loop) -> None:
        """Deliver the reply of a request to a different event loop than the one that sent it."""
        with self.afterwards, self.lock:
            run = pending.run and pending.run()
            pending.loop, pending.run = loop, run and loop.keep(run)
            self._several_loops = True
            if self._bell is not None and self._rings is not None:
                self._bell.watch_from(loop, self._rings, self.drain)
            loop.post(self.drain, loop)  # the bell may have gone to the other one

    def _cancel(self, pending: PendingRequest) -> None:
        pending.cancelled = True
        if pending.position is not None and self._rings is not None and not (pending.done or pending.is_spared):
            self._rings.cancel(pending.position)
        self.host.unpark()  # it may be napping for a lock

    def _enqueue(self, pending: PendingRequest, *, publishes: bool = True) -> None:
        """Give the request its id and write it into the ring, or keep it until there is space."""
        number = self.last_id % 0xFFFF_FFFE + 1
        # These steps belong together.
        self.last_id = number
        self._closing = self._closing or pending.request.op == abi.OP_CLOSE
        pending.number = number
        self._pending[number] = pending
        self._backlog.append(pending)

        self._flush_backlog(publishes=publishes)

    def _enqueue_unpublished(self, pending: PendingRequest, rings: Rings) -> None:
        """The same for a request that ``_nap`` publishes, once the GIL is free for the guest's calls.

        A guest that sleeps is woken now: its thread needs longer than this one to release the GIL.
        """
        old_head, tail = rings.request_head, rings.reply_tail
        self._enqueue(pending, publishes=False)
        self._unpublished = Unpublished(old_head, rings.request_head, tail)
        if self.host.is_asleep():
            self._flush_backlog()
            self.host.unpark()

    def _flush_backlog(self, *, publishes: bool = True) -> None:
        """Write the requests into the ring for which there is space. An exception may have ended the last attempt."""
        rings = self._rings
        if rings is None:
            return
        try:
            while self._backlog:
                pending = self._backlog[0]
                if pending.position is None:
                    is_cancelled = pending.cancelled and not pending.is_spared
                    written = rings.write(pending.number, pending.request, is_cancelled)
                    if written is None:
                        return
                    pending.position, rings.request_head = written
                if not publishes:
                    return
                rings.publish_requests()
                del self._backlog[0]
        except MalformedReplyError as exc:
            self._fail(exc)
            for orphan in self._woken:
                if orphan.loop is not None:
                    orphan.loop.post(self.drain, orphan.loop)

    def _flush_posts(self) -> None:
        """Submit what was posted, unless the lock is held; its holder checks for posts after releasing it.

        A finalizer can run anywhere, even in this thread while it holds the lock, so it must not wait for the lock.
        """
        while self._posts:
            acquired: list[bool] = []
            try:
                # One step, in C: either the lock is held and this is known, or it is not held.
                acquired += map(self.lock.acquire, _WITHOUT_WAITING)
                if not acquired[0]:
                    return
                self._send_posts()
                self.host.unpark()
            finally:
                if acquired and acquired[0]:
                    self.lock.release()

    def _send_posts(self) -> None:
        """Submit what was posted. Call with the lock held; finalizers may post more meanwhile."""
        self._return_prelocks()
        while self._posts:
            step, pending = self._posts[0]
            step(pending)
            del self._posts[0]

    def _send_posted(self, pending: PendingRequest) -> None:
        self._take_polled_reply()
        if self.state == "ok" and not pending.number:
            self._enqueue(pending)

    def _stop(self, _pending: PendingRequest) -> None:
        self.host.stopping = True
        if self._rings is not None:
            self._rings.ask_to_stop()
        for pending in self._pending.values():
            self._cancel(pending)

    def refusal(self) -> Exception:
        """Return the exception that says why nothing can be submitted any more."""
        return refusal_of(self.state, self.name, self.failure, self.host.last_message)

    def unanswered(self) -> PendingRequest | None:
        """Return the request that the guest is running, or takes next. Call with the lock held.

        Older ones may still be in the table: their replies have not been taken yet.
        """
        return next((pending for pending in self._pending.values() if self.is_unanswered(pending)), None)

    def is_working(self) -> bool:
        """Return True if a request of a task, other than for further rows, has no reply yet. Also for finalizers."""
        sent = list(self._pending.values())
        return any(each.loop is not None and not each.done and each.request.op != abi.OP_NEXT for each in sent)

    def is_unanswered(self, pending: PendingRequest) -> bool:
        """Return True if the guest has not yet answered the request. Call with the lock held."""
        rings, position = self._rings, pending.position
        return rings is not None and position is not None and rings.is_unanswered(position)

    # -- draining, in an event loop's thread ---------------------------------------------------------

    def drain(self, loop: Loop) -> None:
        """Take the available replies and wake their tasks."""
        with self.lock:
            self._drain(loop)
        self._after_drain()
        if self._posts:
            self._flush_posts()

    def _drain(self, loop: Loop) -> None:
        self._drain_posted = None
        self._rung.discard(loop.key)
        if self._polls:
            self._take_polled_reply()
        else:
            self._take_replies(self._woken)
        if self._backlog:
            self._flush_backlog()
        if self._pending:
            self.host.unpark()  # it may sleep until there is space for their replies
            if self._rings is not None and self._rings.has_replies():
                loop.post(self.drain, loop)
        while self._woken:
            self._woken[0].wake_from(loop)
            del self._woken[0]

    def _after_drain(self) -> None:
        if isinstance(self.failure, MalformedReplyError):
            self.kill()

    def _take_replies(self, woken: deque[PendingRequest]) -> None:
        """Take replies, at most ``_FRAMES_PER_DRAIN``, and append the requests to wake to ``woken``."""
        rings = self._rings
        if rings is None:
            return
        try:
            if self._bell is not None:
                check_bells(self._bell.rings, rings)
            for _ in range(_FRAMES_PER_DRAIN):
                reply = rings.peek_reply()
                if reply is not None:
                    self._accept(rings, reply, woken)
                    if self._pending:
                        continue
                    break
                rings.free_replies()
                if not self._pending:
                    break
                if not self._is_busy():
                    rings.ask_for_bell()
                if not rings.has_replies():
                    break
            else:  # perhaps these were all for now, and the next one must ring
                rings.free_replies()
                if self._pending and not self._is_busy():
                    rings.ask_for_bell()
        except MalformedReplyError as exc:
            self._fail(exc)

    def _is_busy(self) -> bool:
        """Return True if the only waiting task is busy and will drain before it sleeps.

        A bell would be worse than useless: to ring, the guest would have to wait for the GIL, which decoding holds.
        """
        if len(self._pending) > 1:
            return False
        (pending,) = self._pending.values()
        return pending.drains_itself and bool(pending.replies)

    def _accept(self, rings: Rings, reply: Reply, woken: deque[PendingRequest]) -> None:
        pending = self._pending.get(reply.id)
        if pending is None or reply.kind not in _KINDS:
            raise MalformedReplyError("a reply matches no request")
        op = pending.request.op
        if reply.kind == abi.REPLY_BATCH and op not in _IN_BATCHES:
            raise MalformedReplyError("a batch was not requested")
        received_bytes = 0
        if self._result_limit_bytes and op in _WITH_ROWS:
            received_bytes = self._count_bytes(pending, reply)
        if reply.failure:
            pending.cause = self.host.callbacks.failures.take(reply.failure) or pending.cause
        release = self._release_of(pending, reply)  # in case nothing awaits it any more
        if pending.loop is not None:
            woken.append(pending)
        if reply.kind != abi.REPLY_BATCH:
            self._spin_budget.answered()
            if reply.unlock_handle:
                self._unlock(pending, reply.unlock_handle, reply.unlock_locks)
            if pending.expects_locks:
                left = (reply.unlock_handle, reply.unlock_locks) if self._is_in_time else None
                self._prelocks.learn(pending.request.sql or pending.request.target, left)
        # These steps belong together.
        pending.received_bytes = received_bytes
        self.in_transaction = reply.flags & abi.REPLY_IN_TRANSACTION != 0
        self.total_changes = reply.total_changes
        self.last_insert_rowid = reply.last_insert_rowid
        rings.reply_tail = reply.end
        if reply.flags & abi.REPLY_SPILLED:
            del rings.spilled[0]
        is_wanted = pending.loop is not None and not pending.discarded
        if is_wanted:
            pending.replies += (reply,)  # no call; before ``done``, as its task may run in another thread meanwhile
        if reply.kind != abi.REPLY_BATCH:
            del self._pending[reply.id]
            pending.done = True
        if not is_wanted and release is not None:
            self._posts.append(release)

        rings.free_replies()

    def _count_bytes(self, pending: PendingRequest, reply: Reply) -> int:
        """Enforce the limit on a result's size, which the guest counts too, without the heads of batches."""
        received_bytes = pending.received_bytes + max(len(reply.columns) + len(reply.rows) - _HEAD_BYTES, 0)
        most = self._result_limit_bytes
        if reply.kind in (abi.REPLY_ERROR, abi.REPLY_FAILED):
            most += max(most, abi.ERROR_TEXT_BYTES) + _HEAD_BYTES
        if received_bytes > most:
            raise MalformedReplyError("a result exceeds its limit")
        return received_bytes

    def fail_all(self, failure: BaseException) -> list[PendingRequest]:
        """Stop all traffic for this reason; return the requests to wake. Call with the lock held."""
        self._fail(failure)
        woken = list(self._woken)
        self._woken.clear()
        return woken

    def _fail(self, failure: BaseException) -> None:
        """Stop all traffic for this reason; the next drain wakes the tasks. Call with the lock held."""
        if self.state == "ok":
            self.failure = failure
            self.state = "broken"
        self.host.stopping = True
        if self._rings is not None:
            self._rings.ask_to_stop()
        self.host.rings = None
        self.host.unpark()
        self.host.wake_unconditionally()
        orphans = [*self._pending.values(), *self.blocks.held]
        for pending in orphans:
            pending.error = self.refusal()
            pending.done = True
        # These steps belong together. After an exception above, the next drain finds the failure again.
        self._woken += orphans
        self._rings = None
        self._backlog.clear()

        self._pending.clear()
        self.blocks.held.clear()

    # -- on the guest's thread -----------------------------------------------------------------------

    def take_bell(self, bell: Bell | None) -> None:
        """Own the bell from now on: ``close_bell`` closes it, also if the guest does not start."""
        self._bell = bell

    def attach(self, rings: Rings) -> bool:
        """Send the requests that waited for the guest to start; False if it must stop immediately."""
        with self.afterwards, self.lock:
            if self.host.stopping:
                return False
            self._rings = rings
            self._spin_budget.note_request(rings)
            if self._pending:
                rings.ask_for_bell()
            self._flush_backlog()
            return True

    def finish(self, failure: BaseException | None) -> list[PendingRequest]:
        """The guest has stopped: take its last replies, then fail the rest; return the requests to wake."""
        with self.afterwards, self.lock:
            self.has_stopped = True
            self._take_replies(self._woken)
            while self._rings is not None and self._rings.has_replies():
                self._take_replies(self._woken)
            if self.state == "ok" and failure is None and (self._closing or self.host.stopping):
                self.state = "closed"
            return self.fail_all(failure or RuntimeError("the guest left its service loop"))

    def close_bell(self) -> None:
        """Stop ringing. Whatever this posts to an event loop precedes what is posted there later."""
        forget(self._spin_budget)
        with self.afterwards, self.lock:
            if self._bell is not None:
                self._bell.unwatch()

    def let_ring(self) -> None:
        """The guest must stop, but may be blocked in ringing. Any thread."""
        with self.afterwards, self.lock:
            if self._bell is not None:
                self._bell.read_on(lambda: self.has_stopped)

    def ring(self) -> None:
        """The guest's bell: make the waiting loops drain."""
        with self.afterwards, self.lock:
            if self._polling.naps:
                self._polling.wake()  # it drains for all
                return
            waiting = waiting_loops(self._pending, several=self._several_loops)
            # Ringing repeatedly adds no work to a loop.
            loops = [loop for loop in waiting if loop.key not in self._rung]
            self._rung.update(loop.key for loop in loops)
        for loop in loops:
            if not loop.post(self.drain, loop):
                self._rung.discard(loop.key)

    def body_of(self, request_id: int) -> tuple[bytes, bytes] | None:
        """Return SQL and parameters of a request in flight."""
        pending = self._pending.get(request_id)
        return (pending.request.sql, pending.request.params) if pending is not None else None

    def running_context(self) -> Callable[..., Any] | None:
        """Return what calls a function in the context of the running request, if it has one. The guest's thread."""
        rings = self.host.rings
        pending = None if rings is None else self._pending.get(rings.running_request())
        return None if pending is None or pending.run is None else pending.run()

    def is_cancelled(self) -> bool:
        """Return True if the running request was cancelled. Call with the lock held."""
        running = self.unanswered()
        return running is not None and running.cancelled and not running.is_spared

    def running(self) -> PendingRequest | None:
        """Return the request the guest is working on, also in a callback; None if it is idle or waits for a lock."""
        with self.afterwards, self.lock:
            host = self.host
            if self._rings is None or host.callbacks.wait_for_lock() or (host.is_asleep() and not host.sleeps):
                return None
            return self.unanswered()

    def abandon_after_fork(self) -> None:
        """In a forked child: the guest's thread does not exist here, and its work belongs to the parent."""
        self.lock = threading.Lock()
        self.state = "forked"
        self._rings = self.host.rings = None  # the page of the control block is not inherited
        self._prelocks.held = None  # they are the parent's, and the guard may be held by a thread of it
        if self._bell is not None:
            self._bell.abandon_after_fork()
        self._pending.clear()
        self._backlog.clear()
        self._woken.clear()
        self._posts.clear()
        self.blocks.held.clear()
