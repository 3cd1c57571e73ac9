"""Savepoints as ``async with`` blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rapsqlite._identifiers import quoted
from rapsqlite._shield import carry_through
from rapsqlite._uncopied import Uncopied

if TYPE_CHECKING:
    from types import TracebackType

    from rapsqlite._session import Session
    from rapsqlite.connection import Connection


class Savepoint(Uncopied):
    """A part of a transaction that can be undone alone; blocks nest.

    Released on a clean exit, undone when an exception leaves the block. Outside of a transaction the outermost
    savepoint begins one and its release commits it, as SQLite defines: https://sqlite.org/lang_savepoint.html
    """

    __slots__ = ("_beginning", "_releasing", "_session", "_undoing", "name")

    def __init__(self, connection: Connection, name: str) -> None:
        if "\0" in name:
            raise ValueError("the name of a savepoint cannot contain a null character")
        self.name: str = name
        identifier = quoted(name)
        self._beginning = f"SAVEPOINT {identifier}"
        self._undoing = f"ROLLBACK TO {identifier}"
        self._releasing = f"RELEASE {identifier}"
        self._session: Session = connection._session

    async def __aenter__(self) -> Savepoint:
        await self._session.run(self._beginning)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is GeneratorExit:
            self._session.post_script(f"{self._undoing}; {self._releasing}")  # nobody runs the task any more
            return
        if exc_type is not None:
            await carry_through(self._undo)
            return
        try:
            await self._session.run(self._releasing)
        except BaseException:
            await carry_through(self._undo)
            raise

    async def _undo(self) -> None:
        # SQLite ends the whole transaction by itself on some errors; then there is no savepoint left to undo.
        if self._session.guest.in_transaction:
            await self._session.run(self._undoing)
            await self._session.run(self._releasing)
