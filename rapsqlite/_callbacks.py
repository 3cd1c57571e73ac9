"""The guest calls Python: one import for all kinds of callbacks, the objects they call, what they raise.

Arguments and answer pass at one place in the guest's memory (`Place`); ``call`` is what every row of a statement may
have to wait for, so it is written for speed. Everything but ``hold``, ``failures`` and ``interrupt`` runs on the
guest's thread. No lock of the guest's is held while a callback runs, so requests can be sent and interrupted meanwhile.
What the guest passes is untrusted: an unknown handle, or one of another kind, is answered like an exception.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from rapsqlite import _constants as abi
from rapsqlite._failures import Failures, code_of
from rapsqlite._handles import Handles
from rapsqlite._instances import Instance, StepError, run_steps
from rapsqlite._place import Place
from rapsqlite._strike import CallbackInterrupted, Strike
from rapsqlite._tracebacks import report
from rapsqlite.errors import InternalError, ProgrammingError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

logger = logging.getLogger("rapsqlite")

_KEY, _FORM, _VALUE, _ADDRESS = abi.PLACE_KEY, abi.PLACE_FORM, abi.PLACE_VALUE, abi.PLACE_ADDRESS
_INTEGER, _FLOAT, _TEXT = abi.FORM_INTEGER, abi.FORM_FLOAT, abi.FORM_TEXT
_KIND_BITS = 8
_INSTANCE = 0  # the kind of an aggregate's instance: no guest can call one, for as a kind this is RELEASE
_SEVERAL = -1  # what answers to several kinds, each with a function of its own
_WITHOUT_CONSEQUENCE = frozenset({abi.CALLBACK_TRACE, abi.CALLBACK_ROLLBACK})


class Callbacks:
    """What one guest may call."""

    __slots__ = ("_finalized", "_functions", "_handles", "_own", "_place", "_strike", "failures")

    def __init__(self) -> None:
        self._handles: Handles[tuple[int, Any]] = Handles()  # kind, and what is called or the instance
        self._functions: dict[int, Callable[..., Any]] = {}  # by kind and handle, as the guest writes them in one word
        self._strike = Strike()
        self._own = 0
        self._place = _nowhere()
        self._finalized: type | None = None  # the class of the last instance, should it raise
        self.failures = Failures()

    def attach(self, view: Callable[[int, int], memoryview], address: int) -> None:
        """Take the guest's memory, and the address of its place for callbacks. The guest's thread."""
        self._place = Place(view, address)
        self._own = threading.get_ident()

    def __len__(self) -> int:
        return len(self._handles)

    @property
    def thread(self) -> int:
        """The thread that runs a callback now, 0 if none does."""
        return self._strike.target

    def hold(self, kind: int, function: Callable[..., Any]) -> int:
        """Return the handle by which the guest calls ``function``."""
        handle = self._handles.hold((kind, function))
        self._functions[handle << _KIND_BITS | kind] = function
        return handle

    def hold_several(self, functions: Mapping[int, Callable[..., Any]]) -> int:
        """Return the one handle by which the guest calls each of ``functions``, which are by kind."""
        handle = self._handles.hold((_SEVERAL, functions))
        for kind, function in functions.items():
            self._functions[handle << _KIND_BITS | kind] = function
        return handle

    def hold_instance(self, item: object) -> int:
        """Return the handle of an aggregate's instance."""
        return self._handles.hold((_INSTANCE, Instance(item)))

    def release(self, handle: int) -> None:
        """Forget a handle that the guest does not hold."""
        entry = self._handles.release(handle)
        if entry is not None:
            kind, item = entry
            for each in item if kind == _SEVERAL else (kind,):
                self._functions.pop(handle << _KIND_BITS | each, None)

    def clear(self) -> None:
        """The guest has ended: nothing of its memory is looked at any more."""
        self._handles.clear()
        self._functions.clear()
        self.failures.clear()
        self._place = _nowhere()
        self._finalized = None

    def refuse_use(self) -> None:
        """Raise if this thread is in a callback: the connection cannot answer before that returns."""
        if self.thread == threading.get_ident():
            raise ProgrammingError(
                "a callback cannot use the connection that calls it: it is busy until the callback returns"
            )

    def interrupt(self, is_wanted: Callable[[], bool]) -> bool:
        """Raise an exception in the callback that runs, if ``is_wanted`` says so then; False if it was not done."""
        return self._strike.send(is_wanted)

    # -- imports -----------------------------------------------------------------------------------

    def call(self) -> None:
        """Call what the guest's place says, and write the answer there."""
        strike = self._strike
        try:
            place = self._place
            words = place.words
            try:
                strike.target = self._own
                form = words[_FORM]
                function = self._functions.get(words[_KEY])
                value: Any
                if function is None:
                    value = self._call_method(words[_KEY], form)
                elif form == _INTEGER:
                    value = function(words[_VALUE])
                elif form == _TEXT:
                    value = function(str(place.view(words[_ADDRESS], words[_VALUE]), "utf-8"))
                elif form == _FLOAT:
                    value = function(place.floats[_VALUE])
                else:
                    value = function(*place.arguments(form))
                kind = type(value)
                if kind is int:
                    try:
                        words[_VALUE] = value
                    except ValueError:
                        raise OverflowError("Python int too large to convert to SQLite INTEGER") from None
                    if form != _INTEGER:
                        words[_FORM] = _INTEGER
                elif kind is str:
                    place.put_bytes(_TEXT, value.encode())
                else:
                    place.put(value)
            except BaseException as exc:  # noqa: BLE001 - it must not cross the wasm frames; it becomes the error's cause
                self._fail(words, exc)
            strike.target = 0
            if strike.state:
                strike.settle()
        except CallbackInterrupted as exc:
            # It came when the callback was over. There is one for each callback, so nothing hits what follows.
            strike.target = 0
            self._fail(self._place.words, exc)
            strike.settle()

    def fetch_answer(self, target: memoryview) -> int:
        """As `Place.fetch`."""
        return self._place.fetch(target)

    def _call_method(self, key: int, form: int) -> object:
        """Do what is no call of a function: give a handle back, do steps, ask an aggregate's instance."""
        kind, handle = key & (1 << _KIND_BITS) - 1, key >> _KIND_BITS
        if kind == abi.CALLBACK_RELEASE:
            self.release(handle)
            return None
        if kind == abi.CALLBACK_STEPS:
            run_steps(self._instance, self._place.arguments(form))
            return None
        if kind not in (abi.CALLBACK_VALUE, abi.CALLBACK_FINALIZE):
            raise InternalError("the guest called something that it does not hold, or for what it is not")
        instance = self._instance(handle)
        try:
            run_steps(self._instance, self._place.arguments(form))
        except BaseException:
            if kind == abi.CALLBACK_FINALIZE:
                instance.abandon()
            raise
        else:
            return instance.value() if kind == abi.CALLBACK_VALUE else instance.finalize()
        finally:
            if kind == abi.CALLBACK_FINALIZE:
                self._finalized = instance.registered
                self.release(handle)

    def _instance(self, handle: int) -> Instance:
        kind, instance = self._handles.get(handle) or (None, None)
        if kind != _INSTANCE or not isinstance(instance, Instance):
            raise InternalError("the guest asked something of an aggregate that it does not hold")
        return instance

    def _registered(self, key: int, exc: BaseException) -> object:
        """Return what the user registered and what now raised ``exc``."""
        entry = self._handles.get(key >> _KIND_BITS)
        item = exc.instance if isinstance(exc, StepError) else self._finalized if entry is None else entry[1]
        return item.registered if isinstance(item, Instance) else item

    def _fail(self, words: memoryview, exc: BaseException) -> None:
        code, failure = code_of(exc)
        report(failure, self._registered(words[_KEY], exc))
        number = 0
        if words[_KEY] & (1 << _KIND_BITS) - 1 in _WITHOUT_CONSEQUENCE:
            logger.error("a callback raised, which changes nothing for the statement", exc_info=failure)
        else:
            number = self.failures.keep(failure)
        words[_VALUE] = number
        words[_FORM] = code


def _nowhere() -> Place:
    """Return a place outside of any guest, for what comes before the guest or after it."""
    return Place(lambda _address, length: memoryview(bytearray(length)), 0)
