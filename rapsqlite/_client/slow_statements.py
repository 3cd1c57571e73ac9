"""Slow-statement reports: a wrapper around a connection's guest that times its statements.

Connections without reports pay nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

from rapsqlite import _constants as abi

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite._client.state import ConnectionState
    from rapsqlite._guest.guest import Guest
    from rapsqlite._guest.request import PendingRequest
    from rapsqlite._wasm.rings import Reply, Request

_TIMED = frozenset(
    {
        abi.OP_EXECUTE,
        abi.OP_FETCH,
        abi.OP_MANY,
        abi.OP_SCRIPT,
        abi.OP_PREPARE,
        abi.OP_FETCH_PREPARED,
        abi.OP_EXECUTE_PREPARED,
        abi.OP_BLOCK_ENTER,
        abi.OP_BLOCK_KEEP,
        abi.OP_BLOCK_UNDO,
    }
)


class SlowStatementGuest:
    """Passes everything on to ``guest``, and reports statements that take longer than ``threshold_s``."""

    def __init__(self, guest: Guest, threshold_s: float, callback: Callable[[float, str], object] | None) -> None:
        self.guest = guest
        self._threshold_s = threshold_s
        self._callback = callback
        self._sent: dict[int, tuple[float, bytes]] = {}  # start time and SQL of submitted requests, by identity

    def __getattr__(self, name: str) -> Any:
        return getattr(self.guest, name)

    async def call(self, request: Request) -> Reply:
        """See `Guest.call`."""
        begun = time.perf_counter()
        try:
            return await self.guest.call(request)
        finally:
            self._account(request, begun)

    async def collect(self, request: Request, decode: Callable[[bytes], list[Any]]) -> tuple[list[Any], Reply]:
        """See `Guest.collect`."""
        begun = time.perf_counter()
        try:
            return await self.guest.collect(request, decode)
        finally:
            self._account(request, begun)

    def submit(self, pending: PendingRequest) -> None:
        """See `Guest.submit`."""
        self.guest.submit(pending)
        if pending.request.op in _TIMED:
            self._sent[id(pending)] = (time.perf_counter(), self._text(pending.request))

    async def result(self, pending: PendingRequest) -> Reply:
        """See `Guest.result`."""
        try:
            return await self.guest.result(pending)
        finally:
            begun, sql = self._sent.pop(id(pending), (0.0, b""))
            if begun:
                self._report(time.perf_counter() - begun, sql)

    def abandon(self, pending: PendingRequest) -> None:
        """See `Guest.abandon`."""
        self._sent.pop(id(pending), None)
        self.guest.abandon(pending)

    def _account(self, request: Request, begun: float) -> None:
        if request.op in _TIMED:
            self._report(time.perf_counter() - begun, self._text(request))

    def _text(self, request: Request) -> bytes:
        """Return the SQL of a request; for a prepared statement the request has only the handle."""
        return request.sql or self.guest.prepared.get(request.target, b"")

    def _report(self, seconds: float, sql: bytes) -> None:
        if seconds < self._threshold_s:
            return
        import logging  # imported only with slow-statement reports

        logger = logging.getLogger("rapsqlite")
        text = sql.decode("utf-8", "replace") or "COMMIT"  # an empty script, which only commits
        if self._callback is None:
            logger.warning("a statement took %.3f s: %s", seconds, text)
            return
        try:
            self._callback(seconds, text)
        except Exception:
            logger.exception("the callback for slow statements failed")


class SlowStatements:
    """Slow-statement reports: methods of `Connection`."""

    _state: ConnectionState

    def set_slow_query_threshold(
        self, threshold_secs: float | None, callback: Callable[[float, str], object] | None = None
    ) -> None:
        """Report statements that take longer than ``threshold_secs`` seconds; None turns reporting off.

        ``callback(seconds, sql)`` is called in the task that ran the statement, once it has finished or failed; without
        it a line is logged to the logger "rapsqlite". The time covers one request: to the first rows of a cursor, or to
        the last row of a whole result, including the wait for earlier statements. An exception in ``callback`` is
        logged there too.
        """
        guest: Guest | SlowStatementGuest = self._state.guest
        plain = guest.guest if isinstance(guest, SlowStatementGuest) else guest
        if threshold_secs is None:
            self._state.guest = plain
            return
        if not threshold_secs >= 0:
            raise ValueError(f"threshold_secs must be a number of seconds, not {threshold_secs!r}")
        if callback is not None and not callable(callback):
            raise TypeError("callback is not callable")
        plain.state  # noqa: B018 - raises if the connection is closed
        self._state.guest = cast("Guest", SlowStatementGuest(plain, threshold_secs, callback))
