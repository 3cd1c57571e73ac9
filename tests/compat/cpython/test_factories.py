"""CPython's scenarios for factories: rows and text. Connection factories are in test_connections.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from tests.compat.cpython.scenario import agree, told

if TYPE_CHECKING:
    from collections.abc import Callable


def to_dict(cursor: Any, row: Any) -> dict[str, Any]:
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


async def row_of(sql: str) -> Any:
    """Return the first row of a statement, a Row."""
    async with rapsqlite.connect(":memory:", row_factory=rapsqlite.Row) as connection:
        return await (await connection.execute(sql)).fetchone()


def key_error(row: Any, key: Any) -> str:
    """Return the class of the exception for an index of a row."""
    with pytest.raises((IndexError, TypeError)) as caught:
        row[key]
    return type(caught.value).__name__


@pytest.mark.parametrize("factory, expected", [
    (to_dict, {"a": 9, "b": 2}), (lambda cursor, row: list(row), [9, 2]), (None, (9, 2)),
])  # fmt: skip
async def test_row_factory_makes_the_rows(factory: Any, expected: Any) -> None:
    async def scenario(connection: Any) -> Any:
        of_connection = await (await connection.execute("SELECT 4 + 5 AS a, 2 AS b")).fetchone()
        connection.row_factory = None
        cursor = await connection.cursor()
        cursor.row_factory = factory
        await cursor.execute("SELECT 4 + 5 AS a, 2 AS b")
        return of_connection, await cursor.fetchone()

    assert await agree(scenario, row_factory=factory) == (expected, expected)


@pytest.mark.parametrize("key, expected", [
    ("a_1", 1), ("b", 2), ("A_1", 1), ("B", 2), (0, 1), (1, 2), (-1, 2), (-2, 1), ("\xff", 3),
])  # fmt: skip
async def test_row_is_indexed_by_position_and_case_insensitive_name(key: Any, expected: int) -> None:
    row = await row_of("SELECT 1 AS a_1, 2 AS b" + (", 3 AS \xff" if key == "\xff" else ""))

    assert row[key] == expected


@pytest.mark.parametrize("key", ["c", "a_\x11", "a\x7f1", 2, -3, 2**1000, 1j, "\u0178", "\xdf"])
async def test_unknown_key_of_a_row_is_an_index_error(key: Any) -> None:
    assert key_error(await row_of("SELECT 1 AS a_1, 2 AS b"), key) == "IndexError"


@pytest.mark.parametrize("key", [
    slice(0, 0), slice(0, 1), slice(1, 3), slice(3, 1), slice(1, None), slice(None, 3), slice(-2, -1), slice(-2, None),
    slice(0, 4, 2), slice(3, 0, -2),
])  # fmt: skip
async def test_slices_of_a_row_match_a_tuple(key: slice) -> None:
    assert (await row_of("SELECT 1, 2, 3, 4"))[key] == (1, 2, 3, 4)[key]


async def test_row_is_a_sequence_that_can_be_iterated_again() -> None:
    row = await row_of("SELECT 1 AS a, 2 AS b")

    assert issubclass(type(row), Sequence)
    assert [*row] == [*row] == [1, 2]
    assert [*reversed(row)] == [2, 1]
    assert tuple(row) == (row["a"], row["b"])
    assert dict(row) == {"a": 1, "b": 2}
    assert row.keys() == ["a", "b"]
    assert len(row) == 2


@pytest.mark.parametrize("other, equal", [
    ("SELECT 1 AS a, 2 AS b", True), ("SELECT 1 AS a, 3 AS b", False), ("SELECT 1 AS b, 2 AS a", False),
    ("SELECT 2 AS b, 1 AS a", False),
])  # fmt: skip
async def test_rows_are_equal_if_names_and_values_are(other: str, equal: bool) -> None:
    row, second = await row_of("SELECT 1 AS a, 2 AS b"), await row_of(other)

    assert (row == second) is equal
    assert (row != second) is not equal
    assert (hash(row) == hash(second)) or not equal
    assert row != object()


@pytest.mark.parametrize("compare", [
    lambda a, b: a > b, lambda a, b: a < b, lambda a, b: a >= b, lambda a, b: a <= b,
])  # fmt: skip
async def test_rows_have_no_order(compare: Callable[[Any, Any], bool]) -> None:
    row = await row_of("SELECT 1 AS a")

    with pytest.raises(TypeError):
        compare(row, row)


@pytest.mark.parametrize("name", ["row_factory", "text_factory"])
async def test_factories_cannot_be_deleted(name: str) -> None:
    async def scenario(connection: Any) -> Any:
        with pytest.raises(AttributeError):
            delattr(connection, name)
        return await (await connection.execute("SELECT 'text'")).fetchone()

    # Until 2026 sqlite3 crashed with the next statement.
    assert await agree(scenario, since=(3, 15)) == ("text",)


def test_row_needs_a_cursor() -> None:
    class Pretending(str):
        __slots__ = ()
        __class__ = rapsqlite.Cursor  # type: ignore[assignment]

    with pytest.raises(TypeError):
        rapsqlite.Row(Pretending(), ())  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["\xd6sterreich", "a\0b", ""])
@pytest.mark.parametrize("factory, make", [
    (str, str), (bytes, str.encode), (bytearray, lambda text: bytearray(text, "utf-8")),
    (lambda data: data, str.encode), (lambda data: str(data, "ascii", "ignore"), None),
], ids=["str", "bytes", "bytearray", "same", "ignore"])  # fmt: skip
async def test_text_factory_gets_bytes_and_makes_the_text(factory: Any, make: Any, text: str) -> None:
    async def scenario(connection: Any) -> Any:
        await connection.execute("CREATE TABLE t (value TEXT)")
        await connection.execute("INSERT INTO t VALUES (?)", (text,))
        connection.text_factory = factory
        row = await (await connection.execute("SELECT value FROM t")).fetchone()
        return row[0]

    expected = text.encode().decode("ascii", "ignore") if make is None else make(text)
    answer = await agree(scenario)

    assert type(answer) is type(expected)
    assert answer == expected


@pytest.mark.parametrize("factory", [None, lambda: None, lambda connection: None])
async def test_cursor_method_has_no_factory_argument(factory: Any) -> None:
    """Create a cursor of another class by calling that class."""

    class Own(rapsqlite.Cursor):
        def __init__(self, connection: rapsqlite.Connection) -> None:
            super().__init__(connection)
            self.row_factory = to_dict

    async with rapsqlite.connect(":memory:") as connection:
        assert (await told(connection.cursor, factory))[0] == "TypeError"
        cursor = await Own(connection).execute("SELECT 4 + 5 AS foo")
        assert isinstance(cursor, Own)
        assert await cursor.fetchone() == {"foo": 9}
