"""PRAGMA statements from names and values. They take no parameters, so what goes into them is checked instead."""

from __future__ import annotations

import math
import re

_NAME = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]*\.)?[A-Za-z_][A-Za-z0-9_]*")
_WORD = re.compile(r"[A-Za-z0-9_.+-]+")


def pragma_statement(name: str, value: float | str | bool) -> str:
    """Return ``PRAGMA name=value``.

    ``name`` may begin with a schema's name and a dot. ``value`` is a number, a bool (1 or 0), or a word of letters,
    digits and ``_.+-``. Raises ValueError for anything that is not of this form, TypeError for another type.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a pragma is a str, not {type(name).__name__}")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a pragma")
    return f"PRAGMA {name}={_literal(name, value)}"


def _literal(name: str, value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return repr(value)
    if isinstance(value, str):
        if not _WORD.fullmatch(value):
            raise ValueError(f"the value of the pragma {name} is not a plain word or number")
        return f"'{value}'"
    if isinstance(value, float):
        raise ValueError(f"the value of the pragma {name} is not finite")  # noqa: TRY004 - the type is fine
    raise TypeError(f"the value of the pragma {name} is a number or str, not {type(value).__name__}")
