"""``iterdump()``: a database as the SQL text that recreates it, as the running Python's sqlite3 writes it.

It also dumps what sqlite3 cannot, such as a table with a quote in its name. Rows are streamed in batches, so memory use
is bounded. https://docs.python.org/3/library/sqlite3.html#sqlite3.Connection.iterdump

sqlite3 writes the rows of a virtual table twice, for the table itself and for the ordinary tables that store them, and
running the text fails at the former. For a temporary table with the name of another table, it writes the temporary
table's rows for both. A *restorable* dump does neither.
"""

from __future__ import annotations

import sqlite3
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from rapsqlite import _fetching as fetching
from rapsqlite._identifiers import quoted
from rapsqlite.errors import interrupted
from rapsqlite.stream import ChunkStream

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from rapsqlite._client.state import RowDecoder
    from rapsqlite.connection import Connection

_KNOWS_VIRTUAL_TABLES = sys.version_info >= (3, 11, 6)
_CHECKS_FOREIGN_KEYS = sys.version_info >= (3, 13)

_ROWS_AT_ONCE = 512

_TABLES = """SELECT "name", "sql" FROM "sqlite_master"
    WHERE "sql" NOT NULL AND "type" == 'table' {} ORDER BY "name\""""
_OTHERS = """SELECT "sql" FROM "sqlite_master"
    WHERE "sql" NOT NULL AND "type" IN ('index', 'trigger', 'view') {}"""
# SQLite limits the depth of expressions, by default to 1000, so this many columns are grouped into one operand.
_COLUMNS_AT_ONCE = 100
_COLUMNS = "SELECT name FROM pragma_table_info(?, ?)"


class _Query(NamedTuple):
    """Rows that the script needs. With ``is_text`` each row is a line of the dump, and there may be many."""

    sql: str
    parameters: tuple[str | None, ...] = ()
    is_text: bool = False


class Dump:
    """The lines of a dump as an async iterator; awaiting it returns them as a list. Made by ``iterdump()``."""

    __slots__ = ("_chunks", "_connection", "_decoder", "_has_failed", "_lines", "_steps")

    def __init__(self, connection: Connection, filter: str | None, restorable: bool) -> None:
        self._connection = connection
        self._steps = _script(filter, restorable)
        self._decoder: RowDecoder = fetching.plain_decoder(connection._state, "list")
        self._chunks: ChunkStream | None = None
        self._lines: Iterator[str] = iter(())
        self._has_failed = False  # then the rest of the script would lack what was being read

    def __aiter__(self) -> Dump:
        return self

    async def __anext__(self) -> str:
        for line in self._lines:
            return line
        if self._has_failed:
            raise interrupted("interrupted: a dump that has failed is not complete; begin it again")
        try:
            self._lines = iter(await self._more())
        except StopAsyncIteration:
            raise
        except BaseException:
            self._has_failed = True
            raise
        return next(self._lines)

    async def _more(self) -> list[str]:
        """Return the next lines, at least one."""
        rows: list[Any] | None = None
        while True:
            if self._chunks is not None:
                async for chunk in self._chunks:
                    return [row[0] for row in chunk]
                self._chunks = None
            try:
                step = self._steps.send(rows)
            except StopIteration:
                raise StopAsyncIteration from None
            if isinstance(step, str):
                return [step]
            rows = await self._answer(step)

    async def _answer(self, query: _Query) -> list[Any] | None:
        sql = query.sql.encode()
        if query.is_text:
            self._chunks = ChunkStream(self._connection, sql, query.parameters, self._decoder, _ROWS_AT_ONCE)
            return None
        return await fetching.fetch_rows(self._connection, sql, 0, query.parameters, self._decoder)

    def __await__(self) -> Generator[Any, Any, list[str]]:
        return self._all().__await__()

    async def _all(self) -> list[str]:
        return [line async for line in self]

    async def aclose(self) -> None:
        """End the dump; no further lines are returned."""
        self._steps.close()
        self._lines = iter(())
        self._has_failed = False
        chunks, self._chunks = self._chunks, None
        if chunks is not None:
            await chunks.aclose()


def _script(pattern: str | None, restorable: bool) -> Generator[str | _Query, list[Any] | None, None]:
    """Yield lines and queries; a query without ``is_text`` is answered with its rows."""
    clause, parameters = ('AND "name" LIKE ?', (pattern,)) if pattern else ("", ())
    if restorable or (_CHECKS_FOREIGN_KEYS and (yield _Query("PRAGMA foreign_key_check"))):
        yield "PRAGMA foreign_keys=OFF;"
    yield "BEGIN TRANSACTION;"
    sequences: list[Any] | None = None
    writes_schema = False
    encoding = (yield _Query("PRAGMA encoding")) or ()
    is_utf8 = [*encoding] == [["UTF-8"]]
    prefix = '"main".' if restorable else ""
    for name, sql in (yield _Query(_TABLES.format(clause), parameters)) or ():
        if name == "sqlite_sequence":
            sequences = yield _Query(f'SELECT quote("name"), quote("seq") FROM {prefix}"sqlite_sequence"')
            continue
        if name == "sqlite_stat1":
            yield 'ANALYZE "sqlite_master";'
        elif name.startswith("sqlite_"):
            continue
        elif (restorable or _KNOWS_VIRTUAL_TABLES) and sql.startswith("CREATE VIRTUAL TABLE"):
            if not writes_schema:
                writes_schema = True
                yield "PRAGMA writable_schema=ON;"
            yield _virtual_table(name, sql)
            if restorable:
                continue
        else:
            yield _ended(sql)
        columns = yield _Query(_COLUMNS, (name, "main" if restorable else None))
        values = [_value(quoted(column), is_utf8) for (column,) in columns or ()]
        yield _Query(_inserts(name, prefix, values), is_text=True)
    for (sql,) in (yield _Query(_OTHERS.format(clause), parameters)) or ():
        yield _ended(sql)
    if writes_schema:
        # RESET makes SQLite read the schema again, so the virtual tables are available once the text has run.
        yield f"PRAGMA writable_schema={'RESET' if restorable else 'OFF'};"
    if sequences is not None:
        yield 'DELETE FROM "sqlite_sequence";'
        for name, value in sequences:
            yield f'INSERT INTO "sqlite_sequence" VALUES({name},{value});'
    yield "COMMIT;"


def _virtual_table(name: str, sql: str) -> str:
    values = f"'table',{_text(name)},{_text(name)},0,{_text(sql)}"
    return f"INSERT INTO sqlite_master(type,name,tbl_name,rootpage,sql)VALUES({values});"


def _inserts(table: str, prefix: str, values: list[str]) -> str:
    """Return the query whose rows are the INSERT statements of a table; ``prefix`` is the database's prefix."""
    start = _text(f"INSERT INTO {quoted(table)} VALUES(")
    groups = [values[first : first + _COLUMNS_AT_ONCE] for first in range(0, len(values), _COLUMNS_AT_ONCE)]
    line = "||','||".join(f"({each})" for each in map("||','||".join, groups))
    return f"SELECT {start}||{line}||');' FROM {prefix}{quoted(table)}"


def _value(column: str, is_utf8: bool) -> str:
    """Return the expression for a column's value as SQL. For text with a NUL, ``quote`` stops at the NUL.

    In a UTF-16 database this is not done: the bytes would differ in the database that the dump creates.
    """
    if not is_utf8:
        return f"quote({column})"
    whole = f"'CAST('||quote(CAST({column} AS BLOB))||' AS TEXT)'"
    has_nul = f"typeof({column}) IS 'text' AND instr({column}, char(0))"
    return f"CASE WHEN {has_nul} THEN {whole} ELSE quote({column}) END"


def _ended(sql: str) -> str:
    """Return a statement with its semicolon, placed after a trailing comment."""
    for end in (";", "\n;"):
        if sqlite3.complete_statement(sql + end):
            return sql + end
    return f"{sql}*/;"


def _text(value: str) -> str:
    return "'{}'".format(value.replace("'", "''"))
