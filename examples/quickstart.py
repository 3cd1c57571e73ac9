"""Create a table, insert a row, read it back: in a file, then in memory.

Run it: python examples/quickstart.py [FILE]
"""

import asyncio
import sys
from pathlib import Path

from rapsqlite import connect


async def hello(database: str | Path) -> None:
    async with connect(database) as conn:
        await conn.execute("CREATE TABLE test (id INTEGER PRIMARY KEY, value TEXT)")
        await conn.execute("INSERT INTO test (value) VALUES ('hello')")
        rows = await conn.fetch_all("SELECT * FROM test")
        print(rows)


def main() -> None:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "example.db")
    path.unlink(missing_ok=True)
    asyncio.run(hello(path))
    asyncio.run(hello(":memory:"))


if __name__ == "__main__":
    main()
