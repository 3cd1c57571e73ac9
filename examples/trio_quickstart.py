"""The same library on Trio: only the line that starts the event loop is different.

Run it: python examples/trio_quickstart.py
"""

import trio

from rapsqlite import connect


async def main() -> None:
    async with connect(":memory:") as conn:
        await conn.execute("CREATE TABLE planet (name TEXT, moons INTEGER)")
        await conn.executemany(
            "INSERT INTO planet VALUES (?, ?)",
            [("Earth", 1), ("Mars", 2), ("Jupiter", 97), ("Saturn", 274)],
        )
        rows = await conn.fetch_all("SELECT name FROM planet WHERE moons > ? ORDER BY name", (1,))
        print([name for (name,) in rows])


if __name__ == "__main__":
    trio.run(main)
