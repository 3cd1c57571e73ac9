"""Savepoints as ``async with`` blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rapsqlite._client.block import Block
from rapsqlite._identifiers import quoted
from rapsqlite._values.async_only import AsyncBlock
from rapsqlite._values.uncopied import Uncopied
from rapsqlite.transaction import checked_scope

if TYPE_CHECKING:
    from rapsqlite.connection import Connection


class Savepoint(AsyncBlock, Uncopied):
    """A part of a transaction that can be rolled back by itself; blocks nest.

    Released on a clean exit, rolled back if an exception leaves the block. Outside a transaction the outermost
    savepoint begins one and its release commits it: https://sqlite.org/lang_savepoint.html. Other tasks wait for its
    end as for a `Transaction`; without ``scope`` the same tasks take part as in the block around it.
    """

    __slots__ = ("_blocks", "_scope", "_state", "_statements", "_timeout_s", "name")

    def __init__(
        self, connection: Connection, name: str, timeout_s: float | None = None, scope: str | None = None
    ) -> None:
        if "\0" in name:
            raise ValueError("a savepoint name cannot contain a null character")
        self.name: str = name
        where = quoted(name).encode()
        self._state = connection._state
        self._statements = (
            b"SAVEPOINT " + where,
            b"RELEASE " + where,
            b"ROLLBACK TO " + where + b"; RELEASE " + where,
        )
        self._timeout_s = timeout_s
        self._scope = checked_scope(scope)
        self._blocks: list[Block] = []  # it may be entered again inside itself

    async def __aenter__(self) -> Savepoint:
        block = Block(self._state, self._statements, self._scope)
        self._blocks.append(block)
        try:
            await block.enter(self._timeout_s)
        except BaseException:
            self._blocks.remove(block)
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        block = self._blocks[-1]
        try:
            await block.leave(exc_info[0])
        except BaseException:
            block.abandon()
            raise
        finally:
            self._blocks.remove(block)
