"""Callbacks that the guest calls through its table: each slot belongs to one callback at a time, and is reused."""

from __future__ import annotations

import struct
import weakref

import pytest

from rapsqlite import _constants as abi
from rapsqlite.errors import InternalError
from tests.guest.calling import ARGUMENT_BLOCK, Played


def test_callback_gets_its_own_slot_from_the_second_call_on() -> None:
    guest = Played()
    double = guest.callbacks.hold(abi.CALLBACK_FUNCTION, lambda value: 2 * value)
    spell = guest.callbacks.hold(abi.CALLBACK_COLLATION, str)

    for _ in range(3):
        assert guest.put(abi.CALLBACK_FUNCTION | double << 8, abi.FORM_INTEGER, 21) == (abi.FORM_INTEGER, 42)
        assert guest.put(abi.CALLBACK_COLLATION | spell << 8, abi.FORM_INTEGER, 21) == (abi.FORM_TEXT, 2)
        assert guest.text() == b"21"

    assert len(guest.table) == 2


def test_slot_is_assigned_only_on_request() -> None:
    guest = Played()
    handle = guest.callbacks.hold(abi.CALLBACK_FUNCTION, lambda: 1)

    for _ in range(3):
        struct.pack_into(
            "<6q", guest.memory, ARGUMENT_BLOCK, abi.CALLBACK_FUNCTION | handle << 8, abi.FORM_ARRAY, 0, 0, 0, 0
        )
        guest.callbacks.call()
        assert guest.word(abi.ARGUMENT_BLOCK_SLOT) == abi.NO_FUNCTION
    unknown = abi.CALLBACK_FUNCTION | 99 << 8
    struct.pack_into("<6q", guest.memory, ARGUMENT_BLOCK, unknown, abi.FORM_ARRAY, 0, 0, 0, 1)
    guest.callbacks.call()

    assert guest.word(abi.ARGUMENT_BLOCK_SLOT) == abi.NO_FUNCTION
    assert not guest.table


def test_slot_is_reused_after_its_callback_is_released() -> None:
    guest = Played()
    seen: list[int] = []

    for number in range(100):
        handle = guest.callbacks.hold(abi.CALLBACK_FUNCTION, lambda number=number: seen.append(number))
        guest.call(abi.CALLBACK_FUNCTION, handle)
        guest.call(abi.CALLBACK_FUNCTION, handle)
        guest.call(abi.CALLBACK_RELEASE, handle)

    assert seen == [number for number in range(100) for _ in range(2)]
    assert len(guest.table) == 1


def test_released_callback_is_not_called_and_not_kept() -> None:
    guest = Played()

    class Called:
        def __call__(self) -> int:
            return 1

    called = Called()
    kept = weakref.ref(called)
    handle = guest.callbacks.hold(abi.CALLBACK_FUNCTION, called)
    for _ in range(2):
        assert guest.call(abi.CALLBACK_FUNCTION, handle) == (abi.FORM_INTEGER, 1)
    guest.call(abi.CALLBACK_RELEASE, handle)
    del called

    assert kept() is None
    assert guest.call(abi.CALLBACK_FUNCTION, handle)[0] == abi.CALLBACK_RAISED
    assert isinstance(guest.failure(), InternalError)


def test_calls_use_the_import_when_the_table_is_full() -> None:
    guest = Played()
    guest.room = 0
    handle = guest.callbacks.hold(abi.CALLBACK_FUNCTION, lambda: 1)

    for _ in range(3):
        assert guest.call(abi.CALLBACK_FUNCTION, handle) == (abi.FORM_INTEGER, 1)

    assert not guest.table


@pytest.mark.parametrize("calls_before", [0, 1], ids=["by the import", "by the table"])
def test_failure_that_cannot_be_reported_ends_the_guest(calls_before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Played()
    broken = False

    def fail() -> None:
        if broken:
            raise ValueError("on purpose")

    handle = guest.callbacks.hold(abi.CALLBACK_FUNCTION, fail)
    for _ in range(calls_before):
        guest.call(abi.CALLBACK_FUNCTION, handle)
    broken = True
    untold = MemoryError("no room to keep it")

    def keep(_self: object, _failure: BaseException) -> int:
        raise untold

    monkeypatch.setattr(type(guest.callbacks.failures), "keep", keep)
    guest.ended_by.clear()
    struct.pack_into("<4q", guest.memory, ARGUMENT_BLOCK, abi.CALLBACK_FUNCTION | handle << 8, abi.FORM_NULL, 0, 0)
    enter = guest.table[0] if calls_before else guest.callbacks.call

    assert enter() == 1
    assert guest.ended_by == [untold]
