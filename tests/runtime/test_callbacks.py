"""What a guest may call: handles, kinds and bytes that no honest guest passes are answered, never raised."""

from __future__ import annotations

import gc
import threading
import weakref

import msgspec
import pytest

from rapsqlite import _constants as abi
from rapsqlite._callbacks import Callbacks
from rapsqlite._handles import Handles
from rapsqlite.errors import InternalError, ProgrammingError

NO_ARGUMENTS = memoryview(b"\x90")


def place() -> memoryview:
    return memoryview(bytearray(abi.CALLBACK_ANSWER_BYTES))


def failure_of(callbacks: Callbacks, answer: memoryview) -> BaseException | None:
    return callbacks.take_failure(int.from_bytes(answer[:4], "little"))


@pytest.mark.parametrize(
    "kind", [*range(abi.CALLBACK_FUNCTION, abi.CALLBACK_WAL + 1), 99, 0xFFFF_FFFF, 0xFFFF_FFFE], ids=hex
)
def test_unknown_handles_and_other_kinds_are_refused(kind: int) -> None:
    callbacks = Callbacks()
    held = {
        "nothing": 0,
        "unknown": 12345,
        "function": callbacks.hold(abi.CALLBACK_FUNCTION if kind != abi.CALLBACK_FUNCTION else 2, list),
        "instance": callbacks.hold_instance(object()),
    }
    if kind in range(abi.CALLBACK_STEP, abi.CALLBACK_FINALIZE + 1):
        held.pop("instance")
    for handle in held.values():
        answer = place()

        assert callbacks.call(kind, handle, NO_ARGUMENTS, answer) == abi.CALLBACK_RAISED

        if kind not in (abi.CALLBACK_TRACE, abi.CALLBACK_ROLLBACK):
            assert isinstance(failure_of(callbacks, answer), InternalError)
    assert callbacks.thread == 0


@pytest.mark.parametrize(
    "arguments",
    [b"", b"\xc1", b"\x05", b"\xdd\xff\xff\xff\xff", b"\x91\xa1\xff", b"\x91" * 100_000, b"\x91\xc6\xff\xff\xff\xff"],
)
def test_malformed_arguments_are_an_exception_of_the_callback(arguments: bytes) -> None:
    callbacks = Callbacks()
    calls: list[object] = []
    handle = callbacks.hold(abi.CALLBACK_FUNCTION, calls.append)
    answer = place()

    assert callbacks.call(abi.CALLBACK_FUNCTION, handle, memoryview(arguments), answer) == abi.CALLBACK_RAISED

    assert isinstance(failure_of(callbacks, answer), (msgspec.DecodeError, RecursionError, UnicodeDecodeError))
    assert not calls


def test_released_handles_are_unknown_and_released_twice_without_harm() -> None:
    callbacks = Callbacks()
    handle = callbacks.hold(abi.CALLBACK_FUNCTION, list)
    for _ in range(2):
        assert callbacks.call(abi.CALLBACK_RELEASE, handle, NO_ARGUMENTS, place()) == 0

    assert len(callbacks) == 0
    assert callbacks.call(abi.CALLBACK_FUNCTION, handle, NO_ARGUMENTS, place()) == abi.CALLBACK_RAISED


def test_large_answers_are_fetched_once_and_only_whole() -> None:
    callbacks = Callbacks()
    handle = callbacks.hold(abi.CALLBACK_FUNCTION, lambda: "x" * 2000)

    for wrong in (0, 1, 5000):
        length = callbacks.call(abi.CALLBACK_FUNCTION, handle, NO_ARGUMENTS, place())
        assert callbacks.fetch_answer(memoryview(bytearray(wrong))) == 1
        assert callbacks.fetch_answer(memoryview(bytearray(length))) == 1

    target = memoryview(bytearray(callbacks.call(abi.CALLBACK_FUNCTION, handle, NO_ARGUMENTS, place())))
    assert callbacks.fetch_answer(target) == 0
    assert msgspec.msgpack.decode(target) == "x" * 2000


def test_exceptions_nobody_asks_for_do_not_pile_up() -> None:
    """A guest may never tell in a reply that a callback raised."""
    callbacks = Callbacks()

    class NotedError(Exception):
        pass

    first: list[weakref.ref[BaseException]] = []

    def fail() -> None:
        error = NotedError()
        if not first:
            first.append(weakref.ref(error))
        raise error

    handle = callbacks.hold(abi.CALLBACK_FUNCTION, fail)
    for _ in range(5000):
        callbacks.call(abi.CALLBACK_FUNCTION, handle, NO_ARGUMENTS, place())

    gc.collect()
    assert first[0]() is None
    assert len(callbacks._failures) <= 4096


def test_use_is_refused_in_the_thread_of_the_callback_only() -> None:
    callbacks = Callbacks()
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
    answer = place()
    callbacks.call(abi.CALLBACK_FUNCTION, handle, NO_ARGUMENTS, answer)

    assert allowed == [True]
    assert isinstance(failure_of(callbacks, answer), ProgrammingError)
    callbacks.refuse_use()


def test_handles_are_never_used_twice() -> None:
    handles: Handles[str] = Handles()
    numbers = []
    for _ in range(100):
        numbers.append(handles.hold("x"))
        handles.release(numbers[-1])

    assert len(set(numbers)) == 100
    assert min(numbers) > 0
    assert len(handles) == 0
