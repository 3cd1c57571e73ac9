"""Large bodies are copied in pieces: other threads, including event loops, run in between."""

from __future__ import annotations

import random
from typing import Any

import pytest

from rapsqlite._values.pieces import copy_of, fill

PIECE = 1 << 20


class Memory:
    """Bytes that record how many of them are moved at a time."""

    def __init__(self, size: int) -> None:
        self.bytes = bytearray(size)
        self.moved: list[int] = []

    def __len__(self) -> int:
        return len(self.bytes)

    def __getitem__(self, part: slice) -> memoryview:
        taken = memoryview(self.bytes)[part]
        self.moved.append(len(taken))
        return taken

    def __setitem__(self, part: slice, data: memoryview) -> None:
        self.moved.append(len(data))
        memoryview(self.bytes)[part] = data


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 3 * PIECE + 5])
def test_copies_in_pieces_are_complete(size: int) -> None:
    """Large copies are made in pieces: each byte arrives, up to the last piece."""
    data = random.Random(size).randbytes(size)
    target = bytearray(size)

    fill(memoryview(target), data)

    assert target == data
    assert copy_of(memoryview(target)) == data


def test_no_single_copy_exceeds_a_piece() -> None:
    """A copy of 100 MB in one piece keeps the GIL from all other threads for 50 ms and more."""
    memory: Any = Memory(20 * PIECE + 1)

    fill(memory, bytes(len(memory)))
    copied = copy_of(memory)

    assert len(copied) == len(memory)
    assert memory.moved == 2 * ([PIECE] * 20 + [1])
