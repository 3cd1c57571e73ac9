"""The guests of this process: starting their threads, and what happens to them at exit and in a fork."""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from typing import TYPE_CHECKING, Protocol

from rapsqlite import runtime
from rapsqlite._guest import spin_budget
from rapsqlite._loops.worker import start_thread
from rapsqlite._platform import system

if TYPE_CHECKING:
    from rapsqlite._callbacks.callbacks import Callbacks

_JOIN_S = 5.0  # how long an exiting interpreter waits for guests to stop, and again for those it killed, in seconds


class Running(Protocol):
    """What the registry needs of each guest."""

    name: str

    @property
    def callbacks(self) -> Callbacks:
        """The callbacks that it may call."""
        ...

    def stop(self) -> None:
        """Make it stop immediately."""
        ...

    def kill(self) -> object:
        """Trap it."""
        ...

    def join(self, timeout_s: float) -> None:
        """Wait until its thread has ended."""
        ...

    def is_running(self) -> bool:
        """Return True while its thread exists."""
        ...

    def abandon_after_fork(self) -> None:
        """In a forked child: release what belongs to the parent."""
        ...


_live: weakref.WeakSet[Running] = weakref.WeakSet()
_live_lock = threading.Lock()
_stack_lock = threading.Lock()  # the stack size of new threads is one setting for the whole process
_exit_registered = False


def start(guest: Running, thread: threading.Thread) -> None:
    """Start a guest's thread with the stack size that wasm needs."""
    _register_exit()
    with _live_lock:
        _live.add(guest)  # first: the thread may run even if starting it raises KeyboardInterrupt
    with _stack_lock:
        previous = threading.stack_size()
        try:
            threading.stack_size(runtime.THREAD_STACK_BYTES)
            start_thread(thread)
        finally:
            threading.stack_size(previous)


def forget(guest: Running) -> None:
    """Remove a guest whose thread is about to end."""
    with _live_lock:
        _live.discard(guest)


def _register_exit() -> None:
    global _exit_registered
    if not _exit_registered:
        atexit.register(_stop_all)
        system.at_fork(in_child=_after_fork)
        _exit_registered = True  # last: Ctrl-C may come before, and registering twice does no harm


def _stop_all() -> None:
    """End every guest before the interpreter exits: threads must not call into Python afterwards."""
    with _live_lock:
        guests = list(_live)
    for guest in guests:
        guest.stop()
    _join(guests)
    stuck = [guest for guest in guests if guest.is_running()]
    for guest in stuck:
        guest.callbacks.interrupt(lambda: True)
        guest.kill()
    _join(stuck)


def _join(guests: list[Running]) -> None:
    deadline = time.monotonic() + _JOIN_S
    for guest in guests:
        guest.join(max(deadline - time.monotonic(), 0.0))


def _after_fork() -> None:
    global _stack_lock, _live_lock
    _stack_lock = threading.Lock()
    _live_lock = threading.Lock()
    runtime.forget_after_fork()
    spin_budget.forget_after_fork()
    for guest in list(_live):
        guest.abandon_after_fork()
    _live.clear()
