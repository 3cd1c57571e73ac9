"""Features that are compiled in: each works, and does not only exist."""

from __future__ import annotations

import json
import math
import re
from itertools import chain
from typing import TYPE_CHECKING

import pytest

import rapsqlite
from rapsqlite._client.extension_loader import BUILT_IN
from tests.extensions.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable


async def test_every_example_of_the_page_runs(plain: rapsqlite.Connection) -> None:
    page = (ROOT / "docs" / "extensions.md").read_text(encoding="utf-8")
    table = page.split("## Built in", 1)[1].split("##", 1)[0]
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| [^|]* \|(?: `(.*)` | )\|$", table, re.MULTILINE)
    assert {name for names, _ in rows for name in re.findall(r"`(\w+)`", names)} == BUILT_IN
    await plain.execute("CREATE VIRTUAL TABLE notes USING fts5(text)")
    await plain.execute("INSERT INTO notes VALUES ('sqlite made async'), ('something else')")

    answers = {names: await plain.fetch_all(example) for names, example in rows if example}

    assert answers.pop("`dbstat`")[0][0] > 0
    assert answers == {
        "`fts5`": [["sqlite made async"]],
        "`fts3`, `fts4`": [["running"], ["fast"]],
        "`rtree`": [],
        "`geopoly`": [[2.0]],
        "`json`, `json1`": [[2]],
        "`math`": [[pytest.approx(180)]],
        "`bytecode`": [["Integer"]],
    }


@pytest.mark.parametrize(
    "tokenizer, terms",
    [
        ("unicode61", ["cafe", "running", "straße", "x1"]),
        ("unicode61 remove_diacritics 0", ["café", "running", "straße", "x1"]),
        ("ascii", ["café", "running", "straße", "x1"]),
        ("porter unicode61", ["cafe", "run", "straß", "x1"]),
        ("porter ascii", ["café", "run", "straß", "x1"]),
        ("trigram", [
            "afé", "aße", "caf", "fé ", "g s", "ing", "ng ", "nin", "nni", "raß", "run", "str", "tra", "unn", "é r",
            " ru", " st", "ße ", "e x", " x1",
        ]),
    ],
)  # fmt: skip
async def test_fts5_tokenizers_split_text_as_documented(
    plain: rapsqlite.Connection, tokenizer: str, terms: list[str]
) -> None:
    """All tokenizers of FTS5 are compiled in and split text as documented."""
    await plain.execute(f"CREATE VIRTUAL TABLE notes USING fts5(text, tokenize = '{tokenizer}')")
    await plain.execute("INSERT INTO notes VALUES ('Café running Straße x1')")
    await plain.execute("CREATE VIRTUAL TABLE vocabulary USING fts5vocab(notes, 'row')")

    found = await plain.fetch_all("SELECT term FROM vocabulary ORDER BY term")

    assert sorted(term for (term,) in found) == sorted(terms)


async def test_fts5_ranks_highlights_and_snips(plain: rapsqlite.Connection) -> None:
    await plain.execute("CREATE VIRTUAL TABLE notes USING fts5(title, text, prefix = '2')")
    await plain.execute_many(
        "INSERT INTO notes VALUES (?, ?)",
        [("a", "one fish two fish"), ("b", "red fish and a bird"), ("c", "a bird that flies")],
    )

    assert await plain.fetch_all("SELECT title FROM notes('fish') ORDER BY rank") == [["a"], ["b"]]
    assert await plain.fetch_all("SELECT title FROM notes('bi* NOT fish')") == [["c"]]
    assert await plain.fetch_all("SELECT title FROM notes('NEAR(red bird, 3)')") == [["b"]]
    assert await plain.fetch_scalar("SELECT highlight(notes, 1, '<', '>') FROM notes('flies')") == "a bird that <flies>"
    assert await plain.fetch_scalar("SELECT snippet(notes, 1, '', '', '…', 2) FROM notes('two')") == "…two fish"
    with pytest.raises(rapsqlite.OperationalError, match="fts5: syntax error"):
        await plain.fetch_all("SELECT * FROM notes('AND')")
    await plain.execute("INSERT INTO notes(notes) VALUES ('integrity-check')")


@pytest.mark.parametrize("dimensions", [1, 2, 5])
@pytest.mark.parametrize("module", ["rtree", "rtree_i32"])
async def test_rtree_finds_what_a_scan_finds(plain: rapsqlite.Connection, module: str, dimensions: int) -> None:
    columns = [f"{side}{axis}" for axis in range(dimensions) for side in ("low", "high")]
    await plain.execute(f"CREATE VIRTUAL TABLE boxes USING {module}(id, {', '.join(columns)}, +label)")
    corners = [
        [(number * (axis + 3) % 97, number * (axis + 3) % 97 + 5) for axis in range(dimensions)]
        for number in range(500)
    ]
    boxes = [(number, *chain.from_iterable(box), f"box {number}") for number, box in enumerate(corners)]
    await plain.execute_many(f"INSERT INTO boxes VALUES ({', '.join('?' * (2 + 2 * dimensions))})", boxes)
    inside = " AND ".join(f"high{axis} >= 20 AND low{axis} <= 60" for axis in range(dimensions))

    found = await plain.fetch_all(f"SELECT id, label FROM boxes WHERE {inside} ORDER BY id")

    assert found == [
        [number, f"box {number}"]
        for number, box in enumerate(corners)
        if all(high >= 20 and low <= 60 for low, high in box)
    ]
    assert 0 < len(found) < 500
    assert await plain.fetch_scalar("SELECT rtreecheck('boxes')") == "ok"
    with pytest.raises(rapsqlite.IntegrityError, match="constraint failed"):
        await plain.execute("INSERT INTO boxes(id, low0, high0) VALUES (900, 2, 1)")


async def test_geopoly_tables_and_functions_work(plain: rapsqlite.Connection) -> None:
    """Geopoly is compiled in, with its virtual table and its functions."""
    await plain.execute("CREATE VIRTUAL TABLE parks USING geopoly(name)")
    await plain.execute_many(
        "INSERT INTO parks(name, _shape) VALUES (?, ?)",
        [("square", "[[0,0],[4,0],[4,4],[0,4],[0,0]]"), ("far", "[[9,9],[10,9],[10,10],[9,9]]")],
    )
    other = "[[3,3],[6,3],[6,6],[3,6],[3,3]]"

    assert await plain.fetch_all("SELECT name FROM parks WHERE geopoly_overlap(_shape, ?)", [other]) == [["square"]]
    assert await plain.fetch_all("SELECT name, geopoly_area(_shape) FROM parks ORDER BY 2") == [
        ["far", 0.5],
        ["square", 16],
    ]
    assert await plain.fetch_scalar("SELECT geopoly_contains_point(_shape, 1, 1) FROM parks WHERE name = 'square'") == 2
    assert await plain.fetch_scalar("SELECT geopoly_svg('[[0,0],[1,0],[1,1],[0,0]]')") == (
        "<polyline points='0,0 1,0 1,1 0,0'></polyline>"
    )
    assert json.loads(await plain.fetch_scalar("SELECT geopoly_json(geopoly_bbox(_shape)) FROM parks LIMIT 1"))


async def test_json_and_jsonb_agree_with_python(plain: rapsqlite.Connection) -> None:
    """Both forms of JSON are compiled in and agree with Python's."""
    document = {"name": "Ada", "born": 1815, "tags": ["math", None, True, 1.5], "é": {"nested": "\u2028"}}
    text = json.dumps(document)

    blob = await plain.fetch_scalar("SELECT jsonb(?)", [text])
    assert isinstance(blob, bytes)
    for stored in (text, blob):
        assert json.loads(await plain.fetch_scalar("SELECT json(?)", [stored])) == document
        assert await plain.fetch_all(
            "SELECT ?1 ->> '$.name', ?1 -> '$.tags', json_type(?1, '$.born'), json_array_length(?1, '$.tags')", [stored]
        ) == [["Ada", '["math",null,true,1.5]', "integer", 4]]
        assert await plain.fetch_all("SELECT key, atom FROM json_each(?, '$.tags')", [stored]) == [
            [0, "math"], [1, None], [2, 1], [3, 1.5],
        ]  # fmt: skip
        changed = await plain.fetch_scalar("SELECT json(jsonb_set(?, '$.born', 1816, '$.new', json('[]')))", [stored])
        assert json.loads(changed) == {**document, "born": 1816, "new": []}
        assert json.loads(await plain.fetch_scalar("SELECT json_patch(?, '{\"tags\": null}')", [stored])) == {
            key: value for key, value in document.items() if key != "tags"
        }
    assert await plain.fetch_scalar("SELECT json('{a: 0x10, /* JSON5 */}')") == '{"a":16}'
    assert await plain.fetch_scalar("SELECT json_group_array(value) FROM json_each('[3, 1]')") == "[3,1]"
    assert await plain.fetch_scalar("SELECT json(jsonb_group_object(key, value)) FROM json_each('[3]')") == '{"0":3}'
    assert await plain.fetch_scalar("SELECT json_valid('{')") == 0
    assert await plain.fetch_scalar("SELECT json_error_position('[1,,2]')") == 4
    for broken in ("{", b"\xff\xff"):
        with pytest.raises(rapsqlite.OperationalError, match="malformed JSON"):
            await plain.fetch_scalar("SELECT json(?)", [broken])


MATH: dict[str, tuple[Callable[..., float], list[tuple[float, ...]]]] = {
    **{name: (getattr(math, name), [(0.5,), (-0.25,), (0.0,)])
       for name in ("acos", "asin", "atan", "atanh", "cos", "cosh", "sin", "sinh", "tan", "tanh", "asinh", "exp")},
    **{name: (getattr(math, name), [(0.5,), (10.0,), (1e300,)]) for name in ("log10", "log2", "sqrt")},
    **{name: (getattr(math, name), [(2.5,), (-2.5,), (3,)])
       for name in ("ceil", "floor", "trunc", "degrees", "radians")},
    "acosh": (math.acosh, [(1.5,), (10.0,)]),
    "atan2": (math.atan2, [(1.0, -2.0), (0.0, -1.0)]),
    "ceiling": (math.ceil, [(1.2,)]),
    "ln": (math.log, [(2.0,), (0.1,)]),
    "log": (lambda *arguments: math.log(arguments[-1], arguments[0] if len(arguments) > 1 else 10), [(100.0,), (2, 8)]),
    "mod": (math.fmod, [(7.5, 2), (-7, 3)]),
    "pi": (lambda: math.pi, [()]),
    "pow": (math.pow, [(2, 0.5), (10, -3)]),
    "power": (math.pow, [(3, 4)]),
    "sign": (lambda value: math.copysign(1, value) if value else 0, [(-3.5,), (0,), (7,)]),
}  # fmt: skip


async def test_math_agrees_with_python(plain: rapsqlite.Connection) -> None:
    for name, (function, calls) in MATH.items():
        for arguments in calls:
            answer = await plain.fetch_scalar(f"SELECT {name}({', '.join('?' * len(arguments))})", arguments)
            assert answer == pytest.approx(function(*arguments), rel=1e-15), (name, arguments)
    assert await plain.fetch_all("SELECT acos(2), ln(0), sqrt(-1), mod(1, 0), sin('x')") == [[None] * 5]


async def test_dbstat_counts_the_pages(plain: rapsqlite.Connection) -> None:
    await plain.execute("CREATE TABLE t (a)")
    await plain.execute("INSERT INTO t VALUES (zeroblob(50000))")

    size = await plain.fetch_scalar("SELECT sum(pgsize) FROM dbstat")

    assert size == await plain.fetch_scalar("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")


async def test_session_extension_records_a_change(plain: rapsqlite.Connection) -> None:
    await plain.execute("CREATE TABLE t (a PRIMARY KEY)")
    async with await plain.session() as session:
        await session.attach()
        await plain.execute("INSERT INTO t VALUES (1)")
        changes = await session.changeset()
    async with rapsqlite.connect(":memory:") as other:
        await other.execute("CREATE TABLE t (a PRIMARY KEY)")
        await other.apply_changeset(changes)
        assert await other.fetch_scalar("SELECT a FROM t") == 1
