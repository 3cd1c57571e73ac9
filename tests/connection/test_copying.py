"""Copying Python objects: a copy of an open connection would close the original when it is dropped."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any

import anyio.lowlevel
import pytest

import rapsqlite
from rapsqlite import dbapi

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

NAMES = [
    "Connection", "AsyncConnection", "MemoryConnection", "Cursor", "AsyncCursor", "Blob", "ChangeSession",
    "PreparedStatement", "RowStream", "ChunkStream", "Transaction", "Savepoint",
]  # fmt: skip
WAYS: list[Callable[[Any], object]] = [copy.copy, copy.deepcopy, pickle.dumps]


async def opened(name: str, conn: rapsqlite.Connection) -> Any:
    """Return an object of the class with this name, on ``conn`` unless it is a connection itself."""
    await conn.execute("CREATE TABLE t (v)")
    await conn.execute("INSERT INTO t VALUES (zeroblob(9))")
    makers: dict[str, Callable[[], Any]] = {
        "Connection": lambda: rapsqlite.connect(":memory:"),
        "AsyncConnection": lambda: dbapi.connect(":memory:"),
        "MemoryConnection": lambda: rapsqlite.connect_memory(name="copying"),
        "Cursor": lambda: conn.execute("SELECT 1 UNION ALL SELECT 2"),
        "AsyncCursor": lambda: _cursor_of_dbapi(conn),
        "Blob": lambda: conn.blobopen("t", "v", 1),
        "ChangeSession": lambda: conn.session("t"),
        "PreparedStatement": lambda: conn.prepare("SELECT v FROM t"),
        "RowStream": lambda: conn.stream("SELECT 1"),
        "ChunkStream": lambda: conn.execute_iter("SELECT 1"),
        "Transaction": conn.transaction,
        "Savepoint": conn.savepoint,
    }
    made = makers[name]()
    return await made if hasattr(made, "__await__") else made


async def _cursor_of_dbapi(conn: rapsqlite.Connection) -> dbapi.AsyncCursor:
    return dbapi.AsyncCursor(conn)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("name", NAMES)
async def test_open_objects_cannot_be_copied(name: str, way: Callable[[Any], object]) -> None:
    async with rapsqlite.connect(":memory:") as conn:
        original = await opened(name, conn)

        assert type(original).__name__ == name
        with pytest.raises(TypeError, match=f"cannot copy or pickle a rapsqlite.*{name}"):
            way(original)

        close: Callable[[], Awaitable[object]] = getattr(original, "close", anyio.lowlevel.checkpoint)
        await close()


async def test_connection_works_after_a_copy_was_refused() -> None:
    async with rapsqlite.connect(":memory:") as conn:
        with pytest.raises(TypeError):
            copy.copy(conn)

        assert await conn.fetch_scalar("SELECT 42") == 42


async def test_rows_are_copied() -> None:
    """A row is a value: copying it needs no connection."""
    async with rapsqlite.connect(":memory:", row_factory=rapsqlite.Row) as conn:
        row = await conn.fetch_one("SELECT 1 AS a, 'two' AS b")

        assert copy.copy(row) == row
        assert copy.deepcopy(row) == row
