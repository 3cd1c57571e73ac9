"""What a guest may call, kept by its connection.

A guest's thread lives until its connection is closed, so nothing it can reach may keep a callback: the callback may
refer to the connection, which then would never be collected. The thread's side has weak references only.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import ref

from rapsqlite._callbacks.failures import Failures
from rapsqlite._callbacks.handles import Handles
from rapsqlite._callbacks.tracebacks import standing_for

if TYPE_CHECKING:
    from collections.abc import Callable

    F = TypeVar("F", bound="Callable[..., Any]")


class Held:
    """The functions, the instances of aggregates and the exceptions of one guest's callbacks."""

    __slots__ = ("__weakref__", "failures", "finalized", "functions", "handles")

    def __init__(self) -> None:
        self.handles: Handles[tuple[int, Any]] = Handles()  # kind, and the function or instance
        self.functions: dict[int, Callable[..., Any]] = {}  # by kind and handle, as the guest writes them in one word
        self.finalized: type | None = None  # the class of the last instance, in case it raises
        self.failures = Failures()

    def clear(self) -> None:
        """Drop everything, because the guest has ended."""
        self.handles.clear()
        self.functions.clear()
        self.failures.clear()
        self.finalized = None


def referable(function: F) -> F:
    """Return a function that can be referred to weakly: itself, or one that calls it."""
    try:
        ref(function)
    except TypeError:
        return cast("F", standing_for(partial(function), function))
    return function
