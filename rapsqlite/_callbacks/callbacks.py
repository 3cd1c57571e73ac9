"""The guest's calls into Python: one import for all kinds of callbacks, the objects they call, and exceptions.

Arguments and results pass through a block of the guest's memory (`argument_block`). The guest calls frequent callbacks
through its table instead of the import (`Slots`); both lead to an `entrance`. Everything but ``hold``, ``failures`` and
``interrupt`` runs on the guest's thread. No lock of the guest's is held while a callback runs, so requests can be sent
and interrupted meanwhile. What the guest passes is untrusted: an unknown handle, or one of another kind, counts as an
exception.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any
from weakref import ref

from rapsqlite import _constants as abi
from rapsqlite._callbacks.aggregates import Instance, run_steps
from rapsqlite._callbacks.argument_block import ArgumentBlock
from rapsqlite._callbacks.async_exception import CallbackInterrupt, CallbackInterrupted
from rapsqlite._callbacks.deferred import DeferredError, run_calls, with_failure
from rapsqlite._callbacks.failures import Failures, code_of
from rapsqlite._callbacks.held import Held, referable
from rapsqlite._callbacks.slots import Slots
from rapsqlite._callbacks.tracebacks import report
from rapsqlite._callbacks.trampoline import RequestContext, entrance, not_held
from rapsqlite._values.bounds import MOST_HANDLES
from rapsqlite.errors import InternalError, ProgrammingError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rapsqlite._callbacks.trampoline import Enter

logger = logging.getLogger("rapsqlite")

_KEY, _FORM, _VALUE, _SLOT = (
    abi.ARGUMENT_BLOCK_KEY,
    abi.ARGUMENT_BLOCK_FORM,
    abi.ARGUMENT_BLOCK_VALUE,
    abi.ARGUMENT_BLOCK_SLOT,
)
_KIND_BITS = 8
_INSTANCE = 0  # the kind of an aggregate's instance: no guest can call one, because as a kind this is RELEASE
_SEVERAL = -1  # a handle for several kinds, each with its own function
_WITHOUT_CONSEQUENCE = frozenset({abi.CALLBACK_TRACE, abi.CALLBACK_ROLLBACK})


class Callbacks:
    """The callbacks that one guest may call."""

    __slots__ = ("_block", "_context", "_give_up", "_held", "_interrupt", "_owned", "_slots", "are_used")

    _block: ArgumentBlock
    _context: RequestContext
    _give_up: Callable[[BaseException], int]

    def __init__(self) -> None:
        self._owned: Held | None = Held()  # until a connection takes it
        self._held = ref(self._owned)
        self._slots = Slots()
        self._interrupt = CallbackInterrupt()
        self.are_used = False  # whether there has ever been one

    def hand_over(self) -> Held | None:
        """Return the callbacks for the connection to keep: from now on they live as long as it does."""
        owned, self._owned = self._owned, None
        return owned

    @property
    def _store(self) -> Held:
        """The callbacks; none once the connection is gone, while the guest ends."""
        held = self._held()
        return Held() if held is None else held

    @property
    def failures(self) -> Failures:
        """The exceptions that were raised."""
        return self._store.failures

    def attach(
        self,
        view: Callable[[int, int], memoryview],
        address: int,
        add_to_table: Callable[[Enter], int],
        give_up: Callable[[BaseException], int],
        context: RequestContext,
    ) -> None:
        """Take the guest's memory and the address of its argument block. Call on the guest's thread.

        ``add_to_table`` puts a function into the guest's table and returns its index, 0 if there is no space.
        ``give_up`` returns the value that a host function must return to end the guest. Callbacks run in ``context``.
        """
        self._block = ArgumentBlock(view, address)
        self._give_up = give_up
        self._context = context
        self._slots.attach(
            lambda: entrance(self._block, self._interrupt, context, self._fail, self._fail_late), add_to_table
        )

    def __len__(self) -> int:
        return len(self._store.handles)

    @property
    def thread(self) -> int:
        """The thread that is running a callback, 0 if none is."""
        return self._interrupt.target

    def run_on(self, grace_period_s: float) -> bool:
        """Return True if the running callback was interrupted this long ago and has not returned."""
        return self._interrupt.has_no_effect_after(grace_period_s)

    def wait_for_lock(self) -> bool:
        """Return True if the running callback is the busy handler. Call only while the guest's memory exists."""
        return self.thread != 0 and self._block.words[_KEY] & (1 << _KIND_BITS) - 1 == abi.CALLBACK_BUSY

    def hold(self, kind: int, function: Callable[..., Any]) -> int:
        """Return the handle by which the guest calls ``function``."""
        return self._hold((kind, function), {kind: function})

    def hold_several(self, functions: Mapping[int, Callable[..., Any]]) -> int:
        """Return one handle by which the guest calls each of ``functions``, which are by kind."""
        return self._hold((_SEVERAL, functions), functions)

    def _hold(self, item: tuple[int, Any], functions: Mapping[int, Callable[..., Any]]) -> int:
        self.are_used = True
        held = self._store
        handle = held.handles.hold(item)
        for kind, function in functions.items():
            held.functions[handle << _KIND_BITS | kind] = referable(function)
        return handle

    def hold_instance(self, item: object) -> int:
        """Return the handle of an aggregate's instance; MemoryError if the guest has not released enough of them."""
        handles = self._store.handles
        if len(handles) >= MOST_HANDLES:
            raise MemoryError("too many instances of aggregates are in use at once")
        return handles.hold((_INSTANCE, Instance(item)))

    def release(self, handle: int) -> None:
        """Forget a handle that the guest does not hold."""
        held = self._store
        entry = held.handles.release(handle)
        if entry is not None:
            kind, item = entry
            for each in item if kind == _SEVERAL else (kind,):
                key = handle << _KIND_BITS | each
                held.functions.pop(key, None)
                self._slots.close(key)

    def clear(self) -> None:
        """Drop all callbacks, because the guest has ended."""
        self._store.clear()
        self._slots.clear()

    def refuse_use(self) -> None:
        """Raise if this thread is in a callback: the connection cannot answer until it returns."""
        if self.thread == threading.get_ident():
            raise ProgrammingError(
                "a callback cannot use the connection that calls it: it is busy until the callback returns"
            )

    def interrupt(self, is_wanted: Callable[[], bool]) -> bool:
        """Raise an exception in the running callback if ``is_wanted`` then agrees; False if it was not raised."""
        return self._interrupt.send(is_wanted)

    # -- imports -----------------------------------------------------------------------------------

    def call(self) -> int:
        """Make the call in the argument block and write its result there; give the callback a slot if requested."""
        words = self._block.words
        key = words[_KEY]
        function = self._store.functions.get(key)
        if words[_SLOT]:
            words[_SLOT] = abi.NO_FUNCTION if function is None else self._slots.open(key, function)
        return self._slots.call(self._call_method if function is None else function)

    def fetch_answer(self, target: memoryview) -> int:
        """As `ArgumentBlock.fetch`."""
        return self._block.fetch(target)

    def _call_method(self, *arguments: Any) -> object:
        """Handle what is not a single call: release a handle, run deferred calls, use an aggregate's instance."""
        key = self._block.words[_KEY]
        kind, handle = key & (1 << _KIND_BITS) - 1, key >> _KIND_BITS
        if kind == abi.CALLBACK_RELEASE:
            self.release(handle)
            return None
        if kind == abi.CALLBACK_STEPS:
            run_steps(self._instance, arguments)
            return None
        if kind == abi.CALLBACK_CALLS:
            return run_calls(self._function, self._interrupt, handle, arguments)
        if kind not in (abi.CALLBACK_VALUE, abi.CALLBACK_FINALIZE):
            not_held()
        instance = self._instance(handle)
        try:
            run_steps(self._instance, arguments)
        except BaseException:
            if kind == abi.CALLBACK_FINALIZE:
                instance.abandon()
            raise
        else:
            return instance.value() if kind == abi.CALLBACK_VALUE else instance.finalize()
        finally:
            if kind == abi.CALLBACK_FINALIZE:
                self._store.finalized = instance.registered
                self.release(handle)

    def _function(self, key: int) -> Callable[..., Any]:
        return self._store.functions.get(key, not_held)

    def _instance(self, handle: int) -> Instance:
        kind, instance = self._store.handles.get(handle) or (None, None)
        if kind != _INSTANCE or not isinstance(instance, Instance):
            raise InternalError("the guest named an aggregate instance that does not exist")
        return instance

    def _registered(self, key: int, exc: BaseException) -> object:
        """Return the object that the user registered and that raised ``exc``."""
        if isinstance(exc, DeferredError):
            return exc.registered
        held = self._store
        entry = held.handles.get(key >> _KIND_BITS)
        item = held.finalized if entry is None else entry[1]
        return item.registered if isinstance(item, Instance) else item

    def _fail(self, exc: BaseException) -> None:
        self._context.find()(self._note_failure, exc)

    def _note_failure(self, exc: BaseException) -> None:
        words = self._block.words
        code, failure = code_of(exc)
        if self._held() is None:
            words[_FORM] = code  # the connection is gone, and nothing waits
            words[_VALUE] = 0
            return
        report(failure, self._registered(words[_KEY], exc))
        number = 0
        if words[_KEY] & (1 << _KIND_BITS) - 1 in _WITHOUT_CONSEQUENCE:
            logger.error("a callback raised; the statement is not affected", exc_info=failure)
        else:
            number = self.failures.keep(failure)
        if isinstance(exc, DeferredError) and exc.answers:
            self._block.put(with_failure(exc.answers, code, number))
            return
        words[_VALUE] = number
        words[_FORM] = code

    def _fail_late(self, exc: BaseException) -> int:
        """Answer after an exception that arrived once the callback was over: an interrupt, or the end of the guest."""
        try:
            if not isinstance(exc, CallbackInterrupted):
                return self._give_up(exc)
            self._interrupt.target = 0
            self._fail(exc)
            self._interrupt.retract()
        except BaseException as another:  # noqa: BLE001 - it must not cross the wasm frames; it is raised outside them
            return self._give_up(another)
        return 0
