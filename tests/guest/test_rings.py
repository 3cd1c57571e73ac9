"""The rings against a guest played in Python: frames, wrap-around, and everything a hostile guest may write."""

from __future__ import annotations

import struct

import pytest

from rapsqlite import _constants as abi
from rapsqlite._wasm.rings import MalformedReplyError, Reply, Request, Rings

CONTROL = 64
ARGUMENT_BLOCK = 4096
REQUESTS = 65536
REQUEST_RING = abi.REQUEST_RING_BYTES
REPLIES = REQUESTS + REQUEST_RING
RING = abi.REPLY_RING_BYTES
LARGEST = b"x" * (abi.REQUEST_INLINE_BYTES - 1)  # with a byte of parameters
_REPLY = struct.Struct("<IIBBHIIIIIqqqII")


class PlayedGuest:
    """A memory with a control block and two rings, and the guest's side of both."""

    def __init__(self) -> None:
        self.memory = bytearray(REPLIES + RING)
        self.word(abi.CONTROL_MAGIC, abi.MAGIC)
        self.word(abi.CONTROL_ABI_VERSION, abi.ABI_VERSION)
        self.words(abi.CONTROL_REQUEST_RING, REQUESTS, REQUEST_RING)
        self.words(abi.CONTROL_REPLY_RING, REPLIES, RING)
        self.word(abi.CONTROL_ARGUMENT_BLOCK, ARGUMENT_BLOCK)

    def view(self, address: int, length: int) -> memoryview:
        if address + length > len(self.memory):
            raise IndexError("outside")
        return memoryview(self.memory)[address : address + length]

    def word(self, offset: int, value: int) -> None:
        struct.pack_into("<I", self.memory, CONTROL + offset, value & 0xFFFF_FFFF)

    def words(self, offset: int, *values: int) -> None:
        for index, value in enumerate(values):
            self.word(offset + 4 * index, value)

    def read(self, offset: int) -> int:
        return int(struct.unpack_from("<I", self.memory, CONTROL + offset)[0])

    def reply(
        self, at: int, body: bytes, *, length: int | None = None, rows_len: int | None = None, flags: int = 0
    ) -> int:
        size = (abi.REPLY_HEADER_BYTES + len(body) + 7) & ~7
        start = REPLIES + at % RING
        declared = len(body) if rows_len is None else rows_len
        header = (
            size if length is None else length,
            7,
            abi.REPLY_DONE,
            flags,
            1,
            0,
            declared,
            1,
            0,
            0,
            -1,
            0,
            0,
            0,
            0,
        )
        _REPLY.pack_into(self.memory, start, *header)
        self.memory[start + _REPLY.size : start + _REPLY.size + len(body)] = body
        return size


@pytest.fixture
def guest() -> PlayedGuest:
    return PlayedGuest()


def put(rings: Rings, request_id: int, body: bytes) -> int | None:
    return send(rings, request_id, Request(abi.OP_FETCH, body, b"\x90"), False)


def send(rings: Rings, number: int, request: Request, cancelled: bool) -> int | None:
    written = rings.write(number, request, cancelled)
    if written is None:
        return None
    position, rings.request_head = written
    rings.publish_requests()
    return position


def take(rings: Rings) -> Reply | None:
    reply = rings.peek_reply()
    if reply is not None:
        rings.reply_tail = reply.end
        if reply.flags & abi.REPLY_SPILLED:
            del rings.spilled[0]
    rings.free_replies()
    return reply


def test_request_frame_has_the_documented_layout(guest: PlayedGuest) -> None:
    rings = Rings(guest.view, CONTROL)

    position = send(rings, 5, Request(abi.OP_FETCH, b"SELECT 1", b"\x91\x01", 9, 3, 4), True)

    assert position == 0
    fields = struct.unpack_from("<IIIBBHIIII", guest.memory, REQUESTS)
    assert fields == (48, 5, 1, abi.OP_FETCH, 0, 9, 8, 2, 3, 4)
    assert bytes(guest.memory[REQUESTS + 32 : REQUESTS + 42]) == b"SELECT 1\x91\x01"
    assert guest.read(abi.CONTROL_REQUEST_HEAD) == 48


def test_request_that_would_cross_the_end_follows_a_skip_frame(guest: PlayedGuest) -> None:
    rings = Rings(guest.view, CONTROL)
    assert put(rings, 1, LARGEST) is not None
    tail = guest.read(abi.CONTROL_REQUEST_HEAD)
    assert put(rings, 2, LARGEST) is not None
    head = guest.read(abi.CONTROL_REQUEST_HEAD)
    guest.word(abi.CONTROL_REQUEST_TAIL, tail)

    position = put(rings, 3, b"y" * (REQUEST_RING - head))

    assert position == REQUEST_RING
    assert struct.unpack_from("<II", guest.memory, REQUESTS + head) == (REQUEST_RING - head, 0)
    assert struct.unpack_from("<II", guest.memory, REQUESTS)[1] == 3


def test_small_requests_that_are_answered_stay_in_the_ring_s_first_pages(guest: PlayedGuest) -> None:
    """So an ordinary connection does not pay for the space that large requests need."""
    rings = Rings(guest.view, CONTROL)
    for number in range(1, 2_000):
        assert put(rings, number, b"x" * 200) is not None
        guest.word(abi.CONTROL_REQUEST_TAIL, guest.read(abi.CONTROL_REQUEST_HEAD))

    assert b"x" in guest.memory[REQUESTS : REQUESTS + 32_768]
    assert b"x" not in guest.memory[REQUESTS + 40_000 : REQUESTS + REQUEST_RING]


@pytest.mark.parametrize("at", [0, 8, 32_760, 32_768, 100_000, 114_712, 114_720, 114_728, 147_424, 147_432, 262_136])
def test_empty_ring_accepts_the_largest_request_wherever_the_last_one_ended(guest: PlayedGuest, at: int) -> None:
    guest.words(abi.CONTROL_REQUEST_HEAD, at)
    guest.words(abi.CONTROL_REQUEST_TAIL, at)
    rings = Rings(guest.view, CONTROL)

    position = put(rings, 1, LARGEST)

    assert position is not None
    start = REQUESTS + position % REQUEST_RING
    assert guest.memory[start + abi.REQUEST_HEADER_BYTES : start + abi.REQUEST_HEADER_BYTES + len(LARGEST)] == LARGEST


def test_request_that_is_larger_is_fetched_by_the_guest(guest: PlayedGuest) -> None:
    rings = Rings(guest.view, CONTROL)

    position = put(rings, 1, LARGEST + b"x")

    assert position == 0
    assert guest.read(abi.CONTROL_REQUEST_HEAD) == abi.REQUEST_HEADER_BYTES
    assert guest.memory[REQUESTS + 13] == abi.REQUEST_EXTERNAL


def test_full_ring_accepts_no_request_until_the_guest_replies(guest: PlayedGuest) -> None:
    rings = Rings(guest.view, CONTROL)
    count = 0
    while put(rings, count + 1, b"x" * 200) is not None:
        count += 1
    before = bytes(guest.memory)

    assert put(rings, 99, b"x" * 200) is None
    assert bytes(guest.memory) == before

    guest.word(abi.CONTROL_REQUEST_TAIL, 240)
    assert put(rings, 99, b"x" * 200) is not None


def test_counters_wrap_at_32_bits(guest: PlayedGuest) -> None:
    start = 0x1_0000_0000 - RING  # a multiple of the ring's size
    for offset in (
        abi.CONTROL_REQUEST_HEAD,
        abi.CONTROL_REQUEST_TAIL,
        abi.CONTROL_REPLY_HEAD,
        abi.CONTROL_REPLY_TAIL,
    ):
        guest.word(offset, start)
    rings = Rings(guest.view, CONTROL)
    for request_id in range(1, 2000):
        assert put(rings, request_id, b"x" * 300) is not None
        guest.word(abi.CONTROL_REQUEST_TAIL, guest.read(abi.CONTROL_REQUEST_HEAD))
        assert not rings.has_unanswered()

    assert guest.read(abi.CONTROL_REQUEST_HEAD) < start


def test_cancel_marks_a_frame_the_guest_still_owns_and_no_other(guest: PlayedGuest) -> None:
    rings = Rings(guest.view, CONTROL)
    first = put(rings, 1, b"x" * 56)
    second = put(rings, 2, b"x" * 56)
    assert first is not None
    assert second is not None
    guest.word(abi.CONTROL_REQUEST_TAIL, second)
    before = bytes(guest.memory)

    rings.cancel(first)
    assert bytes(guest.memory) == before

    rings.cancel(second)
    assert struct.unpack_from("<I", guest.memory, REQUESTS + second + 8) == (1,)


def test_reply_is_copied_and_its_space_freed(guest: PlayedGuest) -> None:
    rings = Rings(guest.view, CONTROL)
    size = guest.reply(0, b"\x91\x91\x01")
    guest.word(abi.CONTROL_REPLY_HEAD, size)

    reply = take(rings)

    assert reply is not None
    assert (reply.id, reply.kind, reply.row_count, reply.changes, reply.rows) == (
        7,
        abi.REPLY_DONE,
        1,
        -1,
        b"\x91\x91\x01",
    )
    assert guest.read(abi.CONTROL_REPLY_TAIL) == size
    guest.memory[REPLIES : REPLIES + size] = bytes(size)
    assert reply.rows == b"\x91\x91\x01"
    assert take(rings) is None


@pytest.mark.parametrize(
    "length, published",
    [(0, 64), (4, 64), (60, 64), (63, 64), (72, 64), (0xFFFF_FFF8, 64), (RING + 8, RING), (48, 48)],
)
def test_impossible_frame_length_is_refused(guest: PlayedGuest, length: int, published: int) -> None:
    rings = Rings(guest.view, CONTROL)
    guest.reply(0, b"\x90", length=length)
    guest.word(abi.CONTROL_REPLY_HEAD, published)

    with pytest.raises(MalformedReplyError):
        take(rings)


@pytest.mark.parametrize("rows_len", [9, RING, 0xFFFF_FFFF])
def test_body_longer_than_its_frame_is_refused(guest: PlayedGuest, rows_len: int) -> None:
    rings = Rings(guest.view, CONTROL)
    size = guest.reply(0, b"\x90", rows_len=rows_len)
    guest.word(abi.CONTROL_REPLY_HEAD, size)

    with pytest.raises(MalformedReplyError):
        take(rings)


def test_frame_beyond_the_end_of_the_ring_is_refused(guest: PlayedGuest) -> None:
    rings = Rings(guest.view, CONTROL)
    guest.word(abi.CONTROL_REPLY_TAIL, RING - 16)
    rings = Rings(guest.view, CONTROL)
    struct.pack_into("<II", guest.memory, REPLIES + RING - 16, 64, 7)
    guest.word(abi.CONTROL_REPLY_HEAD, RING - 16 + 64)

    with pytest.raises(MalformedReplyError):
        take(rings)


def test_skip_frame_leads_to_the_end_of_the_ring(guest: PlayedGuest) -> None:
    guest.word(abi.CONTROL_REPLY_TAIL, RING - 16)
    rings = Rings(guest.view, CONTROL)
    struct.pack_into("<II", guest.memory, REPLIES + RING - 16, 16, 0)
    size = guest.reply(RING, b"abc")
    guest.word(abi.CONTROL_REPLY_HEAD, RING + size)

    reply = take(rings)

    assert reply is not None
    assert reply.rows == b"abc"


@pytest.mark.parametrize(
    "tail, length", [(0, 8), (0, RING), (RING - 64, 8), (RING - 64, 56)], ids=["short", "whole", "early", "almost"]
)
def test_any_other_skip_frame_is_refused(guest: PlayedGuest, tail: int, length: int) -> None:
    """A guest that kept publishing them would keep the host in `peek_reply` forever."""
    guest.word(abi.CONTROL_REPLY_TAIL, tail)
    rings = Rings(guest.view, CONTROL)
    struct.pack_into("<II", guest.memory, REPLIES + tail, length, 0)
    guest.word(abi.CONTROL_REPLY_HEAD, tail + length)

    with pytest.raises(MalformedReplyError):
        take(rings)


def test_spilled_body_must_be_the_one_that_was_passed(guest: PlayedGuest) -> None:
    rings = Rings(guest.view, CONTROL)
    rings.spilled.append(b"abcdef")
    size = guest.reply(0, b"", rows_len=6, flags=abi.REPLY_SPILLED)
    guest.word(abi.CONTROL_REPLY_HEAD, size)
    reply = take(rings)
    assert reply is not None
    assert reply.rows == b"abcdef"

    guest.reply(size, b"", rows_len=6, flags=abi.REPLY_SPILLED)
    guest.word(abi.CONTROL_REPLY_HEAD, 2 * size)
    with pytest.raises(MalformedReplyError):
        take(rings)


@pytest.mark.parametrize(
    "offset, value",
    [
        (abi.CONTROL_MAGIC, 0),
        (abi.CONTROL_ABI_VERSION, abi.ABI_VERSION + 1),
        (abi.CONTROL_REQUEST_RING, 4097),
        (abi.CONTROL_REQUEST_RING + 4, 5000),
        (abi.CONTROL_REQUEST_RING + 4, 2 * REQUEST_RING),
        (abi.CONTROL_REPLY_RING + 4, 0),
        (abi.CONTROL_REPLY_RING, REQUESTS),
        (abi.CONTROL_REPLY_RING, REQUESTS + REQUEST_RING - 8),
        (abi.CONTROL_REQUEST_RING, CONTROL),
        (abi.CONTROL_ARGUMENT_BLOCK, CONTROL + abi.CONTROL_BYTES - 8),
        (abi.CONTROL_ARGUMENT_BLOCK, ARGUMENT_BLOCK + 4),
        (abi.CONTROL_ARGUMENT_BLOCK, REPLIES),
        (abi.CONTROL_REQUEST_HEAD, 4),
        (abi.CONTROL_REPLY_TAIL, 12),
    ],
)
def test_invalid_control_block_is_refused(guest: PlayedGuest, offset: int, value: int) -> None:
    guest.word(offset, value)

    with pytest.raises(MalformedReplyError):
        Rings(guest.view, CONTROL)


def test_ring_outside_the_memory_is_refused(guest: PlayedGuest) -> None:
    guest.word(abi.CONTROL_REPLY_RING, REPLIES + 8)

    with pytest.raises(IndexError):
        Rings(guest.view, CONTROL)


def test_guest_counter_ahead_of_the_host_is_refused(guest: PlayedGuest) -> None:
    rings = Rings(guest.view, CONTROL)
    guest.word(abi.CONTROL_REQUEST_TAIL, 8)

    with pytest.raises(MalformedReplyError):
        put(rings, 1, b"SELECT 1")
