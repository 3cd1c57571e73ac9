"""PRAGMA statements from names and values, which are checked, because PRAGMAs take no parameters.

https://sqlite.org/pragma.html
"""

from __future__ import annotations

import math
import re

from rapsqlite.errors import OperationalError

PRAGMAS = frozenset(
    """
    analysis_limit application_id auto_vacuum automatic_index busy_timeout cache_size cache_spill
    case_sensitive_like cell_size_check checkpoint_fullfsync collation_list compile_options count_changes
    data_version database_list default_cache_size defer_foreign_keys empty_result_callbacks encoding
    foreign_key_check foreign_key_list foreign_keys freelist_count full_column_names fullfsync function_list
    hard_heap_limit ignore_check_constraints incremental_vacuum index_info index_list index_xinfo integrity_check
    journal_mode journal_size_limit legacy_alter_table locking_mode max_page_count mmap_size module_list optimize
    page_count page_size pragma_list query_only quick_check read_uncommitted recursive_triggers
    reverse_unordered_selects schema_version secure_delete short_column_names shrink_memory soft_heap_limit
    synchronous table_info table_list table_xinfo temp_store temp_store_directory threads trusted_schema
    user_version wal_autocheckpoint wal_checkpoint writable_schema
    """.split()
)
"""The pragmas that the engine knows, as listed by ``PRAGMA pragma_list``; a test compares the two."""

_NAME = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]*\.)?[A-Za-z_][A-Za-z0-9_]*")
_WORD = re.compile(r"[A-Za-z0-9_.+-]+")


def pragma_statement(name: str, value: float | str | bool) -> str:
    """Return ``PRAGMA name=value``.

    ``name`` may have a schema name and a dot as prefix. ``value`` is a number, a bool (1 or 0), or a word of letters,
    digits and ``_.+-``. Raises ValueError for anything of another form, TypeError for another type, and
    OperationalError for a pragma that SQLite does not know and would silently ignore.
    """
    if not isinstance(name, str):
        raise TypeError(f"a pragma name must be str, not {type(name).__name__}")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a valid pragma name")
    literal = _literal(name, value)
    if not _is_known(name):
        raise OperationalError(f"no such pragma: {name}")
    return f"PRAGMA {name}={literal}"


def _is_known(name: str) -> bool:
    """Return True if SQLite has a pragma of this name, which may have a schema name and a dot as prefix.

    Asking SQLite would need a statement, which the user's functions, factories and authorizer could affect.
    """
    return name.rpartition(".")[2].lower() in PRAGMAS


def _literal(name: str, value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return repr(value)
    if isinstance(value, str):
        if not _WORD.fullmatch(value):
            raise ValueError(f"the value of the pragma {name} must be a plain word or a number")
        return f"'{value}'"
    if isinstance(value, float):
        raise ValueError(f"the value of the pragma {name} must be finite")  # noqa: TRY004 - the type is fine
    raise TypeError(f"the value of the pragma {name} must be a number or str, not {type(value).__name__}")
