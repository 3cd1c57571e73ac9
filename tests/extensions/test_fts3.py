"""FTS3 and FTS4, the full-text search of older databases: shared with sqlite3, without pointers, safe when damaged."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

import rapsqlite

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = ["fts3(title, body)", "fts4(title, body, tokenize=porter)", "fts4(title, body, prefix='2', order=desc)"]
CHANGED = "SELECT docid, title FROM note WHERE note MATCH 'bird OR thing' ORDER BY docid"
TEXTS = [("a", "one fish two fish"), ("b", "red fish, and a bird"), ("c", "a bird that flies")]


def has_fts(stock: sqlite3.Connection) -> bool:
    try:
        stock.execute("CREATE VIRTUAL TABLE temp.t USING fts4(body)")
    except sqlite3.OperationalError:
        return False
    return True


@pytest.mark.parametrize("options", OPTIONS)
async def test_table_is_read_and_written_here_and_by_sqlite3(options: str, database: Path) -> None:
    """Databases that other programs made, and still use, work unchanged."""
    with closing(sqlite3.connect(database, isolation_level=None)) as stock:
        if not has_fts(stock):
            pytest.skip("this sqlite3 has no FTS3")
        stock.execute(f"CREATE VIRTUAL TABLE note USING {options}")
        stock.executemany("INSERT INTO note VALUES (?, ?)", TEXTS)
        async with rapsqlite.connect(database, isolation_level=None) as conn:
            fish = "SELECT title FROM note WHERE body MATCH 'fish' ORDER BY docid"
            assert await conn.fetch_all(fish) == [["a"], ["b"]]
            await conn.execute("INSERT INTO note VALUES ('d', 'an early bird')")
            await conn.execute("UPDATE note SET body = 'no such thing' WHERE docid = 1")
            await conn.execute("DELETE FROM note WHERE docid = 2")
            await conn.execute("INSERT INTO note(note) VALUES ('optimize')")
            here = await conn.fetch_all(CHANGED)
            assert here == [[1, "a"], [3, "c"], [4, "d"]]

        assert [list(row) for row in stock.execute(CHANGED)] == here
        stock.execute("INSERT INTO note(note) VALUES ('integrity-check')")


async def test_queries_have_operators_and_parentheses(plain: rapsqlite.Connection) -> None:
    """SQLite's "enhanced query syntax", as in the builds of Debian and macOS."""
    await plain.execute("CREATE VIRTUAL TABLE note USING fts4(title, body)")
    await plain.executemany("INSERT INTO note VALUES (?, ?)", TEXTS)
    search = "SELECT title FROM note WHERE note MATCH ? ORDER BY docid"

    assert await plain.fetch_all(search, ["(one OR flies) NOT bird"]) == [["a"]]
    assert await plain.fetch_all(search, ["fish AND (two OR red)"]) == [["a"], ["b"]]
    assert await plain.fetch_all(search, ["red NEAR/3 bird"]) == [["b"]]
    assert await plain.fetch_all(search, ['title:c "a bird"']) == [["c"]]


async def test_matches_are_shown_ranked_and_listed(plain: rapsqlite.Connection) -> None:
    await plain.execute("CREATE VIRTUAL TABLE note USING fts4(title, body)")
    await plain.executemany("INSERT INTO note VALUES (?, ?)", TEXTS)
    await plain.execute("CREATE VIRTUAL TABLE term USING fts4aux(note)")

    snippet = "SELECT snippet(note, '<', '>', '…', 1, 2), offsets(note) FROM note WHERE note MATCH 'flies'"
    assert await plain.fetch_all(snippet) == [["…that <flies>", "1 0 12 5"]]
    assert await plain.fetch_scalar("SELECT hex(matchinfo(note, 'pcn')) FROM note WHERE note MATCH 'two'") == (
        "010000000200000003000000"
    )
    count = "SELECT documents, occurrences FROM term WHERE term = 'fish' AND col = '*'"
    assert await plain.fetch_all(count) == [[2, 3]]
    assert await plain.fetch_scalar("SELECT optimize(note) FROM note LIMIT 1") == "Index optimized"


@pytest.mark.parametrize(
    "tokenizer, tokens",
    [("simple", ["cafÉ", "running"]), ("porter", ["cafÉ", "run"]), ("unicode61", ["cafe", "running"])],
)
async def test_tokenizers_split_text_as_documented(
    plain: rapsqlite.Connection, tokenizer: str, tokens: list[str]
) -> None:
    await plain.execute(f"CREATE VIRTUAL TABLE temp.tokens USING fts3tokenize({tokenizer})")

    found = await plain.fetch_all("SELECT token FROM tokens WHERE input = 'CAFÉ, running'")

    assert [token for (token,) in found] == tokens


@pytest.mark.parametrize("is_enabled", [False, True])
async def test_no_statement_takes_or_gives_the_address_of_a_tokenizer(
    plain: rapsqlite.Connection, is_enabled: bool
) -> None:
    """SQLite accepts bound addresses even where the function is disabled, and then calls them."""
    await plain.setconfig(rapsqlite.SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, is_enabled)
    for sql, parameters in (
        ("SELECT fts3_tokenizer('simple')", []),
        ("SELECT fts3_tokenizer(?)", ["simple"]),
        ("SELECT fts3_tokenizer('mine', x'04000000')", []),
        ("SELECT fts3_tokenizer('mine', ?)", [b"\4\0\0\0"]),
    ):
        with pytest.raises(rapsqlite.OperationalError, match="no such function: fts3_tokenizer"):
            await plain.fetch_all(sql, parameters)
    with pytest.raises(rapsqlite.OperationalError, match="unknown tokenizer: mine"):
        await plain.execute("CREATE VIRTUAL TABLE note USING fts4(body, tokenize=mine)")


DAMAGES = {
    "root of a segment": "UPDATE note_segdir SET root = x'00ffffffffffffffffff'",
    "empty root": "UPDATE note_segdir SET root = x''",
    "leaf": "UPDATE note_segments SET block = x'00ff'",
    "leaf that is text": "UPDATE note_segments SET block = 'text'",
    "missing leaves": "DELETE FROM note_segments",
    "impossible leaves": "UPDATE note_segdir SET start_block = 1 << 62, end_block = '9 -9'",
    "size of a document": "UPDATE note_docsize SET size = x'ffffffffffffffffffff'",
    "sizes of all documents": "UPDATE note_stat SET value = x'ff'",
    "missing statistics": "DELETE FROM note_stat",
    "missing content": "DELETE FROM note_content",
    "missing table": "DROP TABLE note_segdir",
}
WORK = [
    "SELECT title FROM note WHERE note MATCH 'fish'",
    "SELECT snippet(note), offsets(note), matchinfo(note, 'pcnalsx') FROM note WHERE note MATCH 'fi* OR bird'",
    "SELECT * FROM term",
    "INSERT INTO note(note) VALUES ('integrity-check')",
    "INSERT INTO note VALUES ('d', 'an early bird')",
    "UPDATE note SET body = 'no such thing' WHERE docid = 1",
    "DELETE FROM note WHERE docid = 2",
    "INSERT INTO note(note) VALUES ('merge=2,2')",
    "INSERT INTO note(note) VALUES ('optimize')",
    "INSERT INTO note(note) VALUES ('rebuild')",
]


async def failure_of(conn: rapsqlite.Connection, sql: str) -> str | None:
    """Run a statement that may fail in SQLite; return the name of its result code if it does."""
    try:
        await conn.fetch_all(sql)
    except rapsqlite.DatabaseError as error:
        return error.sqlite_errorname
    return None


@pytest.mark.parametrize("damage", DAMAGES)
async def test_damaged_index_is_an_error_and_the_connection_stays_usable(
    plain: rapsqlite.Connection, damage: str
) -> None:
    """The tables of an index can be written by anyone who can write SQL."""
    await plain.execute("CREATE VIRTUAL TABLE note USING fts4(title, body)")
    await plain.execute("CREATE VIRTUAL TABLE term USING fts4aux(note)")
    await plain.execute("BEGIN")
    await plain.executemany("INSERT INTO note VALUES (?, ?)", [*TEXTS, *((i, f"word{i} fish") for i in range(2000))])
    await plain.execute("COMMIT")
    assert await plain.fetch_scalar("SELECT count(*) FROM note_segments") > 1
    await plain.execute(DAMAGES[damage])

    failures = [await failure_of(plain, sql) for sql in WORK]

    assert [failure for failure in failures if failure is not None]
    assert await plain.fetch_scalar("SELECT 1") == 1


async def test_damaged_index_is_described_by_integrity_check(plain: rapsqlite.Connection) -> None:
    await plain.execute("CREATE VIRTUAL TABLE note USING fts4(body)")
    await plain.execute("INSERT INTO note VALUES ('some words')")
    await plain.execute("DELETE FROM note_content")

    assert await plain.fetch_all("PRAGMA integrity_check") == [["malformed inverted index for FTS4 table main.note"]]
