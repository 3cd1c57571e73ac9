"""A request, and its state while it is in flight: what has come back, and which task waits for it."""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from rapsqlite import _constants as abi

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite._loops import Loop
    from rapsqlite._wasm.rings import Reply, Request


_ENDS = frozenset({abi.OP_CLOSE, abi.OP_FINISH, abi.OP_RELEASE, abi.OP_DROP, abi.OP_BLOCK_UNDO})
_OF_TEXT = frozenset({abi.OP_EXECUTE, abi.OP_FETCH, abi.OP_PREPARE, abi.OP_SCRIPT})
# What SQLite's tokenizer skips, then the first keyword.
_UNDOES = re.compile(
    rb"(?:[ \t\n\f\r;]|\xef\xbb\xbf|--[^\n]*\n|/\*(?:[^*]|\*(?!/))*\*/)*(?:ROLLBACK|RELEASE)(?![\w$\x80-\xff])",
    re.IGNORECASE,
)


def undoes(sql: bytes) -> bool:
    """Return True if the text begins with a statement that undoes or releases: ROLLBACK, ROLLBACK TO or RELEASE."""
    return _UNDOES.match(sql) is not None


def is_uninterruptible(request: Request) -> bool:
    """Return True if a request always completes, even if its task is cancelled: it undoes, ends or releases.

    A script that commits first does not: rolling back after its commit would be too late.
    """
    if request.op in _ENDS or request.format & abi.FORMAT_UNINTERRUPTIBLE:
        return True
    return request.op in _OF_TEXT and not request.format & abi.FORMAT_SCRIPT_COMMITS and undoes(request.sql)


class Sender(Protocol):
    """What a request in flight needs from its queue."""

    @property
    def grace_period_s(self) -> float:
        """How long a cancelled task waits for the guest's reply, in seconds."""
        ...

    def cancel(self, pending: PendingRequest) -> None:
        """Interrupt one request."""
        ...

    def stop(self) -> None:
        """Make the guest stop immediately."""
        ...

    def force_answer(self, pending: PendingRequest) -> None:
        """Force the guest to answer, or end it."""
        ...


class PendingRequest(msgspec.Struct, eq=False):
    """One request in flight, and what its task waits for (a ``Ticket`` of ``_loops``)."""

    sender: Sender
    loop: Loop | None
    """None: no task waits for the reply."""
    request: Request
    number: int = 0
    """The id by which the guest answers it."""
    position: int | None = None
    """In the request ring, once written."""
    expects_locks: bool = False
    """Sent with the locks that its statement needs (`Prelocks`)."""
    unlocked: bool = False
    """The locks that its reply leaves to the host are released."""
    received_bytes: int = 0
    """Counted only under a limit."""
    replies: deque[Reply] = msgspec.field(default_factory=deque)
    timeouts: int = 0
    """How often its grace period has expired."""
    done: bool = False
    """The final reply has arrived, or never will."""
    error: Exception | None = None
    """Why it never will."""
    cause: BaseException | None = None
    """The exception raised in a callback."""
    cancelled: bool = False
    discarded: bool = False
    overdue: bool = False
    """Cancelled by the watchdog."""
    drains_itself: bool = False
    """Its task drains before it sleeps, so it needs no bell while awake."""
    run: Callable[[], Callable[..., Any] | None] | None = None
    """Returns what calls a callback in a copy of its task's context.

    None: there are no callbacks, no task waits, or the reply was taken.
    """
    yields: bool = False
    """Its task should let others run although the reply has arrived."""
    waiter: Any = None
    cancellation: BaseException | None = None
    cancellation_count: int = 0

    def __repr__(self) -> str:
        return f"<request {self.number}>"  # asyncio logs it in debug mode, where parameters must not appear

    def is_ready(self) -> bool:
        """Return True if there is a reply, or never will be one."""
        return self.done or bool(self.replies)

    def wake_from(self, loop: Loop) -> None:
        """Let the waiting task continue, if there is one. The thread of ``loop``."""
        if self.loop is None:
            return
        if self.loop.key is loop.key:
            self.loop.wake(self)
        else:
            self.loop.post(self.loop.wake, self)

    @property
    def is_uninterruptible(self) -> bool:
        """Return True if its reply is awaited whatever cancels its task."""
        return is_uninterruptible(self.request)

    @property
    def is_spared(self) -> bool:
        """Return True if its cancel word stays 0. The guest knows which statements of a script always complete."""
        return self.is_uninterruptible and not (self.request.op == abi.OP_SCRIPT and self.request.sql)

    @property
    def grace_period_s(self) -> float:
        """How long a cancelled task waits for the guest's reply, in seconds."""
        return self.sender.grace_period_s

    def on_cancel(self) -> None:
        """Interrupt this request in the guest, queued or running. Closing is not undone but sped up."""
        if self.request.op == abi.OP_CLOSE:
            self.sender.stop()
        else:
            self.sender.cancel(self)

    def on_timeout(self) -> None:
        """The guest does not answer: force it to, or end it."""
        self.sender.force_answer(self)


def waiting_loops(pending: dict[int, PendingRequest], *, several: bool) -> list[Loop]:
    """Return the loops whose tasks wait for replies: nearly always one, unless there were ``several``."""
    if not several:
        newest = next(reversed(pending.values()), None)
        if newest is not None and newest.loop is not None:
            return [newest.loop]
    return list({id(request.loop.key): request.loop for request in pending.values() if request.loop}.values())
