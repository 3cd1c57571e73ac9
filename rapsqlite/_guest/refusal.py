"""The reason why a connection accepts no more requests."""

from __future__ import annotations

from copy import copy

from rapsqlite.errors import Error, OperationalError, ProgrammingError


def refusal_of(state: str, name: str, failure: BaseException | None, last_message: str) -> Exception:
    """Return the exception for a guest in this state, given the ``failure`` that ended it or its ``last_message``."""
    if state == "closed":
        return ProgrammingError("Cannot operate on a closed database.")
    if state == "forked":
        return ProgrammingError(
            f"the connection to {name} was opened before fork() and belongs to the parent process: "
            "open a new one in the child"
        )
    if isinstance(failure, Error):
        # Each task raises its own: a traceback grows with every raise, and keeps what the tasks' frames refer to.
        copied = copy(failure).with_traceback(failure.__traceback__)
        if failure.__cause__ is not None:
            copied.__cause__ = failure.__cause__
        return copied
    error = OperationalError(
        f"the connection to {name} has failed and is closed ({last_message or failure});"
        " what was committed is safe, an open transaction is rolled back by the next connection"
    )
    error.__cause__ = failure
    return error
