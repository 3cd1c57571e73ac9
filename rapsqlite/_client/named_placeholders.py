"""Sequences for named placeholders: bound by position, after the running Python's warning or error.

Before Python 3.12 sqlite3 says nothing; then it emits a DeprecationWarning for each placeholder, and from 3.14 on
raises ProgrammingError. The guest rejects such a request before it binds anything; the host warns, which may raise, and
sends it again. https://docs.python.org/3/library/sqlite3.html#sqlite3-placeholders
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from rapsqlite import _constants as abi
from rapsqlite.errors import ProgrammingError

if TYPE_CHECKING:
    from rapsqlite._client.state import ConnectionState

_PACKAGE = str(Path(__file__).parent.parent)


async def accept_positions(
    state: ConnectionState, sql: bytes, bits: int, sets: int = 1, value_count: int | None = None
) -> int:
    """Warn or raise for so many sequences; return ``bits`` without the one that rejects them.

    Sequences of the wrong length get no warnings, as in sqlite3: they are an error once they are sent.
    """
    placeholders = await state.placeholders(sql)
    if value_count not in (None, len(placeholders)):
        return bits & ~abi.FORMAT_REFUSE_POSITIONS
    named = [(number, name) for number, name in enumerate(placeholders, 1) if name is not None and name[0] != "?"]
    for _ in range(sets):
        for number, name in named:
            _complain(
                f"Binding {number} ('{name}') is a named parameter, but you supplied a sequence which requires "
                "nameless (qmark) placeholders."
            )
    return bits & ~abi.FORMAT_REFUSE_POSITIONS


def _complain(message: str) -> None:
    if sys.version_info >= (3, 14):
        raise ProgrammingError(message)
    if sys.version_info >= (3, 12):
        message += " Starting with Python 3.14 an sqlite3.ProgrammingError will be raised."
        # Attributed to the line of the program that awaits.
        warnings.warn(message, DeprecationWarning, skip_file_prefixes=(_PACKAGE,))
