"""Random queries on random rows give the same results as stock SQLite: the engine was compiled correctly.

A compiler, its options or a replaced C function may break one expression in a thousand. The grammar uses only what all
SQLite versions agree on: no text from floats, no JSON, no dates.
"""

from __future__ import annotations

import os
import random
import sqlite3
from typing import TYPE_CHECKING

import pytest

import rapsqlite

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio

QUERIES_PER_SEED = 150
SEEDS = range(40) if os.environ.get("RAPSQLITE_LONG") == "1" else range(4)
COLUMNS = ("id", "whole", "broken", "word", "raw", "mixed")
SCHEMA = """
CREATE TABLE a (id INTEGER PRIMARY KEY, whole INTEGER, broken REAL, word TEXT, raw BLOB, mixed);
CREATE TABLE b (id INTEGER PRIMARY KEY, whole INTEGER, broken REAL, word TEXT COLLATE NOCASE, raw BLOB, mixed);
CREATE INDEX a_word ON a (word, whole);
CREATE INDEX b_mixed ON b (mixed);
CREATE INDEX b_raw ON b (raw) WHERE whole > 0;
"""
WORDS = [
    "",
    "a",
    "A",
    "ab",
    "aB",
    "abcdefgh",
    "abcdefgi",
    "abcdefghabcdefgh",
    "abcdefghabcdefgH",
    "ä",
    "Ä",
    "z%_",
    "12",
    "-3",
]
INTEGERS = [0, 1, -1, 2, 7, 127, 128, -129, 65_536, 2**31, -(2**31) - 1, 2**53, 2**63 - 1, -(2**63)]
FLOATS = [0.0, -0.0, 0.5, -1.25, 3.0, 1e-9, 1e18, 1.5e300]


class Grammar:
    """Generates statements from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def value(self) -> object:
        """Return a value of any storage class."""
        pick = self.random.choice
        word = pick(WORDS)
        return pick([None, pick(INTEGERS), pick(FLOATS), word, word.encode() + b"\0\xff", self.random.randrange(-9, 9)])

    def row(self) -> tuple[object, ...]:
        """Return one row of either table."""
        pick = self.random.choice
        return (pick(INTEGERS), pick(FLOATS), pick([*WORDS, None]), pick(WORDS).encode() * 3, self.value())

    def column(self) -> str:
        """Return one of the columns of the two tables."""
        return f"{self.random.choice('ab')}.{self.random.choice(COLUMNS)}"

    def literal(self) -> str:
        """Return a constant as SQL."""
        value = self.value()
        if value is None:
            return "NULL"
        if isinstance(value, bytes):
            return f"x'{value.hex()}'"
        if isinstance(value, str):
            return "'" + value.replace("'", "''") + "'"
        return f"({value})" if value != -(2**63) else "(-9223372036854775807 - 1)"

    def expression(self, depth: int) -> str:
        """Return an expression over one row of the join."""
        if depth == 0:
            return self.random.choice([self.column, self.column, self.literal])()
        makers: list[Callable[[int], str]] = [self.operation, self.function, self.choice, self.condition]
        return self.random.choice(makers)(depth - 1)

    def operation(self, depth: int) -> str:
        """Return arithmetic on integers: the text of floats differs between versions."""
        operator = self.random.choice(["+", "-", "*", "/", "%", "&", "|", "<<", ">>"])
        left, right = self.expression(depth), self.expression(depth)
        return f"(CAST({left} AS INTEGER) {operator} (CAST({right} AS INTEGER) % 1000))"

    def function(self, depth: int) -> str:
        """Return a call of a scalar function."""
        text = f"CAST(CAST({self.expression(depth)} AS BLOB) AS TEXT)" if depth == 0 else self.column_of_text()
        other, number = self.column_of_text(), self.random.randrange(-4, 9)
        return self.random.choice(
            [
                f"length({text})", f"upper({text})", f"lower({other})", f"substr({text}, {number}, {abs(number)})",
                f"instr({other}, {self.column_of_text()})", f"replace({other}, 'a', 'xyz')", f"trim({other}, 'ab')",
                f"hex({text})", f"abs(CAST({self.expression(depth)} AS INTEGER) % 1000)",
                f"typeof({self.expression(depth)})", f"coalesce({self.expression(depth)}, {number})",
                f"nullif({self.expression(depth)}, {self.expression(depth)})", f"quote({other})", f"unicode({other})",
                f"max({self.expression(depth)}, {self.expression(depth)})", f"min({number}, {self.expression(depth)})",
            ]
        )  # fmt: skip

    def column_of_text(self) -> str:
        """Return an expression that is text or NULL."""
        return f"{self.random.choice('ab')}.word"

    def choice(self, depth: int) -> str:
        """Return a CASE."""
        parts = [self.condition(depth), self.expression(depth), self.expression(depth)]
        return "CASE WHEN {} THEN {} ELSE {} END".format(*parts)

    def condition(self, depth: int) -> str:
        """Return something true, false or NULL."""
        left, right = self.expression(depth), self.expression(depth)
        operator = self.random.choice(["=", "<>", "<", "<=", ">", ">=", "IS", "IS NOT"])
        pattern = self.random.choice(["a%", "%B", "_b%", "%", "abc%H", "[a-c]*", "*h*"])
        return self.random.choice(
            [
                f"({left} {operator} {right})", f"({left} BETWEEN {right} AND {self.literal()})",
                f"({left} IN ({right}, {self.literal()}, {self.literal()}))",
                f"({self.column_of_text()} LIKE '{pattern}')",
                f"({self.column_of_text()} GLOB '{pattern}')", f"({left} IS NULL OR {right} < {self.literal()})",
                f"EXISTS (SELECT 1 FROM b AS i WHERE i.word = {self.column_of_text()} AND i.whole > {self.literal()})",
            ]
        )  # fmt: skip

    def query(self) -> str:
        """Return a query with a defined order of rows."""
        joined = f"a {self.random.choice(['JOIN', 'LEFT JOIN'])} b ON {self.join_condition()}"
        where = f"WHERE {self.condition(1)}" if self.random.random() < 0.6 else ""
        first, second = self.expression(2), self.expression(1)
        return self.random.choice(
            [
                f"SELECT a.id, b.id, {first}, {second} FROM {joined} {where} ORDER BY 1, 2 LIMIT 200",
                f"SELECT {first} AS k, count(*), min(a.id), max(a.word), count(DISTINCT b.mixed) FROM {joined} {where} "
                "GROUP BY k ORDER BY typeof(k), k, 2, 3",
                f"SELECT DISTINCT typeof({first}), {second} FROM {joined} {where} ORDER BY 1, typeof({second}), 2",
                f"SELECT a.id, rank() OVER (PARTITION BY a.word ORDER BY a.whole, a.id), "
                f"sum(a.id) OVER (ORDER BY a.id ROWS 3 PRECEDING), {first} FROM {joined} {where} ORDER BY a.id, b.id",
                f"SELECT word FROM a WHERE whole > {self.literal()} EXCEPT SELECT word FROM b UNION ALL "
                f"SELECT word FROM b WHERE mixed IS {self.literal()} ORDER BY 1",
            ]
        )  # fmt: skip

    def join_condition(self) -> str:
        """Return the join condition of two rows."""
        return self.random.choice(
            ["a.word = b.word", "a.id = b.id", "a.mixed = b.mixed", "a.raw < b.raw", "a.whole = b.id"]
        )


@pytest.mark.parametrize("seed", SEEDS)
async def test_random_queries_give_the_results_of_stock_sqlite(seed: int) -> None:
    grammar = Grammar(seed)
    rows = {table: [grammar.row() for _ in range(60)] for table in "ab"}
    stock = sqlite3.connect(":memory:")
    async with rapsqlite.connect(":memory:") as conn:
        await conn.executescript(SCHEMA)
        stock.executescript(SCHEMA)
        for table, content in rows.items():
            insert = f"INSERT INTO {table} (whole, broken, word, raw, mixed) VALUES (?, ?, ?, ?, ?)"
            await conn.executemany(insert, content)
            stock.executemany(insert, content)

        answered = 0
        for _ in range(QUERIES_PER_SEED):
            sql = grammar.query()
            try:
                expected: object = [list(row) for row in stock.execute(sql)]
                answered += 1
            except sqlite3.Error as exc:
                expected = type(exc).__name__
            try:
                actual: object = await conn.fetch_all(sql)
            except rapsqlite.Error as exc:
                actual = type(exc).__name__
            assert repr(actual) == repr(expected), sql
    stock.close()

    assert answered > QUERIES_PER_SEED * 0.8
