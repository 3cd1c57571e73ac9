"""Savepoints as ``async with`` blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rapsqlite._client.block import Block
from rapsqlite._identifiers import quoted
from rapsqlite._values.uncopied import Uncopied

if TYPE_CHECKING:
    from rapsqlite.connection import Connection


class Savepoint(Uncopied):
    """A part of a transaction that can be rolled back by itself; blocks nest.

    Released on a clean exit, rolled back if an exception leaves the block. Outside a transaction the outermost
    savepoint begins one and its release commits it: https://sqlite.org/lang_savepoint.html
    """

    __slots__ = ("_block", "name")

    def __init__(self, connection: Connection, name: str) -> None:
        if "\0" in name:
            raise ValueError("a savepoint name cannot contain a null character")
        self.name: str = name
        where = quoted(name).encode()
        self._block = Block(
            connection._state,
            b"SAVEPOINT " + where,
            b"RELEASE " + where,
            b"ROLLBACK TO " + where + b"; RELEASE " + where,
        )

    async def __aenter__(self) -> Savepoint:
        await self._block.enter()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            await self._block.leave(exc_info[0])
        except BaseException:
            self._block.abandon()
            raise
