"""Create a table, insert a row, read it back: in a file, then in memory.

Run it: python examples/quickstart.py
"""

import asyncio

from rapsqlite import connect


async def hello(database: str) -> None:
    async with connect(database) as conn:
        await conn.execute("CREATE TABLE IF NOT EXISTS test (id INTEGER PRIMARY KEY, value TEXT)")
        await conn.execute("DELETE FROM test")
        await conn.execute("INSERT INTO test (value) VALUES ('hello')")
        rows = await conn.fetch_all("SELECT * FROM test")
        print(rows)


def main() -> None:
    asyncio.run(hello("example.db"))
    asyncio.run(hello(":memory:"))


if __name__ == "__main__":
    main()
