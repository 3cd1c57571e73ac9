"""What a WebAssembly side module declares: the section ``dylink.0``, and what it must not contain.

The bytes are untrusted. Only the outer structure of the module is read here, section by section, with every length
checked; the compiler validates the rest. A start function becomes an export, because it would otherwise run while the
host links the module, where nothing can stop it.
https://github.com/WebAssembly/tool-conventions/blob/main/DynamicLinking.md
https://webassembly.github.io/spec/core/binary/modules.html
"""

from __future__ import annotations

from typing import NamedTuple

from rapsqlite.errors import NotSupportedError, OperationalError, OutOfMemoryError

_MAGIC = b"\0asm"
_VERSION = b"\x01\0\0\0"
_CUSTOM, _TABLE, _MEMORY, _EXPORT, _START = 0, 4, 5, 7, 8
_FUNCTION = b"\0"  # the kind of an export
_MEM_INFO, _NEEDED = 1, 2
_MOST_TABLE_SLOTS = 1 << 16
_MOST_ALIGNMENT_LOG2 = 16
_MOST_SECTIONS = 1_024
_MOST_DATA_BYTES = 1 << 31
_OWN = {
    _TABLE: "has its own table instead of importing env.__indirect_function_table",
    _MEMORY: "has its own memory instead of importing env.memory",
}


START = "rapsqlite start"
"""The export name for the start function of a side module."""


class Needs(NamedTuple):
    """What the module's data and functions need: bytes of memory and table slots, with their alignment."""

    data_bytes: int
    data_alignment: int
    table_slots: int
    table_alignment: int


class Side(NamedTuple):
    """A side module without a start section, whose function is exported as `START`."""

    needs: Needs
    wasm: bytes


class _Reader:
    """A position in a byte string, and its end."""

    def __init__(self, data: bytes, position: int, end: int) -> None:
        self.data = data
        self.position = position
        self.end = end

    def is_at_end(self) -> bool:
        return self.position >= self.end

    def number(self) -> int:
        """Return an unsigned 32-bit LEB128 number."""
        value = 0
        for shift in range(0, 35, 7):
            if self.position >= self.end:
                raise OperationalError("it is truncated")
            byte = self.data[self.position]
            self.position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value > 0xFFFF_FFFF:
                    break
                return value
        raise OperationalError("it contains a number that does not fit 32 bits")

    def part(self, size: int) -> _Reader:
        """Return a reader of the next ``size`` bytes, and skip them."""
        start = self.position
        if size > self.end - start:
            raise OperationalError("it is truncated")
        self.position = start + size
        return _Reader(self.data, start, start + size)

    def rest(self) -> bytes:
        return self.data[self.position : self.end]

    def name(self) -> bytes:
        return self.part(self.number()).rest()


def read_side(wasm: bytes) -> Side:
    """Return the side module's needs, and the module in the form to compile.

    Raises OperationalError for bytes that are not a WebAssembly module, NotSupportedError for another kind of module or
    one that contains what only the engine may have, OutOfMemoryError if it requests more than any engine has.
    """
    if wasm[:4] != _MAGIC:
        raise OperationalError("it is not a WebAssembly module")
    if wasm[4:8] != _VERSION:
        raise OperationalError("it is truncated, or of an unknown WebAssembly version")
    reader = _Reader(wasm, 8, len(wasm))
    needs: Needs | None = None
    sections: list[tuple[int, bytes]] = []
    while not reader.is_at_end():
        kind = reader.number()
        section = reader.part(reader.number())
        if len(sections) == _MOST_SECTIONS:
            raise OperationalError(f"it has more than {_MOST_SECTIONS} sections")
        sections.append((kind, section.rest()))
        if kind == _CUSTOM and needs is None:
            if section.name() == b"dylink.0":
                needs = _read_dylink(section)
        elif kind in _OWN and section.number():
            raise NotSupportedError(f"it {_OWN[kind]}: build it as a side module, with -fPIC and -shared")
    if needs is None:
        raise NotSupportedError(
            "it is not a side module, because it has no section dylink.0: build it with -fPIC and -shared"
        )
    return Side(needs, _without_start(wasm, sections))


def _without_start(wasm: bytes, sections: list[tuple[int, bytes]]) -> bytes:
    starts = [content for kind, content in sections if kind == _START]
    if not starts:
        return wasm
    if len(starts) > 1:
        raise OperationalError("it has more than one start function")
    function = _Reader(starts[0], 0, len(starts[0])).number()
    entry = sized(START.encode()) + _FUNCTION + leb128(function)
    if all(kind != _EXPORT for kind, _ in sections):
        # Exports come directly before the start section.
        changed = [(_EXPORT, leb128(1) + entry) if kind == _START else (kind, content) for kind, content in sections]
    else:
        changed = [
            (kind, _with_export(content, entry) if kind == _EXPORT else content)
            for kind, content in sections
            if kind != _START
        ]
    return _MAGIC + _VERSION + b"".join(leb128(kind) + sized(content) for kind, content in changed)


def _with_export(content: bytes, entry: bytes) -> bytes:
    reader = _Reader(content, 0, len(content))
    return leb128(reader.number() + 1) + reader.rest() + entry


def sized(content: bytes) -> bytes:
    """Return bytes behind their length."""
    return leb128(len(content)) + content


def leb128(value: int) -> bytes:
    """Return an unsigned integer as WebAssembly has it: https://en.wikipedia.org/wiki/LEB128."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _read_dylink(section: _Reader) -> Needs:
    needs = Needs(0, 1, 0, 1)
    while not section.is_at_end():
        kind = section.number()
        part = section.part(section.number())
        if kind == _MEM_INFO:
            needs = _checked(*(part.number() for _ in range(4)))
        elif kind == _NEEDED:
            names = [part.name().decode("utf-8", "replace") for _ in range(part.number())]
            if names:
                raise NotSupportedError(f"it needs other side modules, which are not loaded: {', '.join(names)}")
    return needs


def _checked(data_bytes: int, data_alignment_log2: int, table_slots: int, table_alignment_log2: int) -> Needs:
    if max(data_alignment_log2, table_alignment_log2) > _MOST_ALIGNMENT_LOG2:
        raise OperationalError(f"it requests an alignment of more than {1 << _MOST_ALIGNMENT_LOG2}")
    if data_bytes >= _MOST_DATA_BYTES:
        raise OutOfMemoryError(f"it requests {data_bytes} bytes of memory")
    if table_slots > _MOST_TABLE_SLOTS:
        raise OutOfMemoryError(f"it requests {table_slots} table slots; at most {_MOST_TABLE_SLOTS} are allowed")
    return Needs(data_bytes, 1 << data_alignment_log2, table_slots, 1 << table_alignment_log2)
