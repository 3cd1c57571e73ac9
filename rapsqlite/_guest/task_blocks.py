"""The open ``transaction()`` and ``savepoint()`` blocks of one connection, and which requests wait for their end.

A block belongs to the task that entered it. Requests of other tasks are held back, in the order in which they arrived,
and sent when it ends. A task that was started inside a block, and would wait for a block that may wait for it, gets an
error instead. All methods are called with the request queue's lock held.
"""

from __future__ import annotations

import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING

from rapsqlite import _constants as abi
from rapsqlite._guest.request import PendingRequest
from rapsqlite.errors import OperationalError, ProgrammingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite._loops import Loop

_inside: ContextVar[tuple[TaskBlock, ...]] = ContextVar("rapsqlite_blocks", default=())
"""The blocks, of any connection, that contain the running task or in which it was started: tasks inherit the context.
"""

acting_for: ContextVar[object] = ContextVar("rapsqlite_acting_for", default=None)
"""The task that waits for the running one, which is in another thread and part of its blocks."""

# What ends or releases something, and what only counts, waits for nobody.
_NEVER_HELD = frozenset({abi.OP_CLOSE, abi.OP_FINISH, abi.OP_RELEASE, abi.OP_DROP, abi.OP_BLOCK_UNDO})

SCOPES = ("task", "children", "connection")
"""Whose statements are part of a block: its task's; also of tasks started inside; of all tasks."""

_STARTED_INSIDE = (
    "this task was started inside a transaction() or savepoint() block that is still open and belongs to another task:"
    " each would wait for the other. Let such tasks take part with scope='children', or start them outside the block"
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
        self.scope = scope  # None until it opens: then as the block around it
        self.is_transaction = is_transaction

    def owner(self) -> object:
        """Return the task it belongs to; None if that has ended without leaving the block, which then is everybody's.

        A pytest fixture does so: its block ends in another task.
        """
        task = self._owner()
        return None if task is None or _has_ended(task) else task

    def note_entered(self) -> None:
        """Tasks that the running task starts from now on are started inside."""
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
    """The open blocks of one connection, and what waits for them."""

    __slots__ = ("default_scope", "held", "open")

    def __init__(self) -> None:
        self.open: list[TaskBlock] = []  # outermost first
        self.held: dict[PendingRequest, Caller] = {}  # in the order in which they arrived
        self.default_scope = "task"

    def contain_this_task(self) -> bool:
        """Return True if the running task is inside an open block, or was started inside one."""
        inside = _inside.get()
        return any(block in inside for block in self.open)

    def exclude(self, caller: Caller) -> bool:
        """Return True if a block is open of which this task is no part."""
        for block in reversed(self.open):
            if caller.owns(block) or (block.scope == "children" and block in caller.blocks):
                return False
            if block.scope != "connection" and block.owner() is not None:
                return True
        return False

    def add(self, block: TaskBlock) -> None:
        """A block opens; idempotent."""
        if block not in self.open:
            block.scope = block.scope or (self.open[-1].scope if self.open else self.default_scope)
            self.open.append(block)

    def remove(self, block: TaskBlock) -> None:
        """A block has ended; idempotent."""
        if block in self.open:
            self.open.remove(block)

    def still_holds_back(self, pending: PendingRequest, caller: Caller) -> bool:
        """Return True if a held request must go on waiting. It is none that a block might wait for."""
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
        for block in reversed(self.open):
            if caller.owns(block) or (request.op, request.target) == (abi.OP_BLOCK_KEEP, block.number):
                return is_held
            if block.scope == "children" and block in caller.blocks:
                return is_held
            if block.scope == "connection" or block.owner() is None:
                continue
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
    """Return what a weak reference to nothing does."""


def _has_ended(task: object) -> bool:
    done = getattr(task, "done", None)
    if done is not None:  # asyncio's
        return bool(done())
    return getattr(getattr(task, "coro", None), "cr_frame", task) is None
