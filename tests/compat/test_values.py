"""Every kind of value, in and out, as in sqlite3: https://docs.python.org/3/library/sqlite3.html#sqlite3-types."""

from __future__ import annotations

import array
import collections
import datetime as dt
import decimal
import enum
import random
import sqlite3
import struct
import sys
from typing import Any

import pytest

import rapsqlite
from tests.compat.stock import rows_of, same


class Text(str):
    __slots__ = ()


class Colour(enum.IntEnum):
    RED = 3


class Point:
    def __init__(self, x: int, y: int) -> None:
        self.x, self.y = x, y

    def __conform__(self, protocol: Any) -> str | None:
        return f"{self.x};{self.y}" if protocol is sqlite3.PrepareProtocol else None


VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 127, 128, 255, 256, -32, -33, -128, -129, 2**15, 2**16, 2**31 - 1, 2**31, 2**32,
    2**53 + 1, 2**63 - 1, -(2**63), -(2**63) + 1,
    0.0, -0.0, 1.0, 1.5, 0.1, 1e308, 5e-324, float("inf"), float("-inf"), float("nan"),
    "", " ", "text", "NUL \0 inside", "\0", "äöü€😀", "\ufeffmark",
    "x" * 31, "x" * 32, "x" * 255, "x" * 256, "x" * 65_536,
    b"", b"\0", b"\xff\xfe", b"x" * 255, b"x" * 65_536, bytearray(b"ba"), memoryview(b"mv"), memoryview(b"abcd")[1:3],
    array.array("d", [1.5]), Text("sub"), Colour.RED, Point(1, 2),
]  # fmt: skip
INVALID: list[Any] = [
    2**63, -(2**63) - 1, 2**64, 2**100, object(), 1j, decimal.Decimal(1), [], {}, "\ud800", collections.UserString("a"),
    dt.timedelta(1),
]  # fmt: skip


def label(value: Any) -> str:
    return f"{type(value).__name__}-{str(value)[:8]!r}-{len(str(value))}"


@pytest.mark.parametrize("value", VALUES, ids=label)
async def test_value_is_read_back_as_in_sqlite3(value: Any) -> None:
    async def scenario(connection: Any) -> Any:
        # The text of a REAL, which hex() and length() would show, has two more digits in newer SQLite versions.
        sql = "SELECT v, typeof(v), iif(typeof(v) = 'real', 0, hex(v) || length(v)) FROM (SELECT ? AS v)"
        return await rows_of(connection, sql, (value,))

    await same(scenario)


@pytest.mark.parametrize("affinity", ["INTEGER", "REAL", "NUMERIC", "TEXT", "BLOB", ""])
async def test_values_are_stored_under_every_affinity(affinity: str) -> None:
    async def scenario(connection: Any) -> Any:
        await connection.execute(f"CREATE TABLE t (id INTEGER PRIMARY KEY, v {affinity})")
        await connection.executemany("INSERT INTO t (v) VALUES (?)", [(value,) for value in VALUES if value != 5e-324])
        return await rows_of(connection, "SELECT v, typeof(v) FROM t ORDER BY id")

    await same(scenario)


@pytest.mark.parametrize("value", INVALID, ids=label)
@pytest.mark.parametrize("sql", ["SELECT ?", "INSERT INTO t VALUES (?)"])
async def test_value_that_cannot_be_bound_is_refused(value: Any, sql: str) -> None:
    """Messages differ where sqlite3 says less; programs catch the class."""

    async def scenario(connection: Any) -> Any:
        await connection.execute("CREATE TABLE t (a)")
        return await rows_of(connection, sql, (value,))

    raised = await same(scenario, messages=False)

    assert raised[0] in {"OverflowError", "ProgrammingError", "InterfaceError", "UnicodeEncodeError"}


@pytest.mark.parametrize("value", [2**63, object(), "\ud800"], ids=label)
async def test_executemany_keeps_the_sets_before_the_invalid_one(value: Any) -> None:
    async def scenario(connection: Any) -> Any:
        await connection.execute("CREATE TABLE t (a)")
        raised = ""
        try:
            await connection.executemany("INSERT INTO t VALUES (?)", [*[(n,) for n in range(50)], (value,), (99,)])
        except (sqlite3.Error, OverflowError, UnicodeEncodeError) as error:
            raised = type(error).__name__
        return raised, connection.in_transaction, await rows_of(connection, "SELECT a FROM t")

    raised = await same(scenario)

    assert len(raised[2]) == 50


@pytest.mark.parametrize(
    "sql, parameters",
    [
        ("SELECT ?", ()),
        ("SELECT ?", (1, 2)),
        ("SELECT 1", (1,)),
        ("SELECT ?", []),
        ("SELECT ?, ?", [1, 2]),
        ("SELECT ?, ?", "ab"),
        ("SELECT ?, ?", b"ab"),
        ("SELECT ?, ?", range(2)),
        ("SELECT ?, ?", collections.deque([1, 2])),
        ("SELECT ?, ?", array.array("i", [1, 2])),
        ("SELECT ?", {1}),
        ("SELECT ?", 1),
        ("SELECT ?", iter([1])),
        ("SELECT :a", {"a": 1}),
        ("SELECT @a", {"a": 1}),
        ("SELECT $a", {"a": 1}),
        ("SELECT :a, @a, $a, :b", {"a": 1, "b": "x"}),
        ("SELECT :a, :a", {"a": 1}),
        ("SELECT :a", {"a": 1, "b": 2}),
        ("SELECT :a", {"a": 1, "b": object()}),
        ("SELECT :a", {"a": 1, "b": 2**64}),
        ("SELECT :a", {"a": 1, 5: 2}),
        ("SELECT :ä_1", {"ä_1": 1}),
        ("SELECT :a", collections.defaultdict(int)),
        ("SELECT :a, :b", collections.OrderedDict(b=1, a=2)),
        ("SELECT ?1", {"1": 5}),
        ("SELECT :a", {}),
        ("SELECT :a, :b", {"a": 1}),
        ("SELECT ?", {"a": 1}),
        ("SELECT ?, :a", {"a": 1}),
        ("SELECT 1", {}),
        ("SELECT 1", {"a": 1}),
    ],
)
async def test_parameters_match_placeholders_as_in_sqlite3(sql: str, parameters: Any) -> None:
    async def scenario(connection: Any) -> Any:
        return await rows_of(connection, sql, parameters)

    await same(scenario)


async def test_executemany_looks_up_the_statements_names_in_each_mapping() -> None:
    async def scenario(connection: Any) -> Any:
        await connection.execute("CREATE TABLE t (a, b)")
        sets = [
            collections.defaultdict[str, Any](int, a=1),
            collections.defaultdict[str, Any](str, b=2),
            {"a": 3, "b": 4, "c": 5},
        ]
        await connection.executemany("INSERT INTO t VALUES (:a, @b)", sets)
        return await rows_of(connection, "SELECT a, b FROM t")

    assert await same(scenario) == [(1, 0), ("", 2), (3, 4)]


async def test_error_in_the_statement_comes_before_those_of_its_parameters() -> None:
    async def scenario(connection: Any) -> Any:
        return await rows_of(connection, "SELECT nonsense ?", (2**70, object()))

    raised = await same(scenario)

    assert raised[0] == "OperationalError"


async def test_maximum_number_of_columns_is_read() -> None:
    async def scenario(connection: Any) -> Any:
        return await rows_of(connection, f"SELECT {', '.join(map(str, range(2_000)))}")

    await same(scenario)


async def test_random_reals_are_read_back_and_print_the_same() -> None:
    """SQLite's own text of a REAL differs between versions; what it stores does not."""
    generator = random.Random(7)
    reals = [struct.unpack("d", generator.randbytes(8))[0] for _ in range(2_000)]

    async def scenario(connection: Any) -> Any:
        await connection.execute("CREATE TABLE t (v REAL)")
        await connection.executemany("INSERT INTO t VALUES (?)", [(real,) for real in reals])
        return await rows_of(connection, "SELECT v, typeof(v) FROM t ORDER BY rowid")

    await same(scenario)


@pytest.mark.usefixtures("registered")
async def test_converters_get_the_text_that_sqlite_makes_of_reals() -> None:
    generator = random.Random(9)
    reals = [round(generator.uniform(-(10**6), 10**6), generator.randrange(8)) for _ in range(1_000)]
    reals += [10.0**power for power in range(-30, 30)] + [-1.5 * 2**power for power in range(60)] + [49.47, 0.1 + 0.2]

    async with rapsqlite.connect(":memory:", detect_types=sqlite3.PARSE_COLNAMES) as connection:
        await connection.execute("CREATE TABLE t (v REAL)")
        await connection.executemany("INSERT INTO t VALUES (?)", [(real,) for real in reals])
        rows = await connection.fetch_all('SELECT v AS "v [raw]", CAST(v AS TEXT) FROM t')

    assert len(rows) == len(reals)
    assert [stored for (_, stored), _ in rows] == [text.encode() for _, text in rows]


async def test_random_integers_are_read_back() -> None:
    generator = random.Random(8)
    integers = [generator.getrandbits(bits) * generator.choice((1, -1)) for bits in range(64) for _ in range(20)]

    async def scenario(connection: Any) -> Any:
        await connection.execute("CREATE TABLE t (v INTEGER)")
        await connection.executemany("INSERT INTO t VALUES (?)", [[value] for value in integers])
        return await rows_of(connection, "SELECT v FROM t ORDER BY rowid")

    await same(scenario)


async def test_random_text_and_blobs_are_read_back() -> None:
    generator = random.Random(10)
    ranges = [(0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF)]
    values: list[Any] = [
        "".join(chr(generator.randint(*generator.choice(ranges))) for _ in range(generator.randrange(40)))
        for _ in range(1_000)
    ]
    values += [generator.randbytes(generator.randrange(600)) for _ in range(1_000)]
    generator.shuffle(values)

    async def scenario(connection: Any) -> Any:
        await connection.execute("CREATE TABLE t (v)")
        await connection.executemany("INSERT INTO t VALUES (?)", [(value,) for value in values])
        return await rows_of(connection, "SELECT v, typeof(v), hex(v) FROM t ORDER BY rowid")

    assert [row[0] for row in await same(scenario)] == values


INVALID_TEXT = "SELECT CAST(x'ff41' AS TEXT) AS v, 'valid' AS w, x'ff41' AS b, NULL AS n, 1 AS i"


@pytest.mark.parametrize(
    "text_factory",
    [str, bytes, bytearray, lambda text: text.decode("latin-1"), lambda text: text.decode(errors="replace"), len],
)
@pytest.mark.parametrize("sql", [INVALID_TEXT, "SELECT 'a', 'ä' || char(0) || 'b', x'00', 1, 1.5, NULL, ''"])
async def test_text_factory_makes_the_text_of_sqlite3(text_factory: Any, sql: str) -> None:
    async def scenario(connection: Any) -> Any:
        return await rows_of(connection, sql)

    await same(scenario, messages=False, text_factory=text_factory)


async def test_error_for_invalid_utf8_names_the_column() -> None:
    async def scenario(connection: Any) -> Any:
        return await rows_of(connection, "SELECT 'fine' AS a, CAST(x'ff41' AS TEXT) AS broken")

    raised = await same(scenario, messages=False)

    assert raised[0] == "OperationalError"
    async with rapsqlite.connect(":memory:") as connection:
        with pytest.raises(rapsqlite.OperationalError, match=r"Could not decode to UTF-8 column 'broken'"):
            await connection.fetch_all("SELECT 'fine' AS a, CAST(x'ff41' AS TEXT) AS broken")


async def test_text_factory_that_raises_leaves_the_connection_usable() -> None:
    async def scenario(connection: Any) -> Any:
        try:
            await rows_of(connection, "SELECT 'text'")
        except ZeroDivisionError:
            return await rows_of(connection, "SELECT 1")

    assert await same(scenario, text_factory=lambda text: 1 / 0) == [(1,)]


class Money(decimal.Decimal):
    pass


DETECT = sqlite3.PARSE_DECLTYPES | sqlite3.PARSE_COLNAMES


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters and converters during a test, registered with either module."""
    adapters: dict[Any, Any] = sqlite3.adapters
    monkeypatch.setitem(adapters, (Money, sqlite3.PrepareProtocol), lambda money: f"{money} EUR")
    monkeypatch.setitem(sqlite3.converters, "MONEY", lambda text: Money(text.decode().split()[0]))
    monkeypatch.setitem(sqlite3.converters, "RAW", lambda stored: ("raw", stored))
    monkeypatch.setitem(sqlite3.converters, "FAILS", lambda stored: 1 // 0)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("detect_types", [0, sqlite3.PARSE_DECLTYPES, sqlite3.PARSE_COLNAMES, DETECT])
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT m, r, n FROM t",
        'SELECT m AS "m [raw]", r AS "r [other]", n AS "n[RAW] more" FROM t',
        "SELECT m || '' , upper(r), n FROM t",
        "SELECT (SELECT m FROM t), max(r) FROM t",
        'SELECT 5 AS "a [raw]", 1.5 AS "b [raw]", x\'ff\' AS "c [raw]", NULL AS "d [raw]", 1e300 AS "e [raw]"',
        'SELECT m AS "[raw]", m AS "x [", m AS "y ]" FROM t',
    ],
)
async def test_converters_are_chosen_by_declared_type_and_name(detect_types: int, sql: str) -> None:
    async def scenario(connection: Any) -> Any:
        await connection.execute("CREATE TABLE t (m money(10, 2), r Raw NOT NULL, n INTEGER)")
        await connection.execute("INSERT INTO t VALUES (?, ?, ?)", (Money("1.50"), b"\xff\0", 5))
        await connection.execute("INSERT INTO t VALUES (?, ?, ?)", (None, "text", None))
        cursor = await connection.execute(sql)
        return cursor.description, await cursor.fetchall()

    # Where upper() makes invalid text of the blob, sqlite3's message shows it.
    await same(scenario, detect_types=detect_types, messages="upper" not in sql)


@pytest.mark.usefixtures("registered")
async def test_converter_that_raises_leaves_the_connection_usable() -> None:
    async def scenario(connection: Any) -> Any:
        try:
            await rows_of(connection, 'SELECT 1 AS "a [fails]"')
        except ZeroDivisionError:
            return await rows_of(connection, 'SELECT 1 AS "a [raw]"')

    assert await same(scenario, detect_types=DETECT) == [(("raw", b"1"),)]


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("text_factory", [str, bytes, lambda text: ("text", text)])
async def test_converters_and_text_factory_apply_to_the_same_row(text_factory: Any) -> None:
    async def scenario(connection: Any) -> Any:
        return await rows_of(connection, "SELECT 'a' AS \"a [raw]\", 'b', x'63' AS \"c [raw]\", x'64', 5")

    await same(scenario, detect_types=DETECT, text_factory=text_factory)


def moment(*parts: int) -> dt.datetime:
    """Return a time without a zone: sqlite3's converter does not support zones."""
    return dt.datetime(*parts)  # type: ignore[arg-type]  # noqa: DTZ001


DEPRECATED = pytest.mark.filterwarnings("ignore:The default:DeprecationWarning")


@DEPRECATED
@pytest.mark.parametrize(
    "value",
    [
        dt.date(2024, 2, 29), dt.date(1, 1, 1), moment(2024, 2, 29, 12, 30), moment(2024, 2, 29, 12, 30, 1, 5),
        moment(9999, 12, 31, 23, 59, 59, 999_999),
    ],
)  # fmt: skip
async def test_dates_use_the_default_adapters_and_converters(value: Any) -> None:
    async def scenario(connection: Any) -> Any:
        await connection.execute("CREATE TABLE t (d date, s timestamp, x)")
        await connection.execute("INSERT INTO t VALUES (?, ?, ?)", (value, value, value))
        return await rows_of(connection, 'SELECT d, s, x, x AS "x [timestamp]" FROM t')

    await same(scenario, detect_types=DETECT, messages=False)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="deprecated in Python 3.12")
async def test_default_adapter_warns_as_in_sqlite3() -> None:
    async with rapsqlite.connect(":memory:") as connection:
        with pytest.warns(DeprecationWarning, match="default date adapter is deprecated"):
            await connection.execute("SELECT ?", (dt.date(2024, 2, 29),))


async def test_registrations_on_a_connection_affect_only_it() -> None:
    class Celsius:
        def __init__(self, degrees: float) -> None:
            self.degrees = degrees

    async with (
        rapsqlite.connect(":memory:", detect_types=DETECT) as one,
        rapsqlite.connect(":memory:", detect_types=DETECT) as other,
    ):
        one.register_adapter(Celsius, lambda value: value.degrees)
        one.register_converter("celsius", lambda stored: Celsius(float(stored)))
        (row,) = await one.fetch_all('SELECT ? AS "c [celsius]"', (Celsius(21.5),))

        assert type(row[0]) is Celsius
        assert row[0].degrees == 21.5
        with pytest.raises((rapsqlite.ProgrammingError, rapsqlite.InterfaceError)):
            await other.execute("SELECT ?", (Celsius(1.0),))
        assert await other.fetch_all('SELECT 1.5 AS "c [celsius]"') == [[1.5]]
    assert "CELSIUS" not in sqlite3.converters
    assert (Celsius, sqlite3.PrepareProtocol) not in sqlite3.adapters


def test_module_level_registration_is_shared_with_sqlite3() -> None:
    assert rapsqlite.register_adapter is sqlite3.register_adapter
    assert rapsqlite.register_converter is sqlite3.register_converter
