"""The guest's entry into Python for each call of a callback, written for speed.

Every row of a statement may have to wait for this, so it looks nothing up: everything it needs is bound beforehand.
Arguments and results pass through the guest's argument block. Runs on the guest's thread.
"""

from __future__ import annotations

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

    Enter = Callable[[], int]
    Bind = Callable[[Callable[..., Any] | None], None]
    Fail = Callable[[BaseException], None]
    FailLate = Callable[[BaseException], int]

_FORM, _VALUE, _ROOM_BYTES = abi.ARGUMENT_BLOCK_FORM, abi.ARGUMENT_BLOCK_VALUE, abi.ARGUMENT_BLOCK_ROOM
_INTEGER, _FLOAT, _TEXT = abi.FORM_INTEGER, abi.FORM_FLOAT, abi.FORM_TEXT
_ARRAY, _PACKED_TEXT = abi.FORM_ARRAY, abi.FORM_PACKED_TEXT


def entrance(block: ArgumentBlock, interrupt: CallbackInterrupt, fail: Fail, fail_late: FailLate) -> tuple[Enter, Bind]:
    """Return ``enter``, which the guest calls in this thread, and ``bind``, which sets what it calls (None: nothing).

    The function is referred to weakly (`held`). ``fail`` handles its exceptions, ``fail_late`` one that arrives when it
    is over and returns the result of ``enter``.
    """
    words, floats, room, starts, thread = block.words, block.floats, block.room, block.starts, get_ident()
    function: Callable[[], Any] = _nothing  # returns what to call

    def bind(new: Callable[..., Any] | None) -> None:
        nonlocal function
        function = _nothing if new is None else ref(new)

    def enter() -> int:
        try:
            try:
                interrupt.target = thread
                form = words[_FORM]
                if form == _INTEGER:
                    value = function()(words[_VALUE])
                elif form == _PACKED_TEXT:
                    value = function()(decode_text_argument(starts[words[_VALUE]]))
                elif form == _ARRAY:
                    value = function()(*decode_arguments(starts[words[_VALUE]]))
                elif form == _FLOAT:
                    value = function()(floats[_VALUE])
                else:
                    value = function()(*block.arguments(form))
                kind = type(value)
                if kind is int:
                    try:
                        words[_VALUE] = value
                    except ValueError:
                        block.put(value)  # reports what is wrong with it
                    if form != _INTEGER:
                        words[_FORM] = _INTEGER
                elif kind is float:
                    floats[_VALUE] = value
                    words[_FORM] = _FLOAT
                elif kind is str and len(data := value.encode()) <= _ROOM_BYTES:
                    room[: len(data)] = data
                    words[_VALUE] = len(data)
                    words[_FORM] = _TEXT
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


def _nothing() -> Callable[..., NoReturn]:
    return not_held


def not_held(*_arguments: object) -> NoReturn:
    """Placeholder for a callback the guest does not hold: raises InternalError."""
    raise InternalError("the guest called a callback that does not exist, or as the wrong kind")
