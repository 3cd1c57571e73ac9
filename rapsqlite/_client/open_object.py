"""Objects other than statements that the guest has open for the user, by handle: a blob's value, a session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rapsqlite import _constants as abi
from rapsqlite._client.state import CLOSED
from rapsqlite._wasm.rings import Request
from rapsqlite.errors import ProgrammingError

if TYPE_CHECKING:
    from rapsqlite._guest.guest import Guest


class OpenObject:
    """Handle of one object in the guest; 0 once it is closed. ``noun`` names it in errors."""

    __slots__ = ("_guest", "_handle", "_noun")

    def __init__(self, guest: Guest, handle: int, noun: str) -> None:
        self._guest = guest
        self._handle = handle
        self._noun = noun

    def require(self) -> int:
        """Return the handle; ProgrammingError if the object or its connection is closed."""
        guest = CLOSED if self._guest.state == "closed" else self._guest
        guest.in_transaction  # noqa: B018 - raises if the connection is closed
        if not self._handle:
            raise ProgrammingError(f"Cannot operate on a closed {self._noun}.")
        return self._handle

    async def close(self) -> None:
        """Close it; idempotent. Cancellation does not stop it.

        Raises SQLite's error of closing it: closing a blob may commit.
        """
        if self._handle and self._is_there():
            dropped = self._guest.unsent(Request(abi.OP_DROP, target=self._handle))
            try:
                self._guest.submit(dropped)  # raises in a callback: then it stays open
            except (KeyboardInterrupt, SystemExit):
                self.forget()
                raise
            self._handle = 0
            await self._guest.result(dropped)
        self._handle = 0

    def forget(self) -> None:
        """Close it without waiting. Any thread, including from a finalizer."""
        if self._handle and self._is_there():
            self._guest.post(Request(abi.OP_DROP, target=self._handle))
        self._handle = 0

    def _is_there(self) -> bool:
        """Return True if the guest still has it; the connection may have been closed before it was opened."""
        return self._guest is not CLOSED and self._guest.state == "ok"
