"""The rows of one running statement, batch by batch.

Rows that have been read do not change, whatever the connection writes afterwards, and sqlite3 reads a single row ahead.
So batches begin with one row and grow while the connection does not write: quickly at first, and after a write to as
many rows as the consumer has taken since. From `PIPELINED_ROWS` on, the guest makes the next batch while the consumer
works on one: at most two batches (docs/abi.md, ``BATCH_BYTES``) are in memory, and the guest waits for a slow consumer.
https://sqlite.org/isolation.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rapsqlite import _constants as abi
from rapsqlite._client.fair_lock import FairLock
from rapsqlite._guest.task_blocks import Caller
from rapsqlite._loops import current_loop
from rapsqlite._wasm.rings import Request
from rapsqlite.errors import interrupted

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite._guest.guest import Guest
    from rapsqlite._guest.request import PendingRequest
    from rapsqlite._wasm.rings import Reply
    from rapsqlite.errors import OperationalError


PIPELINED_ROWS = 256
"""Batches of at least this many rows are requested ahead."""
_GROWTH = 8  # times the rows that the consumer has taken, up to `PIPELINED_ROWS`
MOST_ROWS = 0xFFFF_FFFF
"""The maximum that a request can ask for."""


class Batches:
    """The batches after the first of a statement that is open in the guest.

    Dropping the last reference, closing it, and a cancellation in ``next`` end the statement.
    """

    __slots__ = (
        "_ahead",
        "_changes",
        "_error",
        "_guest",
        "_handle",
        "_has_written",
        "_interrupted",
        "_lock",
        "_newest",
        "_quiet",
        "_user",
        "are_of_a_change",
    )

    def __init__(self, guest: Guest, first: Reply) -> None:
        self._guest = guest
        self._handle = first.handle  # 0: the statement has ended
        self._error = first.error  # the error that ended it, raised after the rows already received
        self._ahead: PendingRequest | None = None
        self._changes = first.total_changes  # when the newest batch was read
        self._newest = first.row_count  # rows of the newest batch
        self._quiet = 0  # rows of the batches before it since the connection's last write
        self._has_written = False  # whether the connection wrote since the statement began
        self._interrupted = False
        self.are_of_a_change: bool = first.flags & abi.REPLY_CHANGES_DATA != 0
        """Whether the statement is an INSERT, UPDATE, DELETE or REPLACE with RETURNING."""
        self._lock = FairLock()  # for tasks that fetch from the same cursor
        self._user: Caller | None = None  # the last of them

    async def next(self, wanted: int, take: Callable[[Reply], bool], is_taken: Callable[[], object]) -> bool:
        """Give ``take`` the next batch and return its answer; False after the last one.

        ``wanted`` rows will be fetched now, 0: all.

        A task that had to wait here for another one's batch gets no batch while ``is_taken`` returns true, so that none
        replaces rows that are left of the other. Cancellation and errors end the statement. After an error of the
        statement ``next`` returns False, as in sqlite3. After an interrupt or a cancellation it raises OperationalError
        (SQLITE_INTERRUPT) from then on, so that the rows that are lost are not mistaken for the end of the result.
        """
        if not self._lock.is_free() and self._user is not None:
            self._guest.refuse_wait_for(self._user)
        turn = await self._lock.acquire()
        self._user = Caller(current_loop())
        try:
            if is_taken():
                return True
            if self._handle == 0:
                self._raise_error()
                self._check_complete()
                return False
            return take(await self._fetch(wanted))
        finally:
            try:
                self._lock.release(turn)
            except BaseException:
                self._lock.release(turn)
                raise

    def _row_count(self, wanted: int) -> int:
        """Return how many rows to request, 0 for as many as fit a batch."""
        if self._guest.total_changes != self._changes:
            self._quiet = 0
            self._has_written = True
        else:
            self._quiet += self._newest
        rows = max(wanted, self._quiet)
        if self._quiet > 1 and not self._has_written:
            rows = max(rows, min(self._quiet * _GROWTH, PIPELINED_ROWS))
        return wanted and min(rows, MOST_ROWS)

    async def _fetch(self, wanted: int) -> Reply:
        guest, sent = self._guest, None
        try:
            await guest.checkpoint()
            rows = self._row_count(wanted)
            sent, self._ahead = self._ahead, None
            if sent is not None and not sent.number and guest.withdraw(sent):
                sent = None  # a block held it back, perhaps this task's
            if sent is None:
                reply = await guest.call(Request(abi.OP_NEXT, target=self._handle, argument=rows))
            else:
                reply = await guest.result(sent)
            self._changes = reply.total_changes
            self._newest = reply.row_count
            if reply.handle == 0:
                self._handle = 0
                self._error = reply.error
            elif self._handle and guest.state == "ok" and not 0 < rows < PIPELINED_ROWS:  # else it was closed meanwhile
                ahead = self._ahead = guest.unsent(Request(abi.OP_NEXT, target=self._handle, argument=rows))
                guest.submit(ahead)
        except BaseException as exc:
            self._interrupted = is_interrupt(exc)
            if sent is not None:
                guest.abandon(sent)
            self.close()
            raise
        return reply

    async def run_to_end(self) -> Reply | None:
        """Fetch and drop the remaining rows; return the last reply, if there was one. Raises the statement's error.

        For statements that change data. All changes are made before the first row, and are committed with the end: so
        cancellation does not stop it, as it does not stop a commit, but is raised at the task's next checkpoint.
        """
        reply = None
        while self._handle:
            request = Request(abi.OP_NEXT, target=self._handle, format=abi.FORMAT_UNINTERRUPTIBLE)
            reply = await self._guest.call(request)
            self._handle, self._error = reply.handle, reply.error
        self._raise_error()
        return reply

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            self._interrupted = is_interrupt(error)
            raise error

    def _check_complete(self) -> None:
        if self._interrupted:
            raise rows_lost()

    async def finish(self) -> None:
        """End the statement if it still runs, and wait until its locks are released. Cancellation does not stop it."""
        handle, self._handle = self._handle, 0
        try:
            self._abandon_ahead()
            if handle and self._guest.state == "ok":
                await self._guest.call(Request(abi.OP_FINISH, target=handle))
        except BaseException:  # it may not have been sent, for example from one of the connection's own callbacks
            if handle:
                self._guest.post(Request(abi.OP_FINISH, target=handle))
            raise

    def close(self) -> None:
        """End the statement if it still runs, without waiting. Any thread."""
        handle, self._handle = self._handle, 0
        try:
            self._abandon_ahead()
        finally:
            if handle:
                self._guest.post(Request(abi.OP_FINISH, target=handle))

    def interrupt(self) -> None:
        """End the statement without waiting, so that ``next`` raises: rows before it are lost. Any thread."""
        self._interrupted = True
        self.close()

    def _abandon_ahead(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            self._guest.abandon(ahead)

    def __del__(self) -> None:
        self.close()


def rows_lost() -> OperationalError:
    """Return the error of fetching further rows of a statement that was interrupted."""
    return interrupted("interrupted: the rows not fetched before that are lost; execute again")


def is_interrupt(exc: BaseException) -> bool:
    """Return whether this is anything but a failure of the statement's own."""
    code = getattr(exc, "sqlite_errorcode", None)
    return code is None or code & 0xFF == abi.SQLITE_INTERRUPT
