"""CPython's scenarios for types: what is stored, adapters, converters, column descriptions."""

from __future__ import annotations

import datetime as dt
import sqlite3
import sys
import zlib
from typing import Any

import pytest

import rapsqlite
from tests.compat.cpython.scenario import agree, column, told

WARNS = sys.version_info >= (3, 12)
QUIET = pytest.mark.filterwarnings("ignore:The default:DeprecationWarning")


class Foo:
    """Stored as text, and restored by a converter."""

    def __init__(self, value: str | bytes) -> None:
        self.value = value.decode() if isinstance(value, bytes) else value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Foo) and other.value == self.value

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Foo({self.value!r})"

    def __conform__(self, protocol: object) -> str | None:
        return self.value if protocol is sqlite3.PrepareProtocol else None


class Conforming:
    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __conform__(self, protocol: object) -> Any:
        raise self.error


CONVERTERS: dict[str, Any] = {
    "FLOAT": lambda data: 47.2, "BOOL": lambda data: bool(int(data)), "FOO": Foo, "WRONG": lambda data: "WRONG",
    "NUMBER": float, "CBLOB": lambda data: b"blobish", "BAR": lambda data: f"<{data.decode()}>",
    "EXC": lambda data: 5 / 0, "B1B1": lambda data: "MARKER", "BIN": zlib.decompress,
}  # fmt: skip


@pytest.fixture(autouse=True)
def converters(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, converter in CONVERTERS.items():
        monkeypatch.setitem(sqlite3.converters, name, converter)


async def read_back(declared: str, value: Any, *, sql: str = "SELECT a FROM t", **options: Any) -> Any:
    """Return a value stored in a column of this type, as read back."""

    async def scenario(connection: Any) -> Any:
        await connection.execute(f"CREATE TABLE t (a {declared})")
        await connection.execute("INSERT INTO t VALUES (?)", (value,))
        return (await column(connection, sql))[0]

    return await agree(scenario, **options)


@pytest.mark.parametrize("declared, value", [
    ("varchar", "\xd6sterreich"), ("varchar", "a\0b"), ("integer", 42), ("integer", 123456789123456789),
    ("number", 3.14), ("blob", memoryview(b"Guglhupf")), ("integer", None), ("blob", b""),
])  # fmt: skip
async def test_value_is_read_back_unchanged(declared: str, value: Any) -> None:
    expected = bytes(value) if isinstance(value, memoryview) else value

    assert await read_back(declared, value) == expected


@pytest.mark.parametrize("value, error", [
    (2**63, "OverflowError"), (-(2**63) - 1, "OverflowError"), (2**64, "OverflowError"),
    (chr(0xD8FF), "UnicodeEncodeError"), (chr(0xDCFF), "UnicodeEncodeError"),
    (memoryview(b"blob")[::2], "BufferError"),
])  # fmt: skip
async def test_value_out_of_range_is_refused_and_nothing_stored(value: Any, error: str) -> None:
    async def scenario(connection: Any) -> Any:
        await connection.execute("CREATE TABLE t (a)")
        raised = await told(connection.execute, "INSERT INTO t VALUES (?)", (value,))
        return raised[0], await column(connection, "SELECT a FROM t")

    assert await agree(scenario, since=(3, 11)) == (error, [])


# -- declared types --------------------------------------------------------------------------------


@pytest.mark.parametrize("declared, value, expected", [
    ("str", "foo", "foo"), ("int", 42, 42), ("int", 123456789123456789, 123456789123456789), ("float", 3.14, 47.2),
    ("bool", False, False), ("bool", True, True), ("unicode", "\xd6sterreich", "\xd6sterreich"),
    ("foo", Foo("bla"), Foo("bla")), ("blob", memoryview(b"Guglhupf"), b"Guglhupf"), ("number", 5, 5.0),
    ("number(5)", 5, 5.0), ("cblob", b"x", b"blobish"), ("cblob", b"", None), ("cblob", "", None),
    ("cblob", None, None), ("cblob", 0, b"blobish"),
])  # fmt: skip
async def test_converter_is_chosen_by_the_declared_type(declared: str, value: Any, expected: Any) -> None:
    """An empty value has no bytes in SQLite, and is None."""
    answer = await read_back(declared, value, detect_types=rapsqlite.PARSE_DECLTYPES)

    assert type(answer) is type(expected)
    assert answer == expected


async def test_type_in_a_column_name_is_ignored_unless_parse_colnames_is_set() -> None:
    sql = 'SELECT a AS "a [WRONG]" FROM t'

    assert await read_back("str", "foo", sql=sql, detect_types=rapsqlite.PARSE_DECLTYPES) == "foo"


async def test_converters_follow_a_recreated_table() -> None:
    async def scenario(connection: Any) -> Any:
        seen = []
        for declared in ("bool", "integer"):
            await connection.execute("DROP TABLE IF EXISTS t")
            await connection.execute(f"CREATE TABLE t (a {declared})")
            await connection.execute("INSERT INTO t VALUES (5)")
            seen += await column(connection, "SELECT * FROM t")
        return seen

    assert await agree(scenario, detect_types=rapsqlite.PARSE_DECLTYPES) == [True, 5]


@pytest.mark.parametrize("value", [Conforming(TypeError), object()])
@pytest.mark.parametrize("named", [False, True])
async def test_value_without_an_adapter_is_refused(value: Any, named: bool) -> None:
    async def scenario(connection: Any) -> Any:
        given: Any = {"val": value} if named else (value,)
        return (await told(connection.execute, f"SELECT {':val' if named else '?'}", given))[0]

    error = "ProgrammingError" if sys.version_info >= (3, 11) else "InterfaceError"
    assert await agree(scenario) == error


async def test_other_exceptions_of_an_adapter_are_propagated() -> None:
    async with rapsqlite.connect(":memory:") as connection:
        with pytest.raises(KeyboardInterrupt):
            await connection.execute("SELECT ?", (Conforming(KeyboardInterrupt),))

        assert await column(connection, "SELECT 1") == [1]


# -- types in names --------------------------------------------------------------------------------


@pytest.mark.parametrize("sql, expected, name", [
    ("SELECT a FROM t", "xxx", "a"), ('SELECT a AS "x y [bar]" FROM t', "<xxx>", "x y"),
    ("SELECT 'other' AS \"x [b1b1]\"", "MARKER", "x"), ('SELECT NULL AS "x [exc]"', None, "x"),
])  # fmt: skip
async def test_converter_is_chosen_by_the_column_name(sql: str, expected: Any, name: str) -> None:
    async def scenario(connection: Any) -> Any:
        await connection.execute("CREATE TABLE t (a foo)")
        await connection.execute("INSERT INTO t VALUES ('xxx')")
        cursor = await connection.execute(sql)
        return cursor.description[0][0], await cursor.fetchone()

    assert await agree(scenario, detect_types=rapsqlite.PARSE_COLNAMES) == (name, (expected,))


async def test_converter_gets_bytes() -> None:
    async def scenario(connection: Any) -> Any:
        return await column(connection, 'SELECT ? AS "x [bin]"', (memoryview(zlib.compress(b"abcdefg" * 10)),))

    assert await agree(scenario, detect_types=rapsqlite.PARSE_COLNAMES) == [b"abcdefg" * 10]


@pytest.mark.parametrize("sql, expected", [
    ("SELECT * FROM t WHERE 0 = 1", "x"), ("INSERT INTO t VALUES (1)", None),
    ("WITH one AS (SELECT 1) SELECT * FROM one", "1"),
    ("WITH cte AS (SELECT * FROM t) SELECT * FROM cte", "x"),
    ("WITH bar AS (SELECT * FROM t) SELECT * FROM t WHERE x = 1", "x"),
    ("WITH bar AS (SELECT * FROM t) SELECT * FROM t WHERE x = 2", "x"),
    ('SELECT 1 AS "foo bar [datetime]"', "foo bar [datetime]"), ('SELECT 1 AS "foo baz"', "foo baz"),
])  # fmt: skip
async def test_columns_are_described_even_without_rows(sql: str, expected: str | None) -> None:
    async def scenario(connection: Any) -> Any:
        await connection.execute("CREATE TABLE t (x foo)")
        await connection.execute("INSERT INTO t VALUES (1)")
        cursor = await connection.execute(sql)
        return cursor.description and cursor.description[0][0]

    assert await agree(scenario) == expected


# -- adapters --------------------------------------------------------------------------------------


async def test_adapter_of_a_built_in_type_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    adapters: Any = sqlite3.adapters
    monkeypatch.setitem(adapters, (int, sqlite3.PrepareProtocol), float)
    rapsqlite.register_adapter(int, float)  # this makes sqlite3 look up adapters; the patch undoes it

    async def scenario(connection: Any) -> Any:
        return await column(connection, "SELECT typeof(?)", (4,))

    assert await agree(scenario) == ["real"]


def test_adapter_is_registered_for_a_type() -> None:
    with pytest.raises(TypeError):
        rapsqlite.register_adapter({}, None)  # type: ignore[arg-type]


# -- dates -----------------------------------------------------------------------------------------


@QUIET
@pytest.mark.parametrize("declared, value", [
    ("date", rapsqlite.Date(2004, 2, 14)), ("timestamp", rapsqlite.Timestamp(2004, 2, 14, 7, 15, 0)),
    ("timestamp", rapsqlite.Timestamp(2004, 2, 14, 7, 15, 0, 500000)),
    ("timestamp", rapsqlite.Timestamp(2004, 2, 14, 7, 15, 0, 510241)),
])  # fmt: skip
async def test_dates_are_read_back(declared: str, value: Any) -> None:
    assert await read_back(declared, value, detect_types=rapsqlite.PARSE_DECLTYPES) == value


@QUIET
@pytest.mark.parametrize("text, microsecond", [("456", 456000), ("123456789", 123456)])
async def test_fractions_of_a_second_are_padded_and_cut(text: str, microsecond: int) -> None:
    answer = await read_back("timestamp", f"2012-04-04 15:06:00.{text}", detect_types=rapsqlite.PARSE_DECLTYPES)

    assert answer == dt.datetime(2012, 4, 4, 15, 6, 0, microsecond)  # noqa: DTZ001  as sqlite3 makes them


@QUIET
async def test_current_timestamp_is_read_as_a_datetime() -> None:
    async with rapsqlite.connect(":memory:", detect_types=rapsqlite.PARSE_DECLTYPES) as connection:
        await connection.execute("CREATE TABLE t (a timestamp)")
        await connection.execute("INSERT INTO t VALUES (current_timestamp)")
        (found,) = await column(connection, "SELECT a FROM t")

    elapsed = dt.datetime.now(dt.timezone.utc) - found.replace(tzinfo=dt.timezone.utc)
    assert abs(elapsed) < dt.timedelta(days=1)


@pytest.mark.skipif(not WARNS, reason="deprecated from Python 3.12 on")
async def test_default_adapters_and_converters_warn() -> None:
    async with rapsqlite.connect(":memory:", detect_types=rapsqlite.PARSE_DECLTYPES) as connection:
        await connection.execute("CREATE TABLE t (a date)")
        with pytest.warns(DeprecationWarning, match="adapter"):
            await connection.execute("INSERT INTO t VALUES (?)", (dt.date(2004, 2, 14),))
        with pytest.warns(DeprecationWarning, match="converter"):
            await column(connection, "SELECT a FROM t")


@pytest.mark.parametrize("make", [
    lambda module: module.Date(2004, 10, 28), lambda module: module.Time(12, 39, 35),
    lambda module: module.Timestamp(2004, 10, 28, 12, 39, 35), lambda module: module.DateFromTicks(42),
    lambda module: module.TimeFromTicks(42), lambda module: module.TimestampFromTicks(42),
    lambda module: module.Binary(b"\0'"),
])  # fmt: skip
def test_constructors_match_sqlite3(make: Any) -> None:
    assert make(rapsqlite) == make(sqlite3)
