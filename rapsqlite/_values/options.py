"""Options of ``connect``, checked when they are given: an error then names the line that is wrong, not the opening.

Numbers are taken as sqlite3 takes them. https://docs.python.org/3/library/sqlite3.html#sqlite3.connect
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from math import ldexp
from operator import index
from types import GetSetDescriptorType
from typing import Any

_MOST_STATEMENTS = 1 << 20
# Releases of Python 3.13 and 3.14 from late 2025 on take 0 rows for none and refuse fewer; until then both are all
# rows. Those that do have a setter for the attribute. https://github.com/python/cpython/issues/139283
ZERO_ROWS_ARE_NONE = isinstance(vars(sqlite3.Cursor)["arraysize"], GetSetDescriptorType)
_MOST_ROWS = (1 << 32 if ZERO_ROWS_ARE_NONE else 1 << 31) - 1


def checked_seconds(value: float) -> float:
    """Return a timeout as a float; a negative one waits as little as 0. TypeError for what is no real number."""
    return max(ldexp(value, 0), 0.0)


def checked_cache_size(value: int) -> int:
    """Return how many statements to keep, none if it is negative; TypeError for what is no integer."""
    return min(max(index(value), 0), _MOST_STATEMENTS)


def checked_chunk_size(value: int) -> int:
    """Return a number of rows; TypeError for what is no integer, ValueError if it is not positive."""
    size = index(value)
    if size < 1:
        raise ValueError(f"iter_chunk_size must be at least 1, not {size}")
    return size


def checked_row_count(value: int) -> int:
    """Return how many rows to fetch at once; TypeError, ValueError or OverflowError as of the running sqlite3."""
    count = index(value)
    if count < 0 and ZERO_ROWS_ARE_NONE:
        raise ValueError(f"the number of rows must not be negative, not {count}")
    if count > _MOST_ROWS:
        raise OverflowError(f"the number of rows must be at most {_MOST_ROWS}")
    return count


def checked_callable(name: str, value: Any) -> Any:
    """Return a function; TypeError for what cannot be called."""
    if not callable(value):
        raise TypeError(f"{name} must be callable, not {type(value).__name__}")
    return value


def checked_mapping(name: str, value: Any) -> Mapping[str, Any]:
    """Return a mapping, empty for None; TypeError for anything else."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping, not {type(value).__name__}")
    return value
