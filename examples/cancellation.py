"""Interrupt a slow query inside SQLite, and keep using the connection.

Run it: python examples/cancellation.py
"""

import anyio

from rapsqlite import connect

ENDLESS = "WITH RECURSIVE number(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM number) SELECT count(*) FROM number"


async def main() -> None:
    async with connect(":memory:") as conn:
        with anyio.move_on_after(0.2) as limit:
            await conn.fetch_all(ENDLESS)
        print("interrupted:", limit.cancelled_caught)
        print("still works:", await conn.fetch_scalar("SELECT 6 * 7"))


if __name__ == "__main__":
    anyio.run(main)
