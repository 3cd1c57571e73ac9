"""SQL functions, aggregates, window functions and collations written in Python.

https://sqlite.org/appfunc.html

They run in the connection's thread, with the GIL, while the calling statement waits; event loops keep running as far as
the GIL allows. docs/callbacks.md says what they may do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rapsqlite import _constants as abi
from rapsqlite._callbacks.tracebacks import standing_for
from rapsqlite._client.registration import (
    check_count,
    checked_callable,
    checked_int,
    checked_name,
    register_collation,
    register_function,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite._callbacks.callbacks import Callbacks
    from rapsqlite._client.state import ConnectionState
    from rapsqlite.types import AggregateFunction, WindowFunction


class Functions:
    """Registers SQL functions and collations: methods of `Connection`.

    Each method waits for the statements sent before it and applies to this connection from then on. Replacing or
    removing a function while a statement has rows left raises OperationalError (SQLITE_BUSY).

    Arguments and results are None, int, float, str or bytes-like. An exception in a callback fails the statement with
    OperationalError and sqlite3's message, MemoryError with OutOfMemoryError, OverflowError with DataError; the
    original exception is the ``__cause__``.
    """

    _state: ConnectionState

    async def create_function(
        self, name: str, narg: int, func: Callable[..., Any] | None, *, deterministic: bool = False
    ) -> None:
        """Register ``func`` as the SQL function ``name`` with ``narg`` arguments (-1: any number); None removes it.

        ``deterministic``: the same arguments always give the same result, so SQLite may reuse results and allow the
        function in indexes and generated columns. Raises OperationalError if SQLite rejects the name or the number of
        arguments, and ProgrammingError for the number from Python 3.14 on.
        https://sqlite.org/c3ref/create_function.html
        """
        name = checked_name(name, "create_function")
        checked_int(narg, "narg")
        checked_callable(func, "func")
        guest = self._state.guest
        await check_count(guest, narg, "narg")
        flags = abi.SQLITE_DETERMINISTIC if deterministic else 0
        kind, shape = abi.CALLBACK_FUNCTION, abi.FUNCTION_SCALAR
        await register_function(guest, kind, func, name, narg, flags, shape)

    async def create_aggregate(
        self, name: str, narg: int, aggregate_class: Callable[[], AggregateFunction] | None
    ) -> None:
        """Register an aggregate: one instance per group, ``step(*arguments)`` per row, then ``finalize()``.

        None removes it. Without rows no instance is created and the result is NULL. Raises OperationalError if SQLite
        rejects the name or the number of arguments, and ProgrammingError for the number from Python 3.14 on.
        """
        name = checked_name(name, "create_aggregate")
        checked_int(narg, "narg")
        checked_callable(aggregate_class, "aggregate_class")
        guest = self._state.guest
        await check_count(guest, narg, "n_arg")
        make = None if aggregate_class is None else _maker(aggregate_class, guest.callbacks)
        await register_function(guest, abi.CALLBACK_NEW, make, name, narg, 0, abi.FUNCTION_AGGREGATE)

    async def create_window_function(
        self, name: str, num_params: int, aggregate_class: Callable[[], WindowFunction] | None
    ) -> None:
        """Register an aggregate window function; None removes it.

        In addition to an aggregate's methods, ``value()`` returns the result for the current window and
        ``inverse(*arguments)`` undoes the step of a row that leaves it. Raises ProgrammingError if SQLite rejects the
        name or the number of arguments. https://sqlite.org/windowfunctions.html#udfwinfunc
        """
        name = checked_name(name, "create_window_function")
        checked_int(num_params, "num_params")
        checked_callable(aggregate_class, "aggregate_class")
        guest = self._state.guest
        await check_count(guest, num_params, "num_params")
        make = None if aggregate_class is None else _maker(aggregate_class, guest.callbacks)
        await register_function(guest, abi.CALLBACK_NEW, make, name, num_params, 0, abi.FUNCTION_WINDOW)

    async def create_collation(self, name: str, callable: Callable[[str, str], int] | None) -> None:
        """Register a collation: ``callable(left, right)`` is negative, 0 or positive (before, equal, after).

        None removes it. Unlike in sqlite3, an exception in it fails the statement and rolls back the transaction of a
        statement that changes data: anything sorted by arbitrary results would be silently wrong.
        https://sqlite.org/c3ref/create_collation.html
        """
        name = checked_name(name, "create_collation")
        checked_callable(callable, "parameter")
        compare = None if callable is None else _comparing(callable)
        await register_collation(self._state.guest, compare, name)


def _maker(aggregate_class: Callable[[], object], callbacks: Callbacks) -> Callable[[], int]:
    """Return a function that creates an instance and returns its handle to the guest."""
    return standing_for(lambda: callbacks.hold_instance(aggregate_class()), aggregate_class)


def _comparing(function: Callable[[str, str], int]) -> Callable[[str, str], int]:
    def compare(left: str, right: str) -> int:
        order = function(left, right)
        if not isinstance(order, int):
            raise TypeError(f"a collation must return int, not {type(order).__name__}")
        return (order > 0) - (order < 0)

    return standing_for(compare, function)
