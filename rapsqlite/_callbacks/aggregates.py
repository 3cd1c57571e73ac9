"""Instances of aggregates and window functions, and the deferred steps that the guest hands over in bulk.

https://sqlite.org/c3ref/create_function.html, https://sqlite.org/windowfunctions.html#udfwinfunc
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rapsqlite import _constants as abi
from rapsqlite._callbacks.deferred import DeferredError, arguments_of, runs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class NoMethodError(Exception):
    """An aggregate's class lacks a method; the cause is the AttributeError."""


class Instance:
    """One group's instance of a user's class. After a step raises, no further steps run."""

    __slots__ = ("_failure", "_item", "_within")

    def __init__(self, item: object) -> None:
        self._item = item
        self._failure: BaseException | None = None
        self._within = 0

    @property
    def registered(self) -> type:
        """The class that the user registered."""
        return type(self._item)

    def method(self, name: str) -> Callable[..., Any]:
        """Return the method; raises NoMethodError if it is missing."""
        try:
            found: Callable[..., Any] = getattr(self._item, name)
        except AttributeError as exc:
            raise NoMethodError from exc
        return found

    def step(self, is_inverse: bool) -> Callable[..., Any]:
        """Return the function for a step; raises NoMethodError, or DeferredError if an earlier step raised."""
        self._check()
        return self.method("inverse" if is_inverse else "step")

    def fail(self, failure: BaseException, is_inverse: bool) -> DeferredError:
        """Record the exception of a step: the instance is not used any more. Return the exception to raise."""
        self._failure = failure
        self._within = abi.CALLBACK_IN_INVERSE if is_inverse else abi.CALLBACK_IN_STEP
        return DeferredError(self.registered, self._within)

    def value(self) -> Any:
        """Return the result for the rows so far; raises DeferredError if a step raised."""
        self._check()
        return self.method("value")()

    def finalize(self) -> Any:
        """Return the result; raises DeferredError if a step raised. As in sqlite3, the user's method runs anyway."""
        try:
            return self.method("finalize")()
        finally:
            self._check()

    def abandon(self) -> None:
        """Finalize the user's object without using its result; the statement has failed, whatever this raises."""
        with suppress(BaseException):
            self.method("finalize")()

    def _check(self) -> None:
        if self._failure is not None:
            raise DeferredError(self.registered, self._within) from self._failure


def run_steps(instance_of: Callable[[int], Instance], runs: Iterable[Any]) -> None:
    """Run the steps of ``runs`` (`runs_of`), whose keys are handles of instances, negative for inverse steps.

    The first step that raises ends them all with DeferredError.
    """
    for handle, width, values in runs_of(runs):
        instance = instance_of(abs(handle))
        try:
            step = instance.step(handle < 0)
            if width == 1:
                for argument in values:
                    step(argument)
            else:
                for several in arguments_of(width, values):
                    step(*several)
        except DeferredError:
            raise
        except BaseException as exc:
            raise instance.fail(exc, handle < 0) from exc
