"""A FastAPI service: lifespan, a pool as a dependency, pages, a streaming response that ends when its client goes away.

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

from rapsqlite import Pool, create_pool, paginate

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
    async with create_pool(path, max_size=4, pragmas={"journal_mode": "WAL"}) as pool:
        await pool.execute(SCHEMA)
        app.state.pool = pool
        yield


app = FastAPI(lifespan=lifespan)


def database(request: Request) -> Pool:
    """Return the pool: it spreads reads over its connections, and queues writes for one of them."""
    pool: Pool = request.app.state.pool
    return pool


Database = Annotated[Pool, Depends(database)]


@app.post("/notes", status_code=201)
async def create(note: NewNote, pool: Database) -> Note:
    stored: Note = await pool.fetch_one("INSERT INTO note (body) VALUES (?) RETURNING id, body", [note.body], into=Note)
    return stored


@app.get("/notes/{number}")
async def read(number: int, pool: Database) -> Note:
    note: Note | None = await pool.fetch_optional("SELECT id, body FROM note WHERE id = ?", [number], into=Note)
    if note is None:
        raise HTTPException(404)
    return note


@app.get("/notes")
async def browse(pool: Database, after: str | None = None, size: int = 2) -> dict[str, object]:
    try:
        async with pool.acquire(read_only=True) as conn:
            page = await paginate(conn, "SELECT id, body FROM note", page_size=size, key="id", after=after)
    except ValueError as error:
        raise HTTPException(400, str(error)) from error
    return {"notes": [{"id": number, "body": body} for number, body in page], "next": page.next}


@app.put("/notes")
async def replace(notes: list[NewNote], pool: Database) -> dict[str, int]:
    async with pool.transaction() as conn:
        await conn.execute("DELETE FROM note")
        await conn.executemany("INSERT INTO note (body) VALUES (?)", [(note.body,) for note in notes])
    return {"count": len(notes)}


@app.get("/numbers")
async def numbers(pool: Database, most: int = -1) -> StreamingResponse:
    """Stream rows as they are computed; without ``most`` the stream is endless."""

    async def lines() -> AsyncIterator[bytes]:
        sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?) SELECT i FROM n"
        # Leaving the block ends the statement, also when the client is gone and the task is cancelled.
        async with pool.acquire(read_only=True) as conn, conn.stream(sql, [most]) as rows:
            async for row in rows:
                yield msgspec.json.encode(row) + b"\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson")


@app.get("/out")
async def out(pool: Database) -> float:
    """Return how many connections are in use."""
    return pool.statistics()["out"]
