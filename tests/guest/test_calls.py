"""Deferred calls as the host makes them: a guest made of bytes plays the other side."""

from __future__ import annotations

import struct
import threading
from typing import Any

import msgspec
import pytest

from rapsqlite import _constants as abi
from rapsqlite._callbacks.async_exception import CallbackInterrupted
from rapsqlite.errors import InternalError, ProgrammingError
from tests.callbacks.lingering import Endless
from tests.guest.calling import Played

MOST = 10**9


def key(handle: int) -> int:
    return handle << 8 | abi.CALLBACK_FUNCTION


def made(guest: Played, *runs: Any, most: int = MOST) -> list[Any]:
    """Make calls; return the results."""
    form, length = guest.call(abi.CALLBACK_CALLS, most, msgspec.msgpack.encode([*runs]))
    assert form == abi.FORM_BLOB
    if length > abi.ARGUMENT_BLOCK_ROOM:
        answer = bytearray(length)
        assert guest.callbacks.fetch_answer(memoryview(answer)) == 0
        return msgspec.msgpack.decode(answer, type=list[Any])
    return msgspec.msgpack.decode(guest.text(), type=list[Any])


def failure_in(guest: Played, answer: Any) -> tuple[int, type[object]]:
    """Return what replaces the result of a failed call: the code and the exception's type."""
    assert answer.code == abi.EXT_UNSUPPORTED
    code, number = struct.unpack("<iI", answer.data)
    return int(code), type(guest.callbacks.failures.take(number))


def test_calls_are_made_in_their_order_whatever_their_width() -> None:
    guest = Played()
    log: list[tuple[Any, ...]] = []

    def function(*arguments: Any) -> int:
        log.append(arguments)
        return len(log)

    one, other = (guest.callbacks.hold(abi.CALLBACK_FUNCTION, function) for _ in range(2))

    assert made(guest, key(one), 1, [1, "two"], key(other), 2, [3, None, 5.5, b"6"], key(one), 0, [None, None]) == [
        1, 2, 3, 4, 5, 6,
    ]  # fmt: skip
    assert log == [(1,), ("two",), (3, None), (5.5, b"6"), (), ()]
    assert guest.callbacks.thread == 0


def test_first_call_that_raises_is_the_last() -> None:
    guest = Played()
    log: list[int] = []

    def function(value: int) -> float:
        log.append(value)
        return 1 / value

    handle = guest.callbacks.hold(abi.CALLBACK_FUNCTION, function)

    *answers, failed = made(guest, key(handle), 1, [2, 1, 0, 3])

    assert answers == [0.5, 1.0]
    assert failure_in(guest, failed) == (abi.CALLBACK_RAISED, ZeroDivisionError)
    assert log == [2, 1, 0]


@pytest.mark.parametrize(
    "answer, code, error",
    [
        (object(), abi.CALLBACK_RAISED, ProgrammingError),
        (1 << 63, abi.CALLBACK_TOO_LARGE, OverflowError),
        ("\ud800", abi.CALLBACK_RAISED, UnicodeEncodeError),
    ],
)
def test_invalid_result_ends_the_calls(answer: Any, code: int, error: type[Exception]) -> None:
    guest = Played()
    answers = iter([1, answer, 3])
    handle = guest.callbacks.hold(abi.CALLBACK_FUNCTION, lambda _: next(answers))

    first, failed = made(guest, key(handle), 1, [1, 2, 3])

    assert first == 1
    assert failure_in(guest, failed) == (code, error)
    assert next(answers) == 3


@pytest.mark.parametrize("size, calls", [(100_000, 2), (200_000, 1), (1, 300)])
def test_large_results_end_the_calls_for_now(size: int, calls: int) -> None:
    guest = Played()
    handle = guest.callbacks.hold(abi.CALLBACK_FUNCTION, lambda _: "é" * (size // 2) if size > 1 else "x")

    assert len(made(guest, key(handle), 1, list(range(300)))) == calls


@pytest.mark.parametrize("answer", ["12345", "ééé", b"12345"])
def test_no_call_is_made_after_a_result_that_is_too_large(answer: str | bytes) -> None:
    guest = Played()
    handle = guest.callbacks.hold(abi.CALLBACK_FUNCTION, lambda number: answer if number == 2 else "1234")

    assert made(guest, key(handle), 1, [1, 2, 3, 4], most=4) == ["1234", answer]


def test_no_call_is_made_after_a_swallowed_interrupt() -> None:
    guest = Played()
    endless = Endless()

    def function(number: int) -> int:
        if number == 2:
            try:
                endless()
            except CallbackInterrupted:
                return -2
        return number

    def interrupt() -> None:
        endless.started.wait()
        assert guest.callbacks.interrupt(lambda: True)

    handle = guest.callbacks.hold(abi.CALLBACK_FUNCTION, function)
    interrupter = threading.Thread(target=interrupt)
    interrupter.start()

    assert made(guest, key(handle), 1, [1, 2, 3, 4]) == [1, -2]
    interrupter.join()
    assert made(guest, key(handle), 1, [3, 4]) == [3, 4]


@pytest.mark.parametrize(
    "runs",
    [[], ["x", 1, [1]], [1, "x", [1]], [1, 1, "x"], [1, -1, [1]], [1.0, 1, [1]], [None] * 3, [1, 1, [1]], [[], 1, [1]]],
)
def test_malformed_calls_are_refused(runs: list[Any]) -> None:
    guest = Played()
    guest.callbacks.hold_instance(object())

    assert guest.call(abi.CALLBACK_CALLS, MOST, msgspec.msgpack.encode(runs))[0] == abi.CALLBACK_RAISED

    assert isinstance(guest.failure(), InternalError)


def test_only_functions_can_be_called_deferred() -> None:
    guest = Played()
    instance = guest.callbacks.hold_instance(object())
    authorizer = guest.callbacks.hold(abi.CALLBACK_AUTHORIZER, lambda *_: 0)

    for handle in (instance, authorizer, 99):
        runs = msgspec.msgpack.encode([key(handle), 1, [1]])
        assert guest.call(abi.CALLBACK_CALLS, MOST, runs)[0] == abi.CALLBACK_RAISED
        assert isinstance(guest.failure(), InternalError)
