"""Interrupts a callback that does not return, by raising an exception in its thread.

CPython delivers such an exception some time after the request, so it could hit unrelated code. `CallbackInterrupt`
ensures that it hits only the intended callback, or the few lines that wait for it: either the sender sees that no
callback runs, or the thread, before it leaves its callback, sees that an exception is on its way, waits until that is
decided, and takes it if it was not delivered. It is never withdrawn: before Python 3.13, that leaves a mark by which
every thread checks for exceptions for ever, and under a trace function of Python 3.11 does nothing else. Code that
blocks outside Python, such as ``time.sleep``, is not interrupted.
https://docs.python.org/3/c-api/threads.html#c.PyThreadState_SetAsyncExc
"""

from __future__ import annotations

import ctypes
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_NONE, _UNDER_WAY, _SENT = 0, 1, 2
_PAUSE_S = 0.0001
_EARLY_S = 0.02  # a timer may fire this much too early, because of the resolution of clocks
_JUMPS = 3  # one is enough for CPython to deliver an exception

_raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
_raise_in.argtypes = (ctypes.c_ulong, ctypes.py_object)
_raise_in.restype = ctypes.c_int


class CallbackInterrupted(BaseException):
    """The statement that called this callback was cancelled or interrupted, and the callback did not return."""


class CallbackInterrupt:
    """Interrupts the callbacks of one thread, one interrupt at a time and at most one per callback."""

    __slots__ = ("_lock", "_sent_at", "left", "state", "target")

    def __init__(self) -> None:
        self.target = 0  # the thread, while it runs a callback; written only by that thread
        self.state = _NONE  # not 0: the thread retracts it, after clearing the target and before leaving its callback
        self.left: list[Any] = []  # arguments of calls that this callback still has to make
        self._sent_at = 0.0
        self._lock = threading.Lock()

    def has_no_effect_after(self, grace_period_s: float) -> bool:
        """Return True if the running callback was sent an interrupt this long ago and still runs. Any thread."""
        if self.state != _SENT or not self.target:
            return False
        return time.monotonic() - self._sent_at >= grace_period_s - _EARLY_S

    def send(self, is_wanted: Callable[[], bool]) -> bool:
        """Raise CallbackInterrupted in the running callback; False if there is none, or it was already interrupted.

        ``is_wanted`` is called when the callback can no longer end unnoticed. Any other thread.
        """
        with self._lock:
            if self.state != _NONE:
                return False
            self.state = _UNDER_WAY
            sent = False
            try:
                # In this order: the thread clears the target before it checks the state.
                target = self.target
                if target and is_wanted():
                    self.left.clear()  # first, so that code which swallows the exception is not called again
                    self._sent_at = time.monotonic()
                    sent = _raise_in(target, CallbackInterrupted) == 1
            finally:
                self.state = _SENT if sent else _NONE
            return sent

    def retract(self) -> None:
        """Wait for an interrupt in progress and take it if it has not been delivered. Call on the thread itself.

        Raises CallbackInterrupted if it is delivered at the wrong moment: then call it again, once.
        """
        while self.state == _UNDER_WAY:
            time.sleep(_PAUSE_S)
        if self.state == _SENT:
            try:
                for _ in range(_JUMPS):  # CPython delivers it at the next jump
                    pass
            except CallbackInterrupted:
                pass
            self.state = _NONE
