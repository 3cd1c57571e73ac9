"""Copies of whole databases: online backup, serialize and deserialize, SQL dump.

Each connection has SQLite in a sandbox of its own, so pages travel between two of them as an *image*: a database file
in a private directory. The source's SQLite writes it with its own backup interface and closes it; then the target's
SQLite, in another sandbox or in Python's ``sqlite3``, copies it over its database in one transaction. No file is ever
open in two SQLite libraries, and neither side holds more than its page cache in memory. https://sqlite.org/backup.html
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, cast

import msgspec

from rapsqlite import _constants as abi
from rapsqlite._client.blob_indexing import bytes_of
from rapsqlite._client.image import Image
from rapsqlite._client.native_copies import RETRIED, hand_over, pause, take_over
from rapsqlite._client.registration import checked_int, checked_name
from rapsqlite._values.options import checked_seconds
from rapsqlite._values.wire import decoder_of
from rapsqlite._wasm.rings import Request
from rapsqlite.dump import Dump
from rapsqlite.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from rapsqlite._client.state import ConnectionState
    from rapsqlite._guest.guest import Guest
    from rapsqlite.connection import Connection

    Progress: TypeAlias = Callable[[int, int, int], object]

_PIECE_BYTES = 1 << 20
_FIRST_PAUSE_S = 0.001

_encode = msgspec.msgpack.Encoder().encode
_step_of = decoder_of(tuple[int, int, int])


class Copies:
    """What of `Connection` copies whole databases."""

    _session: ConnectionState

    def iterdump(self, *, filter: str | None = None, restorable: bool = False) -> Dump:
        """Return the SQL text that makes this database again: iterate over its lines, or await the list of them.

        ``filter`` is a LIKE pattern for the names of tables, indexes, triggers and views; None: all. The lines are
        those of `sqlite3.Connection.iterdump`. sqlite3's text fails where there are virtual tables, such as those for
        full-text search: with ``restorable`` their rows stand only where they are stored, and the text can be run.
        Each statement of the dump sees the newest state: take it in a transaction if others write meanwhile.
        """
        self._session.guest.state  # noqa: B018 - raises if the connection is closed
        return Dump(cast("Connection", self), filter, restorable)

    async def backup(
        self,
        target: Copies | sqlite3.Connection,
        *,
        pages: int = -1,
        progress: Progress | None = None,
        name: str = "main",
        sleep: float = 0.250,
    ) -> None:
        """Copy the database ``name`` over the main database of ``target``, while both may be in use.

        ``pages``      how many to copy at a time; -1 or 0: all at once. Other statements run between two steps, and
                       what they change is part of the copy
        ``progress``   called after each step with status (SQLITE_OK, SQLITE_BUSY, SQLITE_LOCKED or, once the target
                       is complete, SQLITE_DONE), pages that remain, pages in all; what it raises ends the backup
        ``sleep``      seconds to wait before another try when the source or the target is locked. After a transaction
                       of this connection's own it is a millisecond at first, and doubles up to that

        A transaction that is open on this connection locks the source until it ends. The target changes in one
        transaction: whatever fails or is cancelled, it is complete or as it was. Raises ValueError for a backup onto
        itself, OperationalError if the target has a transaction or a running statement, or the disk is full.
        """
        step_pages = _checked(self, target, pages, progress)
        name, sleep_s = checked_name(name, "backup", "name"), checked_seconds(sleep)
        await self._session.apply_pending_setting()
        async with Image() as image:
            total = await _copy(self._session.guest, image, abi.BACKUP_TO_IMAGE, name, step_pages, progress, sleep_s)
            if isinstance(target, Copies):
                await _copy(target._session.guest, image, abi.BACKUP_FROM_IMAGE, "main", 0, progress, sleep_s)
            else:
                await hand_over(image, target, progress, sleep_s, total)
        if progress is not None:
            progress(abi.SQLITE_DONE, 0, total)

    async def restore(self, source: Copies | sqlite3.Connection, *, name: str = "main", sleep: float = 0.250) -> None:
        """Copy the database ``name`` of ``source`` over this connection's main database: `backup` the other way.

        A connection of Python's sqlite3 is read in a thread if it was made with ``check_same_thread=False``; otherwise
        here, in the thread it belongs to, and the event loop waits for as long as that takes. Tries again every
        ``sleep`` seconds while either end is locked; raises as `backup` does.
        """
        if isinstance(source, Copies):
            await source.backup(self, name=name, sleep=sleep)
            return
        if not isinstance(source, sqlite3.Connection):
            raise TypeError(_not_a_connection("restore() argument 'source'", source))
        name, sleep_s = checked_name(name, "restore", "name"), checked_seconds(sleep)
        guest = self._session.guest
        guest.state  # noqa: B018 - raises if the connection is closed
        async with Image() as image:
            await take_over(image, source, name, sleep_s)
            await _copy(guest, image, abi.BACKUP_FROM_IMAGE, "main", 0, None, sleep_s)

    async def serialize(self, *, name: str = "main") -> bytes:
        """Return the database ``name`` as the bytes of a database file; see `backup` for open transactions."""
        name = checked_name(name, "serialize", "name")
        await self._session.apply_pending_setting()
        async with Image() as image:
            await _copy(self._session.guest, image, abi.BACKUP_TO_IMAGE, name, 0, None, 0.25)
            return await image.read()

    async def deserialize(self, data: bytes | bytearray | memoryview, /, *, name: str = "main") -> None:
        """Put the database that ``data`` is, the bytes of a database file, in place of the database ``name``.

        From then on that is a database in memory; a file that it was before stays as it is. Raises DatabaseError if
        the bytes are no database or not all of one, OperationalError if the database is in use: then nothing changes.
        """
        view = bytes_of(data)
        name = checked_name(name, "deserialize", "name")
        guest = self._session.guest
        begin = _encode([name, len(view)])
        handle = (await guest.call(Request(abi.OP_DESERIALIZE, params=begin, argument=abi.DESERIALIZE_BEGIN))).handle
        try:
            for start in range(0, len(view), _PIECE_BYTES):
                piece = _encode([view[start : start + _PIECE_BYTES]])
                await guest.call(
                    Request(abi.OP_DESERIALIZE, params=piece, target=handle, argument=abi.DESERIALIZE_PIECE)
                )
            await guest.call(Request(abi.OP_DESERIALIZE, target=handle, argument=abi.DESERIALIZE_END))
        except BaseException:
            guest.post(Request(abi.OP_DROP, target=handle))
            raise


def _checked(source: Copies, target: object, pages: int, progress: object) -> int:
    """Return the number of pages of a step, 0 for all; raise what is wrong with the arguments, as sqlite3 does."""
    if not isinstance(target, Copies | sqlite3.Connection):
        raise TypeError(_not_a_connection("backup() argument 'target'", target))
    if target is source:
        raise ValueError("target cannot be the same connection instance")
    if progress is not None and not callable(progress):
        raise TypeError("progress argument must be a callable")
    if isinstance(target, Copies):
        target._session.guest.state  # noqa: B018 - raises if the target is closed
    return max(checked_int(pages, "pages"), 0)


def _not_a_connection(argument: str, value: object) -> str:
    cls = type(value)
    name = cls.__name__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    return f"{argument} must be a Connection of rapsqlite or sqlite3, not {name}"


async def _copy(
    guest: Guest,
    image: Image,
    direction: int,
    name: str,
    step_pages: int,
    progress: Progress | None,
    sleep_s: float,
) -> int:
    """Run one of the two halves of a backup in a guest; return how many pages the database has."""
    pause_s = _FIRST_PAUSE_S
    with image.granted_to(guest.files):
        opened = await guest.call(Request(abi.OP_BACKUP_OPEN, image.path, _encode([name]), target=direction))
        try:
            while True:
                reply = await guest.call(Request(abi.OP_BACKUP_STEP, target=opened.handle, argument=step_pages))
                status, remaining, total = _step_of(reply.rows)
                if status == abi.SQLITE_DONE:
                    return total
                if status != abi.SQLITE_OK and status not in RETRIED:
                    raise InternalError(f"the engine's reply is malformed: a backup with status {status}")
                if progress is not None:
                    progress(status, remaining, total)
                if status not in RETRIED:
                    pause_s = _FIRST_PAUSE_S
                elif guest.in_transaction:  # its own, which may end at once: the file grows meanwhile
                    await pause(min(pause_s, sleep_s))
                    pause_s *= 2
                else:
                    await pause(sleep_s)
        except BaseException:
            guest.post(Request(abi.OP_DROP, target=opened.handle))
            raise
