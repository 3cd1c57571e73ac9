"""Keyset pagination: each page starts after the previous page's last row, so late pages cost no more than early ones.

https://sqlite.org/rowvalue.html#scrolling_window_queries
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

import msgspec

from rapsqlite._fetching import plain_decoder
from rapsqlite._identifiers import quoted
from rapsqlite.cursor import Cursor
from rapsqlite.errors import ProgrammingError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rapsqlite.connection import Connection
    from rapsqlite.types import Parameters, SQLiteValue

_VALUES = (int, float, str, bytes, type(None))
_encode = msgspec.msgpack.Encoder().encode
_decode_any = msgspec.msgpack.Decoder().decode
_decode = msgspec.msgpack.Decoder(tuple[list[str], bool, list[Any]]).decode


class Page(list[Any]):
    """The rows of one page, as lists."""

    __slots__ = ("next",)

    def __init__(self, rows: list[Any], next: str | None) -> None:
        super().__init__(rows)
        self.next: str | None = next
        """The token for the next page; None after the last one."""


async def paginate(
    connection: Connection,
    sql: str,
    parameters: Parameters | None = None,
    page_size: int = 64,
    *,
    key: str | Sequence[str],
    after: str | None = None,
    descending: bool = False,
) -> Page:
    """Return a page of at most ``page_size`` rows of a SELECT, ordered by ``key``.

    ``key``        one or more result columns that together identify a row
    ``after``      `Page.next` of the previous page; None for the first page
    ``descending`` whether all key columns are sorted in descending order

    Rows inserted or deleted between pages never repeat or hide other rows. The token contains a row's key in readable
    form. Raises ValueError for a token made with another key or order.
    """
    keys = [key] if isinstance(key, str) else list(key)
    if not keys:
        raise ValueError("key must name at least one column")
    if page_size < 1:
        raise ValueError("page_size must be at least 1")
    values = None if after is None else _values_of(after, keys, descending)
    bindings = _Bindings(parameters)
    condition = "1" if values is None else _beyond(keys, values, descending, bindings.bind)
    order = ", ".join(f"{_column(name)}{' DESC' if descending else ''}" for name in keys)
    wrapped = (
        f"SELECT * FROM ({sql.strip().rstrip(';')}\n) AS rapsqlite_page"
        f" WHERE {condition} ORDER BY {order} LIMIT {bindings.bind(page_size + 1)}"
    )
    rows, names = await _fetch(connection, sql, wrapped, bindings)
    if len(rows) <= page_size:
        return Page(rows, None)
    del rows[page_size:]
    positions = [_position(names, name) for name in keys]
    return Page(rows, _token(keys, descending, [rows[-1][position] for position in positions]))


async def _fetch(
    connection: Connection, sql: str, wrapped: str, bindings: _Bindings
) -> tuple[list[Any], tuple[str, ...]]:
    state = connection._state
    cursor = Cursor(connection)
    params = bindings.encode(await state.encode(sql.encode(), bindings.given))  # asks for the names in the user's SQL
    decoder = plain_decoder(state, "list")
    await cursor._run(wrapped.encode(), 0, params, decoder, 0)
    names = tuple(column[0] for column in cursor.description or ())
    return await cursor.fetchall(), names


def _column(name: str) -> str:
    return f"rapsqlite_page.{quoted(name)}"  # a quoted name alone is a string if there is no such column


def _position(names: tuple[str, ...], name: str) -> int:
    found = [position for position, each in enumerate(names) if each.lower() == name.lower()]
    if len(found) != 1:
        raise ProgrammingError(f"key column {name!r} occurs {len(found)} times in the result, not once")
    return found[0]


class _Bindings:
    """The user's parameters followed by the page's values, which are bound as the user's are: by position or name."""

    __slots__ = ("_bound", "_is_named", "given")

    def __init__(self, given: Any) -> None:
        self._is_named = given is not None and not isinstance(given, (list, tuple))
        if self._is_named and not hasattr(given, "keys"):
            raise TypeError("parameters must be a list, a tuple or a mapping")
        self.given = given
        self._bound: list[SQLiteValue] = []

    def bind(self, value: Any) -> str:
        """Add a value; return its placeholder. The statement must have the placeholders in the order of the calls."""
        self._bound.append(value)
        return f":{_name(len(self._bound))}" if self._is_named else "?"

    def encode(self, given: bytes) -> bytes:
        """Return the parameters of the statement; ``given`` are the user's, encoded: adapters are for these alone."""
        user: Any = _decode_any(given) if given else []
        if self._is_named:
            return _encode({**user, **{_name(number): value for number, value in enumerate(self._bound, 1)}})
        return _encode([*user, *self._bound])


def _name(number: int) -> str:
    return f"rapsqlite_page_{number}"


def _beyond(keys: list[str], values: list[SQLiteValue], descending: bool, bind: Callable[[SQLiteValue], str]) -> str:
    """Return the condition for rows after the one with these key values, in SQLite's order: NULL first."""
    alternatives = []
    for count, (name, value) in enumerate(zip(keys, values, strict=True)):
        if descending and value is None:
            continue  # nothing is less than NULL
        equal = [f"{_column(other)} IS {bind(values[place])}" for place, other in enumerate(keys[:count])]
        column = _column(name)
        if value is None:
            beyond = f"{column} IS NOT NULL"
        elif descending:
            beyond = f"({column} < {bind(value)} OR {column} IS NULL)"
        else:
            beyond = f"{column} > {bind(value)}"
        alternatives.append(" AND ".join([*equal, beyond]))
    return " OR ".join(f"({each})" for each in alternatives) or "0"


def _token(keys: list[str], descending: bool, values: list[Any]) -> str:
    return base64.urlsafe_b64encode(_encode((keys, descending, values))).decode().rstrip("=")


def _is_too_large(value: SQLiteValue) -> bool:
    return isinstance(value, int) and value >= 1 << 63  # as large as MessagePack's, but not SQLite's


def _values_of(token: str, keys: list[str], descending: bool) -> list[SQLiteValue]:
    try:
        decoded = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        known_keys, known_order, values = _decode(decoded)
    except (binascii.Error, ValueError, msgspec.DecodeError):
        raise ValueError("after is not a token of paginate()") from None
    if not all(isinstance(value, _VALUES) and not _is_too_large(value) for value in values):
        raise ValueError("after is not a token of paginate()")
    if known_keys != keys or known_order is not descending or len(values) != len(keys):
        raise ValueError("after is a token for another key or order")
    return list(values)
