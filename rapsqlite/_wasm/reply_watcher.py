"""Publishes a request and waits for its reply without the GIL.

A thread that waits in Python withholds the GIL from a guest that calls the host, and one that sleeps takes 20 µs to
wake. So a tiny wasm module does both; its memory maps the page that holds a guest's control block.
docs/decisions/0001-how-a-lone-task-waits.md has the figures.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, NamedTuple

from rapsqlite import _constants as abi
from rapsqlite._files import mapping
from rapsqlite._wasm.c_functions import FUNCTION, MEMORY, Exports, Instance, Vector

if TYPE_CHECKING:
    from rapsqlite._wasm.c_functions import CFunctions, Owned

# Another thread may have published later requests meanwhile, which must not be retracted. The guest announces that it
# sleeps, then checks for requests once more; it may already have answered. One check takes about 0.5 ns. The result is
# how many checks were left.
_CODE = f"""
(module
  (memory (export "memory") 1 1)
  (func (export "watch") (param $old i32) (param $head i32) (param $tail i32) (param $checks i32) (result i32)
    (drop (i32.atomic.rmw.cmpxchg (i32.const {abi.CONTROL_REQUEST_HEAD}) (local.get $old) (local.get $head)))
    (if (i32.atomic.load (i32.const {abi.CONTROL_PARKED}))
      (then (return (select (local.get $checks) (i32.const 0)
        (i32.ne (i32.atomic.load (i32.const {abi.CONTROL_REPLY_HEAD})) (local.get $tail))))))
    (loop $again
      (if (i32.ne (i32.atomic.load (i32.const {abi.CONTROL_REPLY_HEAD})) (local.get $tail))
        (then (return (local.get $checks))))
      (local.set $checks (i32.sub (local.get $checks) (i32.const 1)))
      (br_if $again (local.get $checks)))
    (i32.const 0)))
""".encode()
_lost: list[Owned] = []  # stores that are never freed, because others may use a page of their memory


class SharedPage:
    """A page of a guest's memory that a `ReplyWatcher` can map, and its address."""

    __slots__ = ("address",)

    def __init__(self, address: int) -> None:
        self.address: int = address


class Unpublished(NamedTuple):
    """A request in the ring that the guest does not see yet: ``request_head`` without and with it, ``reply_tail``."""

    old_head: int
    head: int
    tail: int


class ReplyWatcher:
    """Watches for the replies of one guest at a time. Only one thread may use it."""

    def __init__(self, c: CFunctions, engine: int, module: int) -> None:
        """Make an instance of the compiled module. Raises WasmtimeError."""
        self._store = c.owned(c.wasmtime_store_new(engine, None, None), "wasmtime_store")
        context = int(c.wasmtime_store_context(self._store.address))
        instance, trap = Instance(), ctypes.c_void_p()
        c.check(c.wasmtime_instance_new(context, module, None, 0, ctypes.byref(instance), ctypes.byref(trap)), trap)
        exports = Exports(c, context, instance)
        self._base = int(c.wasmtime_memory_data(context, exports.item("memory", MEMORY)))
        self._call = c.wasmtime_func_call_unchecked
        self._values = (ctypes.c_int64 * 8)()  # each takes 16 bytes
        self._arguments = (context, exports.item("watch", FUNCTION), self._values, 4, ctypes.byref(trap))
        self._shown: SharedPage | None = None
        self._is_lost = False

    def show(self, page: SharedPage) -> bool:
        """Map this page of a guest to watch it; its memory must stay alive meanwhile. Return False if that fails."""
        if self._shown is page:
            return True
        if self._is_lost:
            return False
        self._shown = None
        try:
            mapping.share(page.address, self._base)
        except OSError:  # there are too many mappings
            # The system may have unmapped the page before it failed, and something else may be there by now.
            self._is_lost = True
            _lost.append(self._store)
            return False
        self._shown = page
        return True

    def watch(self, page: SharedPage, request: Unpublished, checks: int) -> int:
        """Publish a request unless it is already published, and wait for a reply; return how many checks were left.

        Return 0 if there is none after ``checks`` checks or the guest sleeps, and, without publishing, if another
        guest's page is mapped.
        """
        if self._shown is not page:
            return 0
        values = self._values
        values[0], values[2], values[4], values[6] = *request, checks
        self._call(*self._arguments)
        return int(values[0]) & 0xFFFF_FFFF


def watcher_module(c: CFunctions) -> bytes:
    """Return the module of `ReplyWatcher`, to be compiled."""
    wasm = Vector()
    c.check(c.wasmtime_wat2wasm(_CODE, len(_CODE), ctypes.byref(wasm)))
    return c.take_bytes(wasm)
