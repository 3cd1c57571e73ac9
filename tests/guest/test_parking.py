"""The sleep of a guest's thread in a C function: only waking ends it."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from typing import TYPE_CHECKING, cast

import pytest

from rapsqlite._platform import system
from rapsqlite._wasm.parking import install

if TYPE_CHECKING:
    from rapsqlite._platform.interface import Parking
    from rapsqlite._wasm.control_block import Words

pytestmark = pytest.mark.skipif(not system.has_parking, reason="guests sleep in an import here")


def sleeper(parking: Parking) -> tuple[threading.Thread, list[int]]:
    """Start a thread that sleeps as a guest does: the C function, with the arguments of a host function."""
    sleep = ctypes.CFUNCTYPE(ctypes.c_size_t, *[ctypes.c_size_t] * 4)(parking.function)
    begun = threading.Event()
    returned: list[int] = []

    def run() -> None:
        begun.set()
        returned.append(sleep(parking.argument, 1, 2, 3))

    thread = threading.Thread(target=run)
    thread.start()
    begun.wait()
    return thread, returned


def in_thread(parking: Parking) -> list[bool]:
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(parking.works()))
    thread.start()
    thread.join()
    return found


def test_c_library_of_this_machine_passes_the_trial() -> None:
    assert in_thread(system.new_parking()) == [True]


def test_unlocked_mutex_fails_the_trial() -> None:
    parking = system.new_parking()
    parking.wake()

    assert in_thread(parking) == [False]


@pytest.mark.parametrize("index, installed", [(7, True), (0, False)])
def test_guest_gets_the_parking_function_if_its_table_has_space(index: int, installed: bool) -> None:
    class PlayedWords:
        sleep = 0

        def set_sleep(self, index: int) -> None:
            self.sleep = index

    words = PlayedWords()
    found: list[bool] = []
    parking = system.new_parking()
    thread = threading.Thread(
        target=lambda: found.append(install(parking, cast("Words", words), lambda _address, _argument: index))
    )
    thread.start()
    thread.join()

    assert found[0] is installed
    assert words.sleep == index


def test_sleep_lasts_until_waking_and_returns_success() -> None:
    parking = system.new_parking()
    for _ in range(100):
        thread, returned = sleeper(parking)
        assert returned == []
        parking.wake()
        thread.join()
        assert returned == [0]


def test_waking_before_the_sleep_is_not_lost() -> None:
    parking = system.new_parking()
    parking.wake()
    parking.wake()  # twice counts as once

    thread, returned = sleeper(parking)
    thread.join()
    assert returned == [0]

    thread, returned = sleeper(parking)
    assert thread.is_alive()
    parking.wake()
    thread.join()


def test_signals_to_the_sleeping_thread_do_not_end_the_sleep() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    previous = signal.signal(signal.SIGUSR1, lambda _number, _frame: None)
    signal.set_wakeup_fd(writer)
    try:
        parking = system.new_parking()
        thread, returned = sleeper(parking)
        for _ in range(50):
            assert thread.ident is not None
            signal.pthread_kill(thread.ident, signal.SIGUSR1)
            os.read(reader, 1)  # the thread itself writes it, in the handler
            assert returned == []
        parking.wake()
        thread.join()
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGUSR1, previous)
        os.close(reader)
        os.close(writer)
    assert returned == [0]
