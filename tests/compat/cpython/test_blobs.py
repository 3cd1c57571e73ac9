"""CPython's scenarios for blobs: indexing there is ``get`` and ``set`` here."""

from __future__ import annotations

import os
from array import array
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from tests.compat.cpython.scenario import NOTHING, agree, column, told

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

DATA = b"this blob data string is exactly fifty bytes long!"
CLOSED = ("ProgrammingError", "Cannot operate on a closed blob.")
EXPIRE = "UPDATE test SET b = 'aaaa' WHERE rowid = 1"
INT_MAX = (1 << 31) - 1


async def with_blob(step: Callable[[Any, Any], Awaitable[Any]], since: tuple[int, int] = (3, 11)) -> Any:
    """Run a step with a connection and its only blob."""

    async def scenario(connection: Any) -> Any:
        await connection.execute("CREATE TABLE test (b BLOB)")
        await connection.execute("INSERT INTO test VALUES (?)", (DATA,))
        blob = await connection.blobopen("test", "b", 1)
        result = await step(connection, blob)
        await blob.close()
        return result

    return await agree(scenario, since=since)


async def test_blobopen_returns_a_blob() -> None:
    """``blobopen`` returns the class that the package exports, as in sqlite3."""
    async with rapsqlite.connect(":memory:") as connection:
        await connection.execute("CREATE TABLE t AS SELECT x'00' AS b")

        assert isinstance(await connection.blobopen("t", "b", 1), rapsqlite.Blob)


async def test_positions_are_counted_from_start_here_or_end() -> None:
    async def step(connection: Any, blob: Any) -> Any:
        seen = []
        for seek in ((10,), (10, os.SEEK_SET), (10, os.SEEK_CUR), (-10, os.SEEK_END)):
            await blob.seek(*seek)
            seen.append(await blob.tell())
        return seen

    assert await with_blob(step) == [10, 10, 20, 40]


@pytest.mark.parametrize("seek, error", [
    ((1000,), ("ValueError", "offset out of blob range")),
    ((-10,), ("ValueError", "offset out of blob range")),
    ((10, -1), ("ValueError", "'origin' should be os.SEEK_SET, os.SEEK_CUR, or os.SEEK_END")),
    ((10, 3), ("ValueError", "'origin' should be os.SEEK_SET, os.SEEK_CUR, or os.SEEK_END")),
    ((INT_MAX, os.SEEK_CUR), ("OverflowError", "seek offset results in overflow")),
    ((INT_MAX, os.SEEK_END), ("OverflowError", "seek offset results in overflow")),
])  # fmt: skip
async def test_position_outside_is_refused_and_does_not_move(seek: Any, error: Any) -> None:
    async def step(connection: Any, blob: Any) -> Any:
        await blob.seek(1)
        return await told(blob.seek, *seek), await blob.tell()

    assert await with_blob(step) == (error, 1)


@pytest.mark.parametrize("start, lengths, expected", [
    (0, (), [DATA]), (0, (100,), [DATA]), (0, (10,), [DATA[:10]]), (10, (10,), [DATA[10:20]]), (50, (), [b""]),
])  # fmt: skip
async def test_reading_starts_at_the_position_and_moves_it(start: int, lengths: Any, expected: Any) -> None:
    async def step(connection: Any, blob: Any) -> Any:
        await blob.seek(start)
        return [await blob.read(*lengths)], await blob.tell()

    assert await with_blob(step) == (expected, start + len(expected[0]))


@pytest.mark.parametrize("start, data", [(0, b"new data".ljust(50)), (25, b"c" * 25), (0, b"d" * 10)])
async def test_writing_starts_at_the_position_and_moves_it(start: int, data: bytes) -> None:
    async def step(connection: Any, blob: Any) -> Any:
        await blob.seek(start)
        await blob.write(data)
        return await blob.tell(), await column(connection, "SELECT b FROM test")

    assert await with_blob(step) == (start + len(data), [DATA[:start] + data + DATA[start + len(data) :]])


async def test_writing_beyond_the_end_is_refused() -> None:
    async def step(connection: Any, blob: Any) -> Any:
        return [await told(blob.write, b"a" * size) for size in (1000, 49, 1, 1)]

    longer = ("ValueError", "data longer than blob length")
    assert await with_blob(step) == [longer, NOTHING, NOTHING, longer]


@pytest.mark.parametrize("verb, given", [("read", ()), ("write", (b"aaa",)), ("get", (0,)), ("set", (0, 1))])
async def test_changed_row_expires_the_blob(verb: str, given: Any) -> None:
    async def step(connection: Any, blob: Any) -> Any:
        await connection.execute(EXPIRE)
        return (await told(getattr(blob, verb), *given))[0]

    assert await with_blob(step) == "OperationalError"


async def test_read_only_blob_is_not_written() -> None:
    async def step(connection: Any, blob: Any) -> Any:
        read_only = await connection.blobopen("test", "b", 1, readonly=True)
        refused = await told(read_only.write, b"aaa")
        await read_only.close()
        return refused

    assert await with_blob(step) == ("OperationalError", "attempt to write a readonly database")


@pytest.mark.parametrize("given, options", [
    (("test", "b", 1), {"name": "missing"}), (("missing", "b", 1), {}), (("test", "missing", 1), {}),
    (("test", "b", 2), {}),
])  # fmt: skip
async def test_missing_row_column_or_table_is_not_opened(given: Any, options: Any) -> None:
    async def step(connection: Any, blob: Any) -> Any:
        return await told(connection.blobopen, *given, **options)

    name, message = await with_blob(step)

    assert name == "OperationalError"
    assert message.startswith("no such")


async def test_length_of_a_blob_is_that_of_its_value() -> None:
    async def step(connection: Any, blob: Any) -> Any:
        return len(blob)

    assert await with_blob(step) == 50


@pytest.mark.parametrize("key", [
    5, 6, -1, -50, slice(5, 14), slice(5, 5), slice(5, -5), slice(0, 10, 2), slice(None), slice(60, -60),
])  # fmt: skip
async def test_items_and_slices_match_bytes(key: Any) -> None:
    async def step(connection: Any, blob: Any) -> Any:
        return await blob.get(key)

    assert await with_blob(step) == DATA[key]


@pytest.mark.parametrize("key, value", [
    (0, ord("b")), (-1, 255), (slice(0, 5), b"12345"), (slice(0, 0), b""), (slice(0, 10, 2), b"12345"),
    (slice(0, 5), memoryview(b"12345")), (slice(0, 5), bytearray(b"23456")), (slice(0, 5), array("b", [1, 2, 3, 4, 5])),
])  # fmt: skip
async def test_items_and_slices_are_set_as_in_a_bytearray(key: Any, value: Any) -> None:
    async def step(connection: Any, blob: Any) -> Any:
        await blob.seek(0, os.SEEK_END)
        await blob.set(key, value)
        return await blob.tell(), await column(connection, "SELECT b FROM test")

    expected = bytearray(DATA)
    expected[key] = value if isinstance(key, int) else bytes(value)
    assert await with_blob(step) == (50, [bytes(expected)])


@pytest.mark.parametrize("key, error", [
    (50, ("IndexError", "Blob index out of range")), (105, ("IndexError", "Blob index out of range")),
    (-105, ("IndexError", "Blob index out of range")), (1.5, ("TypeError", "Blob indices must be integers")),
    ((1 << 64) - 1, ("IndexError", "cannot fit 'int' into an index-sized integer")),
    (slice(5, 5.5), ("TypeError", "slice indices must be integers or None or have an __index__ method")),
])  # fmt: skip
async def test_invalid_index_is_refused(key: Any, error: Any) -> None:
    async def step(connection: Any, blob: Any) -> Any:
        return await told(blob.get, key)

    assert await with_blob(step) == error


@pytest.mark.parametrize("key, value, name, words", [
    (0, b"multiple", "TypeError", "cannot be interpreted"), (0, b"1", "TypeError", "cannot be interpreted"),
    (0, bytearray(b"1"), "TypeError", "cannot be interpreted"), (1000, 0, "IndexError", "Blob index out of range"),
    (0, -1, "ValueError", "must be in range"), (0, 256, "ValueError", "must be in range"),
    (0, 2**65, "ValueError", "must be in range"), ("a", b"b", "TypeError", "indices must be integers"),
    (slice(5, 10), b"a", "IndexError", "wrong size"), (slice(5, 10), b"a" * 1000, "IndexError", "wrong size"),
    (slice(5, 10, 0), b"12345", "ValueError", "step cannot be zero"),
    (slice(5, 10), memoryview(b"abcde")[::2], "BufferError", "not C-contiguous"),
])  # fmt: skip
async def test_value_that_does_not_fit_is_refused_and_changes_nothing(
    key: Any, value: Any, name: str, words: str
) -> None:
    async def step(connection: Any, blob: Any) -> Any:
        return await told(blob.set, key, value), await column(connection, "SELECT b FROM test")

    (raised, message), stored = await with_blob(step)

    assert raised == name
    assert words in message
    assert stored == [DATA]


@pytest.mark.parametrize("value, expected", [(b"", "nothing"), (b"123", "IndexError"), (None, "TypeError")])
async def test_empty_slice_accepts_only_empty_bytes(value: Any, expected: str) -> None:
    async def step(connection: Any, blob: Any) -> Any:
        return (await told(blob.set, slice(5, 5), value))[0], await column(connection, "SELECT b FROM test")

    # Until 2026 sqlite3 did not check the value for an empty slice.
    assert await with_blob(step, since=(3, 15)) == (expected, [DATA])


async def test_blob_is_not_a_sequence() -> None:
    """Arithmetic and containment raise TypeError, as in sqlite3; indexing must be awaited."""
    async with rapsqlite.connect(":memory:") as connection:
        await connection.execute("CREATE TABLE t AS SELECT x'00' AS b")
        blob: Any = await connection.blobopen("t", "b", 1)
        for wrong in (lambda: blob + blob, lambda: blob * 5, lambda: b"a" in blob, lambda: blob[0], lambda: iter(blob)):
            with pytest.raises(TypeError):
                wrong()


async def test_blob_block_closes_the_blob() -> None:
    """Leaving ``async with`` closes the blob and keeps what was written."""

    async def step(connection: Any, blob: Any) -> Any:
        async with await connection.blobopen("test", "b", 1) as other:
            await other.write(b"a" * 50)
        return await column(connection, "SELECT b FROM test"), await told(other.read)

    assert await with_blob(step) == ([b"a" * 50], CLOSED)


async def test_blob_block_propagates_exceptions() -> None:
    async def step(connection: Any, blob: Any) -> Any:
        async def enter() -> None:
            async with await connection.blobopen("test", "b", 1):
                raise KeyError("mine")

        return await told(enter)

    assert await with_blob(step) == ("KeyError", "'mine'")


async def test_closed_blob_refuses_every_operation() -> None:
    async def step(connection: Any, blob: Any) -> Any:
        await blob.close()
        verbs = [
            (blob.read,), (blob.write, b""), (blob.seek, 0), (blob.tell,), (blob.get, 0), (blob.get, slice(0, 1)),
            (blob.set, 0, b""), (blob.__aenter__,), (blob.__aexit__, None, None, None), (len, blob),
        ]  # fmt: skip
        return [await told(verb, *given) for verb, *given in verbs]

    assert await with_blob(step) == [CLOSED] * 10


@pytest.mark.parametrize("verb", ["read", "tell"])
async def test_blob_of_a_closed_connection_raises(verb: str) -> None:
    async with rapsqlite.connect(":memory:") as connection:
        await connection.execute("CREATE TABLE t AS SELECT x'00' AS b")
        blob = await connection.blobopen("t", "b", 1)
    name, message = await told(getattr(blob, verb))

    assert name == "ProgrammingError"
    assert "Cannot operate on a closed database." in message


async def test_row_ids_beyond_32_bits_are_accepted() -> None:
    async def step(connection: Any, blob: Any) -> Any:
        await connection.execute("INSERT INTO test (rowid, b) VALUES (?, zeroblob(1))", (1 << 32,))
        other = await connection.blobopen("test", "b", 1 << 32)
        size = len(other)
        await other.close()
        return size

    assert await with_blob(step) == 1
