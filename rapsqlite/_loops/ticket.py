"""What a task waits for, and how long it keeps waiting once it is cancelled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable


class Ticket(Protocol):
    """What ``wait`` needs to know about the object it waits for."""

    waiter: Any  # weak reference to the future or Trio task to wake; None if nothing waits
    cancellation: BaseException | None  # the task's cancellation, held back until the guest has answered
    cancellation_count: int  # how many older requests to cancel the task there were; asyncio only

    @property
    def grace_period_s(self) -> float:
        """How long a cancelled task waits for the reply before ``on_timeout`` is called, in seconds."""
        ...

    def is_ready(self) -> bool:
        """Return True if there is something to take, so the wait is over."""
        ...

    def on_cancel(self) -> None:
        """Ask the guest to stop working on this."""
        ...

    def on_timeout(self) -> None:
        """Force the guest to answer, or end it; called again after the same time if it still does not."""
        ...


class Shield(Protocol):
    """The only thing ``wait_shielded`` needs from an event loop."""

    def wait_shielded(self, ticket: Ticket, timeout_s: float) -> Awaitable[None]:
        """Wait until the ticket is ready or the time is over, whatever cancels the task."""
        ...


async def wait_shielded(loop: Shield, ticket: Ticket) -> None:
    """Wait until the ticket is ready, shielded from cancellation; ``on_timeout`` if the guest does not answer."""
    await loop.wait_shielded(ticket, ticket.grace_period_s)
    while not ticket.is_ready():
        ticket.on_timeout()
        await loop.wait_shielded(ticket, ticket.grace_period_s)
