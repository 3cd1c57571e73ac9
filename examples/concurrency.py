"""Many tasks share one connection: statements are queued and pipelined, and the event loop stays free.

Run it: python examples/concurrency.py
"""

import asyncio

import rapsqlite


async def count_words(conn: rapsqlite.Connection, text: str) -> None:
    for word in text.lower().split():
        await conn.execute(
            "INSERT INTO word (name, uses) VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET uses = uses + 1",
            (word,),
        )


async def main() -> None:
    lines = ["the quick brown fox", "jumps over the lazy dog", "the fox again"] * 20
    async with rapsqlite.connect(":memory:") as conn:
        await conn.execute("CREATE TABLE word (name TEXT PRIMARY KEY, uses INTEGER)")
        await asyncio.gather(*(count_words(conn, line) for line in lines))
        print(await conn.fetch_all("SELECT name, uses FROM word ORDER BY uses DESC, name LIMIT 2"))


if __name__ == "__main__":
    asyncio.run(main())
