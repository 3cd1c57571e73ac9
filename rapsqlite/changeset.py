"""Changesets: recorded by a session, applied to another database, inverted, combined.

https://sqlite.org/session/sqlite3changeset_apply.html
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from rapsqlite import _constants as abi
from rapsqlite._client.changeset_streams import held, reader
from rapsqlite._client.registration import checked_callable, checked_int
from rapsqlite._wasm.rings import Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite._client.state import ConnectionState
    from rapsqlite._guest.guest import Guest

_encode = msgspec.msgpack.Encoder().encode


class Conflict(NamedTuple):
    """A change that does not fit the database to which it is applied."""

    kind: int
    """SQLITE_CHANGESET_DATA (the row's values differ from the change's old values), _NOTFOUND (no such row), _CONFLICT
    (a row with this key exists), _CONSTRAINT (a constraint fails), or _FOREIGN_KEY (once, at the end)."""
    action: int
    """SQLITE_INSERT, SQLITE_UPDATE, SQLITE_DELETE; 0 for _FOREIGN_KEY."""
    table: str | None
    indirect: bool
    """Whether a trigger or foreign key made the change, or the session marked it as indirect."""
    old: list[Any] | None
    """The values before an UPDATE or DELETE, one per column; `NO_CHANGE` where the change does not contain one."""
    new: list[Any] | None
    """The values after an INSERT or UPDATE, one per column; `NO_CHANGE` for unchanged ones."""
    found: list[Any] | None
    """The existing row in the database, for _DATA and _CONFLICT."""
    violations: int
    """Number of violated foreign keys, for _FOREIGN_KEY."""


class Changesets:
    """Applies and combines changesets: methods of `Connection`."""

    _state: ConnectionState

    async def apply_changeset(
        self,
        data: bytes | bytearray | memoryview,
        /,
        *,
        filter: Callable[[str], object] | None = None,
        conflict: Callable[[Conflict], int] | None = None,
        invert: bool = False,
    ) -> None:
        """Apply a changeset or patchset to the main database: all of it, or none if anything goes wrong.

        ``filter``    called with each table's name; its changes are applied if it returns a true value
        ``conflict``  called with each change that does not fit; returns SQLITE_CHANGESET_OMIT (skip it), _REPLACE
                      (apply it anyway; only for the kinds _DATA and _CONFLICT) or _ABORT. None: abort
        ``invert``    undo the changes instead; not for patchsets

        Inside an open transaction it is part of that transaction, otherwise one of its own. As in SQLite, tables that
        do not exist or have different columns are skipped. Raises OperationalError (SQLITE_ABORT) or IntegrityError for
        an unresolved conflict, with the callback's exception as ``__cause__``, and DatabaseError (SQLITE_CORRUPT) for
        bytes that are not a changeset.
        """
        checked_callable(filter, "filter")
        checked_callable(conflict, "conflict")
        guest = await self._ready()
        flags = abi.SQLITE_CHANGESETAPPLY_INVERT if invert else 0
        with held(
            guest,
            (abi.CALLBACK_INPUT, reader(data)),
            (abi.CALLBACK_FILTER, None if filter is None else _chooser(filter)),
            (abi.CALLBACK_CONFLICT, None if conflict is None else _resolver(conflict)),
        ) as handles:
            await guest.call(Request(abi.OP_APPLY, params=_encode([*handles, flags])))

    async def invert_changeset(self, data: bytes | bytearray | memoryview, /) -> bytes:
        """Return the changeset that undoes this one; DatabaseError for a patchset or other bytes."""
        guest, buffer = await self._ready(), io.BytesIO()
        with held(guest, (abi.CALLBACK_INPUT, reader(data)), (abi.CALLBACK_OUTPUT, buffer.write)) as handles:
            await guest.call(Request(abi.OP_INVERT, params=_encode(handles)))
        return buffer.getvalue()

    async def combine_changesets(self, *changesets: bytes | bytearray | memoryview) -> bytes:
        """Return one changeset with the effect of applying these in order. It is built in the engine's memory.

        Mixing changesets and patchsets raises OperationalError.
        """
        guest, buffer = await self._ready(), io.BytesIO()
        sources = ((abi.CALLBACK_INPUT, reader(data)) for data in changesets)
        with held(guest, (abi.CALLBACK_OUTPUT, buffer.write), *sources) as handles:
            await guest.call(Request(abi.OP_COMBINE, params=_encode(handles)))
        return buffer.getvalue()

    async def _ready(self) -> Guest:
        await self._state.apply_pending_setting()
        return self._state.guest


def _chooser(filter: Callable[[str], object]) -> Callable[[str], int]:
    return lambda table: int(bool(filter(table)))


def _resolver(conflict: Callable[[Conflict], int]) -> Callable[..., int]:
    replaceable = (abi.SQLITE_CHANGESET_DATA, abi.SQLITE_CHANGESET_CONFLICT)
    possible = (abi.SQLITE_CHANGESET_OMIT, abi.SQLITE_CHANGESET_REPLACE, abi.SQLITE_CHANGESET_ABORT)

    def resolve(*fields: Any) -> int:
        answer = checked_int(conflict(Conflict(*fields)), "the result of a conflict handler")
        if answer not in possible:
            raise ValueError("a conflict handler must return SQLITE_CHANGESET_OMIT, SQLITE_CHANGESET_REPLACE or _ABORT")
        if answer == abi.SQLITE_CHANGESET_REPLACE and fields[0] not in replaceable:
            raise ValueError("SQLITE_CHANGESET_REPLACE is not allowed for this kind of conflict")
        return answer

    return resolve
