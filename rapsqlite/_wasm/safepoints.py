"""Safepoint polls: loads that let the host end WebAssembly code wherever it runs.

Every loop, and every function that calls others or is long, begins with a load from the polling page; so does every
instruction that fills, copies or grows memory or a table. That page lies in the address space of the memory but beyond
its end: compiled loads reach it, and nothing else does, neither functions of the host nor ``memory.copy``. To end the
code, the host makes the page inaccessible, and the next poll traps. What runs between two polls ends by itself within
seconds, however it is written. Extensions are untrusted and get polls too: no guest's code is compiled without them.

https://webassembly.github.io/spec/core/binary/instructions.html
"""

from __future__ import annotations

from rapsqlite._constants import POLLING_PAGE
from rapsqlite._wasm.binary import Reader, joined, leb128, sized, split
from rapsqlite.errors import NotSupportedError, OperationalError

_CODE_SECTION = 10
_LOOP, _END = 0x03, 0x0B
_BR_TABLE, _SELECT, _MISC, _VECTOR, _ATOMIC = 0x0E, 0x1C, 0xFC, 0xFD, 0xFE
_MEMORY_GROW = 0x40
_REFERENCES = (0x63, 0x64)  # types of two parts

# How many numbers follow an opcode, or what else.
_MEMORY, _FOUR_BYTES, _EIGHT_BYTES, _BLOCK, _OTHER, _UNKNOWN = range(3, 9)
_FOLLOWED_BY = {
    0: (0x00, 0x01, 0x05, _END, 0x0F, 0x1A, 0x1B, *range(0x45, 0xC5), 0xD1),
    1: (0x0C, 0x0D, 0x10, 0x12, *range(0x20, 0x27), 0x3F, 0x40, 0x41, 0x42, 0xD0, 0xD2),
    2: (0x11, 0x13),
    _MEMORY: range(0x28, 0x3F),
    _FOUR_BYTES: (0x43,),
    _EIGHT_BYTES: (0x44,),
    _BLOCK: (0x02, _LOOP, 0x04),
    _OTHER: (_BR_TABLE, _SELECT, _MISC, _VECTOR, _ATOMIC),
}
_CALLS = (0x10, 0x11, 0x12, 0x13)  # call, call_indirect, return_call, return_call_indirect
_NUMBERS_OF_MISC = (0,) * 8 + (2, 1, 2, 1, 2, 1, 2, 1, 1, 1)  # saturating truncations, then memory and table
_FIRST_OF_MEMORY = 8  # and tables
_MOST_WITHOUT_POLL = 256  # bytes of a function: one function can call another millions of times


def _table() -> bytes:
    table = bytearray([_UNKNOWN]) * 256
    for kind, opcodes in _FOLLOWED_BY.items():
        for opcode in opcodes:
            table[opcode] = kind
    return bytes(table)


_TABLE = _table()


def _poll() -> bytes:
    """Return ``(drop (i32.atomic.load8_u (i32.const POLLING_PAGE)))``: plain loads would be moved out of loops."""
    value, address = POLLING_PAGE - (1 << 32), bytearray()
    while not -64 <= value < 64:
        address.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([0x41, *address, value & 0x7F, _ATOMIC, 0x12, 0, 0, 0x1A])


POLL = _poll()


def with_polls(wasm: bytes) -> bytes:
    """Return a module with polls. The compiler still has to validate it.

    Raises OperationalError for malformed bytes, NotSupportedError for instructions that are not known here.
    """
    return joined([(kind, _with_polls(content) if kind == _CODE_SECTION else content) for kind, content in split(wasm)])


def _with_polls(code: bytes) -> bytes:
    reader = Reader(code)
    functions = [_polled(reader.name()) for _ in range(reader.number())]
    return leb128(len(functions)) + b"".join(map(sized, functions)) + reader.rest()


def _polled(function: bytes) -> bytes:
    try:
        start = _after_locals(function)
        heads = _places_for_polls(function, start)
    except IndexError:
        raise OperationalError("it is truncated") from None
    pieces, last = [], 0
    for head in heads:
        pieces += [function[last:head], POLL]
        last = head
    return b"".join(pieces) + function[last:]


def _after_locals(function: bytes) -> int:
    reader = Reader(function)
    for _ in range(reader.number()):
        reader.number()
        reader.position = _after_type(function, reader.position)
    return reader.position


def _places_for_polls(body: bytes, start: int) -> list[int]:
    """Return where polls belong: at the start if the function calls others or is long, in loops, before bulk work."""
    heads: list[int] = []
    begins_with_one, depth, position = len(body) > _MOST_WITHOUT_POLL, 1, start
    while depth:
        opcode = body[position]
        kind = _TABLE[opcode]
        position += 1
        if kind == 0:
            depth -= opcode == _END
        elif kind <= 2:
            begins_with_one = begins_with_one or opcode in _CALLS
            if opcode == _MEMORY_GROW:
                heads.append(position - 1)
            position = _after_numbers(body, position, kind)
        elif kind == _MEMORY:
            position = _after_memory(body, position)
        elif kind == _BLOCK:
            depth += 1
            position = _after_type(body, position)
            if opcode == _LOOP:
                heads.append(position)
        elif kind == _OTHER:
            if opcode == _MISC and Reader(body, position).number() >= _FIRST_OF_MEMORY:
                heads.append(position - 1)
            position = _after_other(body, position, opcode)
        elif kind == _UNKNOWN:
            raise NotSupportedError(f"it has an instruction that is not supported, with the opcode {opcode:#x}")
        else:
            position += 4 if kind == _FOUR_BYTES else 8
    if position != len(body):
        raise OperationalError("a function has bytes after its end")
    return [start, *heads] if begins_with_one else heads


def _after_numbers(body: bytes, position: int, count: int) -> int:
    for _ in range(count):
        while body[position] > 0x7F:
            position += 1
        position += 1
    return position


def _after_memory(body: bytes, position: int) -> int:
    # The alignment has a bit for a memory's index after it; then comes the offset.
    reader = Reader(body, position)
    has_index = reader.number() & 0x40
    return _after_numbers(body, reader.position, 2 if has_index else 1)


def _after_type(body: bytes, position: int) -> int:
    return _after_numbers(body, position, 2 if body[position] in _REFERENCES else 1)


def _after_other(body: bytes, position: int, opcode: int) -> int:
    reader = Reader(body, position)
    number = reader.number()
    position = reader.position
    if opcode == _BR_TABLE:
        return _after_numbers(body, position, number + 1)
    if opcode == _SELECT:
        for _ in range(number):
            position = _after_type(body, position)
        return position
    if opcode == _MISC and number < len(_NUMBERS_OF_MISC):
        return _after_numbers(body, position, _NUMBERS_OF_MISC[number])
    if opcode == _VECTOR and number < 0x114:
        return _after_vector(body, position, number)
    if opcode == _ATOMIC and number == 0x03:  # atomic.fence
        return position + 1
    if opcode == _ATOMIC and number < 0x4F:
        return _after_memory(body, position)
    raise NotSupportedError(f"it has an instruction that is not supported, with the opcode {opcode:#x} {number:#x}")


def _after_vector(body: bytes, position: int, number: int) -> int:
    if number <= 0x0B or 0x5C <= number <= 0x5D:  # loads and stores
        return _after_memory(body, position)
    if 0x54 <= number <= 0x5B:  # of one lane
        return _after_memory(body, position) + 1
    if 0x0C <= number <= 0x0D:  # v128.const, i8x16.shuffle
        return position + 16
    return position + (0x15 <= number <= 0x22)  # the lane to extract or replace
