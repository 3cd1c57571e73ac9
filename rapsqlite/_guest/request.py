"""A request in flight: what was asked, what has come back, who waits for it."""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Any

from rapsqlite import _constants as abi

if TYPE_CHECKING:
    from rapsqlite._guest.traffic import RequestQueue
    from rapsqlite._loops import Loop
    from rapsqlite._wasm.rings import Reply


_ENDS = frozenset({abi.OP_CLOSE, abi.OP_FINISH, abi.OP_RELEASE, abi.OP_DROP, abi.OP_BLOCK_UNDO})
_OF_TEXT = frozenset({abi.OP_EXECUTE, abi.OP_FETCH, abi.OP_PREPARE, abi.OP_SCRIPT})
# What SQLite's tokenizer skips, then the first keyword.
_UNDOES = re.compile(
    rb"(?:[ \t\n\f\r;]|\xef\xbb\xbf|--[^\n]*\n|/\*(?:[^*]|\*(?!/))*\*/)*(?:ROLLBACK|RELEASE)(?![\w$\x80-\xff])",
    re.IGNORECASE,
)


def undoes(sql: bytes) -> bool:
    """Tell whether the text begins with a statement that undoes or releases: ROLLBACK, ROLLBACK TO or RELEASE."""
    return _UNDOES.match(sql) is not None


def is_carried_through(op: int, sql: bytes, format: int) -> bool:
    """Tell whether a request is sent and waited for although its task is cancelled: it undoes, ends or releases.

    A script that commits first is not: to undo what it would have committed comes too late.
    """
    if op in _ENDS or format & abi.FORMAT_CARRIED_THROUGH:
        return True
    return op in _OF_TEXT and not format & abi.FORMAT_SCRIPT_COMMITS and undoes(sql)


class Request:
    """One request in flight, and what its task waits for (a ``Ticket`` of ``_loops``)."""

    __slots__ = (
        "body",
        "cancellation",
        "cancelled",
        "cause",
        "discarded",
        "done",
        "error",
        "head",
        "looks_itself",
        "loop",
        "overdue",
        "position",
        "received_bytes",
        "replies",
        "silences",
        "traffic",
        "waiter",
        "yields",
    )

    def __init__(self, traffic: RequestQueue, loop: Loop | None, body: tuple[bytes, bytes]) -> None:
        self.traffic = traffic
        self.loop = loop  # None: nobody waits for the answer
        self.body = body
        self.head: tuple[int, int, int, int, int, int] = (0, 0, 0, 0, 0, 0)
        self.position: int | None = None  # in the request ring, once it is there
        self.received_bytes = 0  # counted only under a limit
        self.replies: deque[Reply] = deque()
        self.silences = 0  # how often patience with the guest has run out
        self.done = False  # the final reply is there, or never comes
        self.error: Exception | None = None  # why it never comes
        self.cause: BaseException | None = None  # what a callback raised
        self.cancelled = False
        self.discarded = False
        self.overdue = False  # cancelled by the watchdog
        self.looks_itself = False  # its task drains before it sleeps, so that no bell is needed while it is awake
        self.yields = False  # its task is to let others run, although the answer is there
        self.waiter: Any = None
        self.cancellation: BaseException | None = None

    def is_ready(self) -> bool:
        """Tell whether there is a reply, or never will be."""
        return self.done or bool(self.replies)

    def wake_from(self, loop: Loop) -> None:
        """Let the task that waits go on, if one does. The thread of ``loop``."""
        if self.loop is None:
            return
        if self.loop.key is loop.key:
            self.loop.wake(self)
        else:
            self.loop.post(self.loop.wake, self)

    @property
    def is_carried_through(self) -> bool:
        """Tell whether its answer is waited for, whatever cancels its task."""
        return is_carried_through(self.head[1], self.body[0], self.head[3])

    @property
    def is_spared(self) -> bool:
        """Tell whether its cancel word stays 0. The guest knows by itself what of a script is carried through."""
        return self.is_carried_through and not (self.head[1] == abi.OP_SCRIPT and self.body[0])

    @property
    def grace_period_s(self) -> float:
        """How long a cancelled task waits for the guest's answer."""
        return self.traffic.grace_period_s

    def on_cancel(self) -> None:
        """Interrupt this request in the guest, queued or running. Closing is not undone: it is sped up."""
        if self.head[1] == abi.OP_CLOSE:
            self.traffic.stop()
        else:
            self.traffic.cancel(self)

    def on_timeout(self) -> None:
        """The guest does not answer: see to it that it does, or end it."""
        self.traffic.pressure.force_answer(self)


def waiting_loops(pending: dict[int, Request], *, several: bool) -> list[Loop]:
    """Return the loops whose tasks wait for replies: nearly always one, unless there were ``several``."""
    if not several:
        newest = next(reversed(pending.values()), None)
        if newest is not None and newest.loop is not None:
            return [newest.loop]
    return list({id(request.loop.key): request.loop for request in pending.values() if request.loop}.values())
