"""The schema of a database as Python values: tables, views, columns, indexes, foreign keys.

Names are bound as parameters of SQLite's table-valued pragma functions, so any name works. Rows are dicts whatever
``row_factory`` is. https://sqlite.org/pragma.html#pragfunc
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rapsqlite import _constants as abi
from rapsqlite import _fetching as fetching
from rapsqlite._identifiers import is_same, quoted
from rapsqlite.errors import OperationalError

if TYPE_CHECKING:
    from rapsqlite._client.state import ConnectionState

# Users can override SQLite's functions and collations, so these queries call no functions and compare no text, only
# numbers and blobs.
_NAMES = "SELECT name FROM {}.sqlite_schema WHERE CAST(type AS BLOB) = CAST(? AS BLOB)"
_INDEXES = """SELECT i.name, i.tbl_name AS "table", l."unique", i.sql
    FROM {}.sqlite_schema AS i, pragma_index_list(CASE WHEN ?1 IS NULL THEN i.tbl_name ELSE ?1 END, ?2) AS l
    WHERE i.rootpage > 0 AND CAST(l.name AS BLOB) = CAST(i.name AS BLOB) ORDER BY i.rowid"""
_TABLE_INFO = 'SELECT cid, name, type, "notnull", dflt_value, pk FROM pragma_table_info(?, ?)'
_TABLE_XINFO = 'SELECT cid, name, type, "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(?, ?)'
_INDEX_LIST = 'SELECT seq, name, "unique", origin, partial FROM pragma_index_list(?, ?)'
_INDEX_INFO = "SELECT seqno, cid, name FROM pragma_index_info(?, ?)"
_DATABASES = "SELECT name FROM pragma_database_list ORDER BY seq <> 1, seq"  # the order in which SQL looks up a table
_FOREIGN_KEYS = """SELECT id, seq, "table", "from", "to", on_update, on_delete, "match"
    FROM pragma_foreign_key_list(?, ?)"""


class Schema:
    """Schema introspection: methods of `Connection`.

    ``schema`` is "main", "temp" or the name of an attached database. Without it, a table is looked up in all of them,
    as in SQL, and lists cover "main". Raises OperationalError for an unknown table, view, index or database. As in SQL,
    names are compared ignoring the case of ASCII letters.
    """

    _state: ConnectionState

    async def get_tables(self, name: str | None = None, *, schema: str | None = None) -> list[str]:
        """Return the names of the tables, or only ``name``. Includes virtual tables, excludes SQLite's own."""
        return await self._names("table", name, schema)

    async def get_views(self, name: str | None = None, *, schema: str | None = None) -> list[str]:
        """Return the names of the views, or only ``name``."""
        return await self._names("view", name, schema)

    async def get_table_info(self, table_name: str, *, schema: str | None = None) -> list[dict[str, Any]]:
        """Return the columns of a table or view: cid, name, type, notnull, dflt_value, pk.

        `get_table_xinfo` also returns generated and hidden columns.
        """
        return await self._about_table(_TABLE_INFO, table_name, schema)

    async def get_table_xinfo(self, table_name: str, *, schema: str | None = None) -> list[dict[str, Any]]:
        """Return all columns: as `get_table_info`, plus hidden: 0 no, 1 yes, 2 generated, 3 generated and stored."""
        return await self._about_table(_TABLE_XINFO, table_name, schema)

    async def get_indexes(self, table_name: str | None = None, *, schema: str | None = None) -> list[dict[str, Any]]:
        """Return the indexes of all tables or of one: name, table, unique, sql (None for automatic indexes)."""
        if table_name is not None:
            schema = await self._database_of(table_name, schema)
        database = "main" if schema is None else schema
        return await self._dicts(_INDEXES.format(_database(schema)), table_name, database)

    async def get_index_list(self, table_name: str, *, schema: str | None = None) -> list[dict[str, Any]]:
        """Return the indexes of a table: seq, name, unique, origin (c, u or pk: CREATE INDEX, UNIQUE, key), partial."""
        return await self._about_table(_INDEX_LIST, table_name, schema)

    async def get_index_info(self, index_name: str, *, schema: str | None = None) -> list[dict[str, Any]]:
        """Return the columns of an index: seqno, cid, name (None for an expression or the row id)."""
        rows = await self._about(_INDEX_INFO, index_name, schema)
        if not rows:
            raise _absent("index", index_name)
        return rows

    async def get_foreign_keys(self, table_name: str, *, schema: str | None = None) -> list[dict[str, Any]]:
        """Return the foreign keys of a table by column: id, seq, table, from, to, on_update, on_delete, match."""
        return await self._about_table(_FOREIGN_KEYS, table_name, schema)

    async def get_schema(self, table_name: str | None = None, *, schema: str | None = None) -> dict[str, Any]:
        """Return ``{"tables": [...]}``; for one table its table_name, columns, indexes, foreign_keys."""
        if table_name is None:
            return {"tables": await self.get_tables(schema=schema)}
        schema = await self._database_of(table_name, schema)
        return {
            "table_name": table_name,
            "columns": await self.get_table_info(table_name, schema=schema),
            "indexes": await self.get_indexes(table_name, schema=schema),
            "foreign_keys": await self.get_foreign_keys(table_name, schema=schema),
        }

    # -- queries -----------------------------------------------------------------------------------

    async def _dicts(self, sql: str, *parameters: str | None) -> list[dict[str, Any]]:
        plain = tuple(None if each is None else str.__str__(each) for each in parameters)  # not of a subclass
        return await fetching.fetch_own_dicts(self._state, sql.encode(), plain)

    async def _names(self, kind: str, name: str | None, schema: str | None) -> list[str]:
        _require_names(name)
        rows = await self._dicts(_NAMES.format(_database(schema)), kind)
        names = sorted(row["name"] for row in rows if not row["name"].startswith("sqlite_"))
        return names if name is None else [each for each in names if is_same(each, name)]

    async def _about(self, sql: str, name: str, schema: str | None) -> list[dict[str, Any]]:
        """Return the rows of a pragma function; none for a name with a NUL, which it would truncate."""
        _require_names(name, schema)
        return [] if "\0" in name + (schema or "") else await self._dicts(sql, name, schema)

    async def _about_table(self, sql: str, table: str, schema: str | None) -> list[dict[str, Any]]:
        rows = await self._about(sql, table, schema)
        # A table has at least one column, possibly hidden.
        if not rows and not await self._about(_TABLE_XINFO, table, schema):
            raise _absent("table", table)
        return rows

    async def _database_of(self, table: str, schema: str | None) -> str:
        """Return the name of the database in which SQL finds the table or view."""
        databases = [schema] if schema is not None else [row["name"] for row in await self._dicts(_DATABASES)]
        for database in databases:
            if await self._about(_TABLE_XINFO, table, database):
                return database
        raise _absent("table", table)


def _require_names(*names: object) -> None:
    for name in names:
        if name is not None and not isinstance(name, str):
            raise TypeError(f"a name must be str, not {type(name).__name__}")


def _database(schema: str | None) -> str:
    """Return the name of a database quoted for SQL, which cannot be a parameter."""
    name = "main" if schema is None else schema
    _require_names(name)
    if "\0" in name:
        raise _absent("database", name)
    return quoted(name)


def _absent(kind: str, name: str) -> OperationalError:
    error = OperationalError(f"no such {kind}: {name}")
    error.sqlite_errorcode = abi.SQLITE_ERROR
    error.sqlite_errorname = "SQLITE_ERROR"
    return error
