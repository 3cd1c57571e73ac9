"""Names of tables, columns, databases and savepoints, as SQL has them.

https://sqlite.org/lang_keywords.html
"""

from __future__ import annotations


def quoted(name: str) -> str:
    """Return the name as it stands in a statement: any name will do but one with a NUL."""
    return '"{}"'.format(name.replace('"', '""'))


def is_same(name: str, other: str) -> bool:
    """Compare two names as SQL does: letters of ASCII without regard to their case, and those alone."""
    return name.encode().lower() == other.encode().lower()  # of bytes, lower() knows no other letters
