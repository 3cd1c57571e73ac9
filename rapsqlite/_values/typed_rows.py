"""Decodes rows directly into the user's types: Struct, dataclass, NamedTuple, TypedDict, attrs class, pydantic model.

msgspec builds the objects in C from rows that the guest sends as maps, so columns match fields by name: their order
does not matter, columns without a field are ignored, fields with a default may lack a column. (A Struct with
``array_like=True`` is matched by position.)

Field types are checked. Because SQLite has no booleans, dates and so on, values are read in msgspec's lax mode
(``strict=False``): 0 and 1 for bool, RFC 3339 text or seconds since 1970 for datetime, text for UUID, Decimal and Enum,
text of digits for int. attrs and pydantic, which this package never imports, convert and validate themselves. https://jcristharif.com/msgspec/usage.html#strict-vs-lax-mode
"""

from __future__ import annotations

import re
import typing
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from rapsqlite import _constants
from rapsqlite.errors import DataError, InternalError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["TypedRows", "typed_rows"]

# The part of msgspec's message that says what it could not decode: `$[row].field` and what is inside.
_LOCATION = r"(?s)^(?P<problem>.*?) - at `\$\[(?P<row>\d+)\](?:\.(?P<column>[^.\[`]+))?(?P<inside>[^`]*)`$"


class TypedRows:
    """How rows become objects of one type; made by `typed_rows` and reusable for any number of results."""

    __slots__ = ("_decode", "format")

    def __init__(self, decode: Callable[[bytes], list[Any]], row_format: int) -> None:
        self._decode = decode
        self.format = row_format  # The row shape to request from the guest.

    def decoder(self) -> Callable[[bytes], list[Any]]:
        """Return a decoder for the batches of one result, in order.

        It raises DataError if a value does not match its field or a required column is missing, naming the row, counted
        from 0 over all batches, and the column; InternalError if the batch is malformed.
        """
        row_count = 0

        def decode(batch: bytes) -> list[Any]:
            nonlocal row_count
            try:
                rows = self._decode(batch)
            except msgspec.ValidationError as error:
                raise _data_error(str(error), row_count) from error
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
                raise InternalError(f"the engine's reply is malformed: {error}") from error
            row_count += len(rows)
            return rows

        return decode


@lru_cache(maxsize=256)
def typed_rows(kind: type[Any]) -> TypedRows:
    """Return how rows become objects of ``kind``.

    Raises TypeError for anything but a msgspec.Struct, dataclass, NamedTuple, TypedDict, attrs class or pydantic model,
    and for one with fields that msgspec cannot decode.
    """
    if _is_named_tuple(kind):
        return TypedRows(_named_tuple_decoder(kind), _constants.FORMAT_MAPS)
    if hasattr(kind, "__pydantic_validator__") and hasattr(kind, "model_validate"):
        return TypedRows(_pydantic_decoder(kind), _constants.FORMAT_MAPS)
    if hasattr(typing.get_origin(kind) or kind, "__attrs_attrs__"):
        return TypedRows(_attrs_decoder(kind), _constants.FORMAT_MAPS)
    if not _is_record(kind):
        name = getattr(kind, "__qualname__", None) or repr(kind)
        hint = ': use row_factory="dict"' if kind is dict else ""
        raise TypeError(
            "into= must be a msgspec.Struct, dataclass, NamedTuple, TypedDict, attrs class or pydantic model,"
            f" not {name}{hint}"
        )
    if _has_fields_beside_init(kind):
        return TypedRows(_dataclass_decoder(kind), _constants.FORMAT_MAPS)
    config = getattr(kind, "__struct_config__", None)
    by_position = config is not None and config.array_like
    return TypedRows(_decoder(kind), _constants.FORMAT_ARRAYS if by_position else _constants.FORMAT_MAPS)


def _is_named_tuple(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")


def _is_record(kind: Any) -> bool:
    origin = typing.get_origin(kind) or kind  # Row[int] of a generic Row
    if not isinstance(origin, type):
        return False
    return issubclass(origin, msgspec.Struct) or hasattr(origin, "__dataclass_fields__") or typing.is_typeddict(origin)


def _has_fields_beside_init(kind: Any) -> bool:
    return not all(field.init for field in getattr(kind, "__dataclass_fields__", {}).values())


def _decoder(kind: Any) -> Callable[[bytes], list[Any]]:
    return msgspec.msgpack.Decoder(list[kind], strict=False).decode


def _named_tuple_decoder(kind: Any) -> Callable[[bytes], list[Any]]:
    """Decode Structs with the same fields and convert them to tuples: msgspec fills tuples by position only."""
    types = typing.get_type_hints(kind, include_extras=True)
    defaults = kind._field_defaults
    fields = [(name, types.get(name, Any), defaults.get(name, msgspec.NODEFAULT)) for name in kind._fields]
    decode = _decoder(msgspec.defstruct(kind.__name__, fields, kw_only=True, gc=False))
    values, make = msgspec.structs.astuple, kind._make
    return lambda batch: [make(values(row)) for row in decode(batch)]


def _dataclass_decoder(kind: Any) -> Callable[[bytes], list[Any]]:
    """Decode Structs and let the class create its objects: msgspec requires every field without a default in the row.

    A field that ``__init__`` does not take is set if the row has it; otherwise the class decides.
    """
    import dataclasses  # imported only by users of dataclasses

    types = typing.get_type_hints(kind, include_extras=True)
    fields: list[tuple[str, Any, Any]] = []
    for field in dataclasses.fields(kind):
        if not field.init:
            default: Any = msgspec.UNSET
        elif field.default_factory is not dataclasses.MISSING:
            default = msgspec.field(default_factory=field.default_factory)
        else:
            default = msgspec.NODEFAULT if field.default is dataclasses.MISSING else field.default
        found = types.get(field.name, Any)
        fields.append((field.name, found if field.init else found | msgspec.UnsetType, default))
    decode = _decoder(msgspec.defstruct(kind.__name__, fields, kw_only=True, gc=False))
    taken = [field.name for field in dataclasses.fields(kind) if field.init]
    others = [field.name for field in dataclasses.fields(kind) if not field.init]

    def make(row: Any) -> Any:
        made = kind(**{name: getattr(row, name) for name in taken})
        for name in others:
            value = getattr(row, name)
            if value is not msgspec.UNSET:
                object.__setattr__(made, name, value)  # frozen or not
        return made

    return lambda batch: [make(row) for row in decode(batch)]


def _attrs_decoder(kind: Any) -> Callable[[bytes], list[Any]]:
    """Decode Structs and let the class create its objects, with its converters and validators.

    Fields that ``__init__`` does not take are left to the class.
    """
    types = typing.get_type_hints(kind, include_extras=True)
    taken = [field for field in kind.__attrs_attrs__ if field.init]
    fields: list[tuple[str, Any, Any]] = []
    for field in taken:
        has_default = repr(field.default) != "NOTHING"
        found = types.get(field.name, Any) if field.converter is None else Any
        fields.append((field.name, found | msgspec.UnsetType if has_default and found is not Any else found,
                       msgspec.UNSET if has_default else msgspec.NODEFAULT))  # fmt: skip
    decode = _decoder(
        msgspec.defstruct(
            kind.__name__,
            [(f"field_{number}", found, default) for number, (_, found, default) in enumerate(fields)],
            kw_only=True,
            gc=False,
            rename={f"field_{number}": name for number, (name, _, _) in enumerate(fields)},
        )
    )
    names = [(f"field_{number}", field.alias) for number, field in enumerate(taken)]

    def make(row: Any) -> Any:
        values = [(alias, getattr(row, name)) for name, alias in names]
        return kind(**{alias: value for alias, value in values if value is not msgspec.UNSET})

    return lambda batch: [make(row) for row in decode(batch)]


_decode_maps = msgspec.msgpack.Decoder(list[dict[str, Any]]).decode


def _pydantic_decoder(kind: Any) -> Callable[[bytes], list[Any]]:
    """Let the model validate each row, given as a dict."""

    def decode(batch: bytes) -> list[Any]:
        made: list[Any] = []
        try:
            for row in _decode_maps(batch):
                made.append(kind.model_validate(row))  # noqa: PERF401 - the rows made so far say which one failed
        except ValueError as error:
            raise msgspec.ValidationError(_pydantic_message(error, len(made))) from None  # its text has the values
        return made

    return decode


def _pydantic_message(error: Any, index: int) -> str:
    """Return what was wrong and where, in msgspec's form, without values."""
    if not hasattr(error, "errors"):
        return f"{type(error).__name__} - at `$[{index}]`"
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = "".join(f".{part}" for part in first["loc"])
    kind = first["type"]
    problem = kind if kind in {"value_error", "assertion_error"} else first["msg"]  # those texts are the user's own
    return f"{problem} - at `$[{index}]{where}`"


def _data_error(message: str, rows_before: int) -> DataError:
    location = re.match(_LOCATION, message)  # compiled on use, to keep the import fast
    if location is not None:
        row = rows_before + int(location["row"])
        column = f", column {location['column']!r}" if location["column"] else ""
        inside = f" (at {location['inside']})" if location["inside"] else ""
        message = f"row {row}{column}: {location['problem']}{inside}"
    error = DataError(message)
    error.sqlite_errorcode = _constants.SQLITE_MISMATCH
    error.sqlite_errorname = _constants.RESULT_CODES[_constants.SQLITE_MISMATCH]
    return error
