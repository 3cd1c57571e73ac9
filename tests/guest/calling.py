"""A guest's memory without a guest: makes calls back, word by word."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from rapsqlite import _constants as abi
from rapsqlite._callbacks.callbacks import Callbacks
from rapsqlite._callbacks.trampoline import RequestContext

if TYPE_CHECKING:
    from collections.abc import Callable

MEMORY_BYTES = 1 << 20
ARGUMENT_BLOCK = 4096
ROOM = ARGUMENT_BLOCK + abi.ARGUMENT_BLOCK_HEAD
ARGUMENTS = 65536
NO_ARGUMENTS = b"\x90"


class Played:
    """A guest's memory, and the steps by which it calls back."""

    def __init__(self) -> None:
        self.memory = bytearray(MEMORY_BYTES)
        self.callbacks = Callbacks()
        self.table: list[Callable[[], int]] = []
        self.room = 1000
        self.slots: dict[int, int] = {}
        self.ended_by: list[BaseException] = []
        self.run: Callable[..., object] | None = None
        self.progress = memoryview(bytearray(1))
        self.attach()

    def attach(self, address: int = ARGUMENT_BLOCK) -> None:
        self.callbacks.attach(
            self.view, address, self.add_to_table, self.end, RequestContext(lambda: self.run, self.progress)
        )

    def add_to_table(self, enter: Callable[[], int]) -> int:
        if len(self.table) >= self.room:
            return abi.NO_FUNCTION
        self.table.append(enter)
        return len(self.table)

    def end(self, exc: BaseException) -> int:
        self.ended_by.append(exc)
        return 1

    def view(self, address: int, length: int) -> memoryview:
        if address < 0 or length < 0 or address + length > len(self.memory):
            raise IndexError("outside of the memory")
        return memoryview(self.memory)[address : address + length]

    def word(self, index: int) -> int:
        return int(struct.unpack_from("<q", self.memory, ARGUMENT_BLOCK + 8 * index)[0])

    def put(self, key: int, form: int, value: int = 0, address: int = 0) -> tuple[int, int]:
        """Call with these four words, through the table from the second time on; return the result's form and value."""
        struct.pack_into("<4q", self.memory, ARGUMENT_BLOCK, key, form, value, address)
        slot = self.slots.get(key, abi.NO_FUNCTION)
        if slot:
            returned = self.table[slot - 1]()
        else:
            struct.pack_into("<q", self.memory, ARGUMENT_BLOCK + 8 * abi.ARGUMENT_BLOCK_SLOT, 1)
            returned = self.callbacks.call()
            self.slots[key] = self.word(abi.ARGUMENT_BLOCK_SLOT)
        assert returned == (1 if self.ended_by else 0)
        return self.word(abi.ARGUMENT_BLOCK_FORM), self.word(abi.ARGUMENT_BLOCK_VALUE)

    def call(self, kind: int, handle: int, arguments: bytes = NO_ARGUMENTS) -> tuple[int, int]:
        """Call with a MessagePack array."""
        return self.put_bytes(kind | handle << 8, abi.FORM_ARRAY, arguments)

    def put_bytes(self, key: int, form: int, data: bytes, far: bool = False) -> tuple[int, int]:
        """Call with arguments in the argument block, or elsewhere if they do not fit or ``far`` is true."""
        far = far or len(data) > abi.ARGUMENT_BLOCK_ROOM
        start = ARGUMENTS if far else ROOM
        self.memory[start : start + len(data)] = data
        return self.put(key, form + far * abi.FORM_FAR, len(data), ARGUMENTS)

    def failure(self) -> BaseException | None:
        return self.callbacks.failures.take(self.word(abi.ARGUMENT_BLOCK_VALUE))

    def text(self) -> bytes:
        return bytes(self.memory[ROOM : ROOM + self.word(abi.ARGUMENT_BLOCK_VALUE)])
