"""One connection of a pool: opened, lent, taken back and checked for what a borrower left behind."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from rapsqlite import _constants as abi
from rapsqlite._blocking import Worker
from rapsqlite._client.lent_guest import RETURNED, LentGuest
from rapsqlite._client.state import CLOSED, Absent
from rapsqlite._fetching import fetch_first
from rapsqlite.errors import DatabaseError, Error, PoolClosed

if TYPE_CHECKING:
    from rapsqlite._guest.guest import Guest
    from rapsqlite.connection import Connection

# The PRAGMAs that belong to a connection and can be read. What is stored in the file is the user's.
_PRAGMAS = (
    "analysis_limit automatic_index busy_timeout cache_size cache_spill cell_size_check checkpoint_fullfsync"
    " count_changes defer_foreign_keys empty_result_callbacks foreign_keys full_column_names fullfsync hard_heap_limit"
    " ignore_check_constraints journal_mode journal_size_limit legacy_alter_table locking_mode max_page_count"
    " query_only read_uncommitted recursive_triggers reverse_unordered_selects secure_delete short_column_names"
    " soft_heap_limit synchronous temp_store threads trusted_schema writable_schema"
).split()
_SETTINGS = (
    "SELECT (SELECT count(*) FROM sqlite_temp_schema), 'a' LIKE 'A',"
    " (SELECT group_concat(name || '=' || file) FROM pragma_database_list WHERE name <> 'temp'), "
    + ", ".join(f"(SELECT * FROM pragma_{name})" for name in _PRAGMAS)
)
_GONE = frozenset({abi.SQLITE_IOERR, abi.SQLITE_CORRUPT, abi.SQLITE_NOTADB, abi.SQLITE_CANTOPEN})
_RETURNED = cast("Guest", Absent(RETURNED))
_LOST = cast("Guest", Absent("the pool was closed while a transaction was open here", PoolClosed))


class Pooled:
    """One open connection of a pool, idle or lent."""

    __slots__ = (
        "_lent",
        "_may_have_settings",
        "_settings",
        "_timeout_s",
        "connection",
        "generation",
        "idle_since",
        "opened_at",
    )

    def __init__(self, connection: Connection, generation: int) -> None:
        self.connection = connection  # the pool's own; borrowers get others, with the same guest
        self.generation = generation
        self.opened_at = self.idle_since = time.monotonic()
        self._lent: LentGuest | None = None
        self._may_have_settings = False  # the last borrower may have changed settings
        self._settings: list[Any] | None = None
        self._timeout_s = connection.timeout

    async def prepare(self) -> None:
        """Commit a transaction begun while opening, and record the settings."""
        if self.connection.in_transaction:
            await self.connection.commit()
        with suppress(Error):  # an authorizer may deny it: then a connection whose settings may differ is replaced
            self._settings = await self.settings()

    async def settings(self) -> list[Any]:
        """Return everything that a connection keeps: PRAGMAs, temporary objects, attached databases."""
        decoder = self.connection._state.scalar_decoder  # rows are lists, whatever the user's factory makes
        rows, _ = await fetch_first(self.connection, _SETTINGS.encode(), 0, None, decoder)
        settings: list[Any] = rows[0]
        return settings

    def lend(self, acquired_at: str) -> Connection:
        """Return a connection for a borrower, with its own settings."""
        home = self.connection
        lent = object.__new__(type(home))
        lent.__dict__.update(home.__dict__)
        self._lent = LentGuest(home._state.guest)
        lent._state = home._state.renewed(cast("Guest", self._lent))
        lent._worker = Worker(lent._state)  # nobody waits for a function of another borrower
        lent._left_open = f"acquired from a pool at {acquired_at}, was deleted before being returned"
        return lent

    def detach(self, lent: Connection) -> bool:
        """End the borrower's use and close what it left open; False if the connection cannot be used again."""
        guest, self._lent = self._lent, None
        lent._state.guest = _RETURNED
        self.connection._state.guest.host.busy_timeout_s = self._timeout_s
        self.connection._state.note_blocks_of(lent._state)
        if guest is None:
            return False
        self._may_have_settings = guest.may_have_settings
        return guest.take_back() and not guest.is_changed

    def take_away(self, lent: Connection) -> None:
        """End the borrower's use before it has returned the connection; an open transaction is lost."""
        guest = lent._state.guest
        is_lost = not isinstance(guest, Absent) and guest.in_transaction
        self.detach(lent)
        if is_lost:
            lent._state.guest = _LOST

    def is_clean(self) -> bool:
        """Return True if the borrower certainly left nothing behind."""
        return self.connection.is_alive() and not self.connection.in_transaction and not self._may_have_settings

    async def restore(self) -> bool:
        """Undo an open transaction; True if the connection is as it was opened."""
        home = self.connection
        if not home.is_alive():
            return False
        try:
            if home.in_transaction:
                await home._state.run("ROLLBACK")
            return not self._may_have_settings or (
                self._settings is not None and await self.settings() == self._settings
            )
        except Error:
            return False

    def abandon(self) -> None:
        """Close it without waiting."""
        self.connection.stop()

    async def close(self) -> None:
        """Close it; if the task is cancelled, without waiting any longer."""
        state = self.connection._state
        guest = state.guest
        if not isinstance(guest, Absent):
            try:
                state.guest = CLOSED
                await guest.close_unshielded()
            except BaseException:
                guest.stop()  # a KeyboardInterrupt may have come before the guest was told
                raise


async def commit_at_exit(lent: Connection) -> None:
    """Commit what is open; raises if it is lost, except if the borrower itself returned or closed the connection."""
    guest = lent._state.guest
    if guest is not _RETURNED and guest is not CLOSED and guest.in_transaction:
        await lent.commit()


def has_lost_its_file(error: BaseException | None) -> bool:
    """Return True if another connection may succeed where this one failed: the file was replaced, damaged or moved."""
    if not isinstance(error, DatabaseError):
        return False
    code = error.sqlite_errorcode
    return code & 0xFF in _GONE or code == abi.SQLITE_READONLY_DBMOVED
