"""The guests that run in this process: how their threads start, and what becomes of them at its exit and in a fork."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from typing import TYPE_CHECKING

from rapsqlite import runtime
from rapsqlite._guest import spin_budget

if TYPE_CHECKING:
    from rapsqlite._guest.guest import Guest

_JOIN_S = 5.0  # how long the interpreter waits for a guest when it exits

_live: weakref.WeakSet[Guest] = weakref.WeakSet()
_stack_lock = threading.Lock()  # the stack size of new threads is one setting for the whole process
_exit_registered = False


def start(guest: Guest, thread: threading.Thread) -> None:
    """Start a guest's thread, with the stack that wasm needs."""
    _register_exit()
    with _stack_lock:
        previous = threading.stack_size(runtime.THREAD_STACK_BYTES)
        try:
            thread.start()
        finally:
            threading.stack_size(previous)
    _live.add(guest)


def forget(guest: Guest) -> None:
    """Do not count on a guest any more: its thread is about to end."""
    _live.discard(guest)


def _register_exit() -> None:
    global _exit_registered
    if not _exit_registered:
        _exit_registered = True
        atexit.register(_stop_all)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_after_fork)


def _stop_all() -> None:
    """End every guest before the interpreter does: its thread must not call into Python afterwards."""
    guests = list(_live)
    for guest in guests:
        guest.stop()
    for guest in guests:
        guest.join(_JOIN_S)
        if guest.is_running():
            guest.callbacks.interrupt(lambda: True)
            guest.kill()
            guest.join(_JOIN_S)


def _after_fork() -> None:
    global _stack_lock
    _stack_lock = threading.Lock()
    runtime.forget_after_fork()
    spin_budget.forget_after_fork()
    for guest in list(_live):
        guest.abandon_after_fork()
    _live.clear()
