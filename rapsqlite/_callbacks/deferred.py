"""Calls that the guest defers and hands over in bulk, and the exceptions of deferred calls and steps.

If a function's result is only a column of the row, the guest does not need it before the row is sent (docs/abi.md,
"Callbacks"). Used on the guest's thread.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any

from msgspec.msgpack import Ext

from rapsqlite import _constants as abi
from rapsqlite._callbacks.async_exception import CallbackInterrupted
from rapsqlite._callbacks.results import length_of, storable
from rapsqlite._values.wire import encode_answers
from rapsqlite.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rapsqlite._callbacks.async_exception import CallbackInterrupt

_FAILURE = Struct("<iI")  # a code, and the number of the exception
_MOST_BYTES = 131_072  # of results at a time: rows are sent before more calls are made
_INT64_BITS = 64  # one is the sign
_SHORT = 64  # characters; shorter texts need no size check


class DeferredError(Exception):
    """A deferred call raised; the cause is its exception.

    ``registered`` is the user's function or class, ``within`` one of CALLBACK_IN_*, or 0 for a call. ``answers`` are
    the results of the calls before it, for rows before the one that fails.
    """

    def __init__(self, registered: object, within: int, answers: Sequence[Any] = ()) -> None:
        super().__init__(within)
        self.registered = registered
        self.within = within
        self.answers = answers


def runs_of(items: Iterable[Any]) -> Iterator[tuple[int, int, list[Any]]]:
    """Return the deferred calls, ``[key, width, values, key, width, values, …]``, run by run.

    A run's values are the values of all its calls, ``width`` for each (`arguments_of`); one None for a call without
    values. What the guest wrote is untrusted: anything else raises InternalError.
    """
    parts = iter(items)
    for key, width, values in zip(parts, parts, parts, strict=False):
        if type(key) is not int or type(width) is not int or type(values) is not list or not 0 <= width <= len(values):
            raise InternalError("the guest's deferred calls are malformed")
        yield key, width, values


def arguments_of(width: int, values: list[Any]) -> Iterable[Any]:
    """Return the arguments of each call of a run: a single one by itself, several as a tuple."""
    if width == 1:
        return values
    return zip(*[iter(values)] * width, strict=False) if width else [()] * len(values)


def run_calls(
    function_of: Callable[[int], Callable[..., Any]], interrupt: CallbackInterrupt, largest: int, runs: Iterable[Any]
) -> bytes:
    """Make the calls of ``runs`` (`runs_of`, keys of functions) and return their results.

    Not all calls are made if the results are large, one is larger than ``largest`` bytes, or after an interrupt: the
    guest asks again for the rest if it still wants it. The first call that raises, or malformed input, ends them all
    with DeferredError.
    """
    answers: list[int | float | str | bytes | Ext | None] = []
    size, short = 0, min(largest, _SHORT)
    function: Callable[..., Any] | None = None
    try:
        for key, width, values in runs_of(runs):
            if interrupt.state:
                break
            function = function_of(key)
            is_single, interrupt.left = width == 1, values
            for argument in arguments_of(width, values):
                answer = function(argument) if is_single else function(*argument)
                if answer is True or answer is False:
                    answer = int(answer)
                # Values that SQLite can certainly store need no further checks.
                elif (type(answer) is int and answer.bit_length() < _INT64_BITS) or (
                    type(answer) is str and len(answer) <= short and answer.isascii()
                ):
                    pass
                elif type(answer) is not float and answer is not None:
                    answer = storable(answer)
                    length = length_of(answer)
                    size = size + length if length <= largest else _MOST_BYTES
                    if size >= _MOST_BYTES:
                        return encode_answers([*answers, answer])
                answers.append(answer)
        if not answers:
            raise CallbackInterrupted if interrupt.state else InternalError("the guest put nothing off")
    except BaseException as exc:
        raise DeferredError(function, 0, answers) from exc
    return encode_answers(answers)


def with_failure(answers: Sequence[Any], code: int, number: int) -> bytes:
    """Return the results of deferred calls, followed by the failure of the next call."""
    return encode_answers([*answers, Ext(abi.EXT_UNSUPPORTED, _FAILURE.pack(code, number))])
