"""Arguments and results of callbacks in the argument block: every form, and input that no honest guest writes."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import pytest

from rapsqlite import _constants as abi
from rapsqlite.errors import InternalError
from tests.guest.calling import MEMORY_BYTES, ROOM, Played

UNKNOWN = 7  # form


@pytest.mark.parametrize("form", [abi.FORM_TEXT, abi.FORM_BLOB, abi.FORM_ARRAY])
@pytest.mark.parametrize("value, address", [(-1, 0), (1, MEMORY_BYTES), (1 << 40, 0), (8, -8), (1, 1 << 62)])
def test_address_outside_the_memory_is_an_exception_of_the_callback(form: int, value: int, address: int) -> None:
    guest = Played()
    calls: list[object] = []
    handle = guest.callbacks.hold(abi.CALLBACK_FUNCTION, calls.append)

    answer, _ = guest.put(abi.CALLBACK_FUNCTION | handle << 8, form + abi.FORM_FAR, value, address)

    assert answer == abi.CALLBACK_RAISED
    assert isinstance(guest.failure(), IndexError)
    assert not calls


@pytest.mark.parametrize("form, expected", [(abi.FORM_TEXT, str), (abi.FORM_BLOB, bytes)])
@pytest.mark.parametrize("length", [1 << 62, abi.ARGUMENT_BLOCK_ROOM + 1, -1, -(1 << 63)])
def test_length_beyond_the_argument_block_reads_nothing_else(form: int, expected: type, length: int) -> None:
    guest = Played()
    seen: list[Any] = []
    handle = guest.callbacks.hold(abi.CALLBACK_FUNCTION, seen.append)
    end = ROOM + abi.ARGUMENT_BLOCK_ROOM
    guest.memory[ROOM:end] = b"a" * abi.ARGUMENT_BLOCK_ROOM
    guest.memory[end : end + 100] = b"b" * 100

    for _ in range(2):
        guest.put(abi.CALLBACK_FUNCTION | handle << 8, form, length)

    assert all(type(argument) is expected for argument in seen)
    for argument in seen:
        assert set(argument) <= set("a" if form == abi.FORM_TEXT else b"a")
        assert len(argument) <= abi.ARGUMENT_BLOCK_ROOM


@pytest.mark.parametrize("far", [False, True], ids=["near", "far"])
@pytest.mark.parametrize(
    "form, value, data, expected",
    [
        (abi.FORM_NULL, 0, b"", None),
        (abi.FORM_INTEGER, -(1 << 63), b"", -(1 << 63)),
        (abi.FORM_FLOAT, struct.unpack("<q", struct.pack("<d", 1.5))[0], b"", 1.5),
        (abi.FORM_TEXT, 3, "aé".encode(), "aé"),
        (abi.FORM_TEXT, 0, b"", ""),
        (abi.FORM_BLOB, 2, b"\0\xff", b"\0\xff"),
        (UNKNOWN, 2, b"ab", b"ab"),
    ],
)
def test_single_argument_is_passed_and_returned_unchanged(
    form: int, value: int, data: bytes, expected: object, far: bool
) -> None:
    guest = Played()
    seen: list[object] = []

    def keep(argument: object) -> object:
        seen.append(argument)
        return argument

    handle = guest.callbacks.hold(abi.CALLBACK_FUNCTION, keep)
    key = abi.CALLBACK_FUNCTION | handle << 8
    for _ in range(2):  # through the import, and through the table
        if form in (abi.FORM_NULL, abi.FORM_INTEGER, abi.FORM_FLOAT):
            answer, result = guest.put(key, form, value)
        else:
            answer, result = guest.put_bytes(key, form, data, far)

        assert seen.pop() == expected
        assert answer == (abi.FORM_BLOB if form == UNKNOWN else form)
        if data:
            assert guest.text() == data
        elif form in (abi.FORM_INTEGER, abi.FORM_FLOAT):
            assert result == value


def test_text_that_is_not_utf8_is_an_exception_of_the_callback() -> None:
    guest = Played()
    handle = guest.callbacks.hold(abi.CALLBACK_FUNCTION, list)
    for far in (False, True):
        answer, _ = guest.put_bytes(abi.CALLBACK_FUNCTION | handle << 8, abi.FORM_TEXT, b"\xff", far)

        assert answer == abi.CALLBACK_RAISED
        assert isinstance(guest.failure(), UnicodeDecodeError)


@pytest.mark.parametrize("text", ["", "aé", "x" * 31, "x" * 32, "x" * 255, "x" * 256, "é" * 300])
def test_packed_text_is_passed_as_the_only_argument(text: str) -> None:
    guest = Played()
    seen: list[object] = []
    handle = guest.callbacks.hold(abi.CALLBACK_FUNCTION, seen.append)

    for _ in range(2):
        data = msgspec.msgpack.encode(text)
        answer, _ = guest.put_bytes(abi.CALLBACK_FUNCTION | handle << 8, abi.FORM_PACKED_TEXT, data)

        assert answer == abi.FORM_NULL
        assert seen.pop() == text


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\x05", b"\x90", b"\xa2a", b"\xa1a\xa1a", b"\xa1\xff", b"\xda\xff\xffa"]
)
@pytest.mark.parametrize("length", [None, -1, 1 << 62])
def test_malformed_packed_text_is_an_exception_of_the_callback(data: bytes, length: int | None) -> None:
    guest = Played()
    calls: list[object] = []
    handle = guest.callbacks.hold(abi.CALLBACK_FUNCTION, calls.append)
    guest.memory[ROOM : ROOM + len(data)] = data

    for _ in range(2):
        answer, _ = guest.put(
            abi.CALLBACK_FUNCTION | handle << 8, abi.FORM_PACKED_TEXT, len(data) if length is None else length
        )

        assert answer == abi.CALLBACK_RAISED
        assert isinstance(guest.failure(), (msgspec.DecodeError, UnicodeDecodeError))
    assert not calls


def test_views_of_many_argument_lengths_take_little_memory() -> None:
    """A view of the guest's memory is kept for each length, but not for all that a guest may name."""
    guest = Played()
    handle = guest.callbacks.hold(abi.CALLBACK_FUNCTION, str.upper)

    for length in (*range(1000), -1, -5000, 1 << 40):
        guest.put(abi.CALLBACK_FUNCTION | handle << 8, abi.FORM_PACKED_TEXT, length)

    kept = guest.callbacks._block.starts
    assert set(kept) == set(range(257))
    assert all(len(start) == length for length, start in kept.items())


def test_large_results_are_fetched_once_and_only_whole() -> None:
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


@pytest.mark.parametrize(
    "argument, answer",
    [
        (1, 2.5),
        (1, "text"),
        ("text", 1),
        ("text", 2.5),
        (2.5, 1),
        (2.5, "text"),
        (1, None),
        ("text", None),
        (1, b"b"),
        (1, True),
        (2.5, False),
        ("text", True),
        (2.5, None),
    ],
)
def test_result_may_have_another_type_than_the_argument(argument: Any, answer: Any) -> None:
    guest = Played()
    handle = guest.callbacks.hold(abi.CALLBACK_FUNCTION, lambda _argument: answer)
    key = abi.CALLBACK_FUNCTION | handle << 8
    forms = {int: abi.FORM_INTEGER, float: abi.FORM_FLOAT, str: abi.FORM_TEXT, bytes: abi.FORM_BLOB}
    forms[bool] = abi.FORM_INTEGER

    for _ in range(2):
        if isinstance(argument, str):
            form, value = guest.put_bytes(key, abi.FORM_TEXT, argument.encode())
        else:
            form, value = guest.put(key, forms[type(argument)], 1)

        assert form == forms.get(type(answer), abi.FORM_NULL)
        if isinstance(answer, float):
            assert struct.unpack("<d", struct.pack("<q", value))[0] == answer
        elif isinstance(answer, int):
            assert value == answer
        elif isinstance(answer, str):
            assert guest.text() == answer.encode()


@pytest.mark.parametrize("address", [1, 4, MEMORY_BYTES, MEMORY_BYTES - 8])
def test_impossible_argument_block_is_refused(address: int) -> None:
    guest = Played()

    with pytest.raises((InternalError, IndexError)):
        guest.attach(address)


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
