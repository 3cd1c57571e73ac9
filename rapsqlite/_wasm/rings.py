"""The two rings in a guest's memory: put a request, take a reply, check every bound.

Layout and rules: docs/abi.md. The host is the only producer of requests and the only consumer of replies. Every method
is called with the guest's lock held, so only one thread of the host is in here at once. The words that the guest writes
are untrusted: an impossible counter or length raises ``MalformedReplyError``, and nothing outside the ring's own bytes
is accessed.
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from struct import Struct
from typing import TYPE_CHECKING

import msgspec

from rapsqlite import _constants as abi
from rapsqlite._values.bounds import MOST_COLUMNS
from rapsqlite._wasm.control_block import Words

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite._wasm.reply_watcher import SharedPage

_REQUEST = Struct("<IIIBBHIIII")
_REPLY = Struct("<IIBBHIIIIIqqqII")
_PREFIX = Struct("<II")
_REQUEST_HEAD, _REQUEST_TAIL = abi.CONTROL_REQUEST_HEAD // 4, abi.CONTROL_REQUEST_TAIL // 4
_REPLY_HEAD, _REPLY_TAIL = abi.CONTROL_REPLY_HEAD // 4, abi.CONTROL_REPLY_TAIL // 4
_COUNTER = 0xFFFF_FFFF
_LARGEST_INLINE = abi.REQUEST_HEADER_BYTES + abi.REQUEST_INLINE_BYTES
_USUAL_BYTES = 32_768  # then an empty ring begins anew, so that small requests never touch most of its pages


class MalformedReplyError(Exception):
    """The guest wrote something that no honest guest writes; the connection must not be used again."""


class Request(msgspec.Struct, frozen=True, gc=False):
    """A request for the guest: the fields of a request frame (docs/abi.md, "Request frame")."""

    op: int
    sql: bytes = b""
    params: bytes = b""
    format: int = 0
    target: int = 0
    """The handle of a statement or object, the number of a block, or one of CONTROL_OP_*."""
    argument: int = 0
    """A number of rows, pages or bytes, or one of SESSION_*."""


class Reply:
    """One reply, copied out of the guest: plain values and two private byte strings."""

    __slots__ = (
        "changes",
        "column_count",
        "columns",
        "end",
        "error",
        "failure",
        "flags",
        "handle",
        "id",
        "kind",
        "last_insert_rowid",
        "row_count",
        "rows",
        "total_changes",
        "unlock_handle",
        "unlock_locks",
    )

    id: int
    end: int  # of its frame, as a counter
    failure: int
    kind: int
    flags: int
    column_count: int
    row_count: int
    handle: int
    changes: int
    total_changes: int
    last_insert_rowid: int
    unlock_handle: int  # of a database, or 0
    unlock_locks: int
    columns: bytes
    rows: bytes
    error: Exception | None  # of the row after the last one, in a FAILED reply


class Rings(Words):
    """Both rings of one guest, over a view of its memory."""

    __slots__ = (
        "_replies",
        "_reply_bytes",
        "_request_bytes",
        "_requests",
        "_shared",
        "argument_block",
        "page",
        "reply_tail",
        "request_head",
        "spilled",
    )

    def __init__(self, view: Callable[[int, int], memoryview], control: int) -> None:
        """Check the control block at address ``control`` and map both rings.

        ``view(address, length)`` returns the bytes there, or raises if they are not inside the memory.
        """
        super().__init__(view(control, abi.CONTROL_BYTES))
        if self._word(abi.CONTROL_MAGIC) != abi.MAGIC or self._word(abi.CONTROL_ABI_VERSION) != abi.ABI_VERSION:
            raise MalformedReplyError("the control block has an unexpected magic number or version")
        # Read once: later writes of the guest to these words change nothing.
        requests = self._ring(abi.CONTROL_REQUEST_RING, abi.REQUEST_RING_BYTES)
        replies = self._ring(abi.CONTROL_REPLY_RING, abi.REPLY_RING_BYTES)
        callbacks = (self._word(abi.CONTROL_ARGUMENT_BLOCK), abi.ARGUMENT_BLOCK_HEAD + abi.ARGUMENT_BLOCK_ROOM)
        self.argument_block = callbacks[0]
        ranges = sorted([(control, abi.CONTROL_BYTES), requests, replies, callbacks])
        if any(address % 8 for address, _ in ranges):
            raise MalformedReplyError("the control block or a ring is not aligned")
        if any(address + size > after for (address, size), (after, _) in pairwise(ranges)):
            raise MalformedReplyError("the control block and the rings overlap")
        self._shared = ranges
        self.page: SharedPage | None = None  # the control block's, if it can be watched without the GIL
        self._requests = view(*requests)
        self._replies = view(*replies)
        self._request_bytes = abi.REQUEST_RING_BYTES
        self._reply_bytes = abi.REPLY_RING_BYTES
        self.request_head = self._word(abi.CONTROL_REQUEST_HEAD)
        self.reply_tail = self._word(abi.CONTROL_REPLY_TAIL)
        if self.request_head % 8 or self.reply_tail % 8:
            raise MalformedReplyError("a ring counter does not match whole frames")
        self.spilled: deque[bytes] = deque()  # bodies too large for the ring, oldest first

    def _ring(self, offset: int, size: int) -> tuple[int, int]:
        if self._word(offset + 4) != size:
            raise MalformedReplyError("a ring has an unexpected size")
        return self._word(offset), size

    def check_unshared(self, address: int, length: int) -> None:
        """Raise IndexError if host and guest share any of these bytes."""
        if any(address < start + size and start < address + length for start, size in self._shared):
            raise IndexError("the guest passed an address that it shares with the host")

    # -- requests ----------------------------------------------------------------------------------

    def write(self, number: int, request: Request, cancelled: bool) -> tuple[int, int] | None:
        """Write one request frame, which the guest does not see yet; None if the ring has no space for it now.

        Return its position, and the ``request_head`` with which ``publish_requests`` shows it to the guest.
        SQL and parameters that are too large for the ring are not written: the guest fetches them.
        """
        sql, params = request.sql, request.params
        sql_end = abi.REQUEST_HEADER_BYTES + len(sql)
        end, flags = sql_end + len(params), 0
        if end > _LARGEST_INLINE:
            end, flags = abi.REQUEST_HEADER_BYTES, abi.REQUEST_EXTERNAL
        length = (end + 7) & ~7
        position = self._reserve(length)
        if position is None:
            return None
        ring, start = self._requests, position % self._request_bytes
        _REQUEST.pack_into(
            ring, start, length, number, cancelled, request.op, flags, request.format, len(sql), len(params),
            request.target, request.argument,
        )  # fmt: skip
        if not flags:
            ring[start + abi.REQUEST_HEADER_BYTES : start + sql_end] = sql
            ring[start + sql_end : start + end] = params
        return position, (position + length) & _COUNTER

    def publish_requests(self) -> None:
        """Let the guest see the frames before ``request_head``; idempotent."""
        self._fence()
        self._words[_REQUEST_HEAD] = self.request_head

    def _reserve(self, length: int) -> int | None:
        """Return the start of a frame of ``length`` bytes, after a skip frame if it would cross the ring's end."""
        head, size = self.request_head, self._request_bytes
        used = (head - self._words[_REQUEST_TAIL]) & _COUNTER
        if used > size:
            raise MalformedReplyError("the guest's request counter ran ahead of the host's")
        at = head % size
        begins_anew = used == 0 and at >= max(length, _USUAL_BYTES)
        skip = size - at if begins_anew or length > size - at else 0
        if length + skip > size - used:
            return None
        if skip:
            _PREFIX.pack_into(self._requests, at, skip, 0)
        return (head + skip) & _COUNTER

    def cancel(self, position: int) -> None:
        """Set the cancel word of the request at ``position``, if the guest has not answered it yet.

        The guest has not read beyond the request that it has not answered, as seen after this. If this one comes later,
        the guest sees its cancel word before it begins.
        """
        if self.is_unanswered(position):
            start = position % self._request_bytes
            self._requests[start + 8 : start + 12] = b"\x01\x00\x00\x00"
            # The guest releases a frame and then checks the next one's cancel word.
            self._full_fence()

    def is_unanswered(self, position: int) -> bool:
        """Return True if the guest has not yet answered the request at ``position``."""
        return ((position - self._words[_REQUEST_TAIL]) & _COUNTER) < self._request_bytes

    def has_unanswered(self) -> bool:
        """Return True if the guest has any unanswered request."""
        return self._words[_REQUEST_TAIL] != self.request_head

    def running_request(self) -> int:
        """Return the id of the request that the guest is running; call on the guest's thread, without the lock."""
        start = self._words[_REQUEST_TAIL] % self._request_bytes & ~7
        _length, number = _PREFIX.unpack_from(self._requests, start)
        return int(number or _PREFIX.unpack_from(self._requests, 0)[1])  # 0: a skip frame, before the ring's start

    def progress(self) -> memoryview:
        """Return the word that changes with each request that the guest has answered."""
        return self._words[_REQUEST_TAIL : _REQUEST_TAIL + 1]

    # -- replies -----------------------------------------------------------------------------------

    def has_replies(self) -> bool:
        """Return True if a reply is waiting to be taken."""
        return self._words[_REPLY_HEAD] != self.reply_tail

    def poll(self, spins: int) -> bool:
        """Check for a reply repeatedly, but a bounded number of times (about 40 ns each)."""
        words, index, tail = self._words, _REPLY_HEAD, self.reply_tail
        return any(words[index] != tail for _ in range(spins))

    def peek_reply(self) -> Reply | None:
        """Copy the next reply out. It is taken once ``reply_tail`` is its ``end`` and its spilled body is dropped."""
        for _ in range(2):  # a skip frame leads to the ring's start, and none is at the start
            tail = self.reply_tail
            available = (self._words[_REPLY_HEAD] - tail) & _COUNTER
            if not available:
                return None
            self._fence()
            start = tail % self._reply_bytes
            length, request_id = _PREFIX.unpack_from(self._replies, start)
            if length < 8 or length % 8 or length > available or length > self._reply_bytes - start:
                raise MalformedReplyError("a reply frame is longer than the published bytes")
            if not request_id and (not start or length != self._reply_bytes - start):
                raise MalformedReplyError("a skip frame does not end at the end of the ring")
            end = (tail + length) & _COUNTER
            if request_id:
                reply = self._copy(start, length)
                reply.end = end
                return reply
            self.reply_tail = end
        return None

    def free_replies(self) -> None:
        """Return the space before ``reply_tail`` to the guest; idempotent."""
        self._fence()
        self._words[_REPLY_TAIL] = self.reply_tail

    def _copy(self, start: int, length: int) -> Reply:
        if length < abi.REPLY_HEADER_BYTES:
            raise MalformedReplyError("a reply frame is shorter than its header")
        reply = Reply()
        reply.error = None
        (
            _length,
            reply.id,
            reply.kind,
            reply.flags,
            reply.column_count,
            columns_len,
            rows_len,
            reply.row_count,
            reply.handle,
            reply.failure,
            reply.changes,
            reply.total_changes,
            reply.last_insert_rowid,
            reply.unlock_handle,
            reply.unlock_locks,
        ) = _REPLY.unpack_from(self._replies, start)
        if reply.column_count > MOST_COLUMNS or reply.row_count > rows_len:
            raise MalformedReplyError("a reply has an impossible number of columns or rows")
        is_spilled = reply.flags & abi.REPLY_SPILLED
        if is_spilled and columns_len > abi.REPLY_INLINE_BYTES:
            reply.columns, reply.rows = self._split_spilled(columns_len, rows_len)
            return reply
        here = columns_len if is_spilled else columns_len + rows_len
        if here > min(length - abi.REPLY_HEADER_BYTES, abi.REPLY_INLINE_BYTES):
            raise MalformedReplyError("a reply's body is longer than its frame")
        body = start + abi.REPLY_HEADER_BYTES
        reply.columns = bytes(self._replies[body : body + columns_len]) if columns_len else b""
        if is_spilled:
            _, reply.rows = self._split_spilled(0, rows_len)
        else:
            reply.rows = bytes(self._replies[body + columns_len : body + columns_len + rows_len])
        return reply

    def _split_spilled(self, columns_len: int, rows_len: int) -> tuple[bytes, bytes]:
        body = self.spilled[0] if self.spilled else None
        if body is None or len(body) != columns_len + rows_len:
            raise MalformedReplyError("a reply's body does not match the spilled one")
        # The common case, only rows, passes the one copy on instead of making another.
        return (body[:columns_len], body[columns_len:]) if columns_len else (b"", body)
