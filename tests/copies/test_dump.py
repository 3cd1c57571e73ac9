"""``iterdump()`` compared with the dump of Python's sqlite3, of the same schema and rows."""

from __future__ import annotations

import sqlite3
import sys

import anyio
import pytest

import rapsqlite

SCRIPTS = {
    "empty": "",
    "values": """CREATE TABLE t (i INTEGER PRIMARY KEY, r REAL, s TEXT, b BLOB, "odd ""name" ANY);
        INSERT INTO t VALUES (1, 0.1, 'it''s', x'00ff', NULL), (2, 1e300, 'line
feed', zeroblob(3), 7), (3, -0.0, '', NULL, 'ä€😀');""",
    "autoincrement": """CREATE TABLE a (id INTEGER PRIMARY KEY AUTOINCREMENT, v); CREATE TABLE b (id INTEGER PRIMARY KEY
        AUTOINCREMENT); INSERT INTO a(v) VALUES ('x'), ('y'); DELETE FROM a; INSERT INTO b DEFAULT VALUES;""",
    "objects": """CREATE TABLE t (a, b); CREATE TABLE log (a); CREATE INDEX i ON t (a) WHERE b > 0;
        CREATE UNIQUE INDEX e ON t (abs(a)); CREATE VIEW v AS SELECT a FROM t;
        CREATE TRIGGER g AFTER INSERT ON t BEGIN INSERT INTO log VALUES (new.a); END; INSERT INTO t VALUES (1, 2);""",
    "kinds of tables": """CREATE TABLE w (k TEXT PRIMARY KEY, v) WITHOUT ROWID; INSERT INTO w VALUES ('b', 1), ('a', 2);
        CREATE TABLE g (a INTEGER, b AS (a * 2), c AS (a + 1) STORED); INSERT INTO g VALUES (4);""",
    "odd names": 'CREATE TABLE "a ""quoted"" one" ("x ""y" INTEGER); INSERT INTO "a ""quoted"" one" VALUES (1);',
    "statistics": """CREATE TABLE t (a); CREATE INDEX i ON t (a); INSERT INTO t VALUES (1), (2), (2); ANALYZE;
        DROP TABLE IF EXISTS sqlite_stat4;""",
    "virtual": "CREATE VIRTUAL TABLE r USING rtree(id, low, high); INSERT INTO r VALUES (1, 2.0, 3.0);",
    "full text": "CREATE VIRTUAL TABLE w USING fts4(body); INSERT INTO w VALUES ('one fish');",
    "names that need quotes": """CREATE TABLE "select" ("from", "a,b", "it's", " ", [e f]);
        CREATE INDEX "i's" ON "select"
        ("it's"); INSERT INTO "select" VALUES (1, 2, 3, 4, 5); CREATE TABLE o (a /* ; */, b -- ; here
        ); CREATE VIEW "v ""w"" x" AS SELECT a AS "x;y" FROM o /* ; */; ALTER TABLE o RENAME COLUMN b TO "b c";
        CREATE TRIGGER "g;h" INSTEAD OF INSERT ON "v ""w"" x" BEGIN SELECT ';'; -- ; there
        END; INSERT INTO o VALUES ('a', 1);""",
    "tables of the connection alone": """CREATE TABLE t (a); INSERT INTO t VALUES (1); CREATE TEMP TABLE u (b);
        INSERT INTO u VALUES (2); ATTACH ':memory:' AS x; CREATE TABLE x.v (c); INSERT INTO x.v VALUES (3);""",
    "foreign keys": """CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE c (p REFERENCES p (id));
        INSERT INTO c VALUES (5);""",
}  # fmt: skip


def native_dump(script: str) -> list[str]:
    native = sqlite3.connect(":memory:")
    try:
        native.executescript(script)
        return list(native.iterdump())
    finally:
        native.close()


@pytest.mark.parametrize("name", sorted(SCRIPTS))
async def test_dump_is_the_same_as_sqlite3s(name: str) -> None:
    async with rapsqlite.connect(":memory:") as conn:
        await conn.executescript(SCRIPTS[name])

        lines = await conn.iterdump()

    # STAT4 keeps samples in a separate table, which not every SQLite has.
    lines = [line for line in lines if "sqlite_stat4" not in line]
    assert lines == [line for line in native_dump(SCRIPTS[name]) if "sqlite_stat4" not in line]


@pytest.mark.parametrize("name", sorted(set(SCRIPTS) - {"virtual", "full text", "statistics"}))
async def test_dump_can_be_restored(name: str) -> None:
    async with rapsqlite.connect(":memory:") as conn, rapsqlite.connect(":memory:") as copy:
        await conn.executescript(SCRIPTS[name])
        lines = await conn.iterdump()

        await copy.executescript("\n".join(lines))

        assert await copy.iterdump() == lines


# sqlite3's text for these cannot be run, or loses something.
BEYOND_SQLITE3 = {
    "comment without an end of line": "CREATE TABLE t (a); CREATE VIEW v AS SELECT a FROM t -- all; of it",
    "comment without an end": "CREATE TABLE t (a); CREATE VIEW v AS SELECT a FROM t /* all; of it",
    "trigger and index with comments": """CREATE TABLE t (a); CREATE INDEX i ON t (a) WHERE a -- not 0
        > 0; CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT 1; /* END; */ END -- here""",
    "text with a NUL": """CREATE TABLE t (a, "b ""c" TEXT COLLATE NOCASE); INSERT INTO t VALUES
        ('a' || char(0) || 'b''c', char(0)), (char(0) || 'ä€😀', x'0061'), ('', 'plain');""",
    "many columns": f"CREATE TABLE t ({', '.join(f'c{each}' for each in range(2000))});"
    f"INSERT INTO t VALUES ({', '.join(str(each) for each in range(2000))});",
}


@pytest.mark.parametrize("restorable", [False, True])
@pytest.mark.parametrize("name", BEYOND_SQLITE3)
async def test_dump_of_what_sqlite3_cannot_dump_is_restored_by_sqlite3(name: str, restorable: bool) -> None:
    stock = sqlite3.connect(":memory:")
    async with rapsqlite.connect(":memory:") as conn:
        await conn.executescript(BEYOND_SQLITE3[name])
        lines = await conn.iterdump(restorable=restorable)
        schema = await conn.execute_fetchall("SELECT type, name FROM sqlite_schema ORDER BY name")
        rows = await conn.execute_fetchall("SELECT * FROM t")

        stock.executescript("\n".join(lines))

        assert stock.execute("SELECT type, name FROM sqlite_master ORDER BY name").fetchall() == schema
        assert stock.execute("SELECT * FROM t").fetchall() == rows
        for kind, view in schema:
            if kind == "view":
                stock.execute(f"SELECT * FROM {view}")
    stock.close()


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le", "UTF-16be"])
async def test_text_is_dumped_in_every_encoding(encoding: str) -> None:
    stock = sqlite3.connect(":memory:")
    async with rapsqlite.connect(":memory:", pragmas={"encoding": encoding}) as conn:
        await conn.executescript("CREATE TABLE t (a); INSERT INTO t VALUES ('ä€😀'), ('it''s'), (''), (1), (x'00');")

        stock.executescript("\n".join(await conn.iterdump(restorable=True)))

        assert stock.execute("SELECT a FROM t").fetchall() == await conn.execute_fetchall("SELECT a FROM t")
    stock.close()


VIRTUAL = """CREATE VIRTUAL TABLE words USING fts5(body); INSERT INTO words VALUES ('one fish'), ('two fish');
    CREATE VIRTUAL TABLE old_words USING fts4(body); INSERT INTO old_words VALUES ('red fish'), ('blue fish');
    CREATE VIRTUAL TABLE r USING rtree(id, low, high); INSERT INTO r VALUES (1, 2.0, 3.0);
    CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE c (p REFERENCES p); INSERT INTO p VALUES (1);
    INSERT INTO c VALUES (1); CREATE TABLE a (id INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO a VALUES (41);"""


async def test_restorable_dump_recreates_virtual_tables_here_and_in_sqlite3() -> None:
    """The text of sqlite3 itself fails at the first row of a virtual table."""
    native = sqlite3.connect(":memory:")
    async with rapsqlite.connect(":memory:") as conn, rapsqlite.connect(":memory:") as copy:
        await conn.executescript(VIRTUAL)
        lines = await conn.iterdump(restorable=True)

        await copy.executescript("\n".join(lines))
        native.executescript("\n".join(lines))

        assert await copy.iterdump(restorable=True) == lines
        assert await copy.fetch_all("SELECT body FROM words WHERE words MATCH 'two'") == [["two fish"]]
        data = await copy.serialize()
        async with rapsqlite.connect(":memory:") as reopened:
            await reopened.deserialize(data)
            assert await reopened.fetch_all("SELECT body FROM words WHERE words MATCH 'two'") == [["two fish"]]
            assert await reopened.fetch_all("SELECT body FROM old_words WHERE body MATCH 'red'") == [["red fish"]]
            assert await reopened.fetch_all("SELECT id FROM r WHERE low > 1") == [[1]]
            assert await reopened.execute_insert("INSERT INTO a DEFAULT VALUES") == (42,)
    assert native.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    native.close()


async def test_restorable_dump_reads_the_main_database_despite_a_temporary_table_of_the_same_name() -> None:
    """sqlite3 then writes the temporary table's rows, because SQL finds it first."""
    script = """CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, a); INSERT INTO t VALUES (7, 'mine');
        CREATE TEMP TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO temp.t VALUES (1), (2);"""
    async with rapsqlite.connect(":memory:") as conn, rapsqlite.connect(":memory:") as copy:
        await conn.executescript(script)

        assert await conn.iterdump() == native_dump(script)
        await copy.executescript("\n".join(await conn.iterdump(restorable=True)))

        assert await copy.fetch_all("SELECT * FROM t") == [[7, "mine"]]
        assert await copy.fetch_all("SELECT * FROM sqlite_sequence") == [["t", 7]]


async def test_tampered_sequences_are_dumped_unchanged() -> None:
    """Anything can be written to sqlite_sequence; sqlite3 turns it into invalid SQL or an AttributeError."""
    async with rapsqlite.connect(":memory:") as conn, rapsqlite.connect(":memory:") as copy:
        await conn.executescript("""CREATE TABLE "o'd" (id INTEGER PRIMARY KEY AUTOINCREMENT);
            INSERT INTO "o'd" VALUES (5); INSERT INTO sqlite_sequence VALUES (NULL, NULL), ('t', 'it''s'), (1, 2.5)""")

        await copy.executescript("\n".join(await conn.iterdump()))

        sequences = "SELECT name, seq, typeof(seq) FROM sqlite_sequence"
        assert await copy.fetch_all(sequences) == await conn.fetch_all(sequences)


async def test_dump_fetches_rows_in_batches() -> None:
    """One request for hundreds of rows, not one for each: a dump is not slower than reading."""
    async with rapsqlite.connect(":memory:") as conn:
        await conn.execute("CREATE TABLE t (a)")
        await conn.executemany("INSERT INTO t VALUES (?)", ((n,) for n in range(20_000)))
        await conn.commit()
        before = (await conn.statistics())["batches"]

        assert len(await conn.iterdump()) == 20_003

        assert (await conn.statistics())["batches"] - before < 100


async def test_dump_of_a_name_with_a_quote_can_be_restored() -> None:
    """sqlite3 itself raises a syntax error here."""
    async with rapsqlite.connect(":memory:") as conn, rapsqlite.connect(":memory:") as copy:
        await conn.executescript("""CREATE TABLE "it's" (a); INSERT INTO "it's" VALUES (1)""")

        await copy.executescript("\n".join(await conn.iterdump()))

        assert await copy.fetch_all("""SELECT * FROM "it's" """) == [[1]]


@pytest.mark.skipif(sys.version_info < (3, 13), reason="sqlite3 has no filter before 3.13")
@pytest.mark.parametrize("pattern", ["t", "%o%", "nothing", "", None])
async def test_dump_filter_works_as_in_sqlite3(pattern: str | None) -> None:
    native = sqlite3.connect(":memory:")
    native.executescript(SCRIPTS["objects"])
    async with rapsqlite.connect(":memory:") as conn:
        await conn.executescript(SCRIPTS["objects"])

        assert await conn.iterdump(filter=pattern) == list(native.iterdump(filter=pattern))  # type: ignore[call-arg]
    native.close()


async def test_dump_streams_rows_whatever_the_factories() -> None:
    """A dump that is left early ends its statement: the table can be dropped immediately."""
    async with rapsqlite.connect(":memory:", row_factory="dict", text_factory=bytes) as conn:
        await conn.execute("CREATE TABLE t (a, b)")
        await conn.executemany("INSERT INTO t VALUES (?, ?)", ((n, "x" * 500) for n in range(5000)))
        await conn.commit()
        dump = conn.iterdump()

        first = [await dump.__anext__() for _ in range(4)]
        memory = (await conn.statistics())["memory_bytes"]
        rest = [line async for line in dump]

        assert first[2:] == [f"INSERT INTO \"t\" VALUES({n},'{'x' * 500}');" for n in range(2)]
        assert len(rest) == 4999
        assert (await conn.statistics())["memory_bytes"] - memory < 1 << 20

        dump = conn.iterdump()
        assert len([await dump.__anext__() for _ in range(3)]) == 3
        await dump.aclose()
        with pytest.raises(StopAsyncIteration):
            await dump.__anext__()
        await conn.execute("DROP TABLE t")


async def test_dump_of_a_closed_connection_raises() -> None:
    conn = await rapsqlite.connect(":memory:")
    await conn.close()

    with pytest.raises(rapsqlite.ProgrammingError):
        conn.iterdump()


async def test_dump_of_a_broken_view_reports_the_error_and_leaves_the_connection_usable() -> None:
    async with rapsqlite.connect(":memory:") as conn:
        await conn.executescript("CREATE TABLE t (a); CREATE VIEW v AS SELECT a FROM t; INSERT INTO t VALUES (1)")
        dump = conn.iterdump()
        assert [await dump.__anext__() for _ in range(2)] == ["BEGIN TRANSACTION;", "CREATE TABLE t (a);"]
        await conn.execute("DROP TABLE t")

        with pytest.raises(rapsqlite.OperationalError):
            [line async for line in dump]

        assert await conn.fetch_all("SELECT 1") == [[1]]


@pytest.mark.parametrize("failure", ["cancellation", "interrupt"])
@pytest.mark.parametrize("line", [1, 2, 4], ids=["tables", "columns of the first table", "columns of the second table"])
async def test_dump_that_failed_does_not_go_on_without_what_it_was_reading(failure: str, line: int) -> None:
    """It would end with COMMIT, and its text would make a database that lacks tables or rows."""

    async def hold() -> None:
        async with conn.transaction():
            entered.set()
            await failed.wait()

    async def read() -> None:
        if failure == "cancellation":
            with scope:
                await anext(dump)
        else:
            with pytest.raises(rapsqlite.OperationalError, match="interrupted"):
                await anext(dump)

    entered, failed, scope = anyio.Event(), anyio.Event(), anyio.CancelScope()
    async with rapsqlite.connect(":memory:") as conn:
        await conn.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (1); CREATE TABLE u (a)")
        dump = conn.iterdump()
        for _ in range(line):
            await anext(dump)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hold)
            await entered.wait()
            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
            await conn.interrupt()
            failed.set()

        for _ in range(2):
            with pytest.raises(rapsqlite.OperationalError, match="not complete"):
                await anext(dump)
        await dump.aclose()
        assert [line async for line in dump] == []
