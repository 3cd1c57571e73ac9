"""Instances of aggregates and window functions, and the steps that the guest puts off and hands over by the hundred."""

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
    """One group's instance of a user's class. After a step has raised no more are done."""

    __slots__ = ("_failure", "_item", "_within")

    def __init__(self, item: object) -> None:
        self._item = item
        self._failure: BaseException | None = None
        self._within = 0

    @property
    def registered(self) -> type:
        """The user's class."""
        return type(self._item)

    def method(self, name: str) -> Callable[..., Any]:
        """Return the method; NoMethodError if there is none."""
        try:
            found: Callable[..., Any] = getattr(self._item, name)
        except AttributeError as exc:
            raise NoMethodError from exc
        return found

    def step(self, is_inverse: bool) -> Callable[..., Any]:
        """Return what does a step; NoMethodError, or DeferredError if an earlier one had raised."""
        self._check()
        return self.method("inverse" if is_inverse else "step")

    def fail(self, failure: BaseException, is_inverse: bool) -> DeferredError:
        """Keep what a step raised: nothing more is made of this instance. Return what to raise."""
        self._failure = failure
        self._within = abi.CALLBACK_IN_INVERSE if is_inverse else abi.CALLBACK_IN_STEP
        return DeferredError(self.registered, self._within)

    def value(self) -> Any:
        """Return the result for the rows so far; DeferredError if a step had raised."""
        self._check()
        return self.method("value")()

    def finalize(self) -> Any:
        """Return the result; DeferredError if a step had raised: the user's method runs all the same, as in sqlite3."""
        try:
            return self.method("finalize")()
        finally:
            self._check()

    def abandon(self) -> None:
        """Let the user's object end without its result; the statement has failed, whatever this raises."""
        with suppress(BaseException):
            self.method("finalize")()

    def _check(self) -> None:
        if self._failure is not None:
            raise DeferredError(self.registered, self._within) from self._failure


def run_steps(instance_of: Callable[[int], Instance], runs: Iterable[Any]) -> None:
    """Do the steps of ``runs`` (`runs_of`), whose keys are handles of instances, negative for inverse steps.

    The first step that raises ends them all: DeferredError.
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
