"""The open ``transaction()`` and ``savepoint()`` blocks of one connection, and the requests that wait for them to end.

A block belongs to the task that entered it. Requests from other tasks are held back and sent in order of arrival when
it ends. A task started inside a block gets an error if it would wait for that block, which may be waiting for the task.
Call all methods with the request queue's lock held.
"""

from __future__ import annotations

import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING

from rapsqlite import _constants as abi
from rapsqlite._guest.request import PendingRequest
from rapsqlite.errors import OperationalError, ProgrammingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rapsqlite._loops import Loop

_inside: ContextVar[tuple[TaskBlock, ...]] = ContextVar("rapsqlite_blocks", default=())
"""The blocks of any connection that the running task is in or was started in: tasks inherit the context."""

acting_for: ContextVar[object] = ContextVar("rapsqlite_acting_for", default=None)
"""The task that waits for the running one, which runs in another thread and takes part in its blocks."""

# Requests that end or release something never wait.
_NEVER_HELD = frozenset({abi.OP_CLOSE, abi.OP_FINISH, abi.OP_RELEASE, abi.OP_DROP, abi.OP_BLOCK_UNDO})

SCOPES = ("task", "children", "connection")
"""Who may use the connection while a block is open: the block's task, tasks started inside it as well, or all tasks."""

_STARTED_INSIDE = (
    "this task was started inside a transaction() or savepoint() block that is still open and belongs to another task:"
    " each would wait for the other. Let such tasks take part with scope='children', or start them outside the block"
)
_USED_OUTSIDE = (
    "a task outside this transaction() or savepoint() block is fetching from this cursor or stream, and may have to"
    " wait for the end of the block: each would wait for the other. Use one for each task, or fetch outside the block"
)
_NESTED_IN_CHILD = (
    "this task was started inside the open transaction() block, so it cannot wait for its end:"
    " use savepoint(), or start the task after the block"
)


class TaskBlock:
    """One block, from the request that begins it to its end."""

    __slots__ = ("_owner", "is_transaction", "number", "scope")

    def __init__(self, task: object, number: int, scope: str | None, *, is_transaction: bool) -> None:
        # Weak: nothing that a guest reaches may keep a task alive.
        self._owner: Callable[[], object] = weakref.ref(task) if task is not None else _nobody
        self.number = number
        self.scope = scope  # if None, taken from the enclosing block when it opens
        self.is_transaction = is_transaction

    def owner(self) -> object:
        """Return the owning task, or None if it ended without leaving the block, which then belongs to every task.

        This happens in pytest fixtures, whose set-up and teardown may run in different tasks.
        """
        task = self._owner()
        return None if task is None or _has_ended(task) else task

    def note_entered(self) -> None:
        """Count tasks that the running task starts from now on as started inside."""
        _inside.set((*_inside.get(), self))

    def note_left(self) -> None:
        """Undo ``note_entered``."""
        blocks = _inside.get()
        if self in blocks:
            _inside.set(tuple(block for block in blocks if block is not self))


class BlockRequest(PendingRequest, eq=False, kw_only=True):
    """The request that begins a block."""

    block: TaskBlock


class Caller:
    """The task that sent a request."""

    __slots__ = ("_task", "blocks")

    def __init__(self, loop: Loop) -> None:
        task = acting_for.get() or loop.current_task()
        self._task: Callable[[], object] = weakref.ref(task) if task is not None else _nobody
        self.blocks = _inside.get()

    def owns(self, block: TaskBlock) -> bool:
        """Return True if the block belongs to this task."""
        task = self._task()
        return task is not None and block.owner() is task


class TaskBlocks:
    """The open blocks of one connection, and the requests that wait for them."""

    __slots__ = ("default_scope", "held", "open")

    def __init__(self) -> None:
        self.open: list[TaskBlock] = []  # outermost first
        self.held: dict[PendingRequest, Caller] = {}  # in order of arrival
        self.default_scope = "task"

    def contain_this_task(self) -> bool:
        """Return True if the running task is inside an open block, or was started inside one."""
        inside = _inside.get()
        return any(block in inside for block in self.open)

    def refuse_wait_for(self, user: Caller) -> None:
        """Raise ProgrammingError if the running task is inside a block for whose end that task may have to wait."""
        if self.contain_this_task() and self.exclude(user):
            raise ProgrammingError(_USED_OUTSIDE)

    def exclude(self, caller: Caller) -> bool:
        """Return True if a block is open of which this task is no part."""
        return any(True for _ in self._blocks_without(caller))

    def _blocks_without(self, caller: Caller, keeps: int = 0) -> Iterator[TaskBlock]:
        """Yield the open blocks that the task takes no part in, from the innermost to the first in which it does.

        ``keeps``: the number of the block that the task's request keeps, which counts as such a block, or 0.
        """
        for block in reversed(self.open):
            if caller.owns(block) or block.number == keeps or (block.scope == "children" and block in caller.blocks):
                return
            if block.scope != "connection" and block.owner() is not None:
                yield block

    def add(self, block: TaskBlock) -> None:
        """Note that a block has opened; idempotent."""
        if block not in self.open:
            block.scope = block.scope or (self.open[-1].scope if self.open else self.default_scope)
            self.open.append(block)

    def remove(self, block: TaskBlock) -> None:
        """Note that a block has ended; idempotent."""
        if block in self.open:
            self.open.remove(block)

    def still_holds_back(self, pending: PendingRequest, caller: Caller) -> bool:
        """Return True if a held request must keep waiting. No block waits for such a request."""
        if isinstance(pending, BlockRequest) and pending.block.is_transaction and pending.block not in self.open:
            return any(not caller.owns(block) for block in self.open)
        return self.hold_back(pending, caller)

    def hold_back(self, pending: PendingRequest, caller: Caller) -> bool:
        """Return True if a request must wait for the end of a block. Raises if the block might wait for the request."""
        if isinstance(pending, BlockRequest):
            if pending.block in self.open:
                return False
            if pending.block.is_transaction:
                return self._hold_back_transaction(caller)
        request = pending.request
        if request.op in _NEVER_HELD or (request.op, request.target) == (abi.OP_CONTROL, abi.CONTROL_OP_STATISTICS):
            return False
        is_held = False
        for block in self._blocks_without(caller, request.target if request.op == abi.OP_BLOCK_KEEP else 0):
            if block in caller.blocks:
                raise ProgrammingError(_STARTED_INSIDE)
            is_held = True
        return is_held

    def _hold_back_transaction(self, caller: Caller) -> bool:
        is_held = False
        for block in self.open:
            if caller.owns(block):
                if block.is_transaction:
                    raise OperationalError("this task is already inside a transaction() block: use savepoint() to nest")
            elif block in caller.blocks:
                raise ProgrammingError(_NESTED_IN_CHILD)
            elif block.owner() is not None:
                is_held = True
            elif block.is_transaction:
                raise OperationalError(
                    "the task that entered the open transaction() block has ended without leaving it:"
                    " use savepoint() to nest"
                )
        return is_held


def _nobody() -> None:
    """Return None, as a dead weak reference does."""


def _has_ended(task: object) -> bool:
    done = getattr(task, "done", None)
    if done is not None:  # asyncio's
        return bool(done())
    return getattr(getattr(task, "coro", None), "cr_frame", task) is None
