"""What a task waits for, and how long it goes on waiting once it was cancelled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable


class Ticket(Protocol):
    """What ``wait`` needs to know of the thing that is waited for."""

    waiter: Any  # a weak reference to the future or the Trio task to wake; None while nobody waits
    cancellation: BaseException | None  # that of the task, held back until the guest has answered

    @property
    def grace_period_s(self) -> float:
        """How long a cancelled task waits for the answer before it says that there is none."""
        ...

    def is_ready(self) -> bool:
        """Tell whether there is something to take, so that waiting is over."""
        ...

    def on_cancel(self) -> None:
        """Ask the guest to stop working on this."""
        ...

    def on_timeout(self) -> None:
        """Make the guest answer, or end it; called again after as long if it still does not."""
        ...


class Shield(Protocol):
    """The one thing that ``wait_shielded`` asks of an event loop."""

    def wait_shielded(self, ticket: Ticket, timeout_s: float) -> Awaitable[None]:
        """Wait until the ticket is ready or the time is over, whatever cancels the task."""
        ...


async def wait_shielded(loop: Shield, ticket: Ticket) -> None:
    """Wait until the ticket is ready, shielded from cancellation; say so as long as the guest is silent."""
    await loop.wait_shielded(ticket, ticket.grace_period_s)
    while not ticket.is_ready():
        ticket.on_timeout()
        await loop.wait_shielded(ticket, ticket.grace_period_s)
