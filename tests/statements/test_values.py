"""Parameters to MessagePack, below the connection, compared with what sqlite3 binds for the same parameters."""

from __future__ import annotations

import array
import collections
import collections.abc
import contextlib
import datetime as dt
import decimal
import enum
import sqlite3
import sys
import types
import uuid
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from rapsqlite import _constants as abi
from rapsqlite._values import wire
from rapsqlite._values.adapters import Adapters
from rapsqlite._values.parameters import looks_names_up
from rapsqlite._values.wire import ADAPTED_ROWS_LIMIT, CHUNK_BYTES_LIMIT, CHUNK_ROWS_LIMIT, SetEncoder, encode_params
from rapsqlite.errors import ProgrammingError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Text(str):
    """A str whose overrides must not be called."""

    __slots__ = ()

    def __str__(self) -> str:
        return "wrong"


class Integer(int):
    def __int__(self) -> int:
        return -1

    def __index__(self) -> int:
        return -1


class Real(float):
    def __float__(self) -> float:
        return -1.0


class Blob(bytes):
    def __bytes__(self) -> bytes:
        return b"wrong"


class Colour(enum.IntEnum):
    RED = 3


class Conforming:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __conform__(self, protocol: Any) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer if protocol is sqlite3.PrepareProtocol else None


class Indexed:
    """A sequence with only length and index."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        return index * 10


VALUES = [
    None, True, False, 0, -1, 127, 128, 2**31, 2**53 + 1, 2**63 - 1, -(2**63),
    0.0, -0.0, 1.5, 1e308, 5e-324, float("inf"), float("-inf"), float("nan"),
    "", "text", "NUL \0 inside", "äöü€😀", "x" * 70_000,
    b"", b"\0\xff", b"x" * 70_000, bytearray(b"ba"), memoryview(b"mv"), memoryview(b"abcd")[1:3],
    memoryview(array.array("i", [1, 2])), array.array("d", [1.5]),
    Text("sub"), Integer(7), Real(2.5), Blob(b"sub"), Colour.RED,
    Conforming("conformed"), Conforming(5), Conforming(Text("sub")),
]  # fmt: skip
REFUSED = [
    object(), decimal.Decimal(1), uuid.UUID(int=1), dt.timedelta(1), 1j, [], {}, (1,), {1}, range(3),
    Conforming(None),
    Conforming(object()), msgspec.msgpack.Ext(2, b""), type("Index", (), {"__index__": lambda self: 1})(),
]  # fmt: skip
FAILING = ["\ud800", memoryview(b"abc")[::2], Conforming(KeyError("mine")), Conforming(TypeError("mine"))]
TOO_LARGE = [2**63, -(2**63) - 1, 2**64 - 1, 2**64, -(2**64), 2**200, Integer(2**63)]


def bound(encoded: bytes) -> Any:
    """Return the parameters a guest reads: integers for booleans, NULL for NaN."""
    return msgspec.msgpack.decode(encoded)


def stock(parameters: Any, sql: str = "SELECT ?") -> Any:
    """Return the row that sqlite3 makes of the parameters, or the type of its exception."""
    connection = sqlite3.connect(":memory:")
    try:
        return connection.execute(sql, parameters).fetchone()
    except Exception as error:  # noqa: BLE001  the outcome to compare
        return type(error)
    finally:
        connection.close()


def ours(parameters: Any) -> Any:
    try:
        return tuple(bound(encode_params(parameters, Adapters())))
    except Exception as error:  # noqa: BLE001  the outcome to compare
        return type(error)


def described(value: Any) -> str:
    return f"{type(value).__name__}-{str(value)[:12]!r}" if not isinstance(value, Conforming) else "conforming"


@pytest.mark.parametrize("value", VALUES, ids=described)
@pytest.mark.parametrize("kind", [tuple, list, collections.deque])
def test_value_is_bound_as_by_sqlite3(value: Any, kind: Any) -> None:
    theirs = stock(kind([value]))

    mine = ours(kind([value]))

    if isinstance(value, float) and value != value:  # NaN: the guest binds NULL
        assert theirs == (None,)
        assert repr(mine) == "(nan,)"
    else:
        assert mine == theirs
        assert repr(mine[0]) == repr(theirs[0]) or isinstance(value, bool)


@pytest.mark.parametrize("value", VALUES, ids=described)
def test_value_in_a_mapping_is_bound_as_by_sqlite3(value: Any) -> None:
    theirs = stock({"a": value}, "SELECT :a")

    mine = bound(encode_params({"a": value}, Adapters()))

    assert repr(mine) == "{'a': nan}" or (mine["a"],) == theirs


@pytest.mark.parametrize("value", REFUSED, ids=described)
def test_unsupported_type_is_reported_to_the_guest(value: Any) -> None:
    """The guest raises the error when the parameter is bound, so that an error in the SQL comes first."""
    assert issubclass(stock((value,)), sqlite3.Error)

    (mine,) = bound(encode_params((value,), Adapters()))

    assert (mine.code, bytes(mine.data).decode()) == (abi.EXT_UNSUPPORTED, type(adapted(value)).__name__)


def adapted(value: Any) -> Any:
    return value.answer if isinstance(value, Conforming) and value.answer is not None else value


@pytest.mark.parametrize("value", TOO_LARGE, ids=str)
def test_integer_beyond_64_bits_is_reported_to_the_guest(value: int) -> None:
    assert stock((value,)) is OverflowError

    by_position = bound(encode_params((value,), Adapters()))
    by_name = bound(encode_params({"a": value}, Adapters()))

    assert by_position[0] >= 2**63
    assert by_name["a"] >= 2**63


@pytest.mark.parametrize("value", FAILING, ids=described)
def test_value_that_fails_raises_what_sqlite3_raises(value: Any) -> None:
    theirs = stock((value,))
    if isinstance(value, memoryview) and sys.version_info < (3, 11):
        theirs = BufferError  # ValueError there

    mine = ours((value,))

    assert mine == theirs or (theirs in (sqlite3.ProgrammingError, sqlite3.InterfaceError) and type(mine) is tuple)


PARAMETERS = [
    (), [], (1, "x"), [1, None], collections.deque([1, 2]), array.array("i", [3, 4]), range(2), "ab", b"ab",
    bytearray(b"ab"), memoryview(b"ab"), Indexed(), types.SimpleNamespace(), (x for x in (1, 2)), {1, 2}, 5, 1.5,
    object(),
    collections.UserList([1, 2]),
]  # fmt: skip


@pytest.mark.parametrize("parameters", PARAMETERS, ids=lambda p: type(p).__name__)
def test_sequences_are_what_sqlite3_accepts_as_one(parameters: Any) -> None:
    count = len(parameters) if hasattr(parameters, "__len__") else 1
    theirs = stock(parameters, "SELECT " + (", ".join("?" * count) or "1"))

    mine = ours(parameters)

    if count == 0:
        assert mine == ()
    elif isinstance(theirs, type):
        assert issubclass(mine, theirs)
    else:
        assert mine == theirs


def test_exceptions_of_parameter_objects_are_propagated() -> None:
    class Broken(Indexed):
        def __len__(self) -> int:
            raise ZeroDivisionError

    assert stock(Broken()) is ZeroDivisionError
    assert ours(Broken()) is ZeroDivisionError


class Missing(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return f"made for {key}"


@pytest.mark.parametrize(
    "parameters",
    [
        {"a": 1, "b": "x"},
        {"a": 1, "b": object()},
        {"a": 1, 5: object()},
        collections.OrderedDict(a=1),
        collections.defaultdict(int, a=1),
        {Text("a"): 1},
    ],
)
def test_only_the_statements_names_are_read_from_a_mapping(parameters: Any) -> None:
    mine = bound(encode_params(parameters, Adapters()))

    assert (mine["a"],) == stock(parameters, "SELECT :a")
    assert all(type(name) is str for name in mine)


@pytest.mark.parametrize(
    "parameters",
    [types.MappingProxyType({"a": 1}), collections.UserDict(a=1), collections.ChainMap({"a": 1})],
    ids=lambda p: type(p).__name__,
)
def test_any_mapping_is_accepted(parameters: Any) -> None:
    """sqlite3 accepts only dicts, and fails in odd ways for others."""
    assert bound(encode_params(parameters, Adapters())) == {"a": 1}


@pytest.mark.parametrize("parameters", [Missing(a=1), collections.defaultdict(int, a=1)])
def test_computed_mappings_are_looked_up_by_name(parameters: Any) -> None:
    theirs = stock(parameters.copy() if type(parameters) is not Missing else Missing(parameters), "SELECT :a, :b")

    mine = bound(encode_params(parameters, Adapters(), ["a", "b"]))

    assert looks_names_up(parameters)
    assert (mine["a"], mine["b"]) == theirs


def test_missing_name_is_reported_by_the_guest() -> None:
    assert bound(encode_params({"a": 1}, Adapters(), ["a", "b"])) == {"a": 1}
    assert not looks_names_up({"a": 1})
    assert not looks_names_up((1,))


def test_no_parameters_encode_to_no_bytes() -> None:
    assert encode_params(None, Adapters()) == b""


@contextlib.contextmanager
def registered(kind: type, adapter: Any) -> Iterator[None]:
    """Register an adapter with sqlite3 temporarily."""
    key = (kind, sqlite3.PrepareProtocol)
    sqlite3.register_adapter(kind, adapter)
    try:
        yield
    finally:
        del sqlite3.adapters[key]


@pytest.mark.parametrize(
    "value", [decimal.Decimal("1.5"), Colour.RED, True, b"bytes", None, memoryview(b"x")], ids=described
)
@pytest.mark.parametrize("answer", [5, "text", None, Text("sub"), b"", Real(1.5)], ids=described)
def test_adapter_registered_with_sqlite3_is_used(value: Any, answer: Any) -> None:
    adapters = Adapters()
    adapters.plain()  # An open connection notices it too.

    with registered(type(value), lambda _value: answer):
        theirs = stock((value,))
        mine = tuple(bound(encode_params((value,), adapters)))

    assert mine == theirs
    assert tuple(bound(encode_params((5,), adapters))) == (5,)


def test_default_adapters_match_sqlite3() -> None:
    moment = (dt.date(2024, 2, 29), dt.datetime(2024, 2, 29, 12, 30))  # noqa: DTZ001
    warns = (
        pytest.warns(DeprecationWarning, match="adapter") if sys.version_info >= (3, 12) else contextlib.nullcontext()
    )

    with warns:
        mine = tuple(bound(encode_params(moment, Adapters())))

    with warns:
        assert mine == stock(moment, "SELECT ?, ?")


def test_adapter_of_the_connection_precedes_the_shared_one() -> None:
    adapters = Adapters()
    adapters.register(dt.date, lambda day: day.toordinal())
    adapters.register(str, lambda text: text.upper())

    encoded = encode_params((dt.date(1, 1, 1), "text"), adapters)

    assert bound(encoded) == [1, "TEXT"]
    assert bound(encode_params(("text",), Adapters())) == ["text"]


def test_exception_of_an_adapter_is_propagated() -> None:
    adapters = Adapters()
    adapters.register(decimal.Decimal, lambda value: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        encode_params((decimal.Decimal(1),), adapters)


SETS = [
    [],
    [()],
    [(1, "x")],
    [(number, f"row {number}", number * 1.5, None) for number in range(5_000)],
    [[number, b"x"] for number in range(3_000)],
    [{"a": number} for number in range(3_000)],
    [(Text("sub"), number) for number in range(20)],
    [{"a": 1, 5: 2}, {"a": 2}],
    [(1,), {"a": 2}, [3]],
    [(b"x" * 10_000,) for _ in range(100)],
    [(1,)] * 500 + [(b"x" * 300_000,)] * 5 + [(2,)] * 5,
    [(2**64,), (1,)],
]


def encode_many(sets: list[Any]) -> Iterator[bytes]:
    encoder = SetEncoder(Adapters())
    while sets:
        count = encoder.count
        yield from encoder.encode(sets[:count])
        sets = sets[count:]


@pytest.mark.parametrize("sets", SETS, ids=range(len(SETS)))
def test_chunks_contain_every_set_in_order_within_their_limits(sets: list[Any]) -> None:
    chunks = list(encode_many(sets))

    decoded = [bound(chunk) for chunk in chunks]
    assert [params for chunk in decoded for params in chunk] == [
        bound(encode_params(params, Adapters())) for params in sets
    ]
    for chunk, encoded in zip(decoded, chunks, strict=True):
        assert len(chunk) <= CHUNK_ROWS_LIMIT
        assert len(encoded) <= CHUNK_BYTES_LIMIT or len(chunk) == 1


def test_few_requests_carry_many_plain_sets_and_more_those_that_take_long_to_encode() -> None:
    """The guest waits between two requests; other tasks wait while one is encoded."""
    plain = [bound(chunk) for chunk in encode_many([(f"thing {number}", number / 7) for number in range(10_000)])]
    adapted = [bound(chunk) for chunk in encode_many([(Text("sub"), number) for number in range(10_000)])]

    assert len(plain) <= 8
    assert max(map(len, adapted)) == ADAPTED_ROWS_LIMIT


@pytest.mark.parametrize("small", [0, 1, 9])
def test_large_sets_are_not_all_encoded_at_once(small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk of 256 blobs of 1 MB blocked the event loop for most of a second, and took as much memory again."""
    encode, encoded_bytes = wire._encode, []

    def measured(value: Any) -> bytes:
        encoded = encode(value)
        encoded_bytes.append(len(encoded))
        return encoded

    monkeypatch.setattr(wire, "_encode", measured)
    encoder = SetEncoder(Adapters())
    encoder.count = 256
    large = (bytes(30_000),)
    sets: list[Any] = [(1,)] * small + [large] * (256 - small)

    first = next(iter(encoder.encode(sets)))

    assert len(first) <= CHUNK_BYTES_LIMIT
    assert max(encoded_bytes) <= 8 * (small + 1) * 30_010


@pytest.mark.parametrize("count", [0, 1, 100, 3_000])
@pytest.mark.parametrize("bad", [5, ("\ud800",), (Conforming(KeyError("mine")),)], ids=["type", "text", "conform"])
def test_error_in_a_set_names_its_index_after_the_sets_before_it(count: int, bad: Any) -> None:
    chunks = encode_many([*[(number,) for number in range(count)], bad, (0,)])
    done = 0

    with pytest.raises((ProgrammingError, ValueError, KeyError)) as caught:  # noqa: PT012
        for chunk in chunks:
            done += len(bound(chunk))

    assert done == count
    if sys.version_info >= (3, 11):
        assert caught.value.__notes__[-1] == f"parameter set {count}, counted from 0"
    if isinstance(caught.value, ProgrammingError):
        assert caught.value.parameter_set == count
