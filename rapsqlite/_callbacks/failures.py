"""Exceptions of callbacks, by number: a reply contains the number of the one that made its request fail."""

from __future__ import annotations

from itertools import count

from rapsqlite import _constants as abi
from rapsqlite._callbacks.aggregates import NoMethodError
from rapsqlite._callbacks.deferred import DeferredError

_MOST = 4096  # a bound, so that a guest that never replies cannot fill the host's memory


class Failures:
    """The exceptions of one guest's callbacks."""

    __slots__ = ("_kept", "_numbers")

    def __init__(self) -> None:
        self._kept: dict[int, BaseException] = {}
        self._numbers = count(1)

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, failure: BaseException) -> int:
        """Return the number with which `take` returns this exception."""
        number = next(self._numbers) & 0x7FFF_FFFF
        self._kept[number] = failure
        self._kept.pop(number - _MOST, None)
        return number

    def take(self, number: int) -> BaseException | None:
        """Return the exception with this number, and forget it and all earlier ones. Any thread."""
        failure = self._kept.pop(number, None)
        for older in [known for known in list(self._kept) if known < number]:
            self._kept.pop(older, None)
        return failure

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()


def code_of(exc: BaseException) -> tuple[int, BaseException]:
    """Return the guest's code for an exception, and the exception to show to the user."""
    if isinstance(exc, DeferredError) and exc.__cause__ is not None:
        code, failure = code_of(exc.__cause__)
        return exc.within + code, failure
    if isinstance(exc, NoMethodError):
        return abi.CALLBACK_NO_METHOD, exc.__cause__ or exc
    if isinstance(exc, MemoryError):
        return abi.CALLBACK_NO_MEMORY, exc
    if isinstance(exc, OverflowError):
        return abi.CALLBACK_TOO_LARGE, exc
    return abi.CALLBACK_RAISED, exc
