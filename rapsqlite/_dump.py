"""A database as SQL text that makes it again, statement by statement.

The order is that of SQLite's own shell: tables with their rows, then what is built over them. A virtual table is
stored in ordinary ("shadow") tables, which are dumped as such; its own entry goes straight into the schema table,
because its CREATE statement would make the shadow tables a second time.

https://sqlite.org/cli.html#converting_an_entire_database_to_a_text_file
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rapsqlite.connection import Connection

_SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid"
_VIRTUAL_ENTRY = (
    "SELECT format('INSERT INTO sqlite_schema(type,name,tbl_name,rootpage,sql) VALUES(%Q,%Q,%Q,0,%Q);', ?, ?, ?, ?)"
)


async def dump(conn: Connection) -> AsyncIterator[str]:
    """Yield the statements, each with its semicolon, from one snapshot of the database.

    Run it outside a transaction: it begins one of its own, so that no other connection's commit tears the dump.
    """
    await conn.execute("BEGIN")
    try:
        entries = await conn.execute_fetchall(_SCHEMA)
        yield "PRAGMA foreign_keys=OFF;"
        yield "BEGIN TRANSACTION;"
        async for statement in _tables(conn, [entry for entry in entries if entry[0] == "table"]):
            yield statement
        for kind, _, _, sql in entries:
            if kind != "table":
                yield f"{sql};"
        yield "COMMIT;"
    finally:
        await conn.rollback()


async def _tables(conn: Connection, entries: list[tuple[str, str, str, str]]) -> AsyncIterator[str]:
    """Yield what makes the tables and fills them."""
    has_virtual = False
    for kind, name, table, sql in entries:
        if sql.upper().startswith("CREATE VIRTUAL TABLE"):
            if not has_virtual:
                has_virtual = True
                yield "PRAGMA writable_schema=ON;"
            yield await conn.fetch_scalar(_VIRTUAL_ENTRY, (kind, name, table, sql))
            continue
        if name == "sqlite_sequence":
            yield "DELETE FROM sqlite_sequence;"
        elif name.startswith("sqlite_stat"):
            yield "ANALYZE sqlite_schema;"
            yield f"DELETE FROM {name};"
        elif not name.startswith("sqlite_"):
            yield f"{sql};"
        else:
            continue
        async for statement in _rows(conn, name):
            yield statement
    if has_virtual:
        yield "PRAGMA writable_schema=OFF;"


async def _rows(conn: Connection, table: str) -> AsyncIterator[str]:
    """Yield an INSERT for each row. SQLite itself quotes the values, so every one survives exactly."""
    # Columns that are computed (hidden 2 and 3) cannot be inserted into.
    columns = await conn.execute_fetchall(
        "SELECT name FROM pragma_table_xinfo(?) WHERE hidden = 0 ORDER BY cid", (table,)
    )
    names = ",".join(quoted(name) for (name,) in columns)
    values = " || ',' || ".join(f"quote({quoted(name)})" for (name,) in columns)
    heading = f"INSERT INTO {quoted(table)}({names}) VALUES("
    async for chunk in conn.execute_iter(f"SELECT {values} FROM {quoted(table)}", chunk_size=256):
        for (row,) in chunk:
            yield f"{heading}{row});"


def quoted(name: str) -> str:
    """Return a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
