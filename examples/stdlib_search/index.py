"""Write the docstrings into a database with a full-text index."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from examples.stdlib_search.docstrings import Document, documents_of, standard_library
from examples.stdlib_search.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path

    import rapsqlite

SCHEMA = """
CREATE TABLE document (
    id INTEGER PRIMARY KEY, module TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL,
    line INTEGER NOT NULL, body TEXT NOT NULL
);
CREATE VIRTUAL TABLE search USING fts5(name, body, content='document', content_rowid='id');
CREATE TABLE visit (id INTEGER PRIMARY KEY, loop TEXT NOT NULL, term TEXT NOT NULL, hits INTEGER NOT NULL);
"""
DOCUMENTS_PER_TRANSACTION = 2000


async def build(conn: rapsqlite.Connection, files: list[Path] | None = None) -> int:
    """Fill an empty database from the standard library's sources and return the number of documents."""
    # With a write-ahead log, searches do not wait for writes. On file systems that do not support it SQLite keeps its
    # rollback journal, and everything works, but slower.
    await conn.execute("PRAGMA journal_mode = WAL")
    await conn.executescript(SCHEMA)
    files = standard_library() if files is None else files
    progress = Progress("reading the sources", len(files))
    waiting: list[Document] = []
    stored = 0
    for path in files:
        # Parsing is pure Python and takes milliseconds: in a worker thread it leaves the event loop free.
        waiting += await anyio.to_thread.run_sync(documents_of, path)
        if len(waiting) >= DOCUMENTS_PER_TRANSACTION:
            stored = await store(conn, waiting, stored)
            waiting = []
        progress.step()
    return await store(conn, waiting, stored)


async def store(conn: rapsqlite.Connection, documents: list[Document], stored: int) -> int:
    """Add documents in one transaction to the ``stored`` ones; return the new total."""
    numbered = list(enumerate(documents, start=stored + 1))
    async with conn.transaction():
        await conn.executemany(
            "INSERT INTO document VALUES (?, ?, ?, ?, ?, ?)", [(number, *entry) for number, entry in numbered]
        )
        await conn.executemany(
            "INSERT INTO search (rowid, name, body) VALUES (?, ?, ?)",
            [(number, entry.name, entry.body) for number, entry in numbered],
        )
    return stored + len(documents)
