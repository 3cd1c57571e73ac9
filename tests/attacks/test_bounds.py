"""Counts and lengths made up by a guest exhaust neither the host's memory nor any other resource of the process."""

from __future__ import annotations

import mmap
import os
import struct
import tracemalloc
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import rapsqlite
from rapsqlite import _constants as abi
from rapsqlite._callbacks.callbacks import Callbacks
from rapsqlite._callbacks.deferred import runs_of
from rapsqlite._files import sigbus
from rapsqlite._files.file_error import FileError
from rapsqlite._files.file_table import FileTable
from rapsqlite._files.imports import file_imports
from rapsqlite._files.waiters import Waiter
from rapsqlite._guest.host_functions import HostFunctions
from rapsqlite._values.bounds import (
    LARGE_BYTES,
    MOST_BODY_BYTES,
    MOST_HANDLES,
    MOST_IO_BYTES,
    MOST_MAPPINGS,
    MOST_NAME_BYTES,
    MOST_OPEN_FILES,
    MOST_VALUES,
    SMALL_BYTES,
    check_values,
)
from rapsqlite._values.wire import decode_lists
from rapsqlite._wasm.dylink import read_side
from rapsqlite._wasm.rings import MalformedReplyError, Request, Rings
from rapsqlite.errors import DataError, InternalError, OperationalError
from tests.guest.played import AWAIT_REQUEST, PARK_FOR_EVER, REPLIES, guest_of, publish, store

if TYPE_CHECKING:
    from pathlib import Path

TEMPORARY = abi.SQLITE_OPEN_READWRITE | abi.SQLITE_OPEN_CREATE | abi.SQLITE_OPEN_TEMP_DB | abi.SQLITE_OPEN_DELETEONCLOSE
DATABASE = abi.SQLITE_OPEN_READWRITE | abi.SQLITE_OPEN_CREATE | abi.SQLITE_OPEN_MAIN_DB


class Giant:
    """A memory of four gigabytes of which only little may be copied."""

    def __call__(self, _address: int, length: int, /) -> memoryview:
        assert length <= MOST_IO_BYTES
        return memoryview(bytearray(length))


@pytest.mark.parametrize("length", [MOST_NAME_BYTES + 1, 1 << 30, 0xFFFF_FFFF])
@pytest.mark.parametrize("name", ["path_full", "file_open", "file_delete", "file_access"])
def test_name_longer_than_any_path_is_refused_unread(name: str, length: int) -> None:
    call = file_imports(FileTable(b":memory:"), Giant(), Giant(), Giant())
    arguments = {"path_full": (0, 100), "file_open": (DATABASE, 0), "file_delete": (0,), "file_access": (0, 0)}[name]

    assert call[name](0, length, *arguments) == abi.SQLITE_CANTOPEN


@pytest.mark.parametrize("name", ["file_read", "file_write"])
def test_transfer_larger_than_the_engine_makes_ends_the_guest(name: str) -> None:
    call = file_imports(FileTable(b":memory:"), Giant(), Giant(), Giant())

    with pytest.raises(InternalError):
        call[name](1, 0, MOST_IO_BYTES + 1, 0)


def test_temporary_files_are_limited_before_descriptors_run_out() -> None:
    files = FileTable(b":memory:")
    before = len(os.listdir("/proc/self/fd"))

    for _ in range(MOST_OPEN_FILES):
        files.open(b"", TEMPORARY)
    with pytest.raises(FileError, match="too many files") as caught:
        files.open(b"", TEMPORARY)

    assert caught.value.code == abi.SQLITE_CANTOPEN
    files.close()
    assert len(os.listdir("/proc/self/fd")) <= before  # other tests' garbage may have been collected meanwhile


def test_number_of_mappings_per_connection_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux allows a process 65 530, for all of its parts."""
    monkeypatch.setattr(sigbus, "turns_into_trap", lambda: True)
    database = os.fsencode(tmp_path / "a.db")
    files = FileTable(database)
    handle, _ = files.open(database, DATABASE)
    files.write(handle, b"x" * mmap.PAGESIZE, 0)
    step = 2 * mmap.PAGESIZE
    memory = memoryview(mmap.mmap(-1, (MOST_MAPPINGS + 1) * step))

    for number in range(MOST_MAPPINGS):
        files.map_window(handle, memory[number * step : number * step + mmap.PAGESIZE], 0)
    with pytest.raises(FileError, match="too many file ranges"):
        files.map_window(handle, memory[-step : -mmap.PAGESIZE], 0)

    files.close()


def host_of(memory: bytes, result_limit_bytes: int = 0) -> Any:
    nothing: Any = lambda *_: None  # noqa: E731
    host = HostFunctions(nothing, nothing, 0.0, Waiter(), nothing, nothing, nothing, result_limit_bytes)
    host.memory = SimpleNamespace(view=lambda _address, length: memoryview(memory)[:length])  # type: ignore[assignment]
    host.rings = SimpleNamespace(spilled=[])  # type: ignore[assignment]
    return host


def test_body_of_empty_lists_is_refused_before_it_is_decoded() -> None:
    """Each takes one byte encoded, and 64 bytes decoded."""
    host = host_of(b"\x90" * (LARGE_BYTES + 1))

    with pytest.raises(InternalError, match="more values"):
        host.spill(0, LARGE_BYTES + 1)

    assert host.rings.spilled == []


@pytest.mark.parametrize("size", [SMALL_BYTES, SMALL_BYTES + 1, LARGE_BYTES, LARGE_BYTES + 1, 8 * LARGE_BYTES])
@pytest.mark.parametrize(
    "item", [b"\x90", b"\x80", b"\x91\xc0", b"\x81\xa0\x80", b"\x91\x91\x90", b"\xcc\xc8", b"\xa2ab"]
)
def test_no_body_decodes_to_many_times_its_size(item: bytes, size: int) -> None:
    """Bodies below a megabyte used to go unchecked, and a megabyte of empty lists decoded to 64 MB."""
    count = (size - 10) // len(item)
    body = b"\xdd\x00\x00\x00\x01\xdd" + count.to_bytes(4, "big") + item * count
    body += bytes(size - len(body))
    tracemalloc.start()
    try:
        with suppress(InternalError):
            decode_lists(checked(body))
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert taken < 24 << 20


def checked(body: bytes) -> bytes:
    check_values(body)
    return body


def test_batch_with_the_maximum_of_rows_is_accepted() -> None:
    rows = [[None]] * (abi.BATCH_BYTES // 2) + [["x" * (LARGE_BYTES - abi.BATCH_BYTES - 100)]]

    assert decode_lists(checked(msgspec.msgpack.encode(rows))) == rows


def test_body_in_the_ring_larger_than_any_real_one_is_refused() -> None:
    """Larger bodies are passed outside the ring, and their sizes are checked."""
    body = b"\xdd\x00\x02\xff\x00" + b"\x90" * 196_352
    memory = bytearray(1 << 20)
    replies = 8192 + abi.REQUEST_RING_BYTES
    words: dict[int, tuple[int, ...]] = {
        abi.CONTROL_MAGIC: (abi.MAGIC, abi.ABI_VERSION, 4096, abi.REQUEST_RING_BYTES, replies)
    }
    words[abi.CONTROL_REPLY_RING + 4] = (abi.REPLY_RING_BYTES, 2048)
    words[abi.CONTROL_REPLY_HEAD] = (abi.REPLY_HEADER_BYTES + len(body) + 7 & ~7,)
    for offset, values in words.items():
        struct.pack_into(f"<{len(values)}I", memory, offset, *values)
    head = (words[abi.CONTROL_REPLY_HEAD][0], 1, abi.REPLY_DONE, 0, 1, 0, len(body), 1, 0, 0, -1, 0, 0)
    struct.pack_into("<IIBBHIIIIIqqq", memory, replies, *head)
    rings = Rings(lambda address, length: memoryview(memory)[address : address + length], 0)
    rings.reply_tail = 0

    with pytest.raises(MalformedReplyError, match="longer"):
        rings.peek_reply()


@pytest.mark.parametrize("limit, length", [(0, MOST_BODY_BYTES + 1), (1_000, 8 << 20)])
def test_body_beyond_the_result_limit_is_not_copied(limit: int, length: int) -> None:
    assert host_of(b"", limit).spill(0, length) == 1


def test_large_bodies_of_every_kind_of_value_are_accepted() -> None:
    kinds = b"\xc0\x01\xe0\xcc1\xcd12\xce1234\xcf12345678\xd01\xd112\xd21234\xd312345678\xca1234\xcb12345678"
    kinds += b"\xa3abc\xd9\x03abc\xda\x00\x03abc\xc4\x03abc\xc5\x00\x03abc\xd41a\xd51ab\xd61abcd\xd71abcdefgh"
    kinds += b"\xd81" + b"x" * 16 + b"\xc7\x021ab\xc8\x00\x021ab\xc9\x00\x00\x00\x021ab\x91\xc0\x81\xc0\xc0"
    kinds += b"\xdc\x00\x01\xc0\xdd\x00\x00\x00\x01\xc0\xde\x00\x01\xc0\xc0\xdf\x00\x00\x00\x01\xc0\xc0"
    large = b"\xc6" + (2 * LARGE_BYTES).to_bytes(4, "big") + b"\x90" * 2 * LARGE_BYTES
    text = b"\xdb" + (2 * LARGE_BYTES).to_bytes(4, "big") + b"\x90" * 2 * LARGE_BYTES

    check_values(large + kinds + text + kinds)

    with pytest.raises(InternalError):
        check_values(large + kinds + b"\xc0" * MOST_VALUES)


@pytest.mark.parametrize("runs", [[1, 300_000_000, []], [1, 2, [None]], [1, -1, []], [1, 0.5, []], ["a", 1, []]])
def test_width_of_deferred_calls_must_match_their_values(runs: list[object]) -> None:
    with pytest.raises(InternalError):
        list(runs_of(runs))


def test_number_of_aggregate_instances_is_limited() -> None:
    """A hostile guest would otherwise create them without end."""
    callbacks = Callbacks()
    for _ in range(MOST_HANDLES):
        callbacks.hold_instance(None)

    with pytest.raises(MemoryError):
        callbacks.hold_instance(None)


def test_module_with_too_many_sections_is_refused() -> None:
    """Each takes two bytes in the file."""
    with pytest.raises(OperationalError, match="sections"):
        read_side(b"\0asm\x01\0\0\0" + b"\0\x01\0" * 5000)


async def test_column_names_count_towards_the_result_limit() -> None:
    async with rapsqlite.connect(":memory:", limits={"max_bytes": 1000}) as conn:
        cursor = await conn.execute(f'SELECT 1 AS "{"x" * 900}"')
        assert [column[0] for column in cursor.description or ()] == ["x" * 900]

        with pytest.raises(DataError, match="1000 bytes"):
            await conn.execute(f'SELECT 1 AS "{"x" * 2000}"')


async def test_error_messages_are_truncated() -> None:
    """``max_bytes`` bounds what a statement returns, and the message repeats its text."""
    async with rapsqlite.connect(":memory:", limits={"max_bytes": 2000}) as conn:
        with pytest.raises(OperationalError, match="no such column") as caught:
            await conn.execute(f"SELECT {'x' * 100_000}")

    assert len(str(caught.value).partition("\n")[0]) <= 2000


async def test_limit_holds_for_a_guest_that_counts_wrongly() -> None:
    length = abi.REPLY_HEADER_BYTES + 8000
    body = store(REPLIES, length, 1, abi.REPLY_DONE, 0, 8000)
    guest = guest_of(AWAIT_REQUEST + body + publish(length) + PARK_FOR_EVER, result_limit_bytes=1000)
    guest.start()

    with pytest.raises(OperationalError, match="has failed and is closed"):
        await guest.call(Request(abi.OP_FETCH, b"SELECT 1"))

    await guest.close()
