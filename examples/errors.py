"""Handle errors: the class says what kind it is, the attributes give SQLite's result code.

Run it: python examples/errors.py
"""

import asyncio
import sqlite3

import rapsqlite


async def main() -> None:
    async with rapsqlite.connect(":memory:") as conn:
        await conn.execute("CREATE TABLE user (email TEXT UNIQUE)")
        await conn.execute("INSERT INTO user VALUES (?)", ("ada@example.org",))
        try:
            await conn.execute("INSERT INTO user VALUES (?)", ("ada@example.org",))
        except rapsqlite.IntegrityError as error:
            print(error.sqlite_errorname, "|", error)

        # The classes are subclasses of sqlite3's, so existing `except` clauses keep working.
        try:
            await conn.fetch_all("SELECT * FROM nowhere")
        except sqlite3.OperationalError as error:
            print("also sqlite3's:", error)


if __name__ == "__main__":
    asyncio.run(main())
