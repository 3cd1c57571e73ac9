"""Steps that are carried through although their task is cancelled: the way out of transactions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def carry_through(step: Callable[[], Awaitable[Any]]) -> None:
    """Run ``step`` to its end in spite of cancellations; raise the last of them afterwards.

    ``step`` may run more than once: a cancellation that meets its request in the queue keeps it from being run.
    """
    # This is the way out after an error or a cancellation: others do not pay for anyio's import.
    from anyio import CancelScope, get_cancelled_exc_class

    cancelled = get_cancelled_exc_class()
    cancellation: BaseException | None = None
    with CancelScope(shield=True):
        while True:
            try:
                await step()
            except cancelled as exc:  # noqa: PERF203 - asyncio's task.cancel(), which no shield of anyio's holds off
                cancellation = exc
            else:
                break
    if cancellation is not None:
        raise cancellation
