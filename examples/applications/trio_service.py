"""A Starlette service on Trio, served by hypercorn.

python examples/applications/trio_service.py 127.0.0.1:8000
"""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from rapsqlite import connect


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with connect(os.environ.get("VISITS", "visits.db"), isolation_level=None) as conn:
        await conn.execute("CREATE TABLE IF NOT EXISTS visit (page TEXT PRIMARY KEY, count INTEGER)")
        app.state.conn = conn
        yield


async def visit(request: Request) -> JSONResponse:
    count = await request.app.state.conn.fetch_scalar(
        "INSERT INTO visit VALUES (?, 1) ON CONFLICT DO UPDATE SET count = count + 1 RETURNING count",
        [request.path_params["page"]],
    )
    return JSONResponse({"visits": count})


app = Starlette(routes=[Route("/{page}", visit)], lifespan=lifespan)


if __name__ == "__main__":
    config = Config()
    config.bind = sys.argv[1:] or ["127.0.0.1:8000"]
    trio.run(serve, app, config)  # type: ignore[arg-type]  # hypercorn's own types describe applications otherwise
