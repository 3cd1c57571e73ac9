"""Authorizer, progress, trace and busy handlers, and the update, preupdate, commit, rollback and WAL hooks.

They run in the connection's thread, as functions do (`functions`). Each kind can be set once; setting it again replaces
the callback, None removes it.
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
    """Sets hooks and handlers: methods of `Connection`."""

    _state: ConnectionState

    async def set_authorizer(
        self,
        authorizer_callback: Callable[[int, str | None, str | None, str | None, str | None], int] | None,
    ) -> None:
        """Call ``authorizer_callback`` for each access of a statement when it is prepared.

        It receives the action (SQLITE_READ and so on), its two arguments, the database and the trigger or view, and
        returns SQLITE_OK, SQLITE_DENY (DatabaseError) or SQLITE_IGNORE. An exception or a result that is not an int
        denies. https://sqlite.org/c3ref/set_authorizer.html, https://sqlite.org/c3ref/c_alter_table.html
        """
        await self._set(abi.CALLBACK_AUTHORIZER, authorizer_callback, _authorizing)

    async def set_progress_handler(self, progress_handler: Callable[[], object] | None, n: int) -> None:
        """Call ``progress_handler()`` about every ``n`` instructions of SQLite's virtual machine.

        If it returns a true value or raises, the statement fails with OperationalError (SQLITE_INTERRUPT). ``n`` below
        1 removes it. https://sqlite.org/c3ref/progress_handler.html
        """
        steps = checked_int(n, "n")
        handler = progress_handler if steps > 0 else None
        checked_callable(progress_handler, "progress_handler")
        await self._set(abi.CALLBACK_PROGRESS, handler, _telling, steps)

    async def set_trace_callback(self, trace_callback: Callable[[str], object] | None) -> None:
        """Call ``trace_callback`` with the SQL of each statement that begins, with values filled in.

        This includes statements in scripts, the ones that this package sends to begin and end transactions, and, as
        comments starting with ``--``, statements in triggers. An exception is logged (logger "rapsqlite") and does not
        affect the statement. https://sqlite.org/c3ref/trace_v2.html
        """
        await self._set(abi.CALLBACK_TRACE, trace_callback, _ignoring)

    async def set_update_hook(self, callback: Callable[[int, str, str, int], object] | None) -> None:
        """Call ``callback(action, database, table, rowid)`` for each changed row of a rowid table.

        The action is SQLITE_INSERT, SQLITE_UPDATE or SQLITE_DELETE. An exception fails the statement and rolls back its
        transaction. https://sqlite.org/c3ref/update_hook.html
        """
        await self._set(abi.CALLBACK_UPDATE, callback, _ignoring)

    async def set_preupdate_hook(
        self,
        callback: Callable[[int, str, str, int | None, int | None, list[Any] | None, list[Any] | None], object] | None,
    ) -> None:
        """Call ``callback(action, database, table, old_rowid, new_rowid, old, new)`` before each row changes.

        The action is SQLITE_INSERT, SQLITE_UPDATE or SQLITE_DELETE; ``old`` and ``new`` are lists of the row's values
        before and after the change, one per column. They are None where they do not apply, as ``old`` of an INSERT or
        ``new`` of a DELETE; so is ``new`` of an UPDATE that writes to an open blob. The row ids of a WITHOUT ROWID
        table are meaningless. An exception fails the statement and rolls back its transaction. Raises ProgrammingError
        while a session is open, because SQLite has one slot for both. https://sqlite.org/c3ref/preupdate_blobwrite.html
        """
        await self._set(abi.CALLBACK_PREUPDATE, callback, _ignoring)

    async def set_commit_hook(self, callback: Callable[[], object] | None) -> None:
        """Call ``callback()`` before each commit; if it returns a true value or raises, the transaction is rolled back.

        The statement that would have committed then raises IntegrityError. https://sqlite.org/c3ref/commit_hook.html
        """
        await self._set(abi.CALLBACK_COMMIT, callback, _telling)

    async def set_rollback_hook(self, callback: Callable[[], object] | None) -> None:
        """Call ``callback()`` at each rollback, except when the connection closes. An exception in it is logged."""
        await self._set(abi.CALLBACK_ROLLBACK, callback, _ignoring)

    async def set_wal_hook(self, callback: Callable[[str, int], object] | None) -> None:
        """Call ``callback(database, pages)`` after each commit in WAL mode, with the number of pages in the WAL.

        Automatic checkpoints continue; ``PRAGMA wal_autocheckpoint`` removes the hook. An exception fails the
        statement, although it is committed. https://sqlite.org/c3ref/wal_hook.html
        """
        await self._set(abi.CALLBACK_WAL, callback, _ignoring)

    async def set_busy_handler(self, callback: Callable[[int], object] | None) -> None:
        """Call ``callback(attempt)``, starting with 0, when another connection holds a lock; replaces the timeout.

        If it returns a true value the lock is tried again; otherwise, or if it raises, the statement fails with
        OperationalError (SQLITE_BUSY). It has to wait itself. None restores the ``timeout`` of `connect`.
        https://sqlite.org/c3ref/busy_handler.html
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
        await register_hook(self._state.guest, kind, answer, number)


def _authorizing(callback: Callable[..., int]) -> Callable[..., int]:
    def authorize(*arguments: Any) -> int:
        return checked_int(callback(*arguments), "the result of an authorizer")

    return authorize


def _telling(callback: Callable[..., object]) -> Callable[..., int]:
    return lambda *arguments: 1 if callback(*arguments) else 0


def _ignoring(callback: Callable[..., object]) -> Callable[..., int]:
    def call(*arguments: Any) -> int:
        callback(*arguments)
        return 0

    return call
