"""Sessions record changes of tables as changesets.

https://sqlite.org/sessionintro.html

A changeset arrives in pieces of 64 KiB through a callback of the guest, so apart from the session's own record only the
bytes returned to the caller are in memory.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec

from rapsqlite import _constants as abi
from rapsqlite._client.changeset_streams import held
from rapsqlite._client.open_object import OpenObject
from rapsqlite._client.operation import Operation
from rapsqlite._values.uncopied import Uncopied
from rapsqlite._values.wire import decode_integer, decoder_of
from rapsqlite._wasm.rings import Request
from rapsqlite.errors import InternalError

if TYPE_CHECKING:
    from rapsqlite._client.state import ConnectionState
    from rapsqlite._guest.guest import Guest
    from rapsqlite.connection import Connection

S = TypeVar("S", bound="ChangeSession")

_LEAVE = -1  # leave the flag unchanged

_encode = msgspec.msgpack.Encoder().encode
_state_of = decoder_of(tuple[int, int])


class ChangeSession(Uncopied):
    """Records changes of tables made through one connection, by any task; made by ``session()``.

    Only tables with a PRIMARY KEY are recorded, and only rows whose key is not NULL. Close it, or use it in
    ``async with``. All methods raise ProgrammingError once it is closed.
    """

    __slots__ = ("_guest", "_object")

    def __init__(self, connection: Connection, handle: int) -> None:
        self._guest: Guest = connection._state.guest
        self._object = OpenObject(self._guest, handle, "session")

    async def attach(self, table: str | None = None) -> None:
        """Record changes of ``table`` from now on; None: of every table. The table need not exist yet."""
        await self._ask(abi.SESSION_ATTACH, None if table is None else _checked(table, "table"))

    async def enable(self, enabled: bool | None = None) -> bool:
        """Pause or resume recording; None leaves it unchanged. Return whether changes are recorded."""
        return await self._switch(abi.SESSION_ENABLE, enabled)

    async def indirect(self, indirect: bool | None = None) -> bool:
        """Mark further changes as indirect or not; None leaves it unchanged. Return whether they are marked."""
        return await self._switch(abi.SESSION_INDIRECT, indirect)

    async def diff(self, from_database: str, table: str) -> None:
        """Record the changes that turn the table of that name in an attached database into this session's table.

        Raises OperationalError if the table does not exist, or the two differ in columns or keys.
        https://sqlite.org/session/sqlite3session_diff.html
        """
        await self._ask(abi.SESSION_DIFF, _checked(from_database, "from_database"), _checked(table, "table"))

    async def is_empty(self) -> bool:
        """Return True if nothing was recorded. Changes that cancel each other out count as recorded."""
        return bool((await self._flags())[0])

    async def memory_used(self) -> int:
        """Return the memory used by the record, in bytes."""
        return (await self._flags())[1]

    async def changeset(self) -> bytes:
        """Return the changes so far with the old values, which detect conflicts and allow inverting it."""
        return await self._collect(abi.SESSION_CHANGESET)

    async def patchset(self) -> bytes:
        """Return the changes so far without most old values: smaller, but it cannot be inverted."""
        return await self._collect(abi.SESSION_PATCHSET)

    async def close(self) -> None:
        """Discard the record; idempotent. Cancellation does not stop it."""
        await self._object.close()

    async def __aenter__(self: S) -> S:
        self._object.require()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if exc_info[0] is GeneratorExit:
            self._object.forget()  # nothing runs the task any more, so it cannot wait
            return
        await self.close()

    def __del__(self) -> None:
        self._object.forget()

    # -- the guest's side --------------------------------------------------------------------------

    async def _ask(self, operation: int, *arguments: Any) -> bytes:
        reply = await self._guest.call(
            Request(abi.OP_SESSION, params=_encode(arguments), target=self._object.require(), argument=operation)
        )
        return reply.rows

    async def _switch(self, operation: int, value: bool | None) -> bool:
        return bool(decode_integer(await self._ask(operation, _LEAVE if value is None else int(value))))

    async def _flags(self) -> tuple[int, int]:
        return _state_of(await self._ask(abi.SESSION_STATE))

    async def _collect(self, operation: int) -> bytes:
        self._object.require()
        buffer = io.BytesIO()
        with held(self._guest, (abi.CALLBACK_OUTPUT, buffer.write)) as handles:
            await self._ask(operation, *handles)
        return buffer.getvalue()  # CPython returns its bytes without copying


class Sessions:
    """Records changes: methods of `Connection`."""

    _state: ConnectionState

    def session(self, *tables: str, name: str = "main") -> Operation[ChangeSession]:
        """Record changes of ``tables``, or of every table if none is named; await it, or use it in ``async with``.

        ``name`` is the database: "main", "temp", or an attached one. Several sessions may record at the same time.
        Raises OperationalError for an unknown database, ProgrammingError while a preupdate hook is set.
        """
        return Operation(self._open_session(tables, name))

    async def _open_session(self, tables: tuple[str, ...], name: str) -> ChangeSession:
        checked_tables: list[str | None] = [_checked(table, "table") for table in tables]
        params = _encode([_checked(name, "name")])
        await self._state.apply_pending_setting()
        guest = self._state.guest
        reply = await guest.call(Request(abi.OP_SESSION_OPEN, params=params))
        session = None
        try:
            if not reply.handle:
                raise InternalError("the engine's reply is malformed: a session without a handle")
            session = ChangeSession(cast("Connection", self), reply.handle)
            for table in checked_tables or [None]:
                await session.attach(table)
        except BaseException:
            guest.post(Request(abi.OP_DROP, target=reply.handle))
            if session is not None:
                session._object.forget()  # the error's traceback keeps this frame alive, and with it the session
            raise
        return session


def _checked(name: object, argument: str) -> str:
    """Return the name of a table or database; TypeError if it is not one: None would mean every table."""
    if not isinstance(name, str):
        raise TypeError(f"{argument} must be str, not {type(name).__name__}")
    return str.__str__(name)
