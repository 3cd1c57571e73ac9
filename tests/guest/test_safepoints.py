"""Every guest can be ended: the polls in its code, and the page that they read."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import wasmtime

import rapsqlite
from rapsqlite import runtime
from rapsqlite._constants import POLLING_PAGE
from rapsqlite._platform import system
from rapsqlite._wasm.binary import Reader, joined, leb128, sized, split
from rapsqlite._wasm.safepoints import POLL, with_polls
from rapsqlite.errors import NotSupportedError, OperationalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ENGINE = Path(rapsqlite.__file__).with_name("engine.wasm")


def wasm_of(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(f'(module (memory (export "memory") 1) {text})'))


def polls_in(wasm: bytes) -> list[int]:
    """Return the number of polls of each function."""
    code = next(content for kind, content in split(with_polls(wasm)) if kind == 10)
    reader = Reader(code)
    return [reader.name().count(POLL) for _ in range(reader.number())]


# -- where polls are -------------------------------------------------------------------------------


def test_loops_and_functions_with_calls_begin_with_a_poll() -> None:
    text = """
    (table 1 funcref) (type $plain (func))
    (func)                                                                   ;; neither
    (func (local i32 f64 v128) (loop) (block (loop (loop))))                 ;; three loops
    (func (local i32) (call 0))
    (func (call_indirect (type $plain) (i32.const 0)) (loop (call 0)))
    (func (return_call 0))
    (func (return_call_indirect (type $plain) (i32.const 0)))
    """
    assert polls_in(wasm_of(text)) == [0, 3, 1, 2, 1, 1]


# Each runs for a time that depends on its operands.
BULK = {
    "memory.grow": "(drop (memory.grow (i32.const 0)))",
    "memory.init": "(memory.init $bytes (i32.const 0) (i32.const 0) (i32.const 0))",
    "memory.copy": "(memory.copy (i32.const 0) (i32.const 0) (i32.const 0))",
    "memory.fill": "(memory.fill (i32.const 0) (i32.const 0) (i32.const 0))",
    "table.init": "(table.init $none (i32.const 0) (i32.const 0) (i32.const 0))",
    "table.copy": "(table.copy (i32.const 0) (i32.const 0) (i32.const 0))",
    "table.grow": "(drop (table.grow (ref.null func) (i32.const 0)))",
    "table.fill": "(table.fill (i32.const 0) (ref.null func) (i32.const 0))",
}


@pytest.mark.parametrize("instruction", BULK)
def test_every_bulk_instruction_has_a_poll_before_it(instruction: str) -> None:
    """A function of nothing else, a million of them on gigabytes, runs for days."""
    text = f'(table 1 funcref) (elem $none func) (data $bytes "x") (func {BULK[instruction] * 3})'

    assert polls_in(wasm_of(text)) == [3]


def test_long_function_begins_with_a_poll_even_if_it_calls_nothing() -> None:
    """A function can call another four million times and polls only once itself."""
    short = "(func (drop (i32.const 1)))"
    long = f"(func {'(drop (i32.const 1))' * 100})"

    assert polls_in(wasm_of(short + long + short)) == [0, 1, 0]


def test_poll_comes_first_in_its_loop_and_function() -> None:
    with_one = with_polls(wasm_of("(func $f (local i32 i32) (loop (drop (i32.const 77))) (call $f))"))

    assert b"\x01\x02\x7f" + POLL + b"\x03\x40" + POLL + b"\x41\xcd\x00" in with_one


def test_engine_keeps_its_meaning_and_gets_thousands_of_polls() -> None:
    before = ENGINE.read_bytes()
    after = with_polls(before)

    assert sum(polls_in(before)) > 6_000
    wasmtime.Module.validate(wasmtime.Engine(_features()), after)
    without_polls = after.replace(POLL, b"")
    assert [len(content) for kind, content in split(before) if kind != 10] == [
        len(content) for kind, content in split(after) if kind != 10
    ]
    assert len(before) - len(without_polls) < len(before) // 1_000  # the sizes of functions take more bytes


def _features() -> wasmtime.Config:
    config = wasmtime.Config()
    config.wasm_threads = True
    return config


# Everything with index 0 that an instruction can name.
_ROOM = wasm_of("""
  (type (func)) (table 1 funcref) (global (mut i32) (i32.const 0)) (func) (func)
  (elem func 0) (data "x")
""")
_BLOCKS = {0x02, 0x03, 0x04}
_CALLS = {b"\x10", b"\x11", b"\x12", b"\x13"}
_BULK = {bytes([0xFC, number]) for number in range(8, 18)}


def _module_with(body: bytes) -> bytes:
    function = sized(b"\0" + body + b"\x0b")  # without locals
    changed = []
    for kind, content in split(_ROOM):
        if kind == 10:
            reader = Reader(content)
            count = reader.number()
            first = sized(reader.name())
            assert count == 2
            content = leb128(count) + first + function
        changed.append((kind, content))
    return joined(changed)


def _forms(opcode: bytes) -> Iterator[bytes]:
    """The instruction with zeros behind it, or first with another byte: an alignment, a number of types, a type."""
    for count in range(20):
        yield opcode + bytes(count)
    for count in range(4):
        for first in (1, 2, 3, 0x40, 0x70):
            yield opcode + bytes([first]) + bytes(count)


def _opcodes() -> list[bytes]:
    plain = [bytes([opcode]) for opcode in range(256) if opcode not in (0x05, 0x0B, 0xFB, 0xFC, 0xFD, 0xFE)]
    prefixed = [(0xFC, 32), (0xFD, 0x130), (0xFE, 0x60)]
    return plain + [bytes([prefix]) + leb128(number) for prefix, count in prefixed for number in range(count)]


def _complaint(engine: wasmtime.Engine, wasm: bytes) -> str:
    """Return what the compiler says of a module that is not valid; "" of one that is."""
    try:
        wasmtime.Module.validate(engine, wasm)
    except wasmtime.WasmtimeError as exc:
        return str(exc)
    return ""


def test_instructions_are_as_long_as_the_compiler_says() -> None:
    """A wrong length would hide a loop. In code that is never reached nearly every instruction is valid.

    Behind each instruction is a loop, or bytes of the instruction that look like one. With an opcode that does not
    exist in its place, the compiler says which of the two it is.
    """
    engine = wasmtime.Engine(_features())
    shown: set[bytes] = set()
    for opcode in _opcodes():
        end = b"\x0b" if opcode[0] in _BLOCKS else b""
        for form in _forms(opcode):
            whole = _module_with(b"\0" + form + b"\x03\x40\x0b" + end + b"\0")
            if _complaint(engine, whole):
                continue
            try:
                polled = with_polls(whole)
            except NotSupportedError:
                continue  # refused, so it hides nothing
            other = _module_with(b"\0" + form + b"\xff\x40\x0b" + end + b"\0")
            is_loop = "illegal opcode: 0xff" in _complaint(engine, other)
            own = opcode == b"\x03" or opcode in _CALLS or opcode in _BULK
            of_growing = polled.count(POLL + b"\x40")  # also where 0x40 follows an instruction without operands
            assert polled.count(POLL) - of_growing == is_loop + own, form.hex()
            assert not _complaint(engine, polled)
            if is_loop:
                shown.add(opcode)
    assert len(shown) > 480, sorted(set(_opcodes()) - shown)


def test_unknown_instruction_is_refused_with_its_opcode() -> None:
    with pytest.raises(NotSupportedError, match=r"with the opcode 0x6$"):  # of an old proposal: try
        with_polls(_module_with(b"\x06\x40\x0b"))
    with pytest.raises(NotSupportedError, match=r"with the opcode 0xfd 0x200$"):
        with_polls(_module_with(b"\xfd\x80\x04"))


def test_damaged_code_is_an_error_or_a_module() -> None:
    """Whatever the bytes are, no other exception; the compiler validates the rest."""
    whole = wasm_of("""
    (func $f (param i32) (result i32) (local v128)
      (block (loop (br_table 0 1 0 (local.get 0))))
      (drop (select (result i32) (i32.const 1) (i32.const 2) (i32.const 3)))
      (drop (i8x16.shuffle 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 (local.get 1) (local.get 1)))
      (memory.copy (i32.const 0) (i32.const 0) (i32.const 0))
      (call $f (i32.atomic.rmw.add (i32.const 0) (i32.const 1))))
    """)
    at = whole.index(b"\x03\x40") - 20
    chance = random.Random(5)
    outcomes: set[type] = set()
    for _ in range(20_000):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(at, len(whole))] = chance.randrange(256)
        try:
            outcomes.add(type(with_polls(bytes(damaged[: chance.randint(at, len(whole))]))))
        except (OperationalError, NotSupportedError) as exc:
            outcomes.add(type(exc))
    assert outcomes == {bytes, OperationalError, NotSupportedError}


# -- what the polls do -----------------------------------------------------------------------------

ENDLESS = {
    "loop": "(loop $l (br $l))",
    "loop that only reads": "(loop $l (br_if $l (i32.eqz (i32.load (i32.const 0)))))",
    "loop in a loop": "(loop $o (loop $l (br_if $l (i32.eqz (i32.load (i32.const 0))))) (br $o))",
    "calls without a loop": "(drop (call $twice (i32.const 60)))",
    "calls through a table": "(drop (call_indirect (type $one) (i32.const 60) (i32.const 0)))",
    "tail calls": "(return_call $again)",
    "tail calls through a table": "(return_call_indirect (type $none) (i32.const 1))",
    "loop of host calls": "(loop $l (drop (call $park (i32.const 0))) (br $l))",
}
_TEXT = """(module
  (import "rapsqlite" "park" (func $park (param i32) (result i32)))
  (memory (export "memory") 1)
  (type $one (func (param i32) (result i32)))
  (type $none (func))
  (table 2 funcref)
  (elem (i32.const 0) $twice_by_table $again_by_table)
  (func $twice (param i32) (result i32)
    (if (result i32) (local.get 0)
      (then (i32.add (call $twice (i32.sub (local.get 0) (i32.const 1)))
                     (call $twice (i32.sub (local.get 0) (i32.const 1)))))
      (else (i32.const 1))))
  (func $twice_by_table (param i32) (result i32)
    (if (result i32) (local.get 0)
      (then (i32.add (call_indirect (type $one) (i32.sub (local.get 0) (i32.const 1)) (i32.const 0))
                     (call_indirect (type $one) (i32.sub (local.get 0) (i32.const 1)) (i32.const 0))))
      (else (i32.const 1))))
  (func $again (return_call $again))
  (func $again_by_table (return_call_indirect (type $none) (i32.const 1)))
  (func $run (export "run") (drop (call $park (i32.const 0))) %s)
  (elem $none func)
  (data $bytes "x")
  (func (export "touch") (result i32) %s))
"""


def instance_of(run: str, touch: str = "(i32.const 7)", park: Callable[[int], int] = lambda _: 0) -> runtime.Instance:
    wasm = bytes(wasmtime.wat2wasm(_TEXT % (run, touch)))
    return runtime.Instance(runtime.Engine(wasm), {"park": park})


class Running:
    """An instance that runs in a thread of its own, until it is killed."""

    def __init__(self, run: str) -> None:
        self.error: BaseException | None = None
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._main, args=(run,))
        self._thread.start()
        assert self._begun.wait(50)

    def _main(self, run: str) -> None:
        def park(_reason: int) -> int:
            self._begun.set()
            return 0

        self.instance = instance_of(run, park=park)
        try:
            self.instance.call("run")
        except runtime.TrapError as exc:
            self.error = exc
        self.instance.close()

    def is_running(self) -> bool:
        return self._thread.is_alive()

    def wait(self) -> str:
        """Return the error with which it ended."""
        self._thread.join(50)
        assert not self.is_running()
        return str(self.error)


@pytest.mark.parametrize("run", ENDLESS)
def test_killed_instance_ends_wherever_it_is_and_no_other_does(run: str) -> None:
    other, running = Running(ENDLESS[run]), Running(ENDLESS[run])

    running.instance.kill()

    assert running.wait() == "killed: it did not answer an interrupt"
    assert other.is_running()
    other.instance.kill()
    assert other.wait() == "killed: it did not answer an interrupt"


def test_instance_killed_before_it_runs_ends_at_once() -> None:
    instance = instance_of("(loop $l (br $l))")
    instance.kill()

    with pytest.raises(runtime.TrapError, match=r"^killed: it did not answer an interrupt$"):
        instance.call("run")
    instance.close()


@pytest.mark.parametrize("instruction", BULK)
def test_killed_instance_does_no_bulk_work(instruction: str) -> None:
    instance = instance_of("", f"{BULK[instruction]} (i32.const 7)")
    assert instance.call("touch") == 7
    instance.kill()

    with pytest.raises(runtime.TrapError, match=r"^killed: it did not answer an interrupt$"):
        instance.call("touch")
    instance.close()


TOUCHES = {
    "a store": "(i32.store8 (i32.const PAGE) (i32.const 1)) (i32.const 0)",
    "memory.copy to it": "(memory.copy (i32.const PAGE) (i32.const 0) (i32.const 1)) (i32.const 0)",
    "memory.copy from it": "(memory.copy (i32.const 0) (i32.const PAGE) (i32.const 1)) (i32.const 0)",
    "memory.fill": "(memory.fill (i32.const PAGE) (i32.const 1) (i32.const 1)) (i32.const 0)",
}


@pytest.mark.parametrize("touch", TOUCHES)
def test_guest_cannot_write_to_the_polling_page_or_have_it_read(touch: str) -> None:
    """Whatever reads or writes it outside compiled loads would end the process once the page is inaccessible."""
    instance = instance_of("", TOUCHES[touch].replace("PAGE", str(POLLING_PAGE)))

    with pytest.raises(runtime.TrapError, match="out of bounds memory access"):
        instance.call("touch")
    with pytest.raises(IndexError, match="outside its memory"):
        instance.memory.view(POLLING_PAGE, 1)
    with pytest.raises(IndexError, match="where no file can be mapped"):
        instance.memory.window(POLLING_PAGE, 4096)
    instance.close()


def test_closed_instance_cannot_be_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its address space may be somebody else's by then."""
    changed: list[int] = []
    monkeypatch.setattr(system, "make_inaccessible", changed.append)
    closed, opened = instance_of(""), instance_of("")
    closed.close()

    closed.kill()
    opened.kill()

    assert changed == [opened.memory.base + POLLING_PAGE]
    opened.close()


def test_instance_is_not_killed_where_a_fault_would_end_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other code has replaced wasmtime's handlers for faults."""
    running = Running("(loop $l (br $l))")
    with monkeypatch.context() as patch:
        patch.setattr(system, "mend_fault_handlers", lambda: False)
        running.instance.kill()
    assert running.is_running()

    running.instance.kill()

    assert running.wait() == "killed: it did not answer an interrupt"
