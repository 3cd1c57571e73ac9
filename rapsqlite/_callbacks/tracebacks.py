"""``enable_callback_tracebacks``: reports exceptions of callbacks where they occur, as sqlite3 does.

There is one switch per process, in `sqlite3`, where it cannot be read, so its value is also stored here. Without it an
exception is still the ``__cause__`` of the statement's error, if there is one.
https://docs.python.org/3/library/sqlite3.html#sqlite3.enable_callback_tracebacks
"""

from __future__ import annotations

import sqlite3
import sys
import traceback
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

_HAS_UNRAISABLE = sys.version_info >= (3, 11)
_HAS_MESSAGE = sys.version_info >= (3, 14)
_enabled = False


def enable_callback_tracebacks(enable: bool, /) -> None:
    """Report exceptions in callbacks, of this package and of `sqlite3`, as they occur; False turns it off.

    They go to `sys.unraisablehook` with the registered function or class; from Python 3.14 on the message names it. On
    Python 3.10 their tracebacks are printed.
    """
    global _enabled
    sqlite3.enable_callback_tracebacks(enable)
    _enabled = bool(enable)


def report(exc: BaseException, function: Any) -> None:
    """Report an exception raised by ``function``, if reporting is on; never raises."""
    if not _enabled:
        return
    try:
        _report(exc, getattr(function, "__wrapped__", function))
    except BaseException:  # noqa: BLE001 - there is no caller to raise it to
        traceback.print_exc()


def _report(exc: BaseException, registered: object) -> None:
    message = f"Exception ignored on sqlite3 callback {registered!r}" if _HAS_MESSAGE else None
    if not _HAS_UNRAISABLE or sys.unraisablehook is sys.__unraisablehook__:
        # The interpreter's own hook accepts only objects of a private class, so this prints what it would print.
        sys.stderr.write(f"{message or f'Exception ignored in: {registered!r}'}\n")
        traceback.print_exception(type(exc), exc, exc.__traceback__)
        return
    details: Any = SimpleNamespace(
        exc_type=type(exc),
        exc_value=exc,
        exc_traceback=exc.__traceback__,
        err_msg=message,
        object=None if _HAS_MESSAGE else registered,
    )
    sys.unraisablehook(details)


def standing_for(wrapper: F, registered: object) -> F:
    """Return ``wrapper``, which calls the user's function, marked so that `report` names the function."""
    cast("Any", wrapper).__wrapped__ = registered
    return wrapper
