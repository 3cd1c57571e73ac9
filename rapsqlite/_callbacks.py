"""The guest calls Python: one import for all kinds of callbacks, the objects they call, what they raise.

Everything but ``hold`` and ``take_failure`` runs on the guest's thread. No lock of the guest's is held while a callback
runs, so requests can be sent and interrupted meanwhile. What the guest passes is untrusted: an unknown handle, or one
of another kind, is answered like an exception, and arguments are decoded by msgspec out of bytes that ``view`` checked.
"""

from __future__ import annotations

import logging
import threading
from itertools import count
from typing import TYPE_CHECKING, Any

import msgspec

from rapsqlite import _constants as abi
from rapsqlite._handles import Handles
from rapsqlite._tracebacks import report, standing_for
from rapsqlite.errors import InternalError, ProgrammingError

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("rapsqlite")

_decode = msgspec.msgpack.Decoder(list[Any]).decode
_encode = msgspec.msgpack.Encoder().encode
_PLAIN = frozenset({float, str, bytes, bool, type(None)})
_LOWEST, _HIGHEST = -(1 << 63), (1 << 63) - 1
_METHODS = {
    abi.CALLBACK_STEP: "step",
    abi.CALLBACK_INVERSE: "inverse",
    abi.CALLBACK_VALUE: "value",
    abi.CALLBACK_FINALIZE: "finalize",
}
_INSTANCE = -1  # a kind no guest can ask for, whose function returns the method of a name
_WITHOUT_CONSEQUENCE = frozenset({abi.CALLBACK_TRACE, abi.CALLBACK_ROLLBACK})
_MOST_FAILURES = 4096  # nobody asked for: a guest that answers nothing must not fill our memory


class _NoMethodError(Exception):
    """An aggregate's class lacks a method; the cause is the AttributeError."""


class Callbacks:
    """What one guest may call."""

    __slots__ = ("_failures", "_handles", "_large", "_numbers", "thread")

    def __init__(self) -> None:
        self.thread = 0  # the one that runs a callback now
        # What is called, and for which kind.
        self._handles: Handles[tuple[int, Callable[..., Any]]] = Handles()
        self._large = b""
        self._failures: dict[int, BaseException] = {}
        self._numbers = count(1)

    def __len__(self) -> int:
        return len(self._handles)

    def hold(self, kind: int, function: Callable[..., Any]) -> int:
        """Return the handle by which the guest calls ``function``."""
        return self._handles.hold((kind, function))

    def release(self, handle: int) -> None:
        """Forget a handle that the guest does not hold."""
        self._handles.release(handle)

    def clear(self) -> None:
        """The guest has ended."""
        self._handles.clear()
        self._failures.clear()

    def take_failure(self, number: int) -> BaseException | None:
        """Return the exception with this number; it and those before it are forgotten. Any thread."""
        failure = self._failures.pop(number, None)
        for older in [known for known in list(self._failures) if known < number]:
            self._failures.pop(older, None)
        return failure

    def refuse_use(self) -> None:
        """Raise if this thread is in a callback: the connection cannot answer before that returns."""
        if self.thread == threading.get_ident():
            raise ProgrammingError(
                "a callback cannot use the connection that calls it: it is busy until the callback returns"
            )

    # -- imports -----------------------------------------------------------------------------------

    def call(self, kind: int, handle: int, arguments: memoryview, answer: memoryview) -> int:
        """Call what ``handle`` stands for; return the length of the answer, which is in ``answer`` if it fits.

        A negative number says that there is none; then ``answer`` starts with the number of the exception.
        """
        if kind == abi.CALLBACK_RELEASE:
            self._handles.release(handle)
            return 0
        self.thread = threading.get_ident()
        entry = self._handles.get(handle)
        try:
            if entry is None:
                raise InternalError("the guest called something it does not hold")
            if entry[0] == kind:
                value = entry[1](*_decode(arguments))
            else:
                value = self._call_method(kind, handle, entry, arguments)
            encoded = _encode_value(value)
        except BaseException as exc:  # noqa: BLE001 - it must not cross the wasm frames; it becomes the error's cause
            return self._fail(kind, exc, answer, entry)
        finally:
            self.thread = 0
        length = len(encoded)
        if length <= len(answer):
            answer[:length] = encoded
        else:
            self._large = encoded
        return length

    def fetch_answer(self, target: memoryview) -> int:
        """Copy the last answer, which was too large for its place; 1 if it has another length."""
        large, self._large = self._large, b""
        if len(large) != len(target):
            return 1
        target[:] = large
        return 0

    def _call_method(
        self, kind: int, handle: int, entry: tuple[int, Callable[..., Any]], arguments: memoryview
    ) -> object:
        """Call a method of an aggregate's instance."""
        held_for, bound = entry
        name = _METHODS.get(kind)
        if held_for != _INSTANCE or name is None:
            raise InternalError("the guest called something for what it is not")
        if kind == abi.CALLBACK_FINALIZE:
            self._handles.release(handle)
        return bound(name)(*_decode(arguments))

    def hold_instance(self, instance: object) -> int:
        """Return the handle of an aggregate's instance."""

        def method(name: str) -> Callable[..., Any]:
            try:
                found: Callable[..., Any] = getattr(instance, name)
            except AttributeError as exc:
                raise _NoMethodError from exc
            return found

        return self.hold(_INSTANCE, standing_for(method, type(instance)))

    def _fail(
        self, kind: int, exc: BaseException, answer: memoryview, entry: tuple[int, Callable[..., Any]] | None
    ) -> int:
        code, failure = _code_of(exc)
        report(failure, entry and entry[1])
        number = 0
        if kind in _WITHOUT_CONSEQUENCE:
            logger.error("a callback raised, which changes nothing for the statement", exc_info=failure)
        else:
            number = next(self._numbers) & 0x7FFF_FFFF
            self._failures[number] = failure
            while len(self._failures) > _MOST_FAILURES:
                self._failures.pop(next(iter(self._failures)), None)
        answer[:4] = number.to_bytes(4, "little")
        return code


def _code_of(exc: BaseException) -> tuple[int, BaseException]:
    """Return the guest's word for an exception, and the exception that the user is to see."""
    if isinstance(exc, _NoMethodError):
        return abi.CALLBACK_NO_METHOD, exc.__cause__ or exc
    if isinstance(exc, MemoryError):
        return abi.CALLBACK_NO_MEMORY, exc
    if isinstance(exc, OverflowError):
        return abi.CALLBACK_TOO_LARGE, exc
    return abi.CALLBACK_RAISED, exc


def _encode_value(value: Any) -> bytes:
    """Return what a callback returned as MessagePack; ProgrammingError for a type that SQLite does not store."""
    kind = type(value)
    if kind is int:
        if not _LOWEST <= value <= _HIGHEST:
            raise OverflowError("Python int too large to convert to SQLite INTEGER")
        return _encode(value)
    if kind in _PLAIN:
        return _encode(value)
    if isinstance(value, int):
        return _encode_value(int(value))
    if isinstance(value, float):
        return _encode(float.__float__(value))
    if isinstance(value, str):
        return _encode(str.__str__(value))
    try:
        buffer = memoryview(value)
    except TypeError:
        raise ProgrammingError(f"User-defined functions cannot return '{kind.__name__}' values to SQLite") from None
    return _encode(buffer)  # BufferError, as in sqlite3, if it is not contiguous
