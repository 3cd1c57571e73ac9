"""All or nothing: a transfer between two accounts that fails halfway changes nothing.

Run it: python examples/transactions.py
"""

import asyncio

import rapsqlite


async def transfer(conn: rapsqlite.Connection, source: str, target: str, amount: int) -> None:
    async with conn.transaction("IMMEDIATE"):
        await conn.execute("UPDATE account SET balance = balance + ? WHERE name = ?", (amount, target))
        await conn.execute("UPDATE account SET balance = balance - ? WHERE name = ?", (amount, source))


async def main() -> None:
    async with rapsqlite.connect("accounts.db") as conn:
        await conn.execute(
            "CREATE TABLE IF NOT EXISTS account (name TEXT PRIMARY KEY, balance INTEGER CHECK (balance >= 0))"
        )
        await conn.executemany("INSERT OR REPLACE INTO account VALUES (?, ?)", [("ada", 100), ("bob", 20)])
        await conn.commit()

        await transfer(conn, "ada", "bob", 30)
        print(await conn.fetch_all("SELECT * FROM account ORDER BY name"))

        try:
            await transfer(conn, "ada", "bob", 1000)
        except rapsqlite.IntegrityError as error:
            print("refused:", error)
        print(await conn.fetch_all("SELECT * FROM account ORDER BY name"))


if __name__ == "__main__":
    asyncio.run(main())
