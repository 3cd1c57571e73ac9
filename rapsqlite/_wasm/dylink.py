"""What a WebAssembly side module declares: the section ``dylink.0``, and what it must not contain.

The bytes are untrusted. Only the outer structure of the module is read here, section by section, with every length
checked; the compiler validates the rest. A start function becomes an export, because it would otherwise run while the
host links the module, where nothing can stop it. A module that does not import the memory does so afterwards, for its
safepoint polls (`safepoints`).
https://github.com/WebAssembly/tool-conventions/blob/main/DynamicLinking.md
https://webassembly.github.io/spec/core/binary/modules.html
"""

from __future__ import annotations

from typing import NamedTuple

from rapsqlite._wasm.binary import Reader, Section, joined, leb128, sized, split
from rapsqlite.errors import NotSupportedError, OperationalError, OutOfMemoryError

_CUSTOM, _TYPE, _IMPORT, _TABLE, _MEMORY, _EXPORT, _START = 0, 1, 2, 4, 5, 7, 8
_FUNCTION = b"\0"  # the kind of an export
_FUNCTION_IMPORT, _TABLE_IMPORT, _MEMORY_IMPORT, _GLOBAL_IMPORT = range(4)
_MEMORY_ENTRY = sized(b"env") + sized(b"memory") + bytes([_MEMORY_IMPORT, 0, 0])
_MEM_INFO, _NEEDED = 1, 2
_MOST_TABLE_SLOTS = 1 << 16
_MOST_ALIGNMENT_LOG2 = 16
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
    """A side module that imports the memory, without a start section, whose function is exported as `START`."""

    needs: Needs
    wasm: bytes


def read_side(wasm: bytes) -> Side:
    """Return the side module's needs, and the module in the form to compile.

    Raises OperationalError for bytes that are not a WebAssembly module, NotSupportedError for another kind of module or
    one that contains what only the engine may have, OutOfMemoryError if it requests more than any engine has.
    """
    needs: Needs | None = None
    sections = split(wasm)
    for kind, content in sections:
        section = Reader(content)
        if kind == _CUSTOM and needs is None:
            if section.name() == b"dylink.0":
                needs = _read_dylink(section)
        elif kind in _OWN and section.number():
            raise NotSupportedError(f"it {_OWN[kind]}: build it as a side module, with -fPIC and -shared")
    if needs is None:
        raise NotSupportedError(
            "it is not a side module, because it has no section dylink.0: build it with -fPIC and -shared"
        )
    return Side(needs, joined(_with_memory(_without_start(sections))))


def _with_memory(sections: list[Section]) -> list[Section]:
    for number, (kind, content) in enumerate(sections):
        if kind == _IMPORT:
            changed = content if _imports_memory(Reader(content)) else _with_entry(content, _MEMORY_ENTRY)
            return [*sections[:number], (kind, changed), *sections[number + 1 :]]
        if kind not in (_CUSTOM, _TYPE):
            return [*sections[:number], (_IMPORT, leb128(1) + _MEMORY_ENTRY), *sections[number:]]
    return sections


def _imports_memory(section: Reader) -> bool:
    for _ in range(section.number()):
        section.name()
        section.name()
        kind = section.byte()
        if kind == _MEMORY_IMPORT:
            return True
        section.number()  # a type
        if kind == _TABLE_IMPORT:
            has_most = section.number() & 1
            section.number()
            if has_most:
                section.number()
        elif kind == _GLOBAL_IMPORT:
            section.byte()
        elif kind != _FUNCTION_IMPORT:
            raise NotSupportedError(f"it has an import of an unknown kind, {kind}")
    return False


def _without_start(sections: list[Section]) -> list[Section]:
    starts = [content for kind, content in sections if kind == _START]
    if not starts:
        return sections
    if len(starts) > 1:
        raise OperationalError("it has more than one start function")
    function = Reader(starts[0]).number()
    entry = sized(START.encode()) + _FUNCTION + leb128(function)
    if all(kind != _EXPORT for kind, _ in sections):
        # Exports come directly before the start section.
        return [(_EXPORT, leb128(1) + entry) if kind == _START else (kind, content) for kind, content in sections]
    return [
        (kind, _with_entry(content, entry) if kind == _EXPORT else content)
        for kind, content in sections
        if kind != _START
    ]


def _with_entry(content: bytes, entry: bytes) -> bytes:
    reader = Reader(content)
    return leb128(reader.number() + 1) + reader.rest() + entry


def _read_dylink(section: Reader) -> Needs:
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
