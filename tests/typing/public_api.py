"""What the type checkers must conclude about the public API. Read by mypy and pyright, never run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from typing_extensions import TypedDict, assert_type

import rapsqlite
from rapsqlite import Connection, Cursor, PreparedStatement, Row, connect

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator

    from rapsqlite.types import CursorLike


@dataclass
class User:
    id: int
    name: str


class Pair(NamedTuple):
    id: int
    name: str


class Record(TypedDict):
    id: int
    name: str


async def connections(path: Path) -> None:
    assert_type(connect(path), Connection)
    assert_type(await connect(":memory:"), Connection)
    async with connect(
        b"file.db", timeout=1, isolation_level=None, row_factory=Row, pragmas={"cache_size": -1}
    ) as conn:
        assert_type(conn, Connection)
        assert_type(conn.in_transaction, bool)
        assert_type(conn.total_changes, int)
        assert_type(await conn.last_insert_rowid(), int)
        await conn.commit()
        await conn.close()


def total_of(row: list[int]) -> int:
    return sum(row)


def dict_of(cursor: CursorLike, row: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip([name for name, *_ in cursor.description or ()], row, strict=True))


def row_factories(path: Path) -> None:
    """A factory of the row alone gets a list, one of cursor and row a tuple."""
    connect(path, row_factory=total_of)
    connect(path, row_factory=dict_of)


async def limited(path: Path) -> None:
    limits: rapsqlite.Limits = {"directories": [path, "shared", b"bytes"], "statement_seconds": 1, "read_only": True}
    async with connect(path, limits=limits) as conn:
        assert_type(conn, Connection)
    connect(path, limits={"file_bytes": 1 << 20, "max_rows": 10})
    connect(path, limits={"max_cows": 10})  # type: ignore[arg-type]
    connect(path, limits={"file_bytes": "large"})  # type: ignore[arg-type]


async def statements(conn: Connection) -> None:
    assert_type(await conn.execute("SELECT ?", (1,)), Cursor)
    assert_type(await conn.execute("SELECT :a", {"a": b"bytes"}), Cursor)
    assert_type(await conn.executemany("INSERT INTO t VALUES (?)", [(1,), (2,)]), Cursor)
    assert_type(await conn.executescript("SELECT 1;"), Cursor)
    async with conn.execute("SELECT 1") as cursor:
        assert_type(cursor, Cursor)
        assert_type(cursor.rowcount, int)
        assert_type(await cursor.fetchall(), list[Any])


async def whole_results(conn: Connection) -> None:
    assert_type(await conn.fetch_all("SELECT 1"), list[Any])
    assert_type(await conn.fetch_all("SELECT 1", into=User), list[User])
    assert_type(await conn.fetch_all("SELECT 1", into=Record), list[Record])
    assert_type(await conn.fetch_one("SELECT 1", into=Pair), Pair)
    assert_type(await conn.fetch_optional("SELECT 1", into=User), User | None)
    assert_type(await conn.fetch_blob("SELECT x''"), bytes | None)


async def streams(conn: Connection) -> None:
    async for rows in conn.execute_iter("SELECT 1", chunk_size=10):
        assert_type(rows, list[Any])
    assert_type(conn.prepare("SELECT 1"), PreparedStatement)
    iterator: AsyncIterator[Any] = conn.stream("SELECT 1")
    async for row in iterator:
        print(row)


async def transactions(conn: Connection) -> None:
    async with conn.transaction("IMMEDIATE", timeout=1.0) as inside:
        assert_type(inside, Connection)
    async with conn.savepoint("name"):
        await conn.rollback()


async def copies(conn: Connection, other: sqlite3.Connection) -> None:
    assert_type(await conn.backup(conn), None)
    assert_type(await conn.backup(other, progress=lambda status, remaining, total: None), None)
    assert_type(await conn.restore(other, name="main", sleep=1), None)
    assert_type(await conn.restore(conn), None)
    assert_type(await conn.iterdump(), list[str])
    async for line in conn.iterdump(filter="a%"):
        assert_type(line, str)
    assert_type(await conn.serialize(), bytes)
    async with conn.blobopen("t", "b", 1) as blob:
        assert_type(blob, rapsqlite.Blob)
        assert_type(await blob.read(5), bytes)
    assert_type(await conn.get_tables(), list[str])
    assert_type(await conn.enable_load_extension(True), None)
    assert_type(await conn.load_extension("regexp"), None)
    assert_type(await conn.load_extension(Path("mine.wasm"), entrypoint="sqlite3_mine_init"), None)
    assert_type(await conn.get_table_info("t"), list[dict[str, Any]])


async def settings(conn: Connection) -> None:
    assert_type(await conn.data_version("main"), int)


async def callbacks(conn: Connection) -> None:
    await conn.create_function("f", 1, lambda value: value, deterministic=True)
    await conn.set_preupdate_hook(lambda action, database, table, old_rowid, new_rowid, old, new: None)
    await conn.set_preupdate_hook(None)


async def sessions(conn: Connection) -> None:
    async with conn.session("t", name="main") as session:
        assert_type(session, rapsqlite.ChangeSession)
        assert_type(await session.enable(False), bool)
        assert_type(await session.changeset(), bytes)
    assert_type(await conn.invert_changeset(b""), bytes)
    assert_type(await conn.combine_changesets(b"", bytearray()), bytes)

    def resolve(conflict: rapsqlite.Conflict) -> int:
        assert_type(conflict.found, list[Any] | None)
        return rapsqlite.SQLITE_CHANGESET_OMIT

    await conn.apply_changeset(b"", filter=lambda table: table == "t", conflict=resolve)


async def errors(conn: Connection) -> None:
    try:
        await conn.fetch_all("SELECT 1")
    except rapsqlite.IntegrityError as error:
        assert_type(error.sqlite_errorcode, int)
        assert_type(error.sqlite_errorname, str)


async def mistakes(conn: Connection) -> None:
    """Each of these lines must be an error: mypy reports a comment that suppresses nothing."""
    connect(3)  # type: ignore[arg-type]
    connect(":memory:", isolation_level="LATER")  # type: ignore[arg-type]
    connect(":memory:", unknown=1)  # type: ignore[call-arg]
    await conn.execute(b"SELECT 1")  # type: ignore[arg-type]
    await conn.fetch_all("SELECT ?", 1)  # type: ignore[call-overload]
    await conn.load_extension(b"regexp")  # type: ignore[arg-type]
    await conn.executemany("INSERT INTO t VALUES (?)", 1)  # type: ignore[arg-type]
    await conn.apply_changeset("text")  # type: ignore[arg-type]
    await conn.set_preupdate_hook(lambda action: None)  # type: ignore[arg-type,misc]
