"""Schema introspection, compared with SQLite's PRAGMAs as run by Python's sqlite3."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from rapsqlite import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SCRIPT = '''
    CREATE TABLE parent (a INTEGER, b TEXT, PRIMARY KEY (a, b));
    CREATE TABLE child (id INTEGER PRIMARY KEY AUTOINCREMENT, pa INTEGER NOT NULL, pb TEXT DEFAULT 'x',
        other REFERENCES plain, UNIQUE (pa, pb),
        FOREIGN KEY (pa, pb) REFERENCES parent (a, b) ON DELETE CASCADE ON UPDATE SET NULL);
    CREATE TABLE plain (x BLOB);
    CREATE TABLE generated (a INTEGER, b INTEGER AS (a * 2), c INTEGER AS (a + 1) STORED) STRICT;
    CREATE TABLE keyed (k TEXT PRIMARY KEY, v) WITHOUT ROWID;
    CREATE INDEX partial ON plain (x) WHERE x > 0;
    CREATE UNIQUE INDEX expression ON plain (abs(x), x DESC);
    CREATE VIEW look AS SELECT a, b FROM parent;
    CREATE TABLE "odd ""name"" it's; --" ("a ""b""" TEXT UNIQUE);
    CREATE INDEX "odd ""index"" 'i'" ON "odd ""name"" it's; --" ("a ""b""");
    CREATE VIRTUAL TABLE docs USING {fts};
'''
STRICT_LESS = ") STRICT;"
TABLES = ["parent", "child", "plain", "generated", "keyed", "look", 'odd "name" it\'s; --', "CHILD"]
INDEXES = ["partial", "expression", "odd \"index\" 'i'", "sqlite_autoindex_child_1", "sqlite_autoindex_keyed_1"]


@pytest.fixture
def script() -> str:
    text = SCRIPT.replace("{fts}", "rtree(id, low, high)")
    # Python's SQLite may be too old for STRICT, which no PRAGMA below shows.
    return text if sqlite3.sqlite_version_info >= (3, 37) else text.replace(STRICT_LESS, ");")


@pytest.fixture
async def conn(script: str) -> AsyncIterator[rapsqlite.Connection]:
    async with connect(":memory:", row_factory=rapsqlite.Row, text_factory=bytes) as connection:
        await connection.executescript(script)
        yield connection


def pragma(script: str, name: str, argument: str) -> list[dict[str, Any]]:
    """Return the rows of a PRAGMA as dicts, from Python's sqlite3."""
    native = sqlite3.connect(":memory:")
    try:
        native.executescript(script)
        cursor = native.execute('PRAGMA {}("{}")'.format(name, argument.replace('"', '""')))
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]
    finally:
        native.close()


@pytest.mark.parametrize("table", [*TABLES, "docs"])
@pytest.mark.parametrize(
    "method, name",
    [
        ("get_table_info", "table_info"),
        ("get_table_xinfo", "table_xinfo"),
        ("get_index_list", "index_list"),
        ("get_foreign_keys", "foreign_key_list"),
    ],
)
async def test_tables_are_described_as_by_the_pragma(
    conn: rapsqlite.Connection, script: str, method: str, name: str, table: str
) -> None:
    assert await getattr(conn, method)(table) == pragma(script, name, table)


@pytest.mark.parametrize("index", INDEXES)
async def test_indexes_are_described_as_by_the_pragma(conn: rapsqlite.Connection, script: str, index: str) -> None:
    assert await conn.get_index_info(index) == pragma(script, "index_info", index)


async def test_tables_and_views_are_listed(conn: rapsqlite.Connection, script: str) -> None:
    native = sqlite3.connect(":memory:")
    native.executescript(script)
    sql = "SELECT name FROM sqlite_master WHERE type = ? AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"

    assert await conn.get_tables() == [name for (name,) in native.execute(sql, ("table",))]
    assert await conn.get_views() == [name for (name,) in native.execute(sql, ("view",))]
    native.close()
    assert await conn.get_tables("Child") == ["child"]
    assert await conn.get_tables("look") == []
    assert await conn.get_views("look") == ["look"]
    assert await conn.get_tables('odd "name" it\'s; --') == ['odd "name" it\'s; --']


async def test_indexes_are_listed_with_their_sql(conn: rapsqlite.Connection, script: str) -> None:
    native = sqlite3.connect(":memory:")
    native.executescript(script)
    rows = native.execute(
        "SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'index' ORDER BY rowid"
    ).fetchall()
    native.close()

    indexes = await conn.get_indexes()

    assert [(index["name"], index["table"], index["sql"]) for index in indexes] == rows
    assert {index["name"] for index in indexes if not index["unique"]} == {"partial", "odd \"index\" 'i'"}
    assert await conn.get_indexes("PLAIN") == [index for index in indexes if index["table"] == "plain"]
    assert await conn.get_indexes("parent") == [index for index in indexes if index["table"] == "parent"]


async def test_schema_of_one_table_and_of_all(conn: rapsqlite.Connection) -> None:
    assert await conn.get_schema() == {"tables": await conn.get_tables()}
    assert await conn.get_schema("child") == {
        "table_name": "child",
        "columns": await conn.get_table_info("child"),
        "indexes": await conn.get_indexes("child"),
        "foreign_keys": await conn.get_foreign_keys("child"),
    }


@pytest.mark.parametrize(
    "method",
    [
        "get_table_info",
        "get_table_xinfo",
        "get_indexes",
        "get_index_list",
        "get_index_info",
        "get_foreign_keys",
        "get_schema",
    ],
)
@pytest.mark.parametrize("name", ["missing", "x'); DROP TABLE plain; --", '"', ""])
async def test_unknown_names_are_operational_errors(conn: rapsqlite.Connection, method: str, name: str) -> None:
    with pytest.raises(rapsqlite.OperationalError, match=r"no such (table|index)") as caught:
        await getattr(conn, method)(name)

    assert caught.value.sqlite_errorname == "SQLITE_ERROR"
    assert await conn.get_tables("plain") == ["plain"]


async def test_schema_argument_selects_the_database(conn: rapsqlite.Connection) -> None:
    """Each method reads the schema of the database named by ``schema=``, however it must be quoted."""
    await conn.execute('''ATTACH ':memory:' AS "at ""t"""''')
    await conn.executescript('''CREATE TABLE "at ""t""".plain (only TEXT); CREATE INDEX "at ""t""".i ON plain (only);
        CREATE TEMP TABLE passing (p); CREATE VIEW "at ""t""".v AS SELECT 1 AS one''')
    name = 'at "t"'

    assert await conn.get_tables(schema=name) == ["plain"]
    assert await conn.get_views(schema=name) == ["v"]
    assert [column["name"] for column in await conn.get_table_info("plain", schema=name)] == ["only"]
    assert [column["name"] for column in await conn.get_table_info("plain")] == ["x"]
    assert [index["name"] for index in await conn.get_indexes("plain", schema=name)] == ["i"]
    assert [column["name"] for column in await conn.get_index_info("i", schema=name)] == ["only"]
    assert await conn.get_tables(schema="temp") == ["passing"]
    assert await conn.get_table_info("passing") == await conn.get_table_info("passing", schema="temp")
    with pytest.raises(rapsqlite.OperationalError):
        await conn.get_table_info("plain", schema="temp")
    with pytest.raises(rapsqlite.OperationalError):
        await conn.get_tables(schema="nowhere")


async def test_columns_and_indexes_come_from_the_same_database(conn: rapsqlite.Connection) -> None:
    """The columns used to come from the table that SQL finds, and the indexes from the main database: two different
    tables.
    """
    await conn.executescript("""ATTACH ':memory:' AS beside; CREATE TABLE beside.far (f UNIQUE REFERENCES plain);
        CREATE INDEX beside.of_far ON far (f);
        CREATE TABLE beside.plain (never); CREATE INDEX beside.n ON plain (never);
        CREATE TEMP TABLE plain (passing); CREATE INDEX temp.of_passing ON plain (passing)""")

    async def indexed(name: str, schema: str | None = None) -> list[str]:
        whole = await conn.get_schema(name, schema=schema)
        assert whole["indexes"] == await conn.get_indexes(name, schema=schema)
        names = sorted(index["name"] for index in whole["indexes"])
        assert names == sorted(index["name"] for index in await conn.get_index_list(name, schema=schema))
        return names

    assert await indexed("Plain") == ["of_passing"]
    assert await indexed("plain", "main") == ["expression", "partial"]
    assert await indexed("plain", "beside") == ["n"]
    assert await indexed("far") == ["of_far", "sqlite_autoindex_far_1"]
    assert [index["name"] for index in await conn.get_indexes("child")] == ["sqlite_autoindex_child_1"]


@pytest.mark.parametrize(
    "method", ["get_table_info", "get_indexes", "get_index_info", "get_foreign_keys", "get_schema"]
)
async def test_name_with_a_nul_character_is_not_truncated(conn: rapsqlite.Connection, method: str) -> None:
    """SQLite's own pragma functions read names as C strings, which end there."""
    known = "partial" if method == "get_index_info" else "child"
    assert await getattr(conn, method)(known)

    with pytest.raises(rapsqlite.OperationalError, match="no such"):
        await getattr(conn, method)(f"{known}\0x")
    for arguments in ((known,), () if method in ("get_indexes", "get_schema") else (known,)):
        with pytest.raises(rapsqlite.OperationalError, match="no such"):
            await getattr(conn, method)(*arguments, schema="main\0x")
    assert await conn.get_tables(f"{known}\0x") == []
    for wrong in (5, b"plain", [known]):
        with pytest.raises(TypeError, match="must be str"):
            await getattr(conn, method)(wrong)
        with pytest.raises(TypeError, match="must be str"):
            await conn.get_tables(wrong)  # type: ignore[arg-type]


async def test_overridden_functions_do_not_affect_introspection(conn: rapsqlite.Connection) -> None:
    """Built-in functions can be overridden; introspection uses none."""
    await conn.executescript("CREATE TABLE counted (n INTEGER PRIMARY KEY AUTOINCREMENT)")
    tables = await conn.get_tables()
    before = [await conn.get_indexes(), await conn.get_schema("child")]
    for name, count in (("substr", 3), ("substr", 2), ("lower", 1), ("upper", 1), ("like", 2), ("glob", 2)):
        await conn.create_function(name, count, lambda *_: 1 / 0)

    assert await conn.get_tables() == tables
    assert "sqlite_sequence" not in tables
    assert [await conn.get_indexes(), await conn.get_schema("child")] == before


@pytest.mark.parametrize("schema", ["", "nowhere", "main.x", "'main'"])
async def test_unknown_database_is_an_operational_error(conn: rapsqlite.Connection, schema: str) -> None:
    for call in (conn.get_tables, conn.get_views, conn.get_indexes, conn.get_schema):
        for arguments in ((), ("plain",)):
            with pytest.raises(rapsqlite.OperationalError, match=r"unknown database|no such table: .*sqlite_schema"):
                await call(*arguments, schema=schema)
    for one in (conn.get_table_info, conn.get_table_xinfo, conn.get_index_list, conn.get_foreign_keys):
        with pytest.raises(rapsqlite.OperationalError, match="unknown database"):
            await one("plain", schema=schema)


async def test_full_text_tables_are_listed_with_their_columns() -> None:
    """Virtual tables are listed with their columns, the hidden ones in ``get_table_xinfo`` alone."""
    async with connect(":memory:") as conn:
        await conn.execute("CREATE VIRTUAL TABLE notes USING fts5(title, body)")

        assert "notes" in await conn.get_tables()
        assert [column["name"] for column in await conn.get_table_info("notes")] == ["title", "body"]
        hidden = [column["name"] for column in await conn.get_table_xinfo("notes") if column["hidden"] == 1]
        assert hidden == ["notes", "rank"]


async def test_adapters_do_not_change_names(conn: rapsqlite.Connection) -> None:
    class Name(str):
        __slots__ = ()

    tables = await conn.get_tables()
    conn.register_adapter(str, str.upper)
    conn.register_adapter(Name, lambda _: "adapted")

    assert await conn.get_tables() == tables
    assert await conn.get_table_info(Name("parent")) == await conn.get_table_info("parent") != []
