"""The guest of a connection lent by a pool: records what must be undone, and refuses all requests once returned."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from rapsqlite import _constants as abi
from rapsqlite._guest.request_queue import RELEASED_BY
from rapsqlite._guest.task_blocks import BlockRequest
from rapsqlite._wasm.rings import Request
from rapsqlite.errors import ClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite._guest.guest import Guest
    from rapsqlite._guest.request import PendingRequest
    from rapsqlite._wasm.rings import Reply

RETURNED = "this connection was returned to its pool: acquire another one"

# Every statement that changes a connection's settings contains one of PRAGMA, TEMP or TEMPORARY, ATTACH, DETACH.
changes_settings = re.compile(rb"pragma|temp|tach", re.IGNORECASE).search

_HARMLESS = frozenset({abi.CONTROL_OP_STATISTICS, abi.CONTROL_OP_CHANGES, abi.CONTROL_OP_INTERRUPT})
_RELEASING = frozenset(RELEASED_BY.values())


class LentGuest:
    """Forwards everything to ``guest`` until it is returned."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._open: dict[tuple[int, int], None] = {}  # the borrower's open objects: release operation and handle
        self._running = 0
        self._blocks: set[PendingRequest] = set()  # open transaction() and savepoint() blocks
        self._is_returned = False
        self._is_ending = False
        self.may_have_settings = False
        """Whether a statement may have left a PRAGMA, a TEMP object or an attached database behind."""
        self.is_changed = False
        """Whether functions, hooks, limits, configuration or the database may have been replaced for good."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._guest, name)

    @property
    def state(self) -> str:
        """See `Guest.state`."""
        return "closed" if self._is_returned else self._guest.state

    def take_back(self) -> bool:
        """Refuse all further requests and close what was left open; False if a request runs or a block is open.

        A request may also run while no task waits for it: `executemany` lets others run, and an interrupt ends a task.
        """
        self._is_returned = True
        for release, handle in self._open:
            self._guest.post(Request(release, target=handle))
        self._open.clear()
        return not self._running and not self._blocks and not self._guest.is_working()

    def stop(self) -> None:
        """See `Guest.stop`."""
        if self._may_end():
            self._guest.stop()

    async def close(self) -> None:
        """See `Guest.close`."""
        if self._may_end():
            await self._guest.close()

    def _may_end(self) -> bool:
        """Return False if the guest may be another borrower's. Otherwise it ends soon, and until then looks usable."""
        self.is_changed = True  # first: `take_back`, in another thread, is followed by a look at it
        self._is_ending = self._is_ending or not self._is_returned
        return self._is_ending

    async def call(self, request: Request) -> Reply:
        """See `Guest.call`."""
        self._note(request)
        self._running += 1
        try:
            reply = await self._guest.call(request)
        finally:
            self._running -= 1
        self._note_reply(request, reply)
        return reply

    async def collect(self, request: Request, decode: Callable[[bytes], list[Any]]) -> tuple[list[Any], Reply]:
        """See `Guest.collect`."""
        self._note(request)
        self._running += 1
        try:
            return await self._guest.collect(request, decode)
        finally:
            self._running -= 1

    def submit(self, pending: PendingRequest) -> None:
        """See `Guest.submit`."""
        self._note(pending.request)
        if isinstance(pending, BlockRequest):
            self._blocks.add(pending)
        self._guest.submit(pending)

    def end_block(self, pending: BlockRequest) -> None:
        """See `Guest.end_block`."""
        self._blocks.discard(pending)
        self._guest.end_block(pending)

    async def result(self, pending: PendingRequest) -> Reply:
        """See `Guest.result`."""
        self._running += 1
        try:
            reply = await self._guest.result(pending)
        finally:
            self._running -= 1
        self._note_reply(pending.request, reply)
        return reply

    def post(self, request: Request) -> None:
        """See `Guest.post`. What was left open is closed by then, and its handle may have another owner."""
        if not self._is_returned:
            self._open.pop((request.op, request.target), None)
            self._guest.post(request)

    def _note(self, request: Request) -> None:
        if self._is_returned:
            raise ClosedError(RETURNED)
        if request.op == abi.OP_DESERIALIZE or (request.op == abi.OP_CONTROL and request.target not in _HARMLESS):
            self.is_changed = True
        elif request.op in _RELEASING:
            self._open.pop((request.op, request.target), None)
        elif request.sql and changes_settings(request.sql):
            self.may_have_settings = True
            if b"wal_autocheckpoint" in request.sql.lower():
                self.is_changed = True  # no SELECT reads it

    def _note_reply(self, request: Request, reply: Reply) -> None:
        release = RELEASED_BY.get(request.op)
        if release is not None and reply.handle:
            self._open[release, reply.handle] = None
            if self._is_returned:
                self.take_back()
        elif request.op == abi.OP_NEXT and not reply.handle:
            self._open.pop((abi.OP_FINISH, request.target), None)
