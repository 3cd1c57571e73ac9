"""The guest's entry into Python for each call of a callback, written for speed.

Every row of a statement may have to wait for this, so it looks nothing up: everything it needs is bound beforehand.
Arguments and results pass through the guest's argument block. Runs on the guest's thread, and the callback in the
context of the request that the guest is running.
"""

from __future__ import annotations

from contextvars import Context
from threading import get_ident
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import ref

from rapsqlite import _constants as abi
from rapsqlite._values.wire import decode_arguments, decode_text_argument
from rapsqlite.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite._callbacks.argument_block import ArgumentBlock
    from rapsqlite._callbacks.async_exception import CallbackInterrupt

    Run = Callable[..., Any]  # calls a function in a context
    Enter = Callable[[], int]
    Bind = Callable[[Callable[..., Any] | None], None]
    Fail = Callable[[BaseException], None]
    FailLate = Callable[[BaseException], int]

_FORM, _VALUE, _ROOM_BYTES = abi.ARGUMENT_BLOCK_FORM, abi.ARGUMENT_BLOCK_VALUE, abi.ARGUMENT_BLOCK_ROOM
_INTEGER, _FLOAT, _TEXT = abi.FORM_INTEGER, abi.FORM_FLOAT, abi.FORM_TEXT
_ARRAY, _PACKED_TEXT = abi.FORM_ARRAY, abi.FORM_PACKED_TEXT


class RequestContext:
    """The context of the request that one guest is running: a copy of its task's, or an empty one if none waits."""

    __slots__ = ("_look_up", "progress", "reference", "seen")

    def __init__(self, look_up: Callable[[], Run | None], progress: memoryview) -> None:
        """``look_up`` returns the method ``run`` of the context; the word ``progress`` changes with each request."""
        self._look_up = look_up
        self.progress = progress
        self.seen = 0  # the value of ``progress`` when ``reference`` was set
        self.reference: Callable[[], Run | None] = _no_context  # weak: nothing here keeps what is the user's

    def find(self) -> Run:
        """Return the method ``run`` of the context."""
        seen, run = self.progress[0], self._look_up()
        if run is None:
            self.reference = _no_context
            return Context().run
        self.reference, self.seen = ref(run), seen
        return run


def entrance(
    block: ArgumentBlock, interrupt: CallbackInterrupt, context: RequestContext, fail: Fail, fail_late: FailLate
) -> tuple[Enter, Bind]:
    """Return ``enter``, which the guest calls in this thread, and ``bind``, which sets what it calls (None: nothing).

    The function is referred to weakly (`held`), and runs in ``context``. ``fail`` handles its exceptions, ``fail_late``
    one that arrives when it is over and returns the result of ``enter``.
    """
    words, floats, room, starts, thread = block.words, block.floats, block.room, block.starts, get_ident()
    function: Callable[[], Any] = _nothing  # returns what to call

    def bind(new: Callable[..., Any] | None) -> None:
        nonlocal function
        function = _nothing if new is None else ref(new)

    def enter() -> int:
        try:
            try:
                interrupt.target, form = thread, words[_FORM]
                run = (context.reference() if context.progress[0] == context.seen else None) or context.find()
                if form == _INTEGER:
                    value = run(function(), words[_VALUE])
                elif form == _PACKED_TEXT:
                    value = run(function(), decode_text_argument(starts[words[_VALUE]]))
                elif form == _ARRAY:
                    value = run(function(), *decode_arguments(starts[words[_VALUE]]))
                elif form == _FLOAT:
                    value = run(function(), floats[_VALUE])
                else:
                    value = run(function(), *block.arguments(form))
                kind = type(value)
                if kind is int:
                    try:
                        words[_VALUE] = value
                    except ValueError:
                        block.put(value)  # reports what is wrong with it
                    if form != _INTEGER:
                        words[_FORM] = _INTEGER
                elif kind is float:
                    floats[_VALUE], words[_FORM] = value, _FLOAT
                elif kind is str and len(data := value.encode()) <= _ROOM_BYTES:
                    room[: len(data)] = data
                    words[_VALUE], words[_FORM] = len(data), _TEXT
                else:
                    block.put(value)
            except BaseException as exc:  # noqa: BLE001 - it must not cross the wasm frames; it becomes the error's cause
                fail(exc)
            interrupt.target = 0
            if interrupt.state:
                interrupt.retract()
        except BaseException as exc:  # noqa: BLE001 - as above
            return fail_late(exc)
        return 0

    return enter, bind


def _no_context() -> None:
    """Return None, as the reference to a context that is gone does."""


def _nothing() -> Callable[..., NoReturn]:
    return not_held


def not_held(*_arguments: object) -> NoReturn:
    """Placeholder for a callback the guest does not hold: raises InternalError."""
    raise InternalError("the guest called a callback that does not exist, or as the wrong kind")
