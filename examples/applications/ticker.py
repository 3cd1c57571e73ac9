"""A program that runs until Ctrl-C and then shuts down cleanly: nothing is lost, nothing stays open.

python examples/applications/ticker.py [FILE]
"""

import asyncio
import sys

from rapsqlite import connect


async def main(path: str) -> None:
    async with connect(path, isolation_level=None, pragmas={"journal_mode": "WAL"}) as conn:
        await conn.execute(
            "CREATE TABLE IF NOT EXISTS tick (id INTEGER PRIMARY KEY, at TEXT DEFAULT CURRENT_TIMESTAMP)"
        )
        while True:
            number = await conn.fetch_scalar("INSERT INTO tick DEFAULT VALUES RETURNING id")
            print("tick", number, flush=True)
            await asyncio.sleep(0.01)


try:
    # Ctrl-C cancels the task: the block above closes the connection before asyncio.run() ends.
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "ticks.db"))
except KeyboardInterrupt:
    print("stopped", flush=True)
