"""Invalid rows, databases and images, and names full of quotes: an error, and nothing is lost."""

from __future__ import annotations

import contextlib
import os
import random
import re
import sqlite3
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import rapsqlite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SCRIPT = """
    CREATE TABLE t (id INTEGER PRIMARY KEY, b, n, i, k REFERENCES p (k), g AS (b || 'x'));
    CREATE TABLE p (k PRIMARY KEY); CREATE INDEX on_i ON t (i);
    CREATE TABLE w (k PRIMARY KEY, b) WITHOUT ROWID; CREATE VIEW v AS SELECT b FROM t;
    CREATE VIRTUAL TABLE f USING fts5(b);
    INSERT INTO p VALUES ('key'); INSERT INTO w VALUES (1, 'b'); INSERT INTO f VALUES ('b');
    INSERT INTO t VALUES (1, x'0102', NULL, 'indexed', 'key'), (2, 5, 2.5, 'i', NULL);
"""


@pytest.fixture
async def conn(database: Path) -> AsyncIterator[rapsqlite.Connection]:
    """A file that holds something."""
    async with rapsqlite.connect(database, isolation_level=None) as connection:
        await connection.executescript(SCRIPT)
        await connection.execute("PRAGMA foreign_keys = ON")
        yield connection


async def contents(conn: rapsqlite.Connection) -> list[Any]:
    assert await conn.fetch_scalar("PRAGMA integrity_check") == "ok"
    return [await conn.fetch_all(f"SELECT * FROM {table}") for table in "tpwvf"]


# -- blobs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, options, words",
    [
        (("t", "b", 3), {}, "no such rowid: 3"),
        (("t", "b", -(1 << 63)), {}, "no such rowid: -9223372036854775808"),
        (("t", "n", 1), {}, "cannot open value of type null"),
        (("t", "b", 2), {}, "cannot open value of type integer"),
        (("t", "n", 2), {}, "cannot open value of type real"),
        (("t", "it's", 1), {}, 'no such column: "it\'s"'),
        (("t\" '", "b", 1), {}, "no such table: main.t\" '"),
        (("t", "b", 1), {"name": 'no"where'}, 'no such table: no"where.t'),
        (("w", "b", 1), {}, "cannot open table without rowid: w"),
        (("v", "b", 1), {}, "cannot open view: v"),
        (("f", "b", 1), {}, "cannot open virtual table: f"),
        (("t", "i", 1), {}, "cannot open indexed column for writing"),
        (("t", "k", 1), {}, "cannot open foreign key column for writing"),
        (("t", "g", 1), {}, "cannot open table with generated columns: t"),
    ],
)
@pytest.mark.parametrize("begins", [False, True], ids=["on its own", "in a transaction"])
async def test_blob_that_cannot_be_opened_is_an_error(
    conn: rapsqlite.Connection, arguments: tuple[Any, ...], options: dict[str, Any], words: str, begins: bool
) -> None:
    if arguments[1] != "g":  # one generated column prevents opening all of them
        await conn.execute("ALTER TABLE t DROP COLUMN g")
    if begins:
        await conn.begin()
        await conn.execute("INSERT INTO p VALUES ('not committed')")
    before = await contents(conn)

    with pytest.raises(rapsqlite.OperationalError) as caught:
        await conn.blobopen(*arguments, **options)

    assert str(caught.value) == words
    assert caught.value.sqlite_errorname == "SQLITE_ERROR"
    assert conn.in_transaction is begins
    if begins:
        await conn.commit()
    assert await contents(conn) == before
    if arguments[1] != "g":
        async with conn.blobopen("t", "b", 1) as blob:
            assert await blob.read() == b"\1\2"


# -- backups -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pages", [-1, 2])
@pytest.mark.parametrize("way", ["same path", "symbolic link", "hard link", "relative", "URI", "sqlite3"])
async def test_backup_onto_its_own_file_under_any_name_changes_nothing(
    conn: rapsqlite.Connection, database: Path, way: str, pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under any of its names, the file ends up unchanged for every connection."""
    before = await contents(conn)
    other = database.with_name("other")
    if way == "symbolic link":
        other.symlink_to(database)
    elif way == "hard link":
        os.link(database, other)
    monkeypatch.chdir(database.parent)
    names: dict[str, str | Path] = {
        "same path": database,
        "relative": database.name,
        "URI": f"file:{database}",
        "sqlite3": database,
    }
    async with contextlib.AsyncExitStack() as stack:
        if way == "sqlite3":
            same: Any = stack.enter_context(contextlib.closing(sqlite3.connect(database)))
        else:
            same = await stack.enter_async_context(rapsqlite.connect(names.get(way, other), uri=way == "URI"))

        await conn.backup(same, pages=pages)

        assert await contents(conn) == before
        await conn.execute("INSERT INTO p VALUES ('more')")
        count = "SELECT count(*) FROM p"
        found = same.execute(count).fetchone() if way == "sqlite3" else await same.fetch_one(count)
        assert tuple(found) == (2,)


async def test_backup_onto_the_same_connection_is_refused(conn: rapsqlite.Connection) -> None:
    before = await contents(conn)
    await conn.begin()
    await conn.execute("INSERT INTO p VALUES ('not committed')")

    for name in ("main", "temp", "nowhere"):
        with pytest.raises(ValueError, match=r"^target cannot be the same connection instance$"):
            await conn.backup(conn, name=name)

    assert conn.in_transaction
    await conn.rollback()
    assert await contents(conn) == before


async def test_backup_of_an_open_transaction_onto_its_own_file_can_be_cancelled(
    conn: rapsqlite.Connection, database: Path
) -> None:
    """It waits for a lock that the source itself holds, as in sqlite3, but no longer than its task."""
    await conn.begin("IMMEDIATE")
    await conn.execute("INSERT INTO p VALUES ('not committed')")
    async with rapsqlite.connect(database, timeout=0) as same:
        with anyio.move_on_after(0.2) as scope:
            await conn.backup(same, sleep=0.01)

        assert scope.cancelled_caught
        assert await same.fetch_all("SELECT k FROM p") == [["key"]]
    assert conn.in_transaction
    await conn.commit()
    assert await conn.fetch_all("SELECT k FROM p") == [["key"], ["not committed"]]


# -- images ------------------------------------------------------------------------------------------


@pytest.fixture
async def image(conn: rapsqlite.Connection) -> bytes:
    """The bytes of a database of several pages."""
    async with rapsqlite.connect(":memory:") as other:
        await other.executescript("PRAGMA page_size = 512; CREATE TABLE other (a, b UNIQUE)")
        await other.executemany(
            "INSERT INTO other VALUES (?, ?)", [(number, f"{number:0100}") for number in range(100)]
        )
        await other.commit()
        return await other.serialize()


async def test_image_truncated_anywhere_is_refused(conn: rapsqlite.Connection, image: bytes) -> None:
    before = await contents(conn)
    assert len(image) > 40 * 512
    for length in {*range(1, 1024, 61), *range(1024, len(image), 512), *range(1100, len(image), 2999), len(image) - 1}:
        with pytest.raises(rapsqlite.DatabaseError) as caught:
            await conn.deserialize(image[:length])
        assert type(caught.value) is rapsqlite.DatabaseError
        assert str(caught.value).startswith(("file is not a database", "database disk image is malformed"))

    assert await contents(conn) == before
    await conn.execute("INSERT INTO p VALUES ('more')")


@pytest.mark.parametrize("page_size", [512, 65_536])
@pytest.mark.parametrize("counts", [True, False], ids=["counts its pages", "is of an old program"])
async def test_image_with_an_incomplete_last_page_is_refused(
    conn: rapsqlite.Connection, page_size: int, counts: bool
) -> None:
    """SQLite treats missing bytes as zeros: rows would be lost without an error."""
    async with rapsqlite.connect(":memory:") as other:
        await other.executescript(f"PRAGMA page_size = {page_size}; CREATE TABLE other (a)")
        await other.execute("INSERT INTO other VALUES (zeroblob(200000))")
        await other.commit()
        whole = bytearray(await other.serialize())
    if not counts:
        whole[92:96] = b"\0\0\0\1"  # the counter value for which the page count is valid
    before = await contents(conn)

    for missing in (1, page_size // 2, page_size - 1):
        with pytest.raises(rapsqlite.DatabaseError, match="its end is missing") as caught:
            await conn.deserialize(whole[:-missing])
        assert caught.value.sqlite_errorname == "SQLITE_CORRUPT"

    assert await contents(conn) == before
    await conn.deserialize(whole)
    assert await conn.fetch_scalar("SELECT length(a) FROM other") == 200_000


async def test_garbage_is_refused(conn: rapsqlite.Connection) -> None:
    """Random bytes, with and without SQLite's header, replace nothing."""
    before = await contents(conn)
    chance = random.Random(7)
    for size in (1, 16, 100, 512, 4096, 100_000):
        with pytest.raises(rapsqlite.DatabaseError, match="not a database"):
            await conn.deserialize(chance.randbytes(size))
        with pytest.raises(rapsqlite.DatabaseError, match=r"not a database|malformed"):
            await conn.deserialize(b"SQLite format 3\0" + chance.randbytes(size))

    assert await contents(conn) == before


async def test_damaged_image_causes_only_database_errors(conn: rapsqlite.Connection, image: bytes) -> None:
    """Damage outside the header and the schema is found when it is read, as in any damaged file."""
    before = await contents(conn)
    chance = random.Random(11)
    refused = found = 0
    for _ in range(150):
        damaged = bytearray(image)
        for _ in range(chance.choice((1, 5, 200))):
            damaged[chance.randrange(chance.choice((100, 1024, len(image))))] = chance.randrange(256)
        async with rapsqlite.connect(":memory:") as other:
            await other.execute("CREATE TABLE kept (a)")
            await other.commit()
            try:
                await other.deserialize(damaged)
            except rapsqlite.DatabaseError:
                refused += 1
                assert await other.get_tables() == ["kept"]
                continue
            try:
                await other.fetch_all("SELECT a, b FROM other ORDER BY b")
                await other.execute("DELETE FROM other WHERE a % 3 = 0")
                assert await other.fetch_all("PRAGMA integrity_check")
                await other.commit()
            except rapsqlite.DatabaseError:
                found += 1
            assert await other.fetch_scalar("SELECT 1") == 1
            if other.in_transaction:
                await other.rollback()
            await other.deserialize(image)
            assert await other.fetch_scalar("SELECT count(*) FROM other") == 100

    assert refused > 10
    assert found > 10
    assert await contents(conn) == before


@pytest.mark.parametrize("name", ["nowhere", 'no"where', "", "it's; --"])
async def test_image_for_an_unknown_database_is_refused(conn: rapsqlite.Connection, image: bytes, name: str) -> None:
    before = await contents(conn)
    with pytest.raises(rapsqlite.OperationalError, match=f"^unknown database {re.escape(name)}"):
        await conn.deserialize(image, name=name)
    with pytest.raises(rapsqlite.OperationalError, match="unknown database"):
        await conn.serialize(name=name)

    assert await contents(conn) == before


async def test_deserialize_in_a_transaction_is_refused(conn: rapsqlite.Connection, image: bytes) -> None:
    await conn.begin("IMMEDIATE")
    await conn.execute("INSERT INTO p VALUES ('not committed')")
    with pytest.raises(rapsqlite.OperationalError):
        await conn.deserialize(image)

    assert conn.in_transaction
    await conn.commit()
    assert await conn.fetch_all("SELECT k FROM p") == [["key"], ["not committed"]]


# -- names -------------------------------------------------------------------------------------------

NAMES = [
    '"',
    "'",
    "`",
    "[x]",
    'a"b',
    "it's",
    '""',
    "--",
    ";",
    "x'); DROP TABLE p; --",
    " ",
    "%",
    "_",
    "é ü",
    "select",
    "\n",
]


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@pytest.mark.parametrize("name", NAMES)
async def test_names_may_contain_any_characters(conn: rapsqlite.Connection, name: str) -> None:
    """Objects with such names get the same answers as objects with plain names."""
    template = """CREATE TABLE {t} ({c} TEXT UNIQUE, second REFERENCES p); CREATE INDEX {i} ON {t} (second, {c} DESC);
        CREATE VIEW {v} AS SELECT {c} FROM {t};"""
    told = {}
    for table, column in (("plain", "column"), (name, f"column {name}")):
        index, view = f"index {table}", f"view {table}"
        parts = {"t": table, "c": column, "i": index, "v": view}
        await conn.executescript(template.format(**{key: quoted(value) for key, value in parts.items()}))
        answers = [
            await conn.get_tables(table), await conn.get_views(view), await conn.get_table_info(table),
            await conn.get_table_xinfo(table), await conn.get_table_info(view), await conn.get_indexes(table),
            await conn.get_index_list(table), await conn.get_index_info(index), await conn.get_foreign_keys(table),
            await conn.get_schema(table),
        ]  # fmt: skip
        plain = {table: "plain", column: "column", index: "index plain", view: "view plain"}
        told[table] = replaced(answers, {**plain, f"sqlite_autoindex_{table}_1": "sqlite_autoindex_plain_1"})
        assert table in await conn.get_tables()
        async with conn.blobopen(table, column, await conn.fetch_scalar(
            f"INSERT INTO {quoted(table)} ({quoted(column)}) VALUES ('text') RETURNING rowid"
        ), readonly=True) as blob:  # fmt: skip
            assert await blob.read() == b"text"

    assert told[name] == told["plain"]
    assert told[name][0] == ["plain"]
    assert await conn.fetch_scalar("SELECT count(*) FROM p") == 1


def replaced(answer: Any, names: dict[str, str]) -> Any:
    """The answer with other names substituted, and without the SQL that contains them."""
    if isinstance(answer, dict):
        return {key: replaced(value, names) for key, value in answer.items() if key != "sql"}
    if isinstance(answer, list):
        return [replaced(each, names) for each in answer]
    return names.get(answer, answer) if isinstance(answer, str) else answer


@pytest.mark.parametrize("name", NAMES)
async def test_missing_object_is_an_error_whatever_its_name(conn: rapsqlite.Connection, name: str) -> None:
    before = await contents(conn)
    await conn.begin()
    for method in ("get_table_info", "get_table_xinfo", "get_indexes", "get_index_list", "get_index_info",
                   "get_foreign_keys", "get_schema"):  # fmt: skip
        with pytest.raises(rapsqlite.OperationalError, match=r"no such (table|index)") as caught:
            await getattr(conn, method)(name)
        assert name in str(caught.value)
    assert await conn.get_tables(name) == await conn.get_views(name) == []

    assert conn.in_transaction
    await conn.rollback()
    assert await contents(conn) == before
