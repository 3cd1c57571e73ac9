"""Host functions other than file operations: parking, large bodies, sleep, lock waits, local time, messages.

They run on the guest's thread. They share the guest's lock with the submitting side, so that "is there news?" and "I am
asleep" are one step and no wake-up is lost.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import TYPE_CHECKING

from rapsqlite import _constants as abi
from rapsqlite._callbacks.callbacks import Callbacks
from rapsqlite._guest.bell import check_bells
from rapsqlite._values.bounds import MOST_BODY_BYTES, check_values
from rapsqlite._values.pieces import copy_of, fill
from rapsqlite.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from rapsqlite._files.waiters import Waiter
    from rapsqlite._platform.interface import Parking
    from rapsqlite._wasm.rings import Rings
    from rapsqlite.runtime import Memory

logger = logging.getLogger("rapsqlite")

_NO_TIME = -(1 << 63)
_MOST_OTHERWISE_BYTES = 4 << 20
_U32 = 0xFFFF_FFFF
_MOST_MILLISECONDS = 0x7FFF_FFFF
_FIRST_NAP_S = 0.0005
_LONGEST_NAP_S = 0.05


class HostFunctions:
    """The callables behind the guest's non-file imports, and the thread's sleep."""

    def __init__(
        self,
        lock: threading.Lock,
        afterwards: AbstractContextManager[None],
        busy_timeout_s: float,
        waiter: Waiter,
        ring_bell: Callable[[], None],
        body_of: Callable[[int], tuple[bytes, bytes] | None],
        is_cancelled: Callable[[], bool],
        result_limit_bytes: int,
    ) -> None:
        """``result_limit_bytes`` is `Limits.max_bytes`; ``afterwards`` and the callables are the request queue's."""
        self.busy_timeout_s = busy_timeout_s
        self.stopping = False
        self.ringing = False
        self.last_message = ""
        self._bells = 0
        self.busy_waits = 0
        self.sleeps = False  # because the statement sleeps, not for lack of requests or a lock
        self._lock = lock
        self._afterwards = afterwards
        self._wake = threading.Lock()
        self._wake.acquire()
        self._asleep = False
        self._parking: Parking | None = None  # where the guest sleeps instead of in ``park``, if set
        self._busy_until = 0.0
        self._waiter = waiter
        waiter.sleep_by(self._rest, self._wake_waiter)
        self.rings: Rings | None = None  # set once the guest is up
        self.memory: Memory | None = None
        self.counts: dict[str, int] = {}  # number of calls by import, once the guest is up
        self.callbacks = Callbacks()
        self._ring_bell = ring_bell
        self._body_of = body_of
        self._is_cancelled = is_cancelled
        # Everything except result rows is short, or sent in pieces of a megabyte.
        most = max(result_limit_bytes, _MOST_OTHERWISE_BYTES) + abi.BATCH_BYTES
        self._most_spilled_bytes = min(most, MOST_BODY_BYTES) if result_limit_bytes else MOST_BODY_BYTES

    def table(self) -> dict[str, Callable[..., int | None]]:
        """Return the callables by import name."""
        names = (
            "park", "bell", "payload", "spill", "busy", "busy_timeout", "sleep", "localtime", "log", "callback_answer"
        )  # fmt: skip
        return {"callback": self.callbacks.call, **{name: getattr(self, name) for name in names}}

    # -- the thread's sleep ------------------------------------------------------------------------

    def park(self, reason: int) -> int:
        """Block until there is a request (idle) or space for a reply (full); return how to continue (PARKED_*)."""
        with self._afterwards, self._lock:
            self._asleep = not self.stopping and not self._has_news(reason)
            sleeps = self._asleep
        if sleeps:
            self._wake.acquire()
        return abi.PARKED_STOP if self.stopping else abi.PARKED_AGAIN

    def park_in(self, parking: Parking) -> None:
        """Set where the guest sleeps instead of in ``park``, before it runs."""
        self._parking = parking

    def stop(self) -> None:
        """Release resources when the guest's thread ends."""
        self.rings = self.memory = None
        self.callbacks.clear()

    def _has_news(self, reason: int) -> bool:
        rings = self.rings
        if rings is None:
            return True
        return rings.has_unanswered() if reason == abi.PARK_IDLE else not rings.has_replies()

    def unpark(self) -> None:
        """Wake the thread if it sleeps. Call with the lock held."""
        if self._asleep:
            self._asleep = False
            self._wake.release()
        elif self._parking is not None and self.rings is not None:
            self.rings.wake_if_parked(self._parking.unlock, self._parking.mutex)

    def wake_unconditionally(self) -> None:
        """Wake the thread unconditionally: the guest must stop. Any thread."""
        if self._parking is not None:
            self._parking.wake()

    def is_asleep(self) -> bool:
        """Return True if the thread sleeps. Call with the lock held."""
        return self._asleep or (self._parking is not None and self.rings is not None and self.rings.is_parked())

    def _nap(self, seconds: float, is_over: Callable[[], bool] = lambda: False) -> bool:
        """Sleep at most ``seconds``; False if the running request was cancelled or the guest must stop.

        Make ``is_over`` true before the wake-up, in case the thread does not sleep yet.
        """
        with self._afterwards, self._lock:
            if self._is_unwanted():
                return False
            if is_over():
                return True
            self._asleep = True
        woken = self._wake.acquire(timeout=seconds)
        with self._afterwards, self._lock:
            if not woken and not self._asleep:
                self._wake.acquire()  # the wake-up came between the two: consume it, so that none is left over
            self._asleep = False
            return not self._is_unwanted()

    def _is_unwanted(self) -> bool:
        return self.stopping or self._is_cancelled()

    def busy(self, attempt: int) -> int:
        """Wait for a lock held by another connection; 0 once the timeout is over or the statement was cancelled.

        When a connection of this process releases the lock it wakes the first waiter (`waiters`). For other holders the
        pause doubles from 0.5 ms to 50 ms and varies by half, so that two waiters do not keep in step.
        """
        waiter = self._waiter
        now = time.monotonic()
        if attempt == 0:
            self._busy_until = now + self.busy_timeout_s
            waiter.leave()
        left = self._busy_until - now
        if left > 0 and not waiter.may_sleep():
            return 1
        if left > 0:
            self.busy_waits += 1
            pause = waiter.nap_s(min(_FIRST_NAP_S * 2 ** min(attempt, 16), _LONGEST_NAP_S))
            pause = min(pause * random.uniform(0.5, 1.5), left)  # noqa: S311 - jitter, not a secret
            if self._nap(pause, waiter.is_called):
                waiter.rise()
                return 1
        waiter.give_up()
        return 0

    def _wake_waiter(self) -> None:
        with self._afterwards, self._lock:
            if self._asleep:
                self.unpark()

    def busy_timeout(self, milliseconds: int) -> int:
        """Set how long `busy` waits, unless told to keep it; return it in milliseconds, as `PRAGMA busy_timeout`."""
        if milliseconds != abi.BUSY_TIMEOUT_KEEP & _U32:
            self.busy_timeout_s = milliseconds / 1000
        return min(int(self.busy_timeout_s * 1000), _MOST_MILLISECONDS)

    def sleep(self, microseconds: int) -> None:
        """Sleep for that long; less if the running request is cancelled or the guest must stop."""
        self.sleeps = True
        try:
            self._sleep(microseconds / 1_000_000)
        finally:
            self.sleeps = False

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and self._nap(left):
            pass  # woken for a request, which has to wait

    def _rest(self, seconds: float) -> None:
        """Leave a lock to other processes for a moment; no longer than this connection waits for locks."""
        self._sleep(min(seconds, self.busy_timeout_s))

    # -- bodies too large for a ring ---------------------------------------------------------------

    def bell(self) -> None:
        """A reply is ready and the host had requested a bell."""
        self._bells += 1
        if self.rings is not None:
            check_bells(self._bells, self.rings)
        # A thread that is woken for the reply takes the GIL at once, so this one has to wait before it returns.
        self.ringing = True
        self._ring_bell()
        self.ringing = False

    def payload(self, request_id: int, address: int, length: int) -> int:
        """Copy the body of an EXTERNAL request to ``address``; 1 if there is no such request of that length."""
        body = self._body_of(request_id)
        if body is None or self.memory is None or len(body[0]) + len(body[1]) != length:
            return 1
        sql, params = body
        target = self.memory.view(address, length)
        fill(target[: len(sql)], sql)
        fill(target[len(sql) :], params)
        return 0

    def spill(self, address: int, length: int) -> int:
        """Take a private copy of a reply's body; 1 if it is too large, or the host's memory does not suffice."""
        rings = self.rings
        # An honest guest waits until these were taken; any other one tries to exhaust the host's memory.
        if rings is None or self.memory is None or len(rings.spilled) >= abi.SPILLS_AT_ONCE:
            return 1
        if length > self._most_spilled_bytes:
            return 1
        try:
            body = copy_of(self.memory.view(address, length))
        except MemoryError:
            return 1
        check_values(body)
        rings.spilled.append(body)
        return 0

    # -- the world outside -------------------------------------------------------------------------

    def localtime(self, seconds: int) -> int:
        """Return the offset of local time at ``seconds`` since 1970, in seconds east of UTC."""
        try:
            return time.localtime(seconds).tm_gmtoff
        except (OverflowError, OSError, ValueError):
            return _NO_TIME

    def log(self, address: int, length: int) -> None:
        """Log a message of the guest: a panic, or a message of SQLite's error log."""
        if self.memory is not None:
            message = bytes(self.memory.view(address, min(length, 4096)))
            self.last_message = message.decode("utf-8", "replace")
            logger.debug("guest: %s", self.last_message)

    # -- the user's callbacks ----------------------------------------------------------------------

    def callback_answer(self, address: int, length: int) -> int:
        """Copy the last callback's result to ``address``; 1 if it does not have that length."""
        if self.memory is None:
            raise InternalError("the guest called back before its memory was known")
        return self.callbacks.fetch_answer(self.memory.view(address, length))
