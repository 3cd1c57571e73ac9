"""What a guest may call: handles, kinds and bytes that no honest guest passes get an error reply, never an
exception.
"""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import msgspec
import pytest

from rapsqlite import _constants as abi
from rapsqlite._callbacks.handles import Handles
from rapsqlite.errors import InternalError, ProgrammingError
from tests.guest.calling import Played


class Total:
    """An aggregate that keeps its arguments."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def step(self, *arguments: Any) -> None:
        if arguments == ("bad",):
            raise ZeroDivisionError("on purpose")
        self.seen.append(arguments)

    def inverse(self, *arguments: Any) -> None:
        self.seen.remove(arguments)

    def value(self) -> str:
        return repr(self.seen)

    def finalize(self) -> str:
        return repr(self.seen)


@pytest.mark.parametrize(
    "kind",
    [
        *range(abi.CALLBACK_FUNCTION, abi.CALLBACK_CONFLICT + 1),
        *range(abi.CALLBACK_EXTENSION_OPEN, abi.CALLBACK_EXTENSION_CLOSE + 1),
        *(99, 255),
    ],
    ids=hex,
)
def test_unknown_handles_and_wrong_kinds_are_refused(kind: int) -> None:
    guest = Played()
    held = {
        "nothing": 0,
        "unknown": 12345,
        "huge": (1 << 55) - 1,
        "negative": -1,
        "function": guest.callbacks.hold(abi.CALLBACK_FUNCTION if kind != abi.CALLBACK_FUNCTION else 2, list),
        "instance": guest.callbacks.hold_instance(object()),
        "several": guest.callbacks.hold_several(dict.fromkeys({1, 2, 27} - {kind}, list)),
    }
    if kind in (abi.CALLBACK_STEPS, abi.CALLBACK_VALUE, abi.CALLBACK_FINALIZE):
        held.pop("instance")
    for handle in held.values():
        if kind == abi.CALLBACK_STEPS:
            form, _ = guest.call(kind, 0, msgspec.msgpack.encode([handle, 0, [None]]))
        else:
            form, _ = guest.call(kind, handle)

        assert form == abi.CALLBACK_RAISED

        if kind not in (abi.CALLBACK_TRACE, abi.CALLBACK_ROLLBACK):
            assert isinstance(guest.failure(), InternalError)
    assert guest.callbacks.thread == 0


def test_shared_handle_is_released_for_all_its_functions() -> None:
    guest = Played()
    handle = guest.callbacks.hold_several({abi.CALLBACK_FUNCTION: lambda: 1, abi.CALLBACK_BUSY: lambda: 2})

    assert guest.call(abi.CALLBACK_FUNCTION, handle) == (abi.FORM_INTEGER, 1)
    assert guest.call(abi.CALLBACK_BUSY, handle) == (abi.FORM_INTEGER, 2)

    guest.call(abi.CALLBACK_RELEASE, handle)

    assert len(guest.callbacks) == 0
    assert guest.call(abi.CALLBACK_FUNCTION, handle)[0] == abi.CALLBACK_RAISED
    assert guest.call(abi.CALLBACK_BUSY, handle)[0] == abi.CALLBACK_RAISED


def steps(*runs: Any) -> bytes:
    return msgspec.msgpack.encode([*runs])


def test_steps_are_made_in_order_whatever_their_width() -> None:
    guest = Played()
    one, other = guest.callbacks.hold_instance(Total()), guest.callbacks.hold_instance(Total())

    guest.call(abi.CALLBACK_STEPS, 0, steps(one, 1, [1, 2], other, 2, [3, 4, 5, 6], one, 0, [None], -one, 1, [1]))

    assert guest.call(abi.CALLBACK_VALUE, one)[0] == abi.FORM_TEXT
    assert guest.text() == b"[(2,), ()]"
    guest.call(abi.CALLBACK_FINALIZE, other, steps(other, 1, [9]))
    assert guest.text() == b"[(3, 4), (5, 6), (9,)]"
    assert len(guest.callbacks) == 1


def test_failed_step_is_the_last_and_its_instance_keeps_failing() -> None:
    guest = Played()
    total = Total()
    one, other = guest.callbacks.hold_instance(total), guest.callbacks.hold_instance(Total())

    for runs in (steps(one, 1, [1, "bad", 2], other, 1, [3]), steps(one, 1, [4]), steps(-one, 1, [8])):
        assert guest.call(abi.CALLBACK_STEPS, 0, runs)[0] == abi.CALLBACK_RAISED + abi.CALLBACK_IN_STEP
        assert isinstance(guest.failure(), ZeroDivisionError)

    assert total.seen == [(1,)]
    assert guest.call(abi.CALLBACK_VALUE, other)[0] == abi.FORM_TEXT
    assert guest.text() == b"[]"
    for kind in (abi.CALLBACK_VALUE, abi.CALLBACK_FINALIZE):
        assert guest.call(kind, one)[0] == abi.CALLBACK_RAISED + abi.CALLBACK_IN_STEP
        assert isinstance(guest.failure(), ZeroDivisionError)
    guest.call(abi.CALLBACK_STEPS, 0, steps(-other, 1, ["unknown"]))
    assert isinstance(guest.failure(), ValueError)
    assert guest.call(abi.CALLBACK_FINALIZE, other)[0] == abi.CALLBACK_RAISED + abi.CALLBACK_IN_INVERSE
    assert len(guest.callbacks) == 0


@pytest.mark.parametrize(
    "runs", [["x", 1, [1]], [1, "x", [1]], [1, 1, "x"], [1, -1, [1]], [1.0, 1, [1]], [None, None, None], [99, 1, [1]]]
)
def test_malformed_steps_are_refused(runs: list[Any]) -> None:
    guest = Played()
    guest.callbacks.hold_instance(Total())

    assert guest.call(abi.CALLBACK_STEPS, 0, msgspec.msgpack.encode(runs))[0] == abi.CALLBACK_RAISED

    assert isinstance(guest.failure(), InternalError)


def test_released_handle_is_unknown_and_can_be_released_again() -> None:
    guest = Played()
    handle = guest.callbacks.hold(abi.CALLBACK_FUNCTION, list)
    for _ in range(2):
        assert guest.call(abi.CALLBACK_RELEASE, handle)[0] == abi.FORM_NULL

    assert len(guest.callbacks) == 0
    assert guest.call(abi.CALLBACK_FUNCTION, handle)[0] == abi.CALLBACK_RAISED


def test_exceptions_that_no_reply_reports_do_not_accumulate() -> None:
    """A guest may never report in a reply that a callback raised."""
    guest = Played()

    class NotedError(Exception):
        pass

    first: list[weakref.ref[BaseException]] = []

    def fail() -> None:
        error = NotedError()
        if not first:
            first.append(weakref.ref(error))
        raise error

    handle = guest.callbacks.hold(abi.CALLBACK_FUNCTION, fail)
    for _ in range(5000):
        guest.call(abi.CALLBACK_FUNCTION, handle)

    gc.collect()
    assert first[0]() is None
    assert len(guest.callbacks.failures) <= 4096


def test_use_is_refused_only_in_the_thread_of_the_callback() -> None:
    guest = Played()
    callbacks = guest.callbacks
    allowed: list[bool] = []

    def use_elsewhere() -> None:
        callbacks.refuse_use()
        allowed.append(True)

    def use() -> None:
        thread = threading.Thread(target=use_elsewhere)
        thread.start()
        thread.join()
        callbacks.refuse_use()

    handle = callbacks.hold(abi.CALLBACK_FUNCTION, use)
    guest.call(abi.CALLBACK_FUNCTION, handle)

    assert allowed == [True]
    assert isinstance(guest.failure(), ProgrammingError)
    callbacks.refuse_use()


def test_memory_of_an_ended_guest_is_not_read() -> None:
    guest = Played()

    class Called:
        def __call__(self) -> None:
            pass

    called = Called()
    kept = weakref.ref(called)
    handle = guest.callbacks.hold(abi.CALLBACK_FUNCTION, called)
    for _ in range(2):
        guest.call(abi.CALLBACK_FUNCTION, handle)
    del called

    guest.callbacks.clear()

    assert len(guest.callbacks) == 0
    assert kept() is None
    assert not guest.callbacks.interrupt(lambda: True)


def test_handles_are_never_used_twice() -> None:
    handles: Handles[str] = Handles()
    numbers = []
    for _ in range(100):
        numbers.append(handles.hold("x"))
        handles.release(numbers[-1])

    assert len(set(numbers)) == 100
    assert min(numbers) > 0
    assert len(handles) == 0
