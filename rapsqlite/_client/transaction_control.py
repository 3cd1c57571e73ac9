"""When transactions begin and end: sqlite3's ``isolation_level`` and ``autocommit``.

The guest decides whether a statement needs a BEGIN before it, because it knows the kind of the statement and runs all
statements in order. It also decides whether there is anything to commit.
https://docs.python.org/3/library/sqlite3.html#transaction-control
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Literal, cast

from rapsqlite import _constants as abi
from rapsqlite._wasm.rings import Request
from rapsqlite.errors import Error, OperationalError, ProgrammingError

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from rapsqlite._guest.guest import Guest

LEGACY_TRANSACTION_CONTROL: Literal[-1] = -1

_BEGIN_BITS = {
    None: 0,
    "": 1 << abi.FORMAT_BEGIN_SHIFT,
    "DEFERRED": 2 << abi.FORMAT_BEGIN_SHIFT,
    "IMMEDIATE": 3 << abi.FORMAT_BEGIN_SHIFT,
    "EXCLUSIVE": 4 << abi.FORMAT_BEGIN_SHIFT,
}
_NOTHING_TO_ROLL_BACK = "cannot rollback - no transaction is active"
# Where the running Python's sqlite3 warns about or rejects a sequence for named placeholders, the guest first rejects
# it.
_POSITIONS_BIT = abi.FORMAT_REFUSE_POSITIONS if sys.version_info >= (3, 12) else 0
_THEN_BEGIN = 1 << abi.FORMAT_BEGIN_SHIFT  # for scripts: leaves a transaction open


class TransactionControl:
    """One connection's settings, and what they mean for the guest."""

    __slots__ = (
        "_autocommit",
        "_begin_also_for",
        "_block_lock",
        "_deferred",
        "_isolation_level",
        "_last_block",
        "guest",
        "script_format",
        "statement_bits",
        "transaction_mode",
        "transaction_scope",
    )

    def __init__(self, guest: Guest, isolation_level: str | None, autocommit: bool | int) -> None:
        self.guest = guest
        self.statement_bits = 0  # added to the format of every request with one statement
        self.script_format = 0
        self._isolation_level = checked_isolation_level(isolation_level)
        self._autocommit = checked_autocommit(autocommit)
        self._begin_also_for = 0
        self._deferred = 0  # the format of the script that applies a changed setting
        self._last_block = 0
        self.transaction_mode: str | None = None  # the default of blocks
        self.transaction_scope = "task"
        self._block_lock = threading.Lock()
        self._update_formats()

    # -- settings that users set as attributes, but that need a statement -----------------------------

    @property
    def isolation_level(self) -> str | None:
        """Return the isolation level in upper case."""
        return self._isolation_level

    def set_isolation_level(self, value: str | None) -> None:
        """Change it. As in sqlite3, None also commits: before the next statement, which raises any error."""
        level = checked_isolation_level(value)
        commits = level is None and self._autocommit == LEGACY_TRANSACTION_CONTROL
        if commits:
            self._refuse_outside_block()
        self._isolation_level = level
        self._update_formats()
        if commits:
            self._deferred = abi.FORMAT_SCRIPT_COMMITS

    def commit_each_statement(self) -> None:
        """Stop beginning transactions. Call only while none is open."""
        self._isolation_level = None
        self._update_formats()

    @property
    def autocommit(self) -> bool | int:
        """Return True, False or LEGACY_TRANSACTION_CONTROL."""
        return self._autocommit

    def set_autocommit(self, value: bool | int) -> None:
        """Change it; commits an open transaction or begins one, before the next statement."""
        mode = checked_autocommit(value)
        self._refuse_outside_block()
        self._autocommit = mode
        self._update_formats()
        if value is True:
            self._deferred = abi.FORMAT_SCRIPT_COMMITS
        elif value is False:
            self._deferred = _THEN_BEGIN

    def _refuse_outside_block(self) -> None:
        """Raise if a block is open of which this task is no part: its owner's next statement would commit it."""
        if self.guest.is_outside_block():
            raise ProgrammingError(
                "a transaction() or savepoint() block of another task is open: this setting would commit it,"
                " so set it before or after the block"
            )

    @property
    def has_pending_setting(self) -> bool:
        """Whether a changed setting must still be applied."""
        return self._deferred != 0

    def begin_also_for(self, *, changes: bool, reads: bool) -> None:
        """Also begin transactions before schema changes and savepoints, and before reads."""
        self._begin_also_for = changes * abi.FORMAT_BEGIN_FOR_CHANGES | reads * abi.FORMAT_BEGIN_FOR_READS
        self._update_formats()

    def _update_formats(self) -> None:
        legacy = self._autocommit == LEGACY_TRANSACTION_CONTROL
        begin = _BEGIN_BITS[self._isolation_level] | self._begin_also_for
        self.statement_bits = _POSITIONS_BIT | (begin if legacy else 0)
        self.script_format = abi.FORMAT_SCRIPT_COMMITS if legacy else 0

    async def apply_pending_setting(self) -> None:
        """Apply a changed setting, whatever cancels the task. Every method does this first."""
        deferred, self._deferred = self._deferred, 0
        if not deferred:
            return
        try:
            await self.guest.call(Request(abi.OP_SCRIPT, format=deferred | abi.FORMAT_UNINTERRUPTIBLE))
        except BaseException:
            self._deferred = deferred
            raise

    async def apply_or_drop_pending_setting(self) -> bool:
        """Apply it before a rollback. If that fails, drop it, because a transaction is open; return False."""
        try:
            await self.apply_pending_setting()
        except Error:
            self._deferred = 0
            return False
        return True

    # -- transaction control -----------------------------------------------------------------------

    async def open(self) -> None:
        """Begin the transaction that is always open with ``autocommit=False``."""
        if self._autocommit is False:
            await self.begin(b"BEGIN")

    async def begin(self, statement: bytes) -> None:
        """Run a BEGIN."""
        await self.apply_pending_setting()
        await self.guest.call(Request(abi.OP_EXECUTE, statement))

    async def commit(self) -> None:
        """Commit if there is a transaction; the guest decides, in the order of the requests."""
        await self.apply_pending_setting()
        if self._autocommit is True:
            self.guest.state  # noqa: B018 - raises if the connection is closed
        elif self._autocommit is False:
            await self.guest.call(Request(abi.OP_SCRIPT, b"COMMIT", format=_THEN_BEGIN))
        else:
            await self.commit_open()

    async def rollback(self) -> None:
        """Roll back if there is a transaction, including one that a changed setting failed to commit."""
        applied = await self.apply_or_drop_pending_setting()
        if self._autocommit is False:
            await self.guest.call(Request(abi.OP_SCRIPT, b"ROLLBACK", format=_THEN_BEGIN))
        elif self._autocommit is True and applied:
            self.guest.state  # noqa: B018 - raises if the connection is closed
        else:
            await self.roll_back_open()

    def next_block(self) -> int:
        """Return a number that no other block of this connection has had. Any thread."""
        with self._block_lock:
            self._last_block += 1
            return self._last_block

    async def run(self, sql: str) -> None:
        """Run one statement without parameters and rows."""
        await self.guest.call(Request(abi.OP_EXECUTE, sql.encode()))

    async def commit_open(self) -> None:
        """Commit if there is a transaction, whatever began it."""
        await self.guest.call(Request(abi.OP_SCRIPT, b"", format=abi.FORMAT_SCRIPT_COMMITS))

    async def roll_back_open(self) -> None:
        """Roll back if there is a transaction, whatever began it."""
        await _tolerate(_NOTHING_TO_ROLL_BACK, self.run("ROLLBACK"))


async def _tolerate(message: str, step: Awaitable[None]) -> None:
    """Await ``step``, ignoring only the error that says there was nothing to do.

    Asking for the state first would be a second request, and other tasks' statements could run between the two.
    """
    try:
        await step
    except OperationalError as error:
        if error.sqlite_errorcode != abi.SQLITE_ERROR or str(error) != message:
            raise


def checked_isolation_level(value: str | None) -> str | None:
    """Return the level in upper case; ValueError or TypeError if it is invalid."""
    if value is None:
        return None
    if not isinstance(cast("object", value), str):
        raise TypeError(f"isolation_level must be str or None, not {type(value).__name__}")
    level = str.upper(value)  # for subclasses too, whose own upper() may not return a str
    if level not in _BEGIN_BITS:
        raise ValueError("isolation_level string must be '', 'DEFERRED', 'IMMEDIATE', or 'EXCLUSIVE'")
    return level


def checked_autocommit(value: bool | int) -> bool | int:
    """Return the mode; ValueError if it is invalid."""
    if value is True or value is False or value == LEGACY_TRANSACTION_CONTROL:
        return value
    raise ValueError("autocommit must be True, False, or LEGACY_TRANSACTION_CONTROL")
