"""Authorizer, progress, trace and busy handlers, and the hooks on updates, commits, rollbacks and the WAL.

They run in the connection's own thread, as functions do (`functions`). One of each kind is set at a time; setting
another takes its place, None removes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rapsqlite import _constants as abi
from rapsqlite._callbacks.tracebacks import standing_for
from rapsqlite._client.registration import checked_callable, checked_int, register_hook

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite._client.state import ConnectionState


class Hooks:
    """What of `Connection` tells about, or has a say in, what SQLite does."""

    _session: ConnectionState

    async def set_authorizer(
        self,
        authorizer_callback: Callable[[int, str | None, str | None, str | None, str | None], int] | None,
    ) -> None:
        """Have every access of a statement allowed or not, when it is prepared.

        Called with the action (SQLITE_READ and so on), its two arguments, the database and the trigger or view;
        returns SQLITE_OK, SQLITE_DENY (DatabaseError) or SQLITE_IGNORE. An exception, or what is no int, denies.
        https://sqlite.org/c3ref/c_alter_table.html
        """
        await self._set(abi.CALLBACK_AUTHORIZER, authorizer_callback, _authorizing)

    async def set_progress_handler(self, progress_handler: Callable[[], object] | None, n: int) -> None:
        """Have ``progress_handler()`` called about every ``n`` instructions of SQLite's virtual machine.

        If it returns something true, or raises, the statement ends with OperationalError (SQLITE_INTERRUPT).
        ``n`` below 1 removes it.
        """
        steps = checked_int(n, "n")
        handler = progress_handler if steps > 0 else None
        checked_callable(progress_handler, "progress_handler")
        await self._set(abi.CALLBACK_PROGRESS, handler, _telling, steps)

    async def set_trace_callback(self, trace_callback: Callable[[str], object] | None) -> None:
        """Have ``trace_callback`` called with the SQL of each statement that begins, values filled in.

        Also those of scripts, those that this library sends to begin and end transactions, and, as a comment that
        starts with ``--``, those in triggers. An exception in it is logged (logger "rapsqlite"); the statement goes on.
        """
        await self._set(abi.CALLBACK_TRACE, trace_callback, _ignoring)

    async def set_update_hook(self, callback: Callable[[int, str, str, int], object] | None) -> None:
        """Have ``callback(action, database, table, rowid)`` called for each row of a rowid table that changes.

        The action is SQLITE_INSERT, SQLITE_UPDATE or SQLITE_DELETE. An exception ends the statement and rolls back its
        transaction. https://sqlite.org/c3ref/update_hook.html
        """
        await self._set(abi.CALLBACK_UPDATE, callback, _ignoring)

    async def set_preupdate_hook(
        self,
        callback: Callable[[int, str, str, int | None, int | None, list[Any] | None, list[Any] | None], object] | None,
    ) -> None:
        """Have ``callback(action, database, table, old_rowid, new_rowid, old, new)`` called before each row changes.

        The action is SQLITE_INSERT, SQLITE_UPDATE or SQLITE_DELETE; ``old`` and ``new`` are all values of the row
        before and after. What an INSERT or DELETE does not have is None; so is ``new`` of an UPDATE that writes to an
        open blob. The row ids of a WITHOUT ROWID table mean nothing. An exception ends the statement and rolls back its
        transaction. ProgrammingError while a session is open: SQLite has one place for both. https://sqlite.org/c3ref/preupdate_blobwrite.html
        """
        await self._set(abi.CALLBACK_PREUPDATE, callback, _ignoring)

    async def set_commit_hook(self, callback: Callable[[], object] | None) -> None:
        """Have ``callback()`` called before each commit; if it returns something true, or raises, that is undone.

        The statement that would have committed fails with IntegrityError then.
        """
        await self._set(abi.CALLBACK_COMMIT, callback, _telling)

    async def set_rollback_hook(self, callback: Callable[[], object] | None) -> None:
        """Have ``callback()`` called at each rollback, other than that of closing. An exception in it is logged."""
        await self._set(abi.CALLBACK_ROLLBACK, callback, _ignoring)

    async def set_wal_hook(self, callback: Callable[[str, int], object] | None) -> None:
        """Have ``callback(database, pages)`` called after each commit in WAL mode, with the pages in the WAL.

        Automatic checkpoints go on; ``PRAGMA wal_autocheckpoint`` removes the hook. An exception is the error of the
        statement, which is committed all the same.
        """
        await self._set(abi.CALLBACK_WAL, callback, _ignoring)

    async def set_busy_handler(self, callback: Callable[[int], object] | None) -> None:
        """Have ``callback(attempt)`` called, with 0 first, when a lock is held elsewhere, in place of the timeout.

        If it returns something true the lock is tried again, else, or if it raises, the statement ends with
        OperationalError (SQLITE_BUSY). It has to wait itself; None gives the ``timeout`` of `connect` back.
        """
        await self._set(abi.CALLBACK_BUSY, callback, _telling)

    async def _set(
        self,
        kind: int,
        callback: Callable[..., Any] | None,
        answering: Callable[[Callable[..., Any]], Callable[..., int]],
        number: int = 0,
    ) -> None:
        checked_callable(callback, "the callback")
        answer = None if callback is None else standing_for(answering(callback), callback)
        await register_hook(self._session.guest, kind, answer, number)


def _authorizing(callback: Callable[..., int]) -> Callable[..., int]:
    def authorize(*arguments: Any) -> int:
        return checked_int(callback(*arguments), "what an authorizer returns")

    return authorize


def _telling(callback: Callable[..., object]) -> Callable[..., int]:
    return lambda *arguments: 1 if callback(*arguments) else 0


def _ignoring(callback: Callable[..., object]) -> Callable[..., int]:
    def call(*arguments: Any) -> int:
        callback(*arguments)
        return 0

    return call
