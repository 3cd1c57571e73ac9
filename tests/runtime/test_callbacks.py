"""What a guest may call: handles, kinds and bytes that no honest guest passes are answered, never raised."""

from __future__ import annotations

import gc
import struct
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from rapsqlite import _constants as abi
from rapsqlite._callbacks import Callbacks
from rapsqlite._handles import Handles
from rapsqlite.errors import InternalError, ProgrammingError

if TYPE_CHECKING:
    from collections.abc import Callable

MEMORY_BYTES = 1 << 20
PLACE = 4096
ARGUMENTS = 65536
NO_ARGUMENTS = b"\x90"


class Played:
    """A guest's memory, and what it does to call back."""

    def __init__(self) -> None:
        self.memory = bytearray(MEMORY_BYTES)
        self.callbacks = Callbacks()
        self.callbacks.attach(self.view, PLACE)

    def view(self, address: int, length: int) -> memoryview:
        if address < 0 or length < 0 or address + length > len(self.memory):
            raise IndexError("outside of the memory")
        return memoryview(self.memory)[address : address + length]

    def word(self, index: int) -> int:
        return int(struct.unpack_from("<q", self.memory, PLACE + 8 * index)[0])

    def put(self, key: int, form: int, value: int = 0, address: int = 0) -> tuple[int, int]:
        """Call with these four words; return the answer's form and value."""
        struct.pack_into("<4q", self.memory, PLACE, key, form, value, address)
        self.callbacks.call()
        return self.word(abi.PLACE_FORM), self.word(abi.PLACE_VALUE)

    def call(self, kind: int, handle: int, arguments: bytes = NO_ARGUMENTS) -> tuple[int, int]:
        """Call with an array in MessagePack."""
        self.memory[ARGUMENTS : ARGUMENTS + len(arguments)] = arguments
        return self.put(kind | handle << 8, abi.FORM_ARRAY, len(arguments), ARGUMENTS)

    def failure(self) -> BaseException | None:
        return self.callbacks.failures.take(self.word(abi.PLACE_VALUE))

    def text(self) -> bytes:
        start = PLACE + abi.CALLBACK_PLACE_HEAD
        return bytes(self.memory[start : start + self.word(abi.PLACE_VALUE)])


class Total:
    """An aggregate that keeps what it was given."""

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
def test_unknown_handles_and_other_kinds_are_refused(kind: int) -> None:
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


def test_handle_of_several_functions_is_one_and_forgets_them_all() -> None:
    guest = Played()
    handle = guest.callbacks.hold_several({abi.CALLBACK_FUNCTION: lambda: 1, abi.CALLBACK_BUSY: lambda: 2})

    assert guest.call(abi.CALLBACK_FUNCTION, handle) == (abi.FORM_INTEGER, 1)
    assert guest.call(abi.CALLBACK_BUSY, handle) == (abi.FORM_INTEGER, 2)

    guest.call(abi.CALLBACK_RELEASE, handle)

    assert len(guest.callbacks) == 0
    assert guest.call(abi.CALLBACK_FUNCTION, handle)[0] == abi.CALLBACK_RAISED
    assert guest.call(abi.CALLBACK_BUSY, handle)[0] == abi.CALLBACK_RAISED


@pytest.mark.parametrize(
    "arguments",
    [b"", b"\xc1", b"\x05", b"\xdd\xff\xff\xff\xff", b"\x91\xa1\xff", b"\x91" * 100_000, b"\x91\xc6\xff\xff\xff\xff",
     b"\x91\xc7\x00\x09"],
)  # fmt: skip
def test_malformed_arguments_are_an_exception_of_the_callback(arguments: bytes) -> None:
    guest = Played()
    calls: list[object] = []
    handle = guest.callbacks.hold(abi.CALLBACK_FUNCTION, calls.append)

    assert guest.call(abi.CALLBACK_FUNCTION, handle, arguments)[0] == abi.CALLBACK_RAISED

    assert isinstance(guest.failure(), (msgspec.DecodeError, RecursionError, UnicodeDecodeError, InternalError))
    assert not calls


@pytest.mark.parametrize("form", [abi.FORM_TEXT, abi.FORM_BLOB, abi.FORM_ARRAY])
@pytest.mark.parametrize("value, address", [(-1, 0), (1, MEMORY_BYTES), (1 << 40, 0), (8, -8), (1, 1 << 62)])
def test_addresses_outside_of_the_memory_are_an_exception_of_the_callback(form: int, value: int, address: int) -> None:
    guest = Played()
    calls: list[object] = []
    handle = guest.callbacks.hold(abi.CALLBACK_FUNCTION, calls.append)

    answer, _ = guest.put(abi.CALLBACK_FUNCTION | handle << 8, form, value, address)

    assert answer == abi.CALLBACK_RAISED
    assert isinstance(guest.failure(), IndexError)
    assert not calls


@pytest.mark.parametrize(
    "form, value, data, expected",
    [
        (abi.FORM_NULL, 0, b"", None),
        (abi.FORM_INTEGER, -(1 << 63), b"", -(1 << 63)),
        (abi.FORM_FLOAT, struct.unpack("<q", struct.pack("<d", 1.5))[0], b"", 1.5),
        (abi.FORM_TEXT, 3, "aé".encode(), "aé"),
        (abi.FORM_TEXT, 0, b"", ""),
        (abi.FORM_BLOB, 2, b"\0\xff", b"\0\xff"),
        (77, 2, b"ab", b"ab"),
    ],
)
def test_one_argument_goes_as_it_is_and_comes_back(form: int, value: int, data: bytes, expected: object) -> None:
    guest = Played()
    seen: list[object] = []

    def keep(argument: object) -> object:
        seen.append(argument)
        return argument

    handle = guest.callbacks.hold(abi.CALLBACK_FUNCTION, keep)
    guest.memory[ARGUMENTS : ARGUMENTS + len(data)] = data

    answer, result = guest.put(abi.CALLBACK_FUNCTION | handle << 8, form, value, ARGUMENTS)

    assert seen == [expected]
    assert type(seen[0]) is type(expected)
    if form == 77:
        assert answer == abi.FORM_BLOB
    else:
        assert answer == form
    if data:
        assert guest.text() == data
    elif form in (abi.FORM_INTEGER, abi.FORM_FLOAT):
        assert result == value


def test_text_that_is_not_utf8_is_an_exception_of_the_callback() -> None:
    guest = Played()
    handle = guest.callbacks.hold(abi.CALLBACK_FUNCTION, list)
    guest.memory[ARGUMENTS] = 0xFF

    assert guest.put(abi.CALLBACK_FUNCTION | handle << 8, abi.FORM_TEXT, 1, ARGUMENTS)[0] == abi.CALLBACK_RAISED

    assert isinstance(guest.failure(), UnicodeDecodeError)


def steps(*runs: Any) -> bytes:
    return msgspec.msgpack.encode([*runs])


def test_steps_are_done_in_order_whatever_their_width() -> None:
    guest = Played()
    one, other = guest.callbacks.hold_instance(Total()), guest.callbacks.hold_instance(Total())

    guest.call(abi.CALLBACK_STEPS, 0, steps(one, 1, [1, 2], other, 2, [3, 4, 5, 6], one, 0, [None], -one, 1, [1]))

    assert guest.call(abi.CALLBACK_VALUE, one)[0] == abi.FORM_TEXT
    assert guest.text() == b"[(2,), ()]"
    guest.call(abi.CALLBACK_FINALIZE, other, steps(other, 1, [9]))
    assert guest.text() == b"[(3, 4), (5, 6), (9,)]"
    assert len(guest.callbacks) == 1


def test_failed_step_is_the_last_one_and_its_instance_goes_on_failing() -> None:
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


def test_released_handles_are_unknown_and_released_twice_without_harm() -> None:
    guest = Played()
    handle = guest.callbacks.hold(abi.CALLBACK_FUNCTION, list)
    for _ in range(2):
        assert guest.call(abi.CALLBACK_RELEASE, handle)[0] == abi.FORM_NULL

    assert len(guest.callbacks) == 0
    assert guest.call(abi.CALLBACK_FUNCTION, handle)[0] == abi.CALLBACK_RAISED


def test_large_answers_are_fetched_once_and_only_whole() -> None:
    guest = Played()
    handle = guest.callbacks.hold(abi.CALLBACK_FUNCTION, lambda: "x" * 2000)

    for wrong in (0, 1, 5000):
        _, length = guest.call(abi.CALLBACK_FUNCTION, handle)
        assert guest.callbacks.fetch_answer(memoryview(bytearray(wrong))) == 1
        assert guest.callbacks.fetch_answer(memoryview(bytearray(length))) == 1

    target = bytearray(guest.call(abi.CALLBACK_FUNCTION, handle)[1])
    assert guest.callbacks.fetch_answer(memoryview(target)) == 0
    assert target == b"x" * 2000


@pytest.mark.parametrize("value", [1 << 63, -(1 << 63) - 1, type("I", (int,), {})(1 << 63)])
def test_integers_beyond_64_bits_are_too_large(value: int) -> None:
    guest = Played()
    handle = guest.callbacks.hold(abi.CALLBACK_FUNCTION, lambda: value)

    assert guest.call(abi.CALLBACK_FUNCTION, handle)[0] == abi.CALLBACK_TOO_LARGE

    assert isinstance(guest.failure(), OverflowError)


def test_exceptions_nobody_asks_for_do_not_pile_up() -> None:
    """A guest may never tell in a reply that a callback raised."""
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


def test_use_is_refused_in_the_thread_of_the_callback_only() -> None:
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


@pytest.mark.parametrize("place", [1, 4, MEMORY_BYTES, MEMORY_BYTES - 8])
def test_impossible_place_is_refused(place: int) -> None:
    guest = Played()

    with pytest.raises((InternalError, IndexError)):
        Callbacks().attach(guest.view, place)


def test_nothing_of_a_guest_that_has_ended_is_looked_at() -> None:
    guest = Played()
    guest.callbacks.hold(abi.CALLBACK_FUNCTION, list)

    guest.callbacks.clear()

    assert len(guest.callbacks) == 0
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


def interrupted(function: Callable[[], object]) -> tuple[Played, bool]:
    """Call ``function`` in a thread of its own while another one strikes; return whether a strike was sent."""
    guest = Played()
    sent: list[bool] = []
    started = threading.Event()

    def run() -> object:
        started.set()
        return function()

    def play() -> None:
        guest.callbacks.attach(guest.view, PLACE)
        guest.call(abi.CALLBACK_FUNCTION, guest.callbacks.hold(abi.CALLBACK_FUNCTION, run))

    thread = threading.Thread(target=play)
    thread.start()
    started.wait(30)
    sent.append(guest.callbacks.interrupt(lambda: True))
    thread.join(30)
    assert not thread.is_alive()
    return guest, sent[0]


def endless() -> None:
    while True:
        pass


def test_endless_callback_is_interrupted_with_an_exception_nothing_catches_by_accident() -> None:
    guest, sent = interrupted(endless)

    assert sent
    failure = guest.failure()
    assert type(failure).__name__ == "CallbackInterrupted"
    assert not isinstance(failure, Exception)
    assert guest.callbacks.thread == 0


def test_strike_hits_nothing_but_its_callback() -> None:
    """A thread that calls back all the time is struck all the time; whatever is not in a callback never sees it."""
    guest = Played()
    enough = threading.Event()
    outside: list[BaseException] = []
    inside = 0

    def play() -> None:
        nonlocal inside
        guest.callbacks.attach(guest.view, PLACE)
        handle = guest.callbacks.hold(abi.CALLBACK_FUNCTION, lambda: sum(range(50)))
        try:
            while not enough.is_set():
                form, _ = guest.call(abi.CALLBACK_FUNCTION, handle)
                inside += form == abi.CALLBACK_RAISED
                sum(range(50))
        except BaseException as exc:  # noqa: BLE001 - this is what must not happen
            outside.append(exc)

    interval = sys.getswitchinterval()
    gc.disable()  # in a finalizer of other tests' garbage an exception is reported, and lost
    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=play)
    thread.start()
    sent = 0
    while sent < 100 and thread.is_alive():
        sent += guest.callbacks.interrupt(lambda: True)
    enough.set()
    thread.join()
    sys.setswitchinterval(interval)
    gc.enable()

    assert not outside
    assert inside <= sent
    assert guest.callbacks.thread == 0


def test_unwanted_strike_is_not_sent() -> None:
    done = threading.Event()
    guest = Played()
    started = threading.Event()

    def wait() -> str:
        started.set()
        done.wait(30)
        return "undisturbed"

    def play() -> None:
        guest.callbacks.attach(guest.view, PLACE)
        guest.call(abi.CALLBACK_FUNCTION, guest.callbacks.hold(abi.CALLBACK_FUNCTION, wait))

    thread = threading.Thread(target=play)
    thread.start()
    started.wait(30)

    assert not guest.callbacks.interrupt(lambda: False)
    done.set()
    thread.join(30)
    assert guest.text() == b"undisturbed"
