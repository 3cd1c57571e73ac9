"""Parameters to bytes, bytes to rows: MessagePack as defined in docs/abi.md. Pure functions, no I/O.

Encoding has a fast path, one type check and one encoder call, both in C, and a slow path, value by value, for
everything that needs an adapter or is not a SQLite value. msgspec alone would also encode dates, decimals, enums and
dataclasses in its own ways; the check keeps them away from it.

Decoding takes the host's private copy of what the guest wrote and trusts nothing in it.
"""

from __future__ import annotations

from itertools import chain, groupby
from operator import length_hint
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import msgspec

from rapsqlite import _constants
from rapsqlite._values.bounds import MOST_COLUMNS
from rapsqlite._values.no_change import NO_CHANGE
from rapsqlite._values.parameters import bindable_set
from rapsqlite.errors import InternalError, mark_parameter_set

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rapsqlite._values.adapters import Adapters
    from rapsqlite.types import Parameters

__all__ = [
    "SetEncoder",
    "array_length",
    "decode_arguments",
    "decode_columns",
    "decode_declared_columns",
    "decode_dicts",
    "decode_lists",
    "decode_text_argument",
    "decode_tuples",
    "decoder_of",
    "encode_params",
    "split_sets",
    "text_decoder",
]

T = TypeVar("T")

CHUNK_BYTES = 98_304
"""Target size of the requests of one executemany: between two of them the guest waits for the host.

Below `REQUEST_INLINE_BYTES`: while the loop's thread encodes the next chunk, the guest could not fetch this one.
"""

CHUNK_BYTES_LIMIT = 2 * CHUNK_BYTES
"""No such request exceeds this, unless a single parameter set does."""

CHUNK_ROWS_LIMIT = 4_096
"""How many sets one call encodes, in about half a millisecond, and one request executes, in a few milliseconds."""

ADAPTED_ROWS_LIMIT = 1_024
"""How many sets are encoded value by value before other tasks run."""

_STEP_ROWS = 512  # How many sets are encoded before their size is checked.
_HEADER_BYTES = 3  # Maximum size of the head of a chunk's array.

_encode = msgspec.msgpack.Encoder().encode
encode_answers: Callable[[list[int | float | str | bytes | msgspec.msgpack.Ext | None]], bytes] = _encode
"""Encodes the results of deferred calls."""
_raw_sets = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode

_SEQUENCES = frozenset({tuple, list})
_MAPPINGS = frozenset({dict})
_KEYS = frozenset({str})


def encode_params(params: Parameters | None, adapters: Adapters, names: Iterable[str] | None = None) -> bytes:
    """Return the parameters of one execution as a MessagePack array or map; empty bytes for None.

    Sequences are objects with a length that can be indexed, as in sqlite3; mappings are dicts and other
    `collections.abc.Mapping` objects. Keys that are not str are left out, because no statement can use them.

    ``names`` are the statement's parameters, if the caller knows them. Then exactly these are looked up in a mapping,
    and missing ones are left out. A dict with ``__missing__`` needs this, see `parameters.looks_names_up`.

    An integer beyond 64 bits, or a value of a type that cannot be bound, is encoded as such. The guest raises the error
    when it binds the value, so that an error in the statement itself comes first and an unused parameter does no harm,
    as in sqlite3.

    Raises ProgrammingError (Python 3.10: ValueError) if ``params`` is neither, UnicodeEncodeError for lone surrogates,
    BufferError for a buffer that is not contiguous, and whatever an adapter raises.
    """
    if params is None:
        return b""
    if names is None and _is_plain(params, adapters.plain()):
        try:
            return _encode(params)
        except OverflowError:
            pass  # An integer beyond 64 bits: the slow path marks it for the guest.
    return _encode(bindable_set(params, adapters, names))


def _is_plain(params: Any, plain: frozenset[type]) -> bool:
    kind = type(params)
    if kind is tuple or kind is list:
        return plain.issuperset(map(type, params))
    return kind is dict and plain.issuperset(map(type, params.values())) and _KEYS.issuperset(map(type, params))


class SetEncoder:
    """Encodes the parameter sets of one executemany for MANY requests, some at a time."""

    __slots__ = ("_adapters", "_first", "_names", "count")

    def __init__(self, adapters: Adapters, names: Iterable[str] | None = None) -> None:
        self._adapters = adapters
        self._names = names
        self._first = 0
        self.count = 1
        """Number of sets to encode next: one at first, so that the guest starts early; then as many as fit."""

    def encode(self, sets: list[Parameters], is_time_up: Callable[[], bool] = lambda: False) -> Iterator[bytes]:
        """Yield the next sets as MessagePack arrays, in one piece if their size allows it.

        Adapters are user code: where a set needs them, a piece ends as soon as ``is_time_up`` returns True.

        Raises as `encode_params` does, with the index of the set as ``parameter_set``. All sets before the failing one
        have been yielded by then, and as in sqlite3 they are executed.
        """
        if not sets:
            return
        pieces: Iterable[bytes]
        plain = _encode_plain_sets(sets, self._adapters) if self._names is None else None
        if plain is not None:
            pieces, limit = (plain,), CHUNK_ROWS_LIMIT
        else:
            pieces = _encode_one_by_one(sets, self._first, self._adapters, self._names, is_time_up)
            limit = ADAPTED_ROWS_LIMIT
        size = 0
        for encoded in pieces:
            size += len(encoded)
            yield encoded
        self._first += len(sets)
        fitting = CHUNK_BYTES * len(sets) // size
        self.count = max(1, min(fitting, 8 * len(sets), limit))


def _encode_plain_sets(chunk: list[Any], adapters: Adapters) -> bytes | None:
    """Return the chunk if it fits a request and is only sequences or only dicts, all of plain values."""
    plain = adapters.plain()
    kinds = set(map(type, chunk))
    if kinds <= _SEQUENCES:
        is_plain = plain.issuperset(map(type, chain.from_iterable(chunk)))
    elif kinds <= _MAPPINGS:
        values = chain.from_iterable(map(dict.values, chunk))
        keys = chain.from_iterable(chunk)
        is_plain = plain.issuperset(map(type, values)) and _KEYS.issuperset(map(type, keys))
    else:
        return None
    if not is_plain:
        return None
    try:
        return _encode_in_steps(chunk)
    except (OverflowError, UnicodeEncodeError, BufferError):
        return None  # The slow path finds out which set failed.


def _encode_in_steps(chunk: list[Any]) -> bytes | None:
    """Return the sets as one array; None once they are too large, so that large ones are not all encoded here."""
    parts: list[bytes | memoryview] = [_head(len(chunk))]
    size, start, count = _HEADER_BYTES, 0, 1
    while start < len(chunk):
        sets = chunk[start : start + count]
        part = memoryview(_encode(sets))[len(_head(len(sets))) :]
        size += len(part)
        if size > CHUNK_BYTES_LIMIT:
            return None
        parts.append(part)
        start += count
        count = min(8 * count, _STEP_ROWS)
    return b"".join(parts)


def _encode_one_by_one(
    chunk: list[Parameters],
    first: int,
    adapters: Adapters,
    names: Iterable[str] | None,
    is_time_up: Callable[[], bool],
) -> Iterator[bytes]:
    """Yield the sets, made encodable value by value, in pieces below the limit; an error says which set failed."""
    parts: list[bytes] = []
    size = _HEADER_BYTES
    failure = None
    for index, params in enumerate(chunk, first):
        try:
            part = _encode(bindable_set(params, adapters, names))
        except Exception as error:  # noqa: BLE001  raised below, after the sets before it
            mark_parameter_set(error, index)
            failure = error
            break
        if parts and (size + len(part) > CHUNK_BYTES_LIMIT or is_time_up()):
            yield _array(parts)
            parts, size = [], _HEADER_BYTES
        parts.append(part)
        size += len(part)
    if parts:
        yield _array(parts)
    if failure is not None:
        raise failure


def _array(items: list[bytes]) -> bytes:
    """Return a MessagePack array of encoded items."""
    return _head(len(items)) + b"".join(items)


def _head(length: int) -> bytes:
    """Return the head of a MessagePack array of up to 65 535 items.

    https://github.com/msgpack/msgpack/blob/master/spec.md#array-format-family
    """
    return bytes((0x90 | length,)) if length <= 0xF else b"\xdc" + length.to_bytes(2, "big")


def split_sets(chunk: bytes) -> Iterator[tuple[int | None, int, bytes]]:
    """Split the output of `SetEncoder` into runs: yield the number of values, the number of sets, and the run.

    Consecutive sequences of the same length form one run. Consecutive mappings do, too; their number of values is None.
    """
    sets: list[bytes] = [bytes(encoded) for encoded in _raw_sets(chunk)]
    for value_count, run in groupby(sets, array_length):
        parts = list(run)
        yield value_count, len(parts), _array(parts)


def array_length(encoded: bytes) -> int | None:
    """Return the length of a MessagePack array, None for a map."""
    marker = encoded[0]
    if marker & 0xF0 == 0x90:
        return marker & 0x0F
    return int.from_bytes(encoded[1 : 3 if marker == 0xDC else 5], "big") if marker in (0xDC, 0xDD) else None


def decode_lists(batch: bytes) -> list[list[Any]]:
    """Return the rows of one batch as lists.

    Raises InternalError if the batch is malformed: host and guest disagree, or the guest is hostile.
    """
    return _decoded(_lists, batch)


def decode_tuples(batch: bytes) -> list[tuple[Any, ...]]:
    """Return the rows of one batch as tuples; see `decode_lists`."""
    return _decoded(_tuples, batch)


def decode_dicts(batch: bytes) -> list[dict[str, Any]]:
    """Return the rows of one batch of maps; if columns share a name the last one wins. See `decode_lists`."""
    return _decoded(_dicts, batch)


def decode_columns(columns: bytes) -> tuple[str, ...]:
    """Return the names of the columns, as sent for FORMAT_COLUMNS; see `decode_lists`."""
    return _decoded(_names, columns)


def decode_declared_columns(columns: bytes) -> tuple[tuple[str, str | None], ...]:
    """Return name and declared type of the columns, as sent for FORMAT_DECLARED_TYPES; see `decode_lists`."""
    return _decoded(_declared, columns)


def decoder_of(kind: type[T]) -> Callable[[bytes], T]:
    """Return a decoder for replies other than rows; it raises as `decode_lists` does."""
    decode = msgspec.msgpack.Decoder(kind, ext_hook=_refuse_extension).decode
    return lambda body: _decoded(decode, body)


def text_decoder(kind: type[T], make_text: Callable[[bytes], Any]) -> Callable[[bytes], T]:
    """Return a decoder of rows with FORMAT_TEXT_AS_EXTENSION that gives each TEXT value to ``make_text``.

    It raises as `decode_lists` does, and whatever ``make_text`` raises.
    """

    def make_value(code: int, data: memoryview) -> Any:
        if code != _constants.EXT_TEXT:
            return _refuse_extension(code, data)
        return make_text(bytes(data))

    decode = msgspec.msgpack.Decoder(kind, ext_hook=make_value).decode
    return lambda batch: _decoded(decode, batch, _MALFORMED)  # errors in text are the user's


_MALFORMED = (msgspec.MsgspecError, RecursionError)


def _decoded(
    decode: Callable[[bytes], T],
    body: bytes,
    malformed: tuple[type[Exception], ...] = (*_MALFORMED, UnicodeDecodeError),
) -> T:
    try:
        return decode(body)
    except malformed as error:
        raise InternalError(f"the engine's reply is malformed: {error}") from error


def _refuse_extension(code: int, _data: memoryview) -> Any:
    raise InternalError(f"the engine's reply is malformed: extension type {code}")


class RowsOneByOne(Generic[T]):
    """The rows of one batch, each decoded on demand: an error in one comes after the rows before it."""

    __slots__ = ("_decode", "_rest")

    def __init__(self, decode: Callable[[bytes], list[T]], batch: bytes) -> None:
        self._decode = decode
        self._rest = iter(_decoded(_raw_sets, batch))

    def __iter__(self) -> RowsOneByOne[T]:
        return self

    def __next__(self) -> T:
        return self._decode(_array([bytes(next(self._rest))]))[0]

    def __length_hint__(self) -> int:
        return length_hint(self._rest)


def count_rows(batch: bytes) -> int:
    """Return how many rows a batch has; see `decode_lists`."""
    return len(_decoded(_raw_sets, batch))


def split_failed(body: bytes) -> tuple[bytes, bytes]:
    """Return the rows and the error of a FAILED reply, both still encoded; see `decode_lists`."""
    rows, error = _decoded(_pair, body)
    return bytes(rows), bytes(error)


decode_integer: Callable[[bytes], int] = decoder_of(int)
"""Return a reply that is one number; raises as `decode_lists` does."""


def _argument_extension(code: int, data: memoryview) -> Any:
    if code == _constants.EXT_NO_CHANGE:
        return NO_CHANGE
    return _refuse_extension(code, data)


decode_arguments: Callable[[memoryview], list[Any]] = msgspec.msgpack.Decoder(
    list[Any], ext_hook=_argument_extension
).decode
"""Return the arguments of a callback; raises msgspec's errors for malformed ones."""
decode_text_argument: Callable[[memoryview], str] = msgspec.msgpack.Decoder(str).decode
"""Return the single text argument of a callback; raises as `decode_arguments` does."""
_pair = msgspec.msgpack.Decoder(tuple[msgspec.Raw, msgspec.Raw]).decode
_lists = msgspec.msgpack.Decoder(list[list[Any]], ext_hook=_refuse_extension).decode
_tuples = msgspec.msgpack.Decoder(list[tuple[Any, ...]], ext_hook=_refuse_extension).decode
_dicts = msgspec.msgpack.Decoder(list[dict[str, Any]], ext_hook=_refuse_extension).decode
_columns = msgspec.Meta(max_length=MOST_COLUMNS)
_names = msgspec.msgpack.Decoder(Annotated[tuple[str, ...], _columns]).decode
_declared = msgspec.msgpack.Decoder(Annotated[tuple[tuple[str, str | None], ...], _columns]).decode
