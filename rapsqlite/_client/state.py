"""The state that a connection shares with its cursors, prepared statements and transactions: guest and settings.

A setting applies to statements that begin after it was set.
"""

from __future__ import annotations

import sys
from operator import index
from typing import TYPE_CHECKING, Any, Protocol, cast

from rapsqlite import _constants as abi
from rapsqlite._client.transaction_control import TransactionControl
from rapsqlite._values.adapters import Adapters
from rapsqlite._values.converters import Converters
from rapsqlite._values.options import checked_callable, checked_chunk_size
from rapsqlite._values.parameters import looks_names_up
from rapsqlite._values.row_plan import row_decoder
from rapsqlite._values.wire import decoder_of, encode_params
from rapsqlite._wasm.rings import Request
from rapsqlite.errors import ClosedError, ProgrammingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite._guest.guest import Guest
    from rapsqlite._values.row_plan import RowFunction
    from rapsqlite._wasm.rings import Reply
    from rapsqlite.types import CursorLike, RowFactory, TextFactory

_SINCE_311 = sys.version_info >= (3, 11)

_LISTED = frozenset({tuple, list, dict, type(None)})  # parameters that list all their names

_described = decoder_of(dict[str, Any])
_counters = decoder_of(dict[str, int])


class RowDecoder(Protocol):
    """What to request from the guest and how to make rows of its replies.

    A `FactoryRowDecoder` or a `TypedRowDecoder`.
    """

    format: int
    needs_columns: bool
    decode: Callable[[bytes], list[Any]]

    def names(self, columns: bytes) -> tuple[str, ...]:
        """Return the names of the columns."""
        ...

    def row_function(self, columns: bytes, cursor: CursorLike) -> RowFunction | None:
        """Return the remaining conversion of each row."""
        ...


class Absent:
    """Placeholder while there is no guest; every attribute access raises the error that says why."""

    def __init__(self, message: str, error: type[ClosedError] = ClosedError) -> None:
        self._message = message
        self._error = error

    def post(self, *_: object, **__: object) -> None:
        """Do nothing: requests without a waiting caller need no error."""

    def is_outside_block(self) -> bool:
        """Return False: there is no block."""
        return False

    def __getattr__(self, name: str) -> Any:
        raise self._error(self._message)


NOT_CONNECTED = cast("Guest", Absent("no active connection: await connect(...) or use it in `async with` first"))
CLOSED = cast("Guest", Absent("Connection closed: no active connection. Cannot operate on a closed database."))


def encode_sql(sql: str, verb: str) -> bytes:
    """Return a statement as the guest takes it; raises TypeError, ProgrammingError or ValueError as sqlite3 does."""
    if not isinstance(sql, str):
        raise TypeError(f"{verb}() argument 1 must be str, not {type(sql).__name__}")
    if "\0" in sql:
        if verb == "executescript":
            raise ValueError("embedded null character")
        raise (ProgrammingError if _SINCE_311 else ValueError)("the query contains a null character")
    return sql.encode()


class ConnectionState(TransactionControl):
    """One connection's guest and settings."""

    __slots__ = (
        "_default_shape",
        "_row_factory",
        "_text_factory",
        "adapters",
        "converters",
        "detect_types",
        "iter_chunk_size",
        "list_decoder",
        "scalar_decoder",
        "tuple_decoder",
    )

    def __init__(
        self,
        *,
        isolation_level: str | None,
        autocommit: bool | int,
        iter_chunk_size: int,
        row_factory: RowFactory,
        text_factory: TextFactory,
        detect_types: int,
        default_shape: type = list,
    ) -> None:
        super().__init__(NOT_CONNECTED, isolation_level, autocommit)
        self.adapters = Adapters()
        self.converters = Converters()
        self.detect_types = index(detect_types)
        self.iter_chunk_size = checked_chunk_size(iter_chunk_size)
        self._default_shape = default_shape  # of rows of whole results
        self._row_factory = row_factory
        checked_callable("text_factory", text_factory)
        self._text_factory = text_factory
        self._update_decoders()

    def renewed(self, guest: Guest) -> ConnectionState:
        """Return a state with the same settings, for another user of the same guest."""
        state = ConnectionState(
            isolation_level=self._isolation_level,
            autocommit=self._autocommit,
            iter_chunk_size=self.iter_chunk_size,
            row_factory=self._row_factory,
            text_factory=self._text_factory,
            detect_types=self.detect_types,
            default_shape=self._default_shape,
        )
        state.guest = guest
        state.transaction_mode, state.transaction_scope = self.transaction_mode, self.transaction_scope
        state._last_block = self._last_block
        state.adapters.take_from(self.adapters)
        state.converters.take_from(self.converters)
        return state

    def note_blocks_of(self, other: ConnectionState) -> None:
        """Continue numbering after the blocks of another user of the same guest, so that no number is used twice."""
        self._last_block = max(self._last_block, other._last_block)

    # -- making rows --------------------------------------------------------------------------------

    @property
    def row_factory(self) -> RowFactory:
        """Return the row factory as it was set."""
        return self._row_factory

    def set_row_factory(self, factory: RowFactory) -> None:
        """Change it; ValueError if it is invalid."""
        previous, self._row_factory = self._row_factory, factory
        try:
            self._update_decoders()
        except ValueError:
            self._row_factory = previous
            raise

    @property
    def text_factory(self) -> TextFactory:
        """Return the text factory."""
        return self._text_factory

    def set_text_factory(self, factory: TextFactory) -> None:
        """Change it."""
        self._text_factory = factory
        self._update_decoders()

    def _update_decoders(self) -> None:
        self.tuple_decoder: RowDecoder = self._make_decoder(self._row_factory, tuple)
        self.list_decoder: RowDecoder = self._make_decoder(self._row_factory, self._default_shape)
        self.scalar_decoder: RowDecoder = self._make_decoder("list", list)

    def decoder(self, factory: RowFactory) -> RowDecoder:
        """Return the decoder for a cursor with this row factory."""
        return self.tuple_decoder if factory is self._row_factory else self._make_decoder(factory, tuple)

    def _make_decoder(self, factory: RowFactory, default: type) -> RowDecoder:
        return row_decoder(
            factory,
            default=default,
            text_factory=self._text_factory,
            detect_types=self.detect_types,
            converters=self.converters,
        )

    async def encode(self, sql: bytes, parameters: Any) -> bytes:
        """Apply a pending setting, then return the parameters of a statement as MessagePack.

        Mappings other than dicts may have to be asked for the statement's names.
        """
        if self._deferred:
            await self.apply_pending_setting()
        if type(parameters) in _LISTED or not looks_names_up(parameters):
            return encode_params(parameters, self.adapters)
        return encode_params(parameters, self.adapters, await self.parameter_names(sql))

    async def statistics(self) -> dict[str, int]:
        """Return the counters of the guest and of its host functions."""
        reply = await self.guest.call(Request(abi.OP_CONTROL, target=abi.CONTROL_OP_STATISTICS))
        return {**_counters(reply.rows), **self.guest.statistics()}

    async def count(self) -> Reply:
        """Return a reply to no statement, for the counters that every reply has; its value is SQLite's changes()."""
        await self.apply_pending_setting()
        return await self.guest.call(Request(abi.OP_CONTROL, target=abi.CONTROL_OP_CHANGES))

    async def parameter_names(self, sql: bytes) -> list[str]:
        """Return the names of the statement's parameters, without prefix characters."""
        return [name[1:] for name in await self.placeholders(sql) if name is not None]

    async def placeholders(self, sql: bytes) -> list[str | None]:
        """Return the statement's placeholders as written; None for a plain ``?``."""
        reply = await self.guest.call(Request(abi.OP_PREPARE, sql))
        try:
            placeholders: list[str | None] = _described(reply.rows)["parameters"]
        finally:
            self.guest.post(Request(abi.OP_RELEASE, target=reply.handle))
        return placeholders
