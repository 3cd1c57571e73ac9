"""Options of ``connect``, checked when given, so that the error's traceback shows the line that is wrong.

Numbers are converted as in sqlite3. https://docs.python.org/3/library/sqlite3.html#sqlite3.connect
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from math import ldexp
from operator import index
from types import GetSetDescriptorType
from typing import Any

_MOST_STATEMENTS = 1 << 20
# Releases of Python 3.13 and 3.14 from late 2025 on treat 0 rows as none and reject fewer; earlier ones return all rows
# for both. The newer ones have a setter for the attribute. https://github.com/python/cpython/issues/139283
ZERO_ROWS_ARE_NONE = isinstance(vars(sqlite3.Cursor)["arraysize"], GetSetDescriptorType)
_MOST_ROWS = (1 << 32 if ZERO_ROWS_ARE_NONE else 1 << 31) - 1


def checked_seconds(value: float) -> float:
    """Return a timeout as a float; a negative one is like 0. TypeError for anything but a real number."""
    return max(ldexp(value, 0), 0.0)


def checked_cache_size(value: int) -> int:
    """Return how many statements to keep, none if negative; TypeError for anything but an integer."""
    return min(max(index(value), 0), _MOST_STATEMENTS)


def checked_chunk_size(value: int) -> int:
    """Return a number of rows; TypeError for anything but an integer, ValueError if it is not positive."""
    size = index(value)
    if size < 1:
        raise ValueError(f"iter_chunk_size must be at least 1, not {size}")
    return size


def checked_row_count(value: int) -> int:
    """Return how many rows to fetch at once; TypeError, ValueError or OverflowError as in the running sqlite3."""
    count = index(value)
    if count < 0 and ZERO_ROWS_ARE_NONE:
        raise ValueError(f"the number of rows must not be negative, not {count}")
    if count > _MOST_ROWS:
        raise OverflowError(f"the number of rows must be at most {_MOST_ROWS}")
    return count


def checked_callable(name: str, value: Any) -> Any:
    """Return a function; TypeError if it is not callable."""
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
