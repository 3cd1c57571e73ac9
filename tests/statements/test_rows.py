"""Row, row factories, text factories, converters and typed rows, below the connection: from a batch's bytes."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import pickle
import sqlite3
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

import msgspec
import pytest

import rapsqlite
from rapsqlite import _constants as abi
from rapsqlite._values.converters import Converters, stored_bytes
from rapsqlite._values.row_plan import FactoryRowDecoder, row_decoder
from rapsqlite._values.typed_rows import typed_rows
from rapsqlite.errors import DataError, InternalError
from rapsqlite.rows import Row, describe

NAMES = ("id", "Full Name", 'quoted "x"')
ROWS = [(1, "Ada", 1.5), (2, None, b"\0")]


class FakeCursor:
    """What a row factory sees of a cursor."""

    def __init__(self, names: tuple[str, ...] = NAMES) -> None:
        self.description = describe(names)


def decoder(row_factory: Any = None, **settings: Any) -> FactoryRowDecoder:
    given: dict[str, Any] = {
        "default": tuple,
        "text_factory": str,
        "detect_types": 0,
        "converters": Converters(),
    } | settings
    return row_decoder(row_factory, **given)


def encoded(decoder: FactoryRowDecoder, rows: Sequence[Sequence[Any]], names: Sequence[str]) -> bytes:
    """Return the batch a guest sends for this decoder."""
    if decoder.format & abi.FORMAT_SHAPE_MASK == abi.FORMAT_MAPS:
        return msgspec.msgpack.encode([dict(zip(names, row, strict=True)) for row in rows])
    return msgspec.msgpack.encode(rows)


def handed_out(
    decoder: FactoryRowDecoder, rows: Sequence[Sequence[Any]] = ROWS, names: Sequence[str] = NAMES
) -> list[Any]:
    function = decoder.row_function(msgspec.msgpack.encode(names), FakeCursor(tuple(names)))
    decoded = decoder.decode(encoded(decoder, rows, names))
    return decoded if function is None else [function(row) for row in decoded]


def stock_row(names: Sequence[str] = NAMES, values: Sequence[Any] = ROWS[0]) -> sqlite3.Row:
    """Return a row made by sqlite3."""
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    quoted = ", ".join('? AS "' + name.replace('"', '""') + '"' for name in names)
    row: sqlite3.Row = connection.execute(f"SELECT {quoted}", tuple(values)).fetchone()
    connection.close()
    return row


def our_row(names: Sequence[str] = NAMES, values: Sequence[Any] = ROWS[0]) -> Row:
    return Row(FakeCursor(tuple(names)), tuple(values))


def outcome(call: Any) -> Any:
    """Return a call's result, or the type of its exception."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001  the outcome to compare
        return type(error)


@pytest.mark.parametrize(
    "ask",
    [
        lambda row: row[0],
        lambda row: row[-1],
        lambda row: row[3],
        lambda row: row[-4],
        lambda row: row[2**70],
        lambda row: row[1:],
        lambda row: row[::-1],
        lambda row: row["id"],
        lambda row: row["ID"],
        lambda row: row["full name"],
        lambda row: row['quoted "x"'],
        lambda row: row["missing"],
        lambda row: row[1.5],
        lambda row: list(row),
        lambda row: len(row),
        lambda row: row.keys(),
        lambda row: dict(row),
        lambda row: tuple(row),
        lambda row: "Ada" in row,
        lambda row: row == stock_row(),
        lambda row: row == stock_row(values=(1, "Ada", 2)),
        lambda row: row == stock_row(names=("a", "b", "c")),
        lambda row: row == tuple(row),
        lambda row: row < row,
        lambda row: hash(row),
        lambda row: isinstance(row, Sequence),
        lambda row: setattr(row, "id", 5),
    ],
)
def test_row_behaves_like_sqlite3_row(ask: Any) -> None:
    assert outcome(lambda: ask(our_row())) == outcome(lambda: ask(stock_row()))


def test_row_has_more_methods_than_sqlite3_row() -> None:
    row = our_row()

    assert row.values() == ROWS[0]
    assert list(row.items()) == list(zip(NAMES, ROWS[0], strict=True))
    assert row.as_dict() == dict(zip(NAMES, ROWS[0], strict=True))
    assert repr(row) == "Row(id=1, Full Name='Ada', quoted \"x\"=1.5)"


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda row: pickle.loads(pickle.dumps(row))])
def test_row_survives_pickling_and_copying(duplicate: Any) -> None:
    row = our_row()

    assert duplicate(row) == row
    assert duplicate(row).keys() == row.keys()


def test_row_of_a_statement_without_columns_is_refused() -> None:
    cursor = FakeCursor()
    cursor.description = None  # type: ignore[assignment]

    with pytest.raises(ValueError, match="no columns"):
        Row(cursor, (1,))


def test_row_may_have_columns_with_the_same_name() -> None:
    names, values = ("a", "a", "A"), (1, 2, 3)

    assert our_row(names, values)["a"] == stock_row(names, values)["a"]
    assert our_row(names, values).as_dict() == {"a": 2, "A": 3}


class ShoutingRow(sqlite3.Row):
    def shouted(self) -> str:
        return str(self["full name"]).upper()


def test_class_derived_from_sqlite3_row_is_a_row_factory() -> None:
    rows = handed_out(decoder(ShoutingRow))

    assert type(rows[0]) is ShoutingRow
    assert rows[0].shouted() == "ADA"


@pytest.mark.parametrize("factory", [Row, sqlite3.Row])
def test_row_class_gives_rows_equal_to_those_of_sqlite3(factory: Any) -> None:
    rows = handed_out(decoder(factory))

    assert type(rows[0]) is factory
    assert rows == [stock_row(values=values) for values in ROWS]


@pytest.mark.parametrize(
    "factory, expected",
    [
        ("list", [list(row) for row in ROWS]),
        (list, [list(row) for row in ROWS]),
        ("tuple", ROWS),
        (tuple, ROWS),
        ("dict", [dict(zip(NAMES, row, strict=True)) for row in ROWS]),
        (dict, [dict(zip(NAMES, row, strict=True)) for row in ROWS]),
        (lambda cursor, row: (cursor.description[0][0], row), [("id", row) for row in ROWS]),
        (lambda *given: given[1:], [(row,) for row in ROWS]),
        (lambda row: row, [list(row) for row in ROWS]),
        (lambda row, extra=5: (row, extra), [(list(row), 5) for row in ROWS]),
    ],
)
def test_every_row_factory_makes_the_documented_rows(factory: Any, expected: list[Any]) -> None:
    """Every documented row factory makes the documented rows."""
    assert handed_out(decoder(factory)) == expected


@pytest.mark.parametrize("default, kind", [(list, list), (tuple, tuple)])
def test_no_row_factory_is_the_default_of_the_method(default: type, kind: type) -> None:
    assert [type(row) for row in handed_out(decoder(None, default=default))] == [kind, kind]


@pytest.mark.parametrize("factory", [None, "list", "tuple", "dict", list, tuple, dict])
@pytest.mark.parametrize("text_factory", [str, bytes])
def test_plain_shapes_need_no_work_per_row(factory: Any, text_factory: Any) -> None:
    """The speed of large results depends on this."""
    resolved = decoder(factory, text_factory=text_factory)

    assert not resolved.needs_columns
    assert resolved.row_function(b"", FakeCursor()) is None


@pytest.mark.parametrize("factory", ["rows", 5, b"list", [], lambda: 1, lambda a, b, c: 1])
def test_other_row_factories_are_refused(factory: Any) -> None:
    with pytest.raises(ValueError, match="row_factory"):
        decoder(factory)


@pytest.mark.parametrize("shape", [None, "list", "dict"])
def test_exception_of_a_row_factory_is_propagated(shape: Any) -> None:
    def failing(_cursor: Any, _row: Any) -> Any:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        handed_out(decoder(failing))


TEXT = msgspec.msgpack.Ext(abi.EXT_TEXT, b"\xe4\xff")


def test_text_factory_gets_only_text() -> None:
    resolved = decoder(text_factory=lambda text: (type(text), text))

    assert resolved.format & abi.FORMAT_TEXT_AS_EXTENSION
    assert handed_out(resolved, [(TEXT, b"\xe4\xff", None)]) == [((bytes, b"\xe4\xff"), b"\xe4\xff", None)]


def test_exception_of_a_text_factory_is_propagated() -> None:
    with pytest.raises(UnicodeDecodeError):
        handed_out(decoder(text_factory=lambda text: text.decode()), [(TEXT, 1, 1)])


def test_bytes_text_factory_requests_text_as_bytes() -> None:
    assert decoder(text_factory=bytes).format & abi.FORMAT_TEXT_AS_BYTES


DETECT = sqlite3.PARSE_DECLTYPES | sqlite3.PARSE_COLNAMES


def converted(
    columns: list[tuple[str, str | None]], row: Sequence[Any], factory: Any = None, **settings: Any
) -> tuple[tuple[str, ...], Any]:
    """Return the names and the converted row for one row of columns with declared types."""
    resolved = decoder(factory, **({"detect_types": DETECT} | settings))
    body = msgspec.msgpack.encode(columns)
    function = resolved.row_function(body, FakeCursor(resolved.names(body)))
    (decoded,) = resolved.decode(msgspec.msgpack.encode([row]))
    return resolved.names(body), decoded if function is None else function(decoded)


def marked(name: str) -> Any:
    return lambda value: (name, value)


@pytest.fixture
def shared_converters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sqlite3.converters, "MARKED", marked("name"))
    monkeypatch.setitem(sqlite3.converters, "OTHER", marked("declared"))


def stock_converted(detect_types: int, name: str, declared: str) -> tuple[tuple[str, ...], Any]:
    """Return what sqlite3 makes of a stored text in a column with this name and declared type."""
    connection = sqlite3.connect(":memory:", detect_types=detect_types)
    try:
        connection.execute(f"CREATE TABLE t (a {declared})")
        connection.execute("INSERT INTO t VALUES ('text')")
        cursor = connection.execute(f'SELECT a AS "{name}" FROM t')
        return tuple(column[0] for column in cursor.description), cursor.fetchone()
    finally:
        connection.close()


@pytest.mark.usefixtures("shared_converters")
@pytest.mark.parametrize("detect_types", [sqlite3.PARSE_DECLTYPES, sqlite3.PARSE_COLNAMES, DETECT])
@pytest.mark.parametrize(
    "name",
    ["a", "a [marked]", "a[marked]", "[marked]", " [marked]", "a [marked", "a [] x", "a  [MARKED] x", "a] [marked]"],
)
@pytest.mark.parametrize("declared", ["other", "OTHER(10)", "other thing", "oTHer (1)", "unknown", ""])
def test_converters_are_chosen_as_sqlite3_chooses_them(detect_types: int, name: str, declared: str) -> None:
    ours = converted([(name, declared or None)], ["text"], detect_types=detect_types)

    assert ours == stock_converted(detect_types, name, declared)


@pytest.mark.parametrize("factory", [None, "list", "dict", Row, lambda row: row, lambda _cursor, row: row])
def test_converters_work_under_every_row_factory(factory: Any) -> None:
    own = Converters()
    own.register("Marked", marked("own"))

    _, row = converted([("a", "marked"), ("b", None)], ["text", "plain"], factory, converters=own)

    values = list(row.values()) if isinstance(row, dict) else list(row)
    assert values == [("own", b"text"), "plain"]


def test_null_is_not_converted() -> None:
    own = Converters()
    own.register("marked", marked("own"))

    assert converted([("a", "marked")], [None], converters=own) == (("a",), (None,))


def test_default_converters_match_sqlite3() -> None:
    """Python 3.12 deprecated them; ours are the same functions, so they warn too."""
    assert Converters().for_column("a", "date", DETECT) is sqlite3.converters["DATE"]
    assert Converters().for_column("a", "timestamp", DETECT) is sqlite3.converters["TIMESTAMP"]


def test_text_factory_and_converters_apply_to_the_same_row() -> None:
    own = Converters()
    own.register("marked", marked("own"))

    _, row = converted(
        [("a", "marked"), ("b", None), ("c", None)], [TEXT, TEXT, b"blob"], converters=own,
        text_factory=lambda text: text.decode("latin-1"),
    )  # fmt: skip

    assert row == (("own", b"\xe4\xff"), "äÿ", b"blob")
    assert type(row[0][1]) is bytes


@pytest.mark.parametrize(
    "value, expected",
    [
        (0, b"0"), (-(2**63), b"-9223372036854775808"), ("ä", "ä".encode()), (b"\xff", b"\xff"),
        (1.0, b"1.0"), (0.1, b"0.1"), (-2.5, b"-2.5"), (1e15, b"1000000000000000.0"),
        (1e16, b"10000000000000000.0"), (-1.5e16, b"-15000000000000000.0"), (1e17, b"1.0e+17"), (1e-4, b"0.0001"),
        (1e-5, b"1.0e-05"), (1.5e300, b"1.5e+300"), (float("inf"), b"Inf"), (float("-inf"), b"-Inf"),
    ],
)  # fmt: skip
def test_converters_get_the_text_that_sqlite_makes_of_values(value: Any, expected: bytes) -> None:
    """https://sqlite.org/c3ref/column_blob.html"""
    assert stored_bytes(value) == expected


class StructRow(msgspec.Struct):
    id: int
    name: str | None = "nobody"
    active: bool = False


@dataclasses.dataclass
class DataRow:
    id: int
    name: str | None = "nobody"
    active: bool = False


class TupleRow(NamedTuple):
    id: int
    name: str | None = "nobody"
    active: bool = False


class DictRow(TypedDict, total=False):
    id: int
    name: str | None
    active: bool


KINDS = [StructRow, DataRow, TupleRow, DictRow]


def fields_of(row: Any) -> tuple[Any, ...]:
    if isinstance(row, dict):
        return row.get("id"), row.get("name", "nobody"), row.get("active", False)
    return row.id, row.name, row.active


@pytest.mark.parametrize("kind", KINDS)
def test_typed_rows_match_columns_by_name(kind: Any) -> None:
    batch = msgspec.msgpack.encode(
        [{"active": 1, "id": 1, "name": "Ada", "unused": b""}, {"name": None, "id": 2}, {"id": 3}]
    )

    rows = typed_rows(kind).decoder()(batch)

    assert [fields_of(row) for row in rows] == [(1, "Ada", True), (2, None, False), (3, "nobody", False)]
    assert kind is DictRow or {type(row) for row in rows} == {kind}


@pytest.mark.parametrize("kind", KINDS)
def test_error_of_typed_rows_names_row_and_column(kind: Any) -> None:
    """The row is counted over all batches of the result."""
    decode = typed_rows(kind).decoder()
    decode(msgspec.msgpack.encode([{"id": 0}] * 10))

    with pytest.raises(DataError, match=r"^row 11, column 'active': Expected `bool`, got `int`$") as caught:
        decode(msgspec.msgpack.encode([{"id": 1}, {"id": 2, "active": 7}]))

    assert caught.value.sqlite_errorname == "SQLITE_MISMATCH"


@pytest.mark.parametrize("kind", [StructRow, DataRow, TupleRow])
def test_missing_column_names_row_and_field(kind: Any) -> None:
    with pytest.raises(DataError, match=r"^row 0: .*required field `id`$"):
        typed_rows(kind).decoder()(msgspec.msgpack.encode([{"name": "Ada"}]))


def test_typed_rows_convert_types_that_sqlite_lacks() -> None:
    class Event(msgspec.Struct):
        at: dt.datetime
        day: dt.date
        key: uuid.UUID
        flag: bool | None

    key = uuid.uuid4()
    row = {"at": "2024-02-29 12:00:00", "day": "2024-02-29", "key": str(key), "flag": None}

    (event,) = typed_rows(Event).decoder()(msgspec.msgpack.encode([row]))

    assert event == Event(dt.datetime(2024, 2, 29, 12), dt.date(2024, 2, 29), key, None)  # noqa: DTZ001


def test_array_like_struct_requests_arrays() -> None:
    class Pair(msgspec.Struct, array_like=True):
        a: int
        b: str

    typed = typed_rows(Pair)

    assert typed.format == abi.FORMAT_ARRAYS
    assert typed.decoder()(msgspec.msgpack.encode([(1, "x")])) == [Pair(1, "x")]


class Plain:
    id: int


@pytest.mark.parametrize("kind", [int, dict, tuple, list[int], Plain, "StructRow", None, Plain()])
def test_other_types_are_refused(kind: Any) -> None:
    with pytest.raises(TypeError, match="into= must be"):
        typed_rows(kind)


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", b"\x91", b"\x91" * 100_000, b"\x91\x91\xc7\x01\x05x", b"\x01", b"\x90\x90"]
)
@pytest.mark.parametrize("factory", ["list", "tuple", "dict"])
def test_malformed_batches_are_internal_errors(body: bytes, factory: Any) -> None:
    """Output of the sandbox is not trusted."""
    with pytest.raises(InternalError, match="malformed"):
        decoder(factory).decode(body)


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x91", b"\x91\x81\xa2id", b"\x90\x90"])
@pytest.mark.parametrize("kind", KINDS)
def test_malformed_batches_of_typed_rows_are_internal_errors(body: bytes, kind: Any) -> None:
    with pytest.raises(InternalError, match="malformed"):
        typed_rows(kind).decoder()(body)


@pytest.mark.parametrize("columns", [b"", b"\x01", b"\x91\x01", b"\x91\x92\xa1a\xc0"])
def test_malformed_columns_are_internal_errors(columns: bytes) -> None:
    with pytest.raises(InternalError, match="malformed"):
        decoder(Row).names(columns)


@dataclasses.dataclass
class Doubled:
    """One field from the database, one with a default value, one with a default factory."""

    id: int
    double: float = dataclasses.field(init=False)
    names: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.double = self.id * 2.0


@dataclasses.dataclass(frozen=True)
class Stored:
    id: int = dataclasses.field(init=False)
    name: str | None = None


async def test_dataclass_fields_without_init_are_not_required() -> None:
    """Rows without such a field used to be rejected, because the field was considered required."""
    async with rapsqlite.connect(":memory:") as conn:
        doubled = await conn.fetch_all("SELECT 1 AS id UNION SELECT 4", into=Doubled)
        given = await conn.fetch_one("SELECT 1 AS id, 9 AS double", into=Doubled)
        stored = await conn.fetch_one("SELECT 7 AS id, 'x' AS name", into=Stored)
        without = await conn.fetch_one("SELECT 'x' AS name", into=Stored)

        with pytest.raises(rapsqlite.DataError, match="column 'id'"):
            await conn.fetch_one("SELECT 'seven' AS id", into=Stored)
        with pytest.raises(rapsqlite.DataError, match="missing required field `id`"):
            await conn.fetch_one("SELECT 1 AS double", into=Doubled)

    assert [(row.id, row.double, row.names) for row in doubled] == [(1, 2.0, []), (4, 8.0, [])]
    assert given.double == 9.0
    assert (stored.id, stored.name) == (7, "x")
    assert not hasattr(without, "id")
