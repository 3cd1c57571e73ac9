"""``executemany``: sets of parameters in chunks, one request each, encoded while the guest works on the one before.

No more than one chunk is on its way: a chunk that was sent cannot be taken back, and the first error must be the last
thing that is done.
"""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING

from rapsqlite import _constants as abi
from rapsqlite._named import accept_positions
from rapsqlite._parameters import looks_names_up
from rapsqlite._wire import encode_many, split_sets
from rapsqlite.errors import PositionsRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rapsqlite._request import Request
    from rapsqlite._session import Session
    from rapsqlite.types import Parameters

_NO_SETS = b"\x90"  # an empty array in MessagePack


async def execute_many(session: Session, sql: bytes, parameters: Iterable[Parameters]) -> int:
    """Execute ``sql`` for each set; return the number of rows changed.

    Without any set the statement is prepared all the same, so that what is wrong with it is told, as sqlite3 does.
    """
    guest = session.guest
    parameters, names = await _with_names(session, sql, parameters)
    sent: Request | None = None
    changes = 0
    first = 0
    try:
        for chunk in encode_many(parameters, session.adapters, names):
            if sent is not None:
                changes += await _changes_of(session, sent)
            await guest.checkpoint()
            sent = guest.submit(abi.OP_MANY, sql, chunk, format=session.statement_bits, a=first)
            first += _set_count(chunk)
    except Exception:
        # The iterable failed, or a value cannot be encoded: what was sent before is still done, as in sqlite3.
        if sent is not None and not sent.done:
            await _changes_of(session, sent)
        raise
    if sent is None:
        sent = guest.submit(abi.OP_MANY, sql, _NO_SETS, format=session.statement_bits)
    return changes + await _changes_of(session, sent)


async def _changes_of(session: Session, sent: Request) -> int:
    """Wait for the answer to a chunk; return how many rows it changed."""
    try:
        return (await session.guest.result(sent)).changes
    except PositionsRefusedError:
        sql, chunk = sent.body
        return await _execute_positions(session, sql, chunk, first=sent.head[4])


async def _execute_positions(session: Session, sql: bytes, chunk: bytes, first: int) -> int:
    """Execute a chunk that was refused because of sequences for named placeholders, each after its warnings."""
    changes = 0
    for by_position, count, sets in split_sets(chunk):
        bits = session.statement_bits
        if by_position:
            bits = await accept_positions(session, sql, bits, count)
        changes += (await session.guest.call(abi.OP_MANY, sql, sets, format=bits, a=first)).changes
        first += count
    return changes


async def _with_names(
    session: Session, sql: bytes, parameters: Iterable[Parameters]
) -> tuple[Iterable[Parameters], list[str] | None]:
    """Return the sets, and the names to ask each for if the first one makes values of names it does not list."""
    sets = iter(parameters)
    first = list(islice(sets, 1))
    names = await session.parameter_names(sql) if first and looks_names_up(first[0]) else None
    return chain(first, sets), names


def _set_count(chunk: bytes) -> int:
    """Return the length of the MessagePack array: a chunk is a few thousand sets at most."""
    marker = chunk[0]
    if marker == 0xDC:
        return int.from_bytes(chunk[1:3], "big")
    if marker == 0xDD:
        return int.from_bytes(chunk[1:5], "big")
    return marker & 0x0F
