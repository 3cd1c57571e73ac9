"""Every kind of callback, each with a statement that calls it, for the tests of misbehaving callbacks.

The statements run on a WAL file that holds `ROWS`, each in a separate transaction.
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING, Any, NamedTuple

import rapsqlite

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

ROWS = [[1, "one"], [2, "two"], [3, "three"]]
NEW = [7, "seven"]
INSERT = "INSERT INTO t VALUES (7, 'seven')"
WINDOW = "ORDER BY a ROWS BETWEEN 1 PRECEDING AND CURRENT ROW"
METHODS = {
    "__init__": lambda _self: None,
    "step": lambda _self, _value: None,
    "inverse": lambda _self, _value: None,
    "value": lambda _self: 7,
    "finalize": lambda _self: 7,
}


class Kind(NamedTuple):
    """One kind of callback."""

    register: Callable[[Any, Callable[..., Any] | None], Awaitable[None]]
    """Takes the connection and the callback, or None to remove it."""
    statements: tuple[str, ...]
    """The statements that call it: at most one of them, the last, fails."""
    words: str
    """The message when it raises; empty if that fails nothing."""
    error: type[Exception] = rapsqlite.OperationalError
    keeps: bool = False
    """The row of `INSERT` is kept although the callback has raised."""


def aggregate(method: str, words: str | None = None) -> Kind:
    async def register(conn: Any, callback: Callable[..., Any] | None) -> None:
        cls = None if callback is None else type("Aggregate", (), {**METHODS, method: callback})
        await conn.create_aggregate("f", 1, cls)

    words = f"user-defined aggregate's '{words or method}' method raised error"
    return Kind(register, ("INSERT INTO t SELECT f(a), 'seven' FROM t",), words)


def window(method: str) -> Kind:
    async def register(conn: Any, callback: Callable[..., Any] | None) -> None:
        cls = None if callback is None else type("Window", (), {**METHODS, method: callback})
        await conn.create_window_function("f", 1, cls)

    insert = f"INSERT INTO t SELECT f(a) OVER ({WINDOW}), 'seven' FROM t LIMIT 1 OFFSET 2"
    if method == "finalize":
        # SQLite ignores its outcome, and sqlite3 does not report it either.
        return Kind(register, (insert,), "", keeps=True)
    return Kind(register, (insert,), f"user-defined aggregate's '{method}' method raised error")


def function(*, deterministic: bool) -> Kind:
    async def register(conn: Any, callback: Callable[..., Any] | None) -> None:
        await conn.create_function("f", 1, callback, deterministic=deterministic)

    return Kind(register, ("INSERT INTO t SELECT f(7), 'seven'",), "user-defined function raised exception")


KINDS = {
    "function": function(deterministic=False),
    "deterministic function": function(deterministic=True),
    "aggregate init": aggregate("__init__"),
    "aggregate step": aggregate("step"),
    "aggregate finalize": aggregate("finalize"),
    "window init": window("__init__"),
    "window step": window("step"),
    "window inverse": window("inverse"),
    "window value": window("value"),
    "window finalize": window("finalize"),
    "collation": Kind(
        lambda conn, callback: conn.create_collation("c", callback),
        ("INSERT INTO t SELECT 7, 'seven' FROM (SELECT b FROM t ORDER BY b COLLATE c LIMIT 1)",),
        "user-defined collation raised exception",
    ),
    "authorizer": Kind(
        lambda conn, callback: conn.set_authorizer(callback), (INSERT,), "not authorized", rapsqlite.DatabaseError
    ),
    "progress": Kind(lambda conn, callback: conn.set_progress_handler(callback, 1), (INSERT,), "interrupted"),
    "busy": Kind(lambda conn, callback: conn.set_busy_handler(callback), (INSERT,), "database is locked"),
    "trace": Kind(lambda conn, callback: conn.set_trace_callback(callback), (INSERT,), "", keeps=True),
    "update": Kind(
        lambda conn, callback: conn.set_update_hook(callback), (INSERT,), "user-defined update hook raised exception"
    ),
    "preupdate": Kind(
        lambda conn, callback: conn.set_preupdate_hook(callback),
        (INSERT,),
        "user-defined preupdate hook raised exception",
    ),
    "commit": Kind(
        lambda conn, callback: conn.set_commit_hook(callback),
        (INSERT,),
        "the commit hook refused the commit, which was rolled back",
        rapsqlite.IntegrityError,
    ),
    "rollback": Kind(
        lambda conn, callback: conn.set_rollback_hook(callback),
        ("BEGIN", "INSERT INTO t VALUES (8, 8)", "ROLLBACK"),
        "",
    ),
    "wal": Kind(
        lambda conn, callback: conn.set_wal_hook(callback),
        (INSERT,),
        "user-defined WAL hook raised exception",
        keeps=True,
    ),
}  # fmt: skip


@contextlib.contextmanager
def prepared(path: Path, name: str) -> Iterator[Kind]:
    """Create the file with `ROWS` and yield the kind; for the busy handler another connection is about to write."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as native:
        native.execute("PRAGMA journal_mode = wal")
        native.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
        native.executemany("INSERT INTO t VALUES (?, ?)", ROWS)
        if name == "busy":
            native.execute("BEGIN IMMEDIATE")
        yield KINDS[name]


async def use(conn: rapsqlite.Connection, kind: Kind) -> None:
    """Run the statement that calls the callback."""
    for sql in kind.statements:
        await conn.execute(sql)


def stored(path: Path) -> list[list[Any]]:
    """Return the file's content according to native SQLite, which finds no damage either."""
    with contextlib.closing(sqlite3.connect(path)) as native:
        assert native.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return [list(row) for row in native.execute("SELECT a, b FROM t ORDER BY a")]
