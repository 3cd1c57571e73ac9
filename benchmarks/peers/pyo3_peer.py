"""rapsqlite 0.5.1, the native extension (Rust, sqlx, a pool per connection object)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from benchmarks.peers import Parameters, WithFetchMethods, first_row_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NAME = "pyo3"
IMPORT = "import rapsqlite"
FIRST_ROW = first_row_of("rapsqlite")
VERSION = "0.5.1"

# Typed Any: to a type checker the name means the package of this checkout.
rapsqlite: Any = importlib.import_module("rapsqlite")


def version() -> str:
    """Return the version measured; refuse to measure something else under this name."""
    if rapsqlite.__version__ != VERSION:
        raise RuntimeError(f"expected rapsqlite {VERSION} here, found {rapsqlite.__version__}")
    return f"{rapsqlite.__version__}, SQLite its own"


class Pyo3Database(WithFetchMethods):
    """A connection object of rapsqlite 0.5.1: statements outside a transaction commit on their own."""

    async def insert_many(self, sql: str, rows: Iterable[Parameters]) -> None:
        await self._connection.begin()
        await self._connection.executemany(sql, list(rows))
        await self._connection.commit()


async def open_database(path: str, pragmas: Mapping[str, str]) -> Pyo3Database:
    """Open a connection object; its pool applies the pragmas to every connection it opens."""
    connection = rapsqlite.Connection(path, pragmas=dict(pragmas))
    await connection.__aenter__()
    return Pyo3Database(connection)
