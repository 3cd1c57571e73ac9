"""What the guest has open for the user beside statements, by its handle: a blob's value, a session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rapsqlite import _constants as abi
from rapsqlite._client.state import CLOSED
from rapsqlite._wasm.rings import Request
from rapsqlite.errors import ProgrammingError

if TYPE_CHECKING:
    from rapsqlite._guest.guest import Guest


class OpenObject:
    """The guest's handle of one object; 0 once it is closed. ``noun`` is what errors call it."""

    __slots__ = ("_guest", "_handle", "_noun")

    def __init__(self, guest: Guest, handle: int, noun: str) -> None:
        self._guest = guest
        self._handle = handle
        self._noun = noun

    def require(self) -> int:
        """Return the handle; ProgrammingError if the object, or its connection, is closed."""
        guest = CLOSED if self._guest.state == "closed" else self._guest
        guest.in_transaction  # noqa: B018 - raises if the connection is closed
        if not self._handle:
            raise ProgrammingError(f"Cannot operate on a closed {self._noun}.")
        return self._handle

    async def close(self) -> None:
        """Close it; idempotent, and no cancellation keeps it from being closed.

        Raises what closing it in SQLite raises: a blob's value may commit.
        """
        if self._handle and self._is_there():
            dropped = self._guest.submit(
                Request(abi.OP_DROP, target=self._handle)
            )  # raises in a callback: then it stays open
            self._handle = 0
            await self._guest.result(dropped)
        self._handle = 0

    def forget(self) -> None:
        """Close it without waiting. Any thread, also from a finalizer."""
        handle, self._handle = self._handle, 0
        if handle and self._is_there():
            self._guest.post(Request(abi.OP_DROP, target=handle))

    def _is_there(self) -> bool:
        """Tell whether the guest still has it: the connection may have been closed before the guest had opened it."""
        return self._guest is not CLOSED and self._guest.state == "ok"
