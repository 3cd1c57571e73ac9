"""A FastAPI service: lifespan, dependency, pages, a streaming response that ends when its client goes away.

uvicorn examples.applications.fastapi_service:app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import msgspec
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from rapsqlite import Connection, connect, paginate

SCHEMA = "CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY, body TEXT NOT NULL)"


class Note(BaseModel):
    """A note as it is stored."""

    id: int
    body: str


class NewNote(BaseModel):
    """What a client sends."""

    body: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the database before the first request, and close it after the last one."""
    path = os.environ.get("NOTES", "notes.db")
    # In autocommit mode each statement of a request commits by itself, whatever other requests do meanwhile.
    async with connect(path, isolation_level=None, pragmas={"journal_mode": "WAL"}) as conn:
        await conn.execute(SCHEMA)
        app.state.conn = conn
        yield


app = FastAPI(lifespan=lifespan)


def database(request: Request) -> Connection:
    """Return the connection, which all requests share: their statements are queued."""
    conn: Connection = request.app.state.conn
    return conn


Database = Annotated[Connection, Depends(database)]


@app.post("/notes", status_code=201)
async def create(note: NewNote, conn: Database) -> Note:
    return await conn.fetch_one("INSERT INTO note (body) VALUES (?) RETURNING id, body", [note.body], into=Note)


@app.get("/notes/{number}")
async def read(number: int, conn: Database) -> Note:
    note = await conn.fetch_optional("SELECT id, body FROM note WHERE id = ?", [number], into=Note)
    if note is None:
        raise HTTPException(404)
    return note


@app.get("/notes")
async def browse(conn: Database, after: str | None = None, size: int = 2) -> dict[str, object]:
    try:
        page = await paginate(conn, "SELECT id, body FROM note", page_size=size, key="id", after=after)
    except ValueError as error:
        raise HTTPException(400, str(error)) from error
    return {"notes": [{"id": number, "body": body} for number, body in page], "next": page.next}


@app.put("/notes")
async def replace(notes: list[NewNote], conn: Database) -> dict[str, int]:
    # The statements of other requests wait until the block ends.
    async with conn.transaction("IMMEDIATE"):
        await conn.execute("DELETE FROM note")
        await conn.executemany("INSERT INTO note (body) VALUES (?)", [(note.body,) for note in notes])
    return {"count": len(notes)}


@app.get("/numbers")
async def numbers(conn: Database, most: int = -1) -> StreamingResponse:
    """Stream rows as they are computed; without ``most`` there is no last one."""

    async def lines() -> AsyncIterator[bytes]:
        sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?) SELECT i FROM n"
        # Leaving the block ends the statement, also when the client is gone and the task is cancelled.
        async with conn.stream(sql, [most]) as rows:
            async for row in rows:
                yield msgspec.json.encode(row) + b"\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson")


@app.get("/statements")
async def statements(conn: Database) -> int:
    return (await conn.statistics())["open_statements"]
