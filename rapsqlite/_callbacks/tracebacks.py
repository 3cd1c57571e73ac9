"""``enable_callback_tracebacks``: show what callbacks raise where it happens, as sqlite3 does.

One switch for the process, that of `sqlite3`, which cannot be read there: what we are told is remembered here. Without
it an exception is still the ``__cause__`` of the statement's error, where it has one.
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
    """Have exceptions in callbacks, of this package and of `sqlite3`, reported as they happen; False ends it.

    They go to `sys.unraisablehook`, with the function or class that was registered, which from Python 3.14 on is named
    by the message; under Python 3.10 their tracebacks are printed.
    """
    global _enabled
    sqlite3.enable_callback_tracebacks(enable)
    _enabled = bool(enable)


def report(exc: BaseException, function: Any) -> None:
    """Report an exception that ``function`` raised, if that is asked for; raises nothing itself."""
    if not _enabled:
        return
    try:
        _tell(exc, getattr(function, "__wrapped__", function))
    except BaseException:  # noqa: BLE001 - there is nobody to raise it to
        traceback.print_exc()


def _tell(exc: BaseException, registered: object) -> None:
    message = f"Exception ignored on sqlite3 callback {registered!r}" if _HAS_MESSAGE else None
    if not _HAS_UNRAISABLE or sys.unraisablehook is sys.__unraisablehook__:
        # The interpreter's own hook takes objects of a private class alone, so this prints what it would.
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
    """Return ``wrapper``, which calls what the user registered, marked so that `report` names that."""
    cast("Any", wrapper).__wrapped__ = registered
    return wrapper
