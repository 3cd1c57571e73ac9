"""Copies of whole databases: online backup, serialize and deserialize, SQL dump.

https://sqlite.org/backup.html

Each connection has its own SQLite in a sandbox, so pages travel between two of them as an *image*: a database file in a
private directory. The source's SQLite writes it with its own backup interface and closes it; then the target's SQLite,
in another sandbox or in Python's ``sqlite3``, copies it over its database in one transaction. No file is ever open in
two SQLite libraries, and neither side holds more than its page cache in memory.
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
from rapsqlite.errors import InternalError, busy

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
    """Copies whole databases: methods of `Connection`."""

    _state: ConnectionState

    def iterdump(self, *, filter: str | None = None, restorable: bool = False) -> Dump:
        """Return the SQL text that recreates this database: iterate over its lines, or await a list of them.

        ``filter`` is a LIKE pattern for the names of tables, indexes, triggers and views; None: all. The lines
        match `sqlite3.Connection.iterdump`. That text fails for virtual tables, such as full-text indexes:
        with ``restorable`` their rows appear only in the tables that store them, and the text can be run. Each
        statement of the dump sees the newest state: run it in a transaction if others write meanwhile.
        """
        self._state.guest.state  # noqa: B018 - raises if the connection is closed
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

        ``pages``      number of pages per step; -1 or 0: all at once. Other statements run between steps, and changes
                       made through this connection are part of the copy
        ``progress``   called after each step with status (SQLITE_OK, SQLITE_BUSY, SQLITE_LOCKED or, once the target is
                       complete, SQLITE_DONE), remaining pages, total pages; an exception in it ends the backup
        ``sleep``      seconds to wait before a retry when the source or the target is locked. After a transaction of
                       this connection itself it starts at a millisecond and doubles up to that

        An open transaction on this connection locks the source until it ends; if the task is inside its block, backup
        raises OperationalError (SQLITE_BUSY). The target changes in one transaction:
        after an error or a cancellation it is complete or unchanged. Raises ValueError for a backup onto itself,
        OperationalError if the target has a transaction or a running statement, or the disk is full.
        """
        step_pages = _checked(self, target, pages, progress)
        name, sleep_s = checked_name(name, "backup", "name"), checked_seconds(sleep)
        await self._state.apply_pending_setting()
        async with Image() as image:
            total = await _copy(self._state.guest, image, abi.BACKUP_TO_IMAGE, name, step_pages, progress, sleep_s)
            if isinstance(target, Copies):
                await target._state.apply_pending_setting()
                await _copy(target._state.guest, image, abi.BACKUP_FROM_IMAGE, "main", 0, progress, sleep_s)
            else:
                await hand_over(image, target, progress, sleep_s, total)
        if progress is not None:
            progress(abi.SQLITE_DONE, 0, total)

    async def restore(self, source: Copies | sqlite3.Connection, *, name: str = "main", sleep: float = 0.250) -> None:
        """Copy the database ``name`` of ``source`` over this connection's main database: `backup` the other way.

        A connection of Python's sqlite3 is read in a separate thread if it was made with ``check_same_thread=False``;
        otherwise in the current thread, which must be its own, and the event loop is blocked meanwhile. Retries every
        ``sleep`` seconds while either end is locked; raises as `backup` does.
        """
        if isinstance(source, Copies):
            await source.backup(self, name=name, sleep=sleep)
            return
        if not isinstance(source, sqlite3.Connection):
            raise TypeError(_not_a_connection("restore() argument 'source'", source))
        name, sleep_s = checked_name(name, "restore", "name"), checked_seconds(sleep)
        await self._state.apply_pending_setting()
        guest = self._state.guest
        guest.state  # noqa: B018 - raises if the connection is closed
        async with Image() as image:
            await take_over(image, source, name, sleep_s)
            await _copy(guest, image, abi.BACKUP_FROM_IMAGE, "main", 0, None, sleep_s)

    async def serialize(self, *, name: str = "main") -> bytes:
        """Return the database ``name`` as the bytes of a database file. An open transaction delays it, as `backup`."""
        name = checked_name(name, "serialize", "name")
        await self._state.apply_pending_setting()
        async with Image() as image:
            await _copy(self._state.guest, image, abi.BACKUP_TO_IMAGE, name, 0, None, 0.25)
            return await image.read()

    async def deserialize(self, data: bytes | bytearray | memoryview, /, *, name: str = "main") -> None:
        """Replace the database ``name`` with an in-memory copy of ``data``, the bytes of a database file.

        If it was a file, that file is not touched. Raises DatabaseError if the bytes are not a complete database,
        OperationalError if the database is in use; nothing changes then. https://sqlite.org/c3ref/deserialize.html
        """
        view = bytes_of(data)
        name = checked_name(name, "deserialize", "name")
        await self._state.apply_pending_setting()
        guest = self._state.guest
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
    """Return the number of pages per step, 0 for all; raises sqlite3's errors for invalid arguments."""
    if not isinstance(target, Copies | sqlite3.Connection):
        raise TypeError(_not_a_connection("backup() argument 'target'", target))
    if target is source:
        raise ValueError("target cannot be the same connection instance")
    if progress is not None and not callable(progress):
        raise TypeError("progress argument must be a callable")
    if isinstance(target, Copies):
        target._state.guest.state  # noqa: B018 - raises if the target is closed
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
    """Run one half of a backup in a guest; return the number of pages of the database."""
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
                elif guest.in_transaction:  # its own transaction, which may end soon
                    if guest.is_inside_block():
                        raise busy("the open transaction of this task locks the database: copy it after the block")
                    await pause(min(pause_s, sleep_s))
                    pause_s *= 2
                else:
                    await pause(sleep_s)
        except BaseException:
            guest.post(Request(abi.OP_DROP, target=opened.handle))
            raise
