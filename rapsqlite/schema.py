"""What a database is made of, as Python values: tables, views, columns, indexes, foreign keys.

Names are bound as parameters of SQLite's table-valued pragma functions, so any name will do. Rows are dicts whatever
``row_factory`` says. https://sqlite.org/pragma.html#pragfunc
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from rapsqlite import _constants as abi
from rapsqlite import _fetching as fetching
from rapsqlite.errors import OperationalError

if TYPE_CHECKING:
    from rapsqlite._session import Session
    from rapsqlite.connection import Connection

_NAMES = """SELECT name FROM {}.sqlite_schema WHERE type = ?1 AND substr(name, 1, 7) <> 'sqlite_'
    AND (?2 IS NULL OR name = ?2 COLLATE NOCASE) ORDER BY name"""
_INDEXES = """SELECT i.name, i.tbl_name AS "table", l."unique", i.sql
    FROM {}.sqlite_schema AS i, pragma_index_list(i.tbl_name, ?2) AS l
    WHERE i.type = 'index' AND l.name = i.name AND (?1 IS NULL OR i.tbl_name = ?1 COLLATE NOCASE) ORDER BY i.rowid"""
_TABLE_INFO = 'SELECT cid, name, type, "notnull", dflt_value, pk FROM pragma_table_info(?, ?)'
_TABLE_XINFO = 'SELECT cid, name, type, "notnull", dflt_value, pk, hidden FROM pragma_table_xinfo(?, ?)'
_INDEX_LIST = 'SELECT seq, name, "unique", origin, partial FROM pragma_index_list(?, ?)'
_INDEX_INFO = "SELECT seqno, cid, name FROM pragma_index_info(?, ?)"
_FOREIGN_KEYS = """SELECT id, seq, "table", "from", "to", on_update, on_delete, "match"
    FROM pragma_foreign_key_list(?, ?)"""


class Schema:
    """What of `Connection` tells what the database is made of.

    ``schema`` is "main", "temp" or the name of an attached database; left out, SQLite looks for a table in all of them,
    and lists are of "main". OperationalError for a table, view or index that is not there. Names are compared as SQL
    does, without regard to the case of ASCII letters.
    """

    _session: Session

    async def get_tables(self, name: str | None = None, *, schema: str | None = None) -> list[str]:
        """Return the names of the tables, virtual ones included and SQLite's own left out; or of the one table."""
        return await self._names("table", name, schema)

    async def get_views(self, name: str | None = None, *, schema: str | None = None) -> list[str]:
        """Return the names of the views, or of the one view."""
        return await self._names("view", name, schema)

    async def get_table_info(self, table_name: str, *, schema: str | None = None) -> list[dict[str, Any]]:
        """Return the columns of a table or view: cid, name, type, notnull, dflt_value, pk.

        Generated and hidden columns are left out: `get_table_xinfo` has them.
        """
        return await self._about_table(_TABLE_INFO, table_name, schema)

    async def get_table_xinfo(self, table_name: str, *, schema: str | None = None) -> list[dict[str, Any]]:
        """Return all columns: as `get_table_info`, and hidden: 0 no, 1 yes, 2 generated, 3 generated and stored."""
        return await self._about_table(_TABLE_XINFO, table_name, schema)

    async def get_indexes(self, table_name: str | None = None, *, schema: str | None = None) -> list[dict[str, Any]]:
        """Return the indexes of all tables or of one: name, table, unique, sql (None if it came with the table)."""
        if table_name is not None:
            await self._require_table(table_name, schema)
        return await self._dicts(_INDEXES.format(_quoted(schema or "main")), table_name, schema or "main")

    async def get_index_list(self, table_name: str, *, schema: str | None = None) -> list[dict[str, Any]]:
        """Return the indexes of a table: seq, name, unique, origin (c, u or pk: CREATE INDEX, UNIQUE, key), partial."""
        return await self._about_table(_INDEX_LIST, table_name, schema)

    async def get_index_info(self, index_name: str, *, schema: str | None = None) -> list[dict[str, Any]]:
        """Return the columns of an index: seqno, cid, name (None for an expression or the row id)."""
        rows = await self._dicts(_INDEX_INFO, index_name, schema)
        if not rows:
            raise _absent("index", index_name)
        return rows

    async def get_foreign_keys(self, table_name: str, *, schema: str | None = None) -> list[dict[str, Any]]:
        """Return the foreign keys of a table, a row for each column.

        id, seq, table, from, to, on_update, on_delete, match.
        """
        return await self._about_table(_FOREIGN_KEYS, table_name, schema)

    async def get_schema(self, table_name: str | None = None, *, schema: str | None = None) -> dict[str, Any]:
        """Return ``{"tables": [...]}``; for one table its table_name, columns, indexes, foreign_keys."""
        if table_name is None:
            return {"tables": await self.get_tables(schema=schema)}
        return {
            "table_name": table_name,
            "columns": await self.get_table_info(table_name, schema=schema),
            "indexes": await self.get_indexes(table_name, schema=schema),
            "foreign_keys": await self.get_foreign_keys(table_name, schema=schema),
        }

    # -- questions ---------------------------------------------------------------------------------

    async def _dicts(self, sql: str, *parameters: str | None) -> list[dict[str, Any]]:
        plan = fetching.plain_plan(self._session, "dict")
        return await fetching.fetch_rows(cast("Connection", self), sql.encode(), 0, parameters, plan)

    async def _names(self, kind: str, name: str | None, schema: str | None) -> list[str]:
        rows = await self._dicts(_NAMES.format(_quoted(schema or "main")), kind, name)
        return [row["name"] for row in rows]

    async def _about_table(self, sql: str, table: str, schema: str | None) -> list[dict[str, Any]]:
        rows = await self._dicts(sql, table, schema)
        if not rows:
            await self._require_table(table, schema)
        return rows

    async def _require_table(self, table: str, schema: str | None) -> None:
        # A table has at least one column, a hidden one if need be.
        if not await self._dicts(_TABLE_XINFO, table, schema):
            raise _absent("table", table)


def _quoted(schema: str) -> str:
    """Return the name of a database as SQL has it: the one name that no function takes as a parameter."""
    return '"{}"'.format(schema.replace('"', '""'))


def _absent(kind: str, name: str) -> OperationalError:
    error = OperationalError(f"no such {kind}: {name}")
    error.sqlite_errorcode = abi.SQLITE_ERROR
    error.sqlite_errorname = "SQLITE_ERROR"
    return error
