"""``blobopen()``: reading and writing one value in place, compared with `sqlite3.Blob`."""

from __future__ import annotations

import os
import sqlite3
import sys
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from rapsqlite import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

DATA = bytes(range(50))
needs_blob = pytest.mark.skipif(sys.version_info < (3, 11), reason="sqlite3 has no Blob before 3.11")


@pytest.fixture
async def conn() -> AsyncIterator[rapsqlite.Connection]:
    async with connect(":memory:", isolation_level=None) as connection:
        await connection.execute("CREATE TABLE t (b, s)")
        await connection.execute("INSERT INTO t VALUES (?, 'text')", (DATA,))
        yield connection


class Native:
    """The same value with the same methods, in Python's sqlite3."""

    def __init__(self) -> None:
        open_one: Any = sqlite3.connect  # its Blob is newer than the oldest supported Python
        self.conn = open_one(":memory:", isolation_level=None)
        self.conn.execute("CREATE TABLE t (b, s)")
        self.conn.execute("INSERT INTO t VALUES (?, 'text')", (DATA,))
        self.blob = self.conn.blobopen("t", "b", 1)

    def close(self) -> None:
        self.blob.close()
        self.conn.close()

    def perform(self, verb: str, arguments: tuple[Any, ...]) -> Any:
        if verb == "get":
            return self.blob[arguments[0]]
        if verb == "set":
            self.blob[arguments[0]] = arguments[1]
            return None
        return getattr(self.blob, verb)(*arguments)


STEPS: list[tuple[str, tuple[Any, ...]]] = [
    ("read", ()), ("read", (5,)), ("seek", (10,)), ("tell", ()), ("read", (5,)), ("tell", ()), ("read", (-1,)),
    ("read", (3,)), ("seek", (-3, os.SEEK_END)), ("read", (100,)), ("seek", (0,)), ("seek", (5, os.SEEK_CUR)),
    ("seek", (-1,)), ("seek", (51,)), ("seek", (0, 7)), ("write", (b"abc",)), ("tell", ()), ("seek", (48,)),
    ("write", (b"abc",)), ("write", (b"xy",)), ("write", (b"",)), ("write", ("text",)), ("tell", ()), ("seek", (0,)),
    ("get", (0,)), ("get", (-1,)), ("get", (50,)), ("get", (-51,)), ("get", ("a",)), ("get", (slice(3, 9),)),
    ("get", (slice(None),)), ("get", (slice(9, 3),)), ("get", (slice(1, 40, 6),)),
    ("set", (4, 255)), ("set", (-2, 0)), ("set", (50, 1)), ("set", (1, 256)), ("set", (1, -1)), ("set", (1, b"a")),
    ("set", (slice(0, 3), b"zzz")), ("set", (slice(0, 3), b"zz")), ("set", (slice(1, 20, 4), b"12345")),
    ("set", (slice(5, 5), b"")), ("set", (slice(0, 2), "ab")), ("read", ()),
]  # fmt: skip


async def outcome(perform: Callable[[], Any], *, awaits: bool) -> Any:
    try:
        result = perform()
        return await result if awaits else result
    except Exception as error:  # noqa: BLE001 - it is what is compared
        return type(error), str(error) if not isinstance(error, TypeError) else None


@needs_blob
async def test_every_step_has_the_result_of_sqlite3(conn: rapsqlite.Connection) -> None:
    native = Native()
    async with conn.blobopen("t", "b", 1) as blob:
        for verb, arguments in STEPS:
            ours = await outcome(lambda: getattr(blob, verb)(*arguments), awaits=True)  # noqa: B023
            theirs = await outcome(lambda: native.perform(verb, arguments), awaits=False)  # noqa: B023

            assert ours == theirs, (verb, arguments)
        assert len(blob) == blob.length == len(native.blob)

    assert await conn.fetch_scalar("SELECT b FROM t") == native.conn.execute("SELECT b FROM t").fetchone()[0]
    native.close()


async def test_backward_slices_are_read_and_written(conn: rapsqlite.Connection) -> None:
    """sqlite3 itself fails here with a SystemError."""
    expected = bytearray(DATA)
    expected[20:1:-4] = b"54321"
    async with conn.blobopen("t", "b", 1) as blob:
        assert await blob.get(slice(None, None, -7)) == DATA[::-7]
        await blob.set(slice(20, 1, -4), b"54321")

        assert await blob.read() == bytes(expected)


@needs_blob
@pytest.mark.parametrize(
    "arguments, options",
    [
        (("t", "b", 2), {}),
        (("nowhere", "b", 1), {}),
        (("t", "nothing", 1), {}),
        (("t", "b", 1), {"name": "nowhere"}),
        (("n", "b", 1), {}),
        (("i", "b", 1), {}),
        (("v", "b", 1), {}),
    ],
)
async def test_blob_that_cannot_be_opened_is_refused_as_by_sqlite3(
    conn: rapsqlite.Connection, arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    script = """CREATE TABLE n (b); INSERT INTO n VALUES (NULL); CREATE TABLE i (b); CREATE INDEX x ON i (b);
        INSERT INTO i VALUES ('a'); CREATE VIEW v AS SELECT b FROM t;"""
    native = Native()
    native.conn.executescript(script)
    await conn.executescript(script)
    with pytest.raises(sqlite3.Error) as expected:
        native.conn.blobopen(*arguments, **options)

    with pytest.raises(rapsqlite.Error) as caught:
        await conn.blobopen(*arguments, **options)

    assert type(caught.value).__name__ == type(expected.value).__name__
    assert str(caught.value) == str(expected.value)
    native.close()


async def test_text_is_read_as_bytes(conn: rapsqlite.Connection) -> None:
    async with conn.blobopen("t", "s", 1, readonly=True) as blob:
        assert await blob.read() == b"text"


async def test_read_only_handle_refuses_to_write(conn: rapsqlite.Connection) -> None:
    async with conn.blobopen("t", "b", 1, readonly=True) as blob:
        with pytest.raises(rapsqlite.OperationalError, match="readonly"):
            await blob.write(b"x")
        assert await blob.read() == DATA


@pytest.mark.parametrize("change", ["UPDATE t SET b = zeroblob(50)", "DELETE FROM t"])
async def test_expired_handle_refuses_every_verb(conn: rapsqlite.Connection, change: str) -> None:
    """A handle on a row that has changed refuses every verb with SQLITE_ABORT, as in sqlite3."""
    blob = await conn.blobopen("t", "b", 1)
    await conn.execute(change)

    for attempt in (
        blob.read(), blob.read(1), blob.write(b"x"), blob.get(0), blob.get(slice(2, 4)), blob.set(0, 1),
        blob.set(slice(0, 2), b"ab"), blob.set(slice(0, 9, 3), b"abc"),
    ):  # fmt: skip
        with pytest.raises(rapsqlite.OperationalError) as caught:
            await attempt
        assert caught.value.sqlite_errorcode == rapsqlite.SQLITE_ABORT
        await blob.seek(0)
        assert await blob.tell() == 0
    await blob.close()
    assert await conn.fetch_scalar("SELECT 1") == 1


async def test_closed_handle_refuses_every_verb_but_close(conn: rapsqlite.Connection) -> None:
    """A closed handle refuses every verb but ``close``."""
    blob = await conn.blobopen("t", "b", 1)
    await blob.close()
    await blob.close()

    for attempt in (blob.read(), blob.write(b"x"), blob.seek(0), blob.tell(), blob.get(0), blob.set(0, 0)):
        with pytest.raises(rapsqlite.ProgrammingError, match="Cannot operate on a closed blob"):
            await attempt
    with pytest.raises(rapsqlite.ProgrammingError):
        len(blob)


async def test_connection_closes_with_a_blob_open() -> None:
    conn = await connect(":memory:")
    await conn.executescript("CREATE TABLE t (b); INSERT INTO t VALUES (zeroblob(5))")
    blob = await conn.blobopen("t", "b", 1)
    await conn.close()

    with pytest.raises(rapsqlite.ProgrammingError):
        await blob.read()
    await blob.close()


async def test_dropped_blob_releases_its_row(conn: rapsqlite.Connection) -> None:
    blob = await conn.blobopen("t", "b", 1)
    del blob

    await conn.execute("DROP TABLE t")


async def test_value_of_many_megabytes_is_read_and_written_whole(conn: rapsqlite.Connection) -> None:
    """They are larger than one reply can carry."""
    size = 5_000_001
    await conn.execute("UPDATE t SET b = zeroblob(?)", (size,))
    data = os.urandom(size)

    async with conn.blobopen("t", "b", 1) as blob:
        await blob.write(data)
        await blob.seek(0)
        assert await blob.read() == data
        assert await blob.get(slice(1_000_000, 4_000_000)) == data[1_000_000:4_000_000]

    assert await conn.fetch_scalar("SELECT b FROM t") == data


async def test_rollback_undoes_a_write_to_a_blob(conn: rapsqlite.Connection) -> None:
    """A blob is written inside the connection's transaction."""
    await conn.execute("BEGIN")
    async with conn.blobopen("t", "b", 1) as blob:
        await blob.write(b"zzz")
    await conn.rollback()

    assert await conn.fetch_scalar("SELECT b FROM t") == DATA


async def test_arguments_out_of_range_are_refused(conn: rapsqlite.Connection) -> None:
    """A row number beyond 64 bits and a closed connection are refused before the guest sees them."""
    with pytest.raises(OverflowError):
        await conn.blobopen("t", "b", 2**63)
    async with connect(":memory:") as other:
        await other.close()
        with pytest.raises(rapsqlite.ProgrammingError):
            await other.blobopen("t", "b", 1)
