"""SQL functions, aggregates, window functions and collations written in Python.

They run in the connection's own thread, with the GIL, while the statement that called them waits; event loops go on
meanwhile, as far as the GIL lets them. docs/callbacks.md says what they may do.
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
    """What of `Connection` teaches SQLite new functions.

    Each waits for the statements sent before it, and holds from then on for this connection. A function that takes the
    place of another, or goes, while a statement has rows left raises OperationalError (SQLITE_BUSY).

    What a callback returns is None, int, float, str or bytes-like; its arguments are such values too. An exception in
    it ends the statement with OperationalError and sqlite3's words, MemoryError with OutOfMemoryError, OverflowError
    with DataError; the exception itself is the ``__cause__``.
    """

    _session: ConnectionState

    async def create_function(
        self, name: str, narg: int, func: Callable[..., Any] | None, *, deterministic: bool = False
    ) -> None:
        """Let SQL call ``func`` as ``name`` with ``narg`` arguments (-1: any number); None removes the function.

        ``deterministic``: the same arguments always give the same result, so that SQLite may call it once for many
        rows and use it in indexes and generated columns. OperationalError if SQLite refuses the name or number; of the
        number it is a ProgrammingError from Python 3.14 on.
        """
        name = checked_name(name, "create_function")
        checked_int(narg, "narg")
        checked_callable(func, "func")
        guest = self._session.guest
        await check_count(guest, narg, "narg")
        flags = abi.SQLITE_DETERMINISTIC if deterministic else 0
        kind, what = abi.CALLBACK_FUNCTION, abi.FUNCTION_SCALAR
        await register_function(guest, kind, func, name, narg, flags, what)

    async def create_aggregate(
        self, name: str, narg: int, aggregate_class: Callable[[], AggregateFunction] | None
    ) -> None:
        """Let SQL call an aggregate: for each group an instance, ``step(*arguments)`` per row, then ``finalize()``.

        None removes it. Without rows no instance is made and the result is NULL. OperationalError if SQLite refuses
        the name or number; of the number it is a ProgrammingError from Python 3.14 on.
        """
        name = checked_name(name, "create_aggregate")
        checked_int(narg, "narg")
        checked_callable(aggregate_class, "aggregate_class")
        guest = self._session.guest
        await check_count(guest, narg, "n_arg")
        make = None if aggregate_class is None else _maker(aggregate_class, guest.callbacks)
        await register_function(guest, abi.CALLBACK_NEW, make, name, narg, 0, abi.FUNCTION_AGGREGATE)

    async def create_window_function(
        self, name: str, num_params: int, aggregate_class: Callable[[], WindowFunction] | None
    ) -> None:
        """Let SQL call an aggregate window function; None removes it.

        Beyond what an aggregate has, ``value()`` returns the result for the window as it is, and
        ``inverse(*arguments)`` takes back the step of a row that leaves it. ProgrammingError if SQLite refuses the
        name or number.
        """
        name = checked_name(name, "create_window_function")
        checked_int(num_params, "num_params")
        checked_callable(aggregate_class, "aggregate_class")
        guest = self._session.guest
        await check_count(guest, num_params, "num_params")
        make = None if aggregate_class is None else _maker(aggregate_class, guest.callbacks)
        await register_function(guest, abi.CALLBACK_NEW, make, name, num_params, 0, abi.FUNCTION_WINDOW)

    async def create_collation(self, name: str, callable: Callable[[str, str], int] | None) -> None:
        """Let SQL sort by ``callable(left, right)``: negative, 0 or positive, as left goes before, with or after right.

        None removes it. Other than in sqlite3, an exception in it ends the statement, and rolls back the transaction of
        one that changes data: what was sorted by made-up answers would be wrong without a sign.
        """
        name = checked_name(name, "create_collation")
        checked_callable(callable, "parameter")
        compare = None if callable is None else _comparing(callable)
        await register_collation(self._session.guest, compare, name)


def _maker(aggregate_class: Callable[[], object], callbacks: Callbacks) -> Callable[[], int]:
    """Return what makes an instance and gives the guest its handle."""
    return standing_for(lambda: callbacks.hold_instance(aggregate_class()), aggregate_class)


def _comparing(function: Callable[[str, str], int]) -> Callable[[str, str], int]:
    def compare(left: str, right: str) -> int:
        order = function(left, right)
        if not isinstance(order, int):
            raise TypeError(f"a collation must return int, not {type(order).__name__}")
        return (order > 0) - (order < 0)

    return standing_for(compare, function)
