"""Registers callbacks with the guest: a handle for the object, a request, and the handle's release if rejected.

https://sqlite.org/c3ref/create_function.html
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import msgspec

from rapsqlite import _constants as abi
from rapsqlite._values.wire import decode_integer
from rapsqlite._wasm.rings import Request
from rapsqlite.errors import Error, ProgrammingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite._guest.guest import Guest

# Before Python 3.14 sqlite3 leaves checking the number of arguments to SQLite, which gives no reason.
_CHECKS_COUNTS = sys.version_info >= (3, 14)


async def asked_for_number(guest: Guest, operation: int, arguments: list[int]) -> int:
    """Return the guest's reply to one of the CONTROL_OP_* that reply with a number."""
    reply = await guest.call(Request(abi.OP_CONTROL, params=msgspec.msgpack.encode(arguments), target=operation))
    return decode_integer(reply.rows)


async def check_count(guest: Guest, narg: int, argument: str) -> None:
    """From Python 3.14 on, raise ProgrammingError if no function may have so many arguments; -1 means any number."""
    if not _CHECKS_COUNTS:
        return
    limit = await asked_for_number(guest, abi.CONTROL_OP_LIMIT, [abi.SQLITE_LIMIT_FUNCTION_ARG])
    if not -1 <= narg <= limit:
        raise ProgrammingError(f"{argument!r} must be between -1 and {limit}, not {narg}")


async def register_function(
    guest: Guest, kind: int, function: Callable[..., Any] | None, name: str, narg: int, flags: int, shape: int
) -> None:
    """Define an SQL function; ``kind`` is the callback's kind, ``shape`` one of FUNCTION_*. None removes it."""
    await _register(guest, abi.CONTROL_OP_FUNCTION, kind, function, lambda handle: [handle, name, narg, flags, shape])


async def register_collation(guest: Guest, function: Callable[..., Any] | None, name: str) -> None:
    """Define a collation; None removes it."""
    kind = abi.CALLBACK_COLLATION
    await _register(guest, abi.CONTROL_OP_COLLATION, kind, function, lambda handle: [handle, name])


async def register_hook(guest: Guest, kind: int, function: Callable[..., Any] | None, number: int = 0) -> None:
    """Set a hook; None removes it."""
    await _register(guest, abi.CONTROL_OP_HOOK, kind, function, lambda handle: [kind, handle, number])


async def _register(
    guest: Guest,
    operation: int,
    kind: int,
    function: Callable[..., Any] | None,
    arguments: Callable[[int], list[Any]],
) -> None:
    """Store ``function`` and send the request. Once the guest has the handle, only the guest releases it.

    After a cancellation or a signal handler's exception nobody knows whether the guest has it, so the function is kept
    until the connection closes.
    """
    callbacks = guest.callbacks
    handle = callbacks.hold(kind, function) if function is not None else 0
    try:
        await guest.call(Request(abi.OP_CONTROL, params=msgspec.msgpack.encode(arguments(handle)), target=operation))
    except Error:
        callbacks.release(handle)  # rejected, or never begun; the guest may have released it itself
        raise


def checked_name(name: object, function: str, argument: int | str = 1) -> str:
    """Return the name of a function, collation or table; TypeError or ValueError, as in sqlite3, if it is invalid."""
    if not isinstance(name, str):
        raise TypeError(f"{function}() argument {argument!r} must be str, not {type(name).__name__}")
    if "\0" in name:
        raise ValueError("embedded null character")
    name.encode()  # lone surrogates: UnicodeEncodeError, a ValueError
    return str.__str__(name)  # a subclass cannot be encoded, and its methods must not run


def checked_callable(function: object, argument: str) -> None:
    """Raise TypeError unless it is callable or None."""
    if function is not None and not callable(function):
        raise TypeError(f"{argument} must be callable")


def checked_int(value: object, argument: str) -> int:
    """Return an argument that SQLite takes as a C int; TypeError or OverflowError if it is not one."""
    if not isinstance(value, int):
        raise TypeError(f"{argument} must be int, not {type(value).__name__}")
    if not -(1 << 31) <= value < 1 << 31:
        raise OverflowError(f"{argument} does not fit a C int")
    return int(value)
