"""The marker for a value that a change leaves as it is.

https://sqlite.org/session/sqlite3changeset_new.html
"""

from __future__ import annotations

from enum import Enum


class NoChange(Enum):
    """The type of `NO_CHANGE`. None cannot serve, because it is a SQLite value."""

    NO_CHANGE = "no change"

    def __repr__(self) -> str:
        return "NO_CHANGE"


NO_CHANGE = NoChange.NO_CHANGE
