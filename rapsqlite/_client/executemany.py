"""``executemany``: parameter sets in chunks, one request each, encoded while the guest executes the previous one.

At most one chunk is in flight: a chunk cannot be recalled, and nothing may be executed after the first error. User code
that produces the sets or adapts their values runs in the event loop's thread, so a chunk ends after `SLICE_S` and other
tasks run before the next.

https://peps.python.org/pep-0249/#executemany
"""

from __future__ import annotations

from collections.abc import AsyncIterable
from itertools import chain, islice
from time import perf_counter
from typing import TYPE_CHECKING, Any

from rapsqlite import _constants as abi
from rapsqlite._client.named_placeholders import accept_positions
from rapsqlite._values.parameters import looks_names_up
from rapsqlite._values.wire import SetEncoder, array_length, split_sets
from rapsqlite._wasm.rings import Request
from rapsqlite.errors import PositionsRefusedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from rapsqlite._client.state import ConnectionState
    from rapsqlite._guest.request import PendingRequest
    from rapsqlite.types import Parameters, ParameterSets

SLICE_S = 0.002
"""How long sets are taken from an iterable, and their values adapted, before other tasks run, in seconds."""

_NO_SETS = b"\x90"  # an empty array in MessagePack
_LISTED = (list, tuple)  # iterating over these runs no user code
_LISTED_FIRST = 64  # sets of these in the first chunk: few enough for the guest to start early, and often all
clock = perf_counter


async def execute_many(state: ConnectionState, sql: bytes, parameters: ParameterSets) -> int:
    """Execute ``sql`` for each set; return the number of rows changed.

    Without any set the statement is still prepared, so that its errors are raised, as in sqlite3.
    """
    sending = _Sending(state, sql)
    try:
        # Cursors and streams have an ``__iter__`` too, which says to use ``async for``.
        if isinstance(parameters, AsyncIterable):
            return await _execute_async_sets(sending, state, sql, aiter(parameters))
        return await _execute_sets(sending, state, sql, parameters)
    except BaseException:
        sending.abandon()
        raise


async def _execute_sets(sending: _Sending, state: ConnectionState, sql: bytes, parameters: Any) -> int:
    sets = iter(parameters)
    first = list(islice(sets, 1))
    encoder = await _encoder(state, sql, first)
    sets = chain(first, sets)
    is_listed = type(parameters) in _LISTED
    if is_listed:
        encoder.count = _LISTED_FIRST
    failure = None
    while failure is None:
        chunk: list[Parameters] = []
        try:
            if is_listed:
                chunk = list(islice(sets, encoder.count))
            else:
                _take(sets, encoder.count, sending.deadline, chunk)
        except Exception as error:  # noqa: BLE001 - raised once the sets before it are executed, as in sqlite3
            failure = error
        if not chunk:
            break
        await sending.send(encoder, chunk)
    return await sending.finish(failure)


def _take(sets: Iterator[Parameters], count: int, deadline: float, chunk: list[Parameters]) -> None:
    """Move up to so many sets into ``chunk``, until other tasks should run."""
    for item in islice(sets, count):
        chunk.append(item)
        if clock() >= deadline:
            return


async def _execute_async_sets(
    sending: _Sending, state: ConnectionState, sql: bytes, sets: AsyncIterator[Parameters]
) -> int:
    """Same as `_execute_sets`; nothing is in flight while the iterator runs, because it may use the connection."""
    encoder: SetEncoder | None = None
    failure = None
    is_over = False
    while failure is None and not is_over:
        chunk: list[Parameters] = []
        try:
            is_over = await _take_async(state, sets, encoder.count if encoder else 1, sending.deadline, chunk)
        except Exception as error:  # noqa: BLE001 - as above
            failure = error
        if chunk:
            encoder = encoder or await _encoder(state, sql, chunk)
            await sending.send(encoder, chunk)
            await sending.let_others_run()
            await sending.wait_for_sent()
    return await sending.finish(failure)


async def _take_async(
    state: ConnectionState, sets: AsyncIterator[Parameters], count: int, deadline: float, chunk: list[Parameters]
) -> bool:
    """Move up to so many sets into ``chunk``; return whether there are no more.

    Stops if it takes long, and if the connection was used meanwhile: the iterator's statements must see each set
    executed before the next set is made.
    """
    guest = state.guest
    sent = guest.sent_count
    async for item in sets:
        chunk.append(item)
        if len(chunk) >= count or guest.sent_count != sent or clock() >= deadline:
            return False
    return True


class _Sending:
    """The chunks of one executemany; at most one is in flight."""

    __slots__ = ("_changes", "_first", "_sent", "_sql", "_state", "deadline")

    def __init__(self, state: ConnectionState, sql: bytes) -> None:
        self._state = state
        self._sql = sql
        self._changes = 0
        self._first = 0  # of the next chunk
        self._sent: PendingRequest | None = None
        self.deadline = clock() + SLICE_S
        """When other tasks should run."""

    async def send(self, encoder: SetEncoder, chunk: list[Parameters]) -> None:
        """Send the sets once the previous chunk has succeeded; let other tasks run if it is time."""
        try:
            for encoded in encoder.encode(chunk, self._is_time_up):
                await self._submit(encoded)
                if self._is_time_up():
                    await self.let_others_run()
        except Exception:
            # A value cannot be encoded: the sets before it are still executed, as in sqlite3.
            await self.wait_for_sent()
            raise

    def _is_time_up(self) -> bool:
        return clock() >= self.deadline

    async def _submit(self, encoded: bytes) -> None:
        await self.wait_for_sent()
        guest = self._state.guest
        await guest.checkpoint()
        sent = self._sent = guest.unsent(
            Request(abi.OP_MANY, self._sql, encoded, format=self._state.statement_bits, target=self._first)
        )
        try:
            guest.submit(sent)
        except Exception:
            self._sent = None  # refused: no reply will come
            raise
        self._first += array_length(encoded) or 0

    async def wait_for_sent(self) -> None:
        """Wait for the chunk in flight; raise its error."""
        sent, self._sent = self._sent, None
        if sent is not None:
            self._changes += await _changes_of(self._state, sent)

    def abandon(self) -> None:
        """Interrupt the chunk in flight."""
        if self._sent is not None:
            self._state.guest.abandon(self._sent)

    async def let_others_run(self) -> None:
        """Let other tasks run, whether the reply has arrived or not."""
        if self._sent is not None:
            await self._state.guest.let_others_run(self._sent)
        self.deadline = clock() + SLICE_S

    async def finish(self, failure: Exception | None) -> int:
        """Wait for the last chunk and return the total of changes; raise the iterable's exception."""
        if self._first == 0 and failure is None:
            await self._submit(_NO_SETS)
        await self.wait_for_sent()
        if failure is not None:
            raise failure
        return self._changes


async def _changes_of(state: ConnectionState, sent: PendingRequest) -> int:
    """Wait for the reply to a chunk; return how many rows it changed."""
    try:
        return (await state.guest.result(sent)).changes
    except PositionsRefusedError:
        request = sent.request
        return await _execute_positions(state, request.sql, request.params, first=request.target)


async def _execute_positions(state: ConnectionState, sql: bytes, chunk: bytes, first: int) -> int:
    """Execute a chunk that was rejected because of sequences for named placeholders, each set after its warnings."""
    changes = 0
    for value_count, count, sets in split_sets(chunk):
        bits = state.statement_bits
        if value_count is not None:
            bits = await accept_positions(state, sql, bits, count, value_count)
        changes += (await state.guest.call(Request(abi.OP_MANY, sql, sets, format=bits, target=first))).changes
        first += count
    return changes


async def _encoder(state: ConnectionState, sql: bytes, first: list[Parameters]) -> SetEncoder:
    """Return an encoder that asks mappings with `__missing__` for the statement's names, if the first set is one."""
    names = await state.parameter_names(sql) if first and looks_names_up(first[0]) else None
    return SetEncoder(state.adapters, names)
