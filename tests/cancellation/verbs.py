"""The methods that run one statement, each with a statement that does not end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import rapsqlite

    Verb = Callable[[rapsqlite.Connection], Awaitable[object]]


async def drain(rows: Any) -> None:
    """Read all rows of an asynchronous iterator."""
    async for _ in rows:
        pass


def verbs(endless: str, endless_rows: str) -> dict[str, Verb]:
    """Return the methods; the first statement returns one value, and table ``t`` has a column ``b`` for it."""
    return {
        "execute": lambda conn: conn.execute(endless),
        "execute_fetchall": lambda conn: conn.execute_fetchall(endless),
        "execute_insert": lambda conn: conn.execute_insert(f"INSERT INTO t (b) {endless}"),
        "executemany": lambda conn: conn.executemany(f"INSERT INTO t (b) SELECT ? FROM ({endless})", [(1,)] * 5),
        "executescript": lambda conn: conn.executescript(f"SELECT 1; {endless}; SELECT 2"),
        "fetch_all": lambda conn: conn.fetch_all(endless_rows),
        "fetch_one": lambda conn: conn.fetch_one(endless),
        "fetch_optional": lambda conn: conn.fetch_optional(endless),
        "fetch_scalar": lambda conn: conn.fetch_scalar(endless),
        "fetch_blob": lambda conn: conn.fetch_blob(endless),
        "execute_iter": lambda conn: drain(conn.execute_iter(endless_rows, chunk_size=10)),
        "stream": lambda conn: drain(conn.stream(endless_rows)),
        "prepared": lambda conn: conn.prepare(endless).fetch_one(),
        "prepared execute": lambda conn: conn.prepare(endless).execute(),
    }
