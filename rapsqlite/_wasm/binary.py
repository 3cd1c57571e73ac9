"""WebAssembly's binary format: numbers, and a module as a list of sections. The bytes are untrusted.

https://webassembly.github.io/spec/core/binary/index.html
"""

from __future__ import annotations

from rapsqlite.errors import OperationalError

_MAGIC = b"\0asm"
_VERSION = b"\x01\0\0\0"
_MOST_SECTIONS = 1_024

Section = tuple[int, bytes]
"""The kind and the content of a section."""


class Reader:
    """A position in a byte string, and its end. Its methods raise OperationalError for malformed bytes."""

    __slots__ = ("data", "end", "position")

    def __init__(self, data: bytes, position: int = 0, end: int | None = None) -> None:
        self.data = data
        self.position = position
        self.end = len(data) if end is None else end

    def is_at_end(self) -> bool:
        """Return True if nothing is left."""
        return self.position >= self.end

    def byte(self) -> int:
        """Return the next byte."""
        if self.position >= self.end:
            raise OperationalError("it is truncated")
        self.position += 1
        return self.data[self.position - 1]

    def number(self) -> int:
        """Return an unsigned 32-bit LEB128 number."""
        value = 0
        for shift in range(0, 35, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value > 0xFFFF_FFFF:
                    break
                return value
        raise OperationalError("it contains a number that does not fit 32 bits")

    def part(self, size: int) -> Reader:
        """Return a reader of the next ``size`` bytes, and skip them."""
        start = self.position
        if size > self.end - start:
            raise OperationalError("it is truncated")
        self.position = start + size
        return Reader(self.data, start, start + size)

    def rest(self) -> bytes:
        """Return the bytes that are left."""
        return self.data[self.position : self.end]

    def name(self) -> bytes:
        """Return bytes that follow their length."""
        return self.part(self.number()).rest()


def split(wasm: bytes) -> list[Section]:
    """Return the sections in order; OperationalError if the bytes are no module."""
    if wasm[:4] != _MAGIC:
        raise OperationalError("it is not a WebAssembly module")
    if wasm[4:8] != _VERSION:
        raise OperationalError("it is truncated, or of an unknown WebAssembly version")
    reader = Reader(wasm, 8)
    sections: list[Section] = []
    while not reader.is_at_end():
        if len(sections) == _MOST_SECTIONS:
            raise OperationalError(f"it has more than {_MOST_SECTIONS} sections")
        kind = reader.number()
        sections.append((kind, reader.name()))
    return sections


def joined(sections: list[Section]) -> bytes:
    """Return a module of these sections."""
    return _MAGIC + _VERSION + b"".join(leb128(kind) + sized(content) for kind, content in sections)


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
