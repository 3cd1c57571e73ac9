"""The bundled extensions: each is loaded by name and works as documented."""

from __future__ import annotations

import hashlib
import re
import uuid
from pathlib import Path

import pytest

import rapsqlite
from rapsqlite import _constants
from rapsqlite._client import extension_loader

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "extensions.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(extension_loader.SHIPPED))
async def test_bundled_extension_can_be_loaded_by_name_and_twice(conn: rapsqlite.Connection, name: str) -> None:
    await conn.load_extension(name)
    await conn.load_extension(name.upper())

    assert await conn.fetch_scalar("SELECT 1") == 1


@pytest.mark.parametrize("name", sorted(extension_loader.BUILT_IN))
async def test_name_of_a_built_in_extension_is_accepted(conn: rapsqlite.Connection, name: str) -> None:
    functions = "SELECT count(*) FROM pragma_function_list"
    before = await conn.fetch_scalar(functions)

    await conn.load_extension(name)

    assert await conn.fetch_scalar(functions) == before
    assert await conn.fetch_scalar("SELECT load_extension(?)", [name]) is None


async def test_generate_series_counts_with_start_stop_and_step(conn: rapsqlite.Connection) -> None:
    """``generate_series`` counts from, to and by what it is given."""
    await conn.load_extension("series")

    assert await conn.fetch_all("SELECT value FROM generate_series(5, 100, 45)") == [[5], [50], [95]]


@pytest.mark.parametrize("pattern", ["^a.c$", "b+", "[0-9]{2}", "x|y", "", r"\bword\b"])
async def test_regexp_agrees_with_python(conn: rapsqlite.Connection, pattern: str) -> None:
    await conn.load_extension("regexp")
    texts = ["abc", "", "bbb", "7", "42", "y", "a word here", "swordfish"]

    matched = [await conn.fetch_scalar("SELECT ? REGEXP ?", [text, pattern]) for text in texts]

    assert matched == [int(re.search(pattern, text) is not None) for text in texts]


@pytest.mark.parametrize("bits", [224, 256, 384, 512])
async def test_sha3_agrees_with_python(conn: rapsqlite.Connection, bits: int) -> None:
    await conn.load_extension("sha3")
    data = bytes(range(256)) * 3

    digest = await conn.fetch_scalar("SELECT sha3(?, ?)", [data, bits])

    assert digest == hashlib.new(f"sha3_{bits}", data).digest()


async def test_uuid_agrees_with_python(conn: rapsqlite.Connection) -> None:
    await conn.load_extension("uuid")
    made, other = await conn.fetch_one("SELECT uuid(), uuid()")

    assert uuid.UUID(made).version == 4
    assert made != other
    assert await conn.fetch_scalar("SELECT uuid_blob(?)", [made]) == uuid.UUID(made).bytes


async def test_decimal_is_exact(conn: rapsqlite.Connection) -> None:
    """Binary floating point would give 1.2100000000000002."""
    await conn.load_extension("decimal")

    assert await conn.fetch_scalar("SELECT decimal_mul('1.1', '1.1')") == "1.21"
    assert await conn.fetch_scalar('SELECT decimal_sum(value) FROM json_each(\'["0.1", "0.2"]\')') == "0.3"
    assert await conn.fetch_all("SELECT v FROM (SELECT '9' AS v UNION SELECT '10') ORDER BY v COLLATE decimal") == [
        ["9"],
        ["10"],
    ]


async def test_spellfix_finds_words_that_sound_alike(conn: rapsqlite.Connection) -> None:
    await conn.load_extension("spellfix")
    await conn.execute("CREATE VIRTUAL TABLE words USING spellfix1")
    await conn.execute_many("INSERT INTO words(word) VALUES (?)", [("necessary",), ("separate",), ("rhythm",)])

    assert await conn.fetch_scalar("SELECT word FROM words WHERE word MATCH 'seperate' AND top = 1") == "separate"
    assert await conn.fetch_scalar("SELECT spellfix1_editdist('cat', 'cart')") > 0


async def test_csv_reads_text_and_files(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("name,town\n" + "Ada,London\n" * 5000, encoding="utf-8")
    async with rapsqlite.connect(tmp_path / "test.db", isolation_level=None) as conn:
        await conn.enable_load_extension(True)
        await conn.load_extension("csv")
        path = str(tmp_path / "people.csv")
        await conn.execute(f"CREATE VIRTUAL TABLE temp.people USING csv(filename='{path}', header=1)")
        await conn.execute("CREATE VIRTUAL TABLE temp.text USING csv(data='1,2\n3,4\n')")

        assert await conn.fetch_all("SELECT name, town, count(*) FROM people GROUP BY 1, 2") == [
            ["Ada", "London", 5000]
        ]
        assert await conn.fetch_all("SELECT * FROM text") == [["1", "2"], ["3", "4"]]
        await conn.execute("DROP TABLE people")


async def test_csv_does_not_read_files_that_are_not_granted(tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("key\n42\n", encoding="utf-8")
    inside = tmp_path / "inside"
    inside.mkdir()
    async with rapsqlite.connect(inside / "test.db", limits={"directories": [inside]}) as conn:
        await conn.enable_load_extension(True)
        await conn.load_extension("csv")
        for path in (tmp_path / "secret.csv", inside / ".." / "secret.csv", inside / "missing.csv"):
            with pytest.raises(rapsqlite.OperationalError, match="cannot open"):
                await conn.execute(f"CREATE VIRTUAL TABLE temp.t USING csv(filename='{path}')")
        assert await conn.fetch_scalar("SELECT 1") == 1


async def test_error_names_an_extension_that_was_not_built(
    conn: rapsqlite.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extension_loader, "DIRECTORY", tmp_path)

    with pytest.raises(rapsqlite.NotSupportedError, match="csv is not in this build"):
        await conn.load_extension("csv")


def test_page_lists_every_name() -> None:
    tables = PAGE.split("## Built in", 1)[1].split("## Your own", 1)[0]
    cells = re.findall(r"^\| (`[^|]+)\|", tables, re.MULTILINE)

    named = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}

    assert named == extension_loader.BUILT_IN | extension_loader.SHIPPED


def test_page_lists_every_function_that_extensions_may_import() -> None:
    part = PAGE.split("Of the C library, these functions are there", 1)[1].split("###", 1)[0]
    table = "".join(re.findall(r"^\|.*$", part, re.MULTILINE))

    assert set(re.findall(r"`(\w+)`", table)) == _constants.EXTENSION_FUNCTIONS
