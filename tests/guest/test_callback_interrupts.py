"""Callbacks that do not return are interrupted; nothing else is."""

from __future__ import annotations

import gc
import sys
import threading
from typing import TYPE_CHECKING

from rapsqlite import _constants as abi
from rapsqlite._callbacks import async_exception
from tests.guest.calling import Played
from tests.played_time import PlayedTime

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from rapsqlite._callbacks.callbacks import Callbacks


def interrupted(
    function: Callable[[], object], *, is_wanted: bool = True, afterwards: Callable[[Callbacks], object] = id
) -> tuple[Played, bool]:
    """Call ``function`` in a separate thread while another one interrupts it; return whether the interrupt was sent."""
    guest = Played()
    started = threading.Event()

    def run() -> object:
        started.set()
        return function()

    def play() -> None:
        guest.attach()
        guest.call(abi.CALLBACK_FUNCTION, guest.callbacks.hold(abi.CALLBACK_FUNCTION, run))

    thread = threading.Thread(target=play)
    thread.start()
    started.wait(30)
    sent = guest.callbacks.interrupt(lambda: is_wanted)
    afterwards(guest.callbacks)
    thread.join(30)
    assert not thread.is_alive()
    return guest, sent


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


def test_interrupt_is_raised_only_inside_its_callback() -> None:
    """A thread that keeps calling back is interrupted continuously; code outside a callback never sees it."""
    guest = Played()
    enough = threading.Event()
    outside: list[BaseException] = []
    inside = 0

    def play() -> None:
        nonlocal inside
        guest.attach()
        handle = guest.callbacks.hold(abi.CALLBACK_FUNCTION, lambda: sum(range(50)))
        try:
            while not enough.is_set():
                form, _ = guest.call(abi.CALLBACK_FUNCTION, handle)
                inside += form == abi.CALLBACK_RAISED
                sum(range(50))
        except BaseException as exc:  # noqa: BLE001 - this is what must not happen
            outside.append(exc)

    interval = sys.getswitchinterval()
    gc.disable()  # in a finalizer of other tests' garbage an exception would be reported, and lost
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


def test_interrupt_that_is_no_longer_wanted_is_not_sent() -> None:
    done = threading.Event()

    def wait() -> str:
        done.wait(30)
        return "undisturbed"

    guest, sent = interrupted(wait, is_wanted=False, afterwards=lambda _: done.set())

    assert not sent
    assert guest.text() == b"undisturbed"


def test_interrupt_has_no_effect_only_if_the_callback_still_runs_after_its_grace_period(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, done, seen = PlayedTime(), threading.Event(), list[bool]()
    monkeypatch.setattr(async_exception, "time", clock)

    def look(callbacks: Callbacks) -> None:
        for clock.now in (0, 4, 5):
            seen.append(callbacks.run_on(5))
        done.set()

    guest, sent = interrupted(lambda: done.wait(30), afterwards=look)

    assert sent
    assert seen == [False, False, True]
    assert not guest.callbacks.run_on(5)
