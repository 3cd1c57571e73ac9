"""Optional adapters for more parameter types; rows as attrs classes and pydantic models."""

from __future__ import annotations

import dataclasses
import decimal
import enum
import uuid
from typing import Any

import attrs
import msgspec
import pydantic
import pytest

import rapsqlite
from rapsqlite import connect
from tests.programs import run_python

ID = uuid.UUID("12345678-1234-5678-1234-567812345678")


class Colour(enum.Enum):
    RED = "red"
    OF_ID = ID


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Point:
    x: int
    y: decimal.Decimal


class Size(msgspec.Struct):
    width: int


def upper(text: str) -> str:
    return text.upper()


@attrs.frozen
class Book:
    id: int
    title: str = attrs.field(converter=upper)
    _isbn: str | None = None
    tags: list[str] = attrs.Factory(list)
    seen: int = attrs.field(default=0, init=False)


class Author(pydantic.BaseModel):
    id: uuid.UUID
    name: str = pydantic.Field(alias="full_name")
    price: decimal.Decimal = decimal.Decimal(0)
    admin: bool = False

    @pydantic.field_validator("name")
    @classmethod
    def short(cls, name: str) -> str:
        if len(name) > 10:
            raise ValueError(f"secret {name}")
        return name


async def test_enabled_adapters_store_more_types() -> None:
    """Without names, all of the supported types; what SQLite stores is text or the enum's value."""
    values = [
        ID,
        decimal.Decimal("1.10"),
        Colour.RED,
        Colour.OF_ID,
        Level.HIGH,
        Point(1, decimal.Decimal("2.5")),
        Size(4),
    ]
    async with connect(":memory:") as conn:
        conn.enable_adapters()
        found = await conn.fetch_one(f"SELECT {', '.join('?' * len(values))}", values)
        await conn.execute("CREATE TABLE t (a)")
        await conn.executemany("INSERT INTO t VALUES (?)", [[value] for value in values])

        expected = [str(ID), "1.10", "red", str(ID), 3, '{"x":1,"y":"2.5"}', '{"width":4}']
        assert found == expected
        assert [row for (row,) in await conn.fetch_all("SELECT a FROM t")] == expected


async def test_only_named_types_are_enabled_and_own_adapters_come_first() -> None:
    async with connect(":memory:") as conn, connect(":memory:") as other:
        conn.enable_adapters("uuid")
        conn.enable_adapters("decimal")
        conn.register_adapter(decimal.Decimal, float)

        assert await conn.fetch_one("SELECT ?, ?", [ID, decimal.Decimal("1.5")]) == [str(ID), 1.5]
        for connection, value in ((conn, Colour.RED), (other, ID)):
            with pytest.raises(rapsqlite.Error):
                await connection.fetch_one("SELECT ?", [value])
        with pytest.raises(
            ValueError, match="unknown adapter 'uid': choose from dataclass, decimal, enum, struct, uuid"
        ):
            conn.enable_adapters("uid")


async def test_rows_become_attrs_objects_with_their_converters() -> None:
    sql = "SELECT 1 AS id, 'one' AS title, NULL AS _isbn UNION ALL SELECT 2, 'two', 'x'"
    async with connect(":memory:") as conn:
        assert await conn.fetch_all(sql, into=Book) == [Book(1, "one", None), Book(2, "two", "x")]
        assert await conn.fetch_one("SELECT 3 AS id, 'three' AS title", into=Book) == Book(3, "three")
        with pytest.raises(rapsqlite.DataError, match="row 0, column 'id': Expected `int`, got `str`"):
            await conn.fetch_all("SELECT 'secret' AS id, 'x' AS title", into=Book)
        with pytest.raises(rapsqlite.DataError, match="title"):
            await conn.fetch_all("SELECT 1 AS id", into=Book)


async def test_rows_become_pydantic_models_validated_by_pydantic() -> None:
    async with connect(":memory:") as conn:
        found = await conn.fetch_all(
            "SELECT ? AS id, 'Ada' AS full_name, '1.5' AS price, 1 AS admin", [str(ID)], into=Author
        )
        streamed = [row async for row in conn.stream("SELECT ? AS id, 'Ada' AS full_name", [str(ID)], into=Author)]

        assert found == [Author(id=ID, full_name="Ada", price=decimal.Decimal("1.5"), admin=True)]
        assert streamed == [Author(id=ID, full_name="Ada")]


@pytest.mark.parametrize(
    "row, words",
    [
        ("'secret' AS id, 'x' AS full_name", "row 0, column 'id': Input should be a valid UUID"),
        ("NULL AS id", "row 0, column 'id'"),
        (f"'{ID}' AS id, 'secret secret' AS full_name", "row 0, column 'full_name': value_error"),
    ],
)
async def test_row_that_pydantic_rejects_raises_without_showing_values(row: str, words: str) -> None:
    async with connect(":memory:") as conn:
        with pytest.raises(rapsqlite.DataError) as caught:
            await conn.fetch_all(f"SELECT {row}", into=Author)

    error: Any = caught.value
    assert words in str(error)
    assert error.sqlite_errorname == "SQLITE_MISMATCH"
    while error is not None:
        assert "secret" not in str(error)
        error = error.__cause__


def test_neither_attrs_nor_pydantic_is_imported() -> None:
    """They are recognized by attributes of the class; importing them would take longer than the rest."""
    code = (
        "import asyncio, dataclasses, sys, rapsqlite\n"
        "@dataclasses.dataclass\n"
        "class A:\n"
        "    a: int\n"
        "async def main():\n"
        "    async with rapsqlite.connect(':memory:') as conn:\n"
        "        conn.enable_adapters()\n"
        "        await conn.fetch_all('SELECT ? AS a', [A(1)])\n"
        "        print(await conn.fetch_all('SELECT 1 AS a', into=A))\n"
        "asyncio.run(main())\n"
        "print({'attr', 'attrs', 'pydantic', 'decimal', 'uuid'} & set(sys.modules) - {'decimal', 'uuid'})\n"
    )
    done = run_python("-c", code)

    assert (done.stdout, done.stderr) == ("[A(a=1)]\nset()\n", "")
