"""Read a large result in bounded memory: chunks of rows from one running statement.

Run it: python examples/streaming.py
"""

import asyncio

from rapsqlite import connect

NUMBERS = """
WITH RECURSIVE number(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM number WHERE n < ?)
SELECT n, n * n FROM number
"""


async def main() -> None:
    async with connect(":memory:") as conn:
        chunks = 0
        total = 0
        async for rows in conn.execute_iter(NUMBERS, (200_000,), chunk_size=10_000):
            chunks += 1
            total += sum(square for _, square in rows)
        print(f"{chunks} chunks, sum of squares {total}")


if __name__ == "__main__":
    asyncio.run(main())
