"""Names of tables, columns, databases and savepoints in SQL.

https://sqlite.org/lang_keywords.html
"""

from __future__ import annotations


def quoted(name: str) -> str:
    """Return the name quoted for use in a statement; any name works except one with a NUL."""
    return '"{}"'.format(name.replace('"', '""'))


def is_same(name: str, other: str) -> bool:
    """Compare two names as SQL does: ignoring the case of ASCII letters only."""
    return name.encode().lower() == other.encode().lower()  # on bytes, lower() changes only ASCII letters
