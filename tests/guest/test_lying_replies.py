"""Replies about copies, blobs and sessions that no honest guest sends: InternalError, and nothing is believed."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import rapsqlite
from rapsqlite import _constants as abi
from rapsqlite._wasm.rings import Request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rapsqlite._wasm.rings import Reply

encode = msgspec.msgpack.encode
GARBAGE = [b"", b"\xc1", b"\x93\x01", encode("text"), encode([1, 2]), encode([[]]), b"\xdd\xff\xff\xff\xff", encode(-5)]


class Liar:
    """Wraps a guest and changes the replies to one operation; if ``asks`` is False the guest does not get the
    request.
    """

    def __init__(self, guest: Any, op: int, *, asks: bool = True, **lies: object) -> None:
        self._guest = guest
        self._op = op
        self._asks = asks
        self._lies = lies

    def __getattr__(self, name: str) -> Any:
        return getattr(self._guest, name)

    async def call(self, request: Request) -> Reply:
        asked = request.op != self._op or self._asks
        reply: Reply = await self._guest.call(request if asked else Request(abi.OP_DROP, target=12345))
        return self._changed(request.op, reply)

    async def collect(self, request: Request, decode: Any) -> tuple[list[Any], Reply]:
        batches, reply = await self._guest.collect(request, decode)
        return batches, self._changed(request.op, reply)

    def _changed(self, op: int, reply: Reply) -> Reply:
        if op == self._op:
            for name, value in self._lies.items():
                setattr(reply, name, value)
        return reply


def lie(conn: rapsqlite.Connection, op: int, *, asks: bool = True, **lies: object) -> None:
    guest: Any = Liar(conn._state.guest, op, asks=asks, **lies)
    conn._state.guest = guest


async def fails(operation: Callable[[], Awaitable[Any]]) -> None:
    with pytest.raises(rapsqlite.InternalError):
        await operation()


def made() -> rapsqlite.Connection:
    """Return an unopened connection."""
    script = "CREATE TABLE t (id INTEGER PRIMARY KEY, b); INSERT INTO t VALUES (1, zeroblob(100))"
    return rapsqlite.connect(":memory:", isolation_level=None, init_hook=lambda conn: conn.executescript(script))


@pytest.mark.parametrize("body", [*GARBAGE, encode([77, 1, 1]), encode([-1, 0, 0]), encode(["x", 0, 0])])
async def test_malformed_reply_to_a_backup_step_is_an_internal_error(body: bytes) -> None:
    """A malformed reply raises InternalError and harms neither database."""
    async with made() as conn, rapsqlite.connect(":memory:") as target:
        lie(conn, abi.OP_BACKUP_STEP, rows=body)

        await fails(lambda: conn.backup(target))
        await fails(conn.serialize)

        assert await target.fetch_all("SELECT * FROM sqlite_schema") == []
        assert await conn.fetch_scalar("SELECT count(*) FROM t") == 1


async def test_backup_falsely_reported_as_done_is_an_error() -> None:
    """Neither connection nor sqlite3 treats the missing file as an empty database."""
    native = sqlite3.connect(":memory:")
    native.execute("CREATE TABLE kept (a)")
    async with made() as conn:
        lie(conn, abi.OP_BACKUP_STEP, asks=False, rows=encode([abi.SQLITE_DONE, 0, 5]))
        lie(conn, abi.OP_BACKUP_OPEN, asks=False, handle=1 << 31)

        await fails(conn.serialize)
        await fails(lambda: conn.backup(native))

    assert native.execute("SELECT name FROM sqlite_schema").fetchall() == [("kept",)]
    native.close()


@pytest.mark.parametrize("body", [*GARBAGE, encode(1 << 40), encode(1 << 31)])
async def test_malformed_length_of_a_blob_is_an_internal_error(body: bytes) -> None:
    """A malformed length raises InternalError instead of becoming a size."""
    async with made() as conn:
        lie(conn, abi.OP_BLOB_OPEN, rows=body)

        await fails(lambda: conn.blobopen("t", "b", 1))


async def test_handle_zero_is_an_internal_error() -> None:
    """Handle 0 means that nothing was opened, so the reply is malformed."""
    async with made() as conn:
        lie(conn, abi.OP_BLOB_OPEN, handle=0)
        lie(conn, abi.OP_SESSION_OPEN, handle=0)

        await fails(lambda: conn.blobopen("t", "b", 1))
        await fails(conn.session)


@pytest.mark.parametrize("body", [*GARBAGE, encode(b"short"), encode(bytes(101)), encode("x" * 100)])
async def test_malformed_bytes_of_a_blob_are_an_internal_error(body: bytes) -> None:
    """A malformed body raises InternalError instead of becoming the blob's bytes."""
    async with made() as conn, conn.blobopen("t", "b", 1) as blob:
        lie(conn, abi.OP_BLOB_READ, rows=body)
        blob._value._guest = conn._state.guest

        await fails(blob.read)
        await fails(lambda: blob.get(slice(3, 50)))


@pytest.mark.parametrize("body", GARBAGE[:-1])
async def test_malformed_state_of_a_session_is_an_internal_error(body: bytes) -> None:
    """A malformed answer raises InternalError instead of becoming a state."""
    async with made() as conn, conn.session() as session:
        lie(conn, abi.OP_SESSION, rows=body)
        session._guest = conn._state.guest

        for question in (session.enable, session.indirect):
            await fails(question)
        if body != encode([1, 2]):
            await fails(session.is_empty)
            await fails(session.memory_used)


class Ends:
    """What a connection's guest is given for the next request, kept to be called as a hostile guest would."""

    def __init__(self, conn: rapsqlite.Connection) -> None:
        self.held: list[tuple[int, Any]] = []
        hold = conn._state.guest.callbacks.hold

        class Spy:
            def __init__(self, callbacks: Any, held: list[tuple[int, Any]]) -> None:
                self._callbacks = callbacks
                self._held = held

            def __getattr__(self, name: str) -> Any:
                return getattr(self._callbacks, name)

            def hold(self, kind: int, function: Any) -> int:
                self._held.append((kind, function))
                return hold(kind, function)

        guest: Any = conn._state.guest
        guest.host.callbacks = Spy(guest.host.callbacks, self.held)

    def of(self, kind: int) -> Any:
        return next(function for held_kind, function in self.held if held_kind == kind)


async def test_changeset_streams_accept_only_bytes() -> None:
    data = b"T\x02\x01\x00t\x00" + bytes(range(50))
    async with made() as conn:
        ends = Ends(conn)
        with pytest.raises(rapsqlite.DatabaseError):
            await conn.invert_changeset(data)

        read, write = ends.of(abi.CALLBACK_INPUT), ends.of(abi.CALLBACK_OUTPUT)
        assert bytes(read(-1)) == b""
        assert len(read(1 << 62)) <= len(data)
        assert bytes(read(5)) == b""
        for wrong in (5, None, "text", [1]):
            with pytest.raises(TypeError):
                write(wrong)


async def test_malformed_conflict_is_an_exception_of_the_handler() -> None:
    async with made() as conn:
        ends = Ends(conn)
        await conn.apply_changeset(b"", conflict=lambda _: 0, filter=lambda _: True)

        resolve, choose = ends.of(abi.CALLBACK_CONFLICT), ends.of(abi.CALLBACK_FILTER)
        for fields in ((), (1,), tuple(range(20))):
            with pytest.raises(TypeError):
                resolve(*fields)
        with pytest.raises(TypeError):
            choose()
