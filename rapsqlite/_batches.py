"""The rows of one running statement, batch after batch, one batch ahead of the consumer.

While the consumer works on one batch the guest makes the next, and no more than that: at most two batches (docs/abi.md,
``BATCH_BYTES``) are in memory, and the guest rests while the consumer is slow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rapsqlite import _constants as abi
from rapsqlite._turns import Turns
from rapsqlite.errors import OperationalError

if TYPE_CHECKING:
    from rapsqlite._guest import Guest
    from rapsqlite._request import Request
    from rapsqlite._rings import Reply


class Batches:
    """The batches after the first of a statement that is open in the guest.

    Dropping the last reference, closing this, and a cancellation in ``next`` end the statement.
    """

    __slots__ = ("_ahead", "_error", "_guest", "_handle", "_interrupted", "_turns")

    def __init__(self, guest: Guest, first: Reply) -> None:
        self._guest = guest
        self._handle = first.handle  # 0: the statement has ended
        self._error = first.error  # what it ended with, after the rows in hand
        self._ahead: Request | None = None
        self._interrupted = False
        self._turns = Turns()  # of tasks that fetch from the same cursor

    async def next(self) -> Reply | None:
        """Return the next batch, None after the last one.

        Cancellation interrupts the statement, and so does any error: the rows that were not fetched are gone, and
        ``next`` raises OperationalError (SQLITE_INTERRUPT) from then on instead of pretending that there were no more.
        """
        await self._turns.acquire()
        try:
            if self._handle == 0:
                self._raise_error()
                self._check_complete()
                return None
            return await self._fetch()
        finally:
            self._turns.release()

    async def _fetch(self) -> Reply:
        guest = self._guest
        try:
            await guest.checkpoint()
            request, self._ahead = self._ahead, None
            if request is None:
                request = guest.submit(abi.OP_NEXT, a=self._handle)
            reply = await guest.result(request)
        except BaseException:
            self._interrupted = True
            self.close()
            raise
        if reply.handle == 0:
            self._handle = 0
            self._error = reply.error
        elif self._handle and guest.state == "ok":  # else it was closed meanwhile
            self._ahead = guest.submit(abi.OP_NEXT, a=self._handle)
        return reply

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            self._interrupted = True
            raise error

    def _check_complete(self) -> None:
        if self._interrupted:
            error = OperationalError("interrupted: the rows that were not fetched by then are lost; execute again")
            error.sqlite_errorcode = abi.SQLITE_INTERRUPT
            error.sqlite_errorname = "SQLITE_INTERRUPT"
            raise error

    def close(self) -> None:
        """End the statement if it still runs; does not wait. Any thread."""
        handle, self._handle = self._handle, 0
        if handle == 0:
            return
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            self._guest.abandon(ahead)
        self._guest.post(abi.OP_FINISH, a=handle)

    def __del__(self) -> None:
        self.close()
