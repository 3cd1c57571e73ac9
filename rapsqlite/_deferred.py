"""Calls that the guest puts off and hands over by the hundred; what they raise, and what put-off steps raise.

Where the result of a function goes to the row alone, the guest need not know it before the row is sent (docs/abi.md,
"Callbacks"). On the guest's thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rapsqlite._answers import LEAST, MOST, length_of, storable
from rapsqlite._wire import encode_answers
from rapsqlite.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rapsqlite._strike import Strike

_MOST_BYTES = 131_072  # of the answers in one go: rows are sent before more are made
_SHORT = 64  # characters of a text that is looked at no closer


class DeferredError(Exception):
    """What had been put off raised; the cause is what it raised.

    ``registered`` is the user's function or class, ``within`` one of CALLBACK_IN_*, or 0 for a call.
    """

    def __init__(self, registered: object, within: int) -> None:
        super().__init__(within)
        self.registered = registered
        self.within = within


def runs_of(items: Iterable[Any]) -> Iterator[tuple[int, bool, Iterable[Any]]]:
    """Return what was put off, ``[key, width, values, key, width, values, …]``, run by run.

    A run's values are those of all its calls, ``width`` of them each; one None for a call without values. Of a run
    there are the key, whether each of its calls has one argument, and for each call that or all its arguments.
    What the guest wrote is untrusted: InternalError for anything else.
    """
    parts = iter(items)
    for key, width, values in zip(parts, parts, parts, strict=False):
        if type(key) is not int or type(width) is not int or type(values) is not list or width < 0:
            raise InternalError("what the guest put off is malformed")
        if width == 1:
            yield key, True, values
        else:
            yield key, False, zip(*[iter(values)] * width, strict=False) if width else [()] * len(values)


def run_calls(
    function_of: Callable[[int], Callable[..., Any]], strike: Strike, largest: int, runs: Iterable[Any]
) -> bytes:
    """Make the calls of ``runs`` (`runs_of`, whose keys are those of functions), and return their answers.

    Not all calls are made if the answers are large, one is larger than ``largest`` bytes, or after a ``strike``: the
    guest asks for the rest if it still wants it. The first call that raises ends them all: DeferredError, also for what
    is malformed.
    """
    answers: list[int | float | str | bytes | None] = []
    size, short = 0, min(largest, _SHORT)
    function: Callable[..., Any] | None = None
    try:
        for key, is_single, arguments in runs_of(runs):
            function = function_of(key)
            for argument in arguments:
                answer = function(argument) if is_single else function(*argument)
                kind = type(answer)
                # What is surely as SQLite has it is looked at no closer.
                if kind is int:
                    if not LEAST <= answer <= MOST:
                        storable(answer)
                elif kind is str and len(answer) <= short and answer.isascii():
                    pass
                elif kind is not float and answer is not None:
                    answer = storable(answer)
                    length = length_of(answer)
                    size = size + length if length <= largest else _MOST_BYTES
                answers.append(answer)
                if strike.state or size >= _MOST_BYTES:
                    return encode_answers(answers)
        if not answers:
            raise InternalError("the guest put nothing off")
    except BaseException as exc:
        raise DeferredError(function, 0) from exc
    return encode_answers(answers)
