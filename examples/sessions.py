"""Transfer changes from one database to another as a changeset, and resolve a conflict with a rule.

Run it: python examples/sessions.py
"""

import anyio

from rapsqlite import SQLITE_CHANGESET_DATA, SQLITE_CHANGESET_OMIT, SQLITE_CHANGESET_REPLACE, Conflict, connect

SCHEMA = "CREATE TABLE stock (item TEXT PRIMARY KEY, count INTEGER); INSERT INTO stock VALUES ('tea', 5), ('salt', 9)"


def newest_wins(conflict: Conflict) -> int:
    print("clash:", conflict.found, "becomes", conflict.new)
    return SQLITE_CHANGESET_REPLACE if conflict.kind == SQLITE_CHANGESET_DATA else SQLITE_CHANGESET_OMIT


async def main() -> None:
    async with connect(":memory:") as shop, connect(":memory:") as branch:
        for conn in (shop, branch):
            await conn.executescript(SCHEMA)
        await branch.execute("UPDATE stock SET count = 4 WHERE item = 'tea'")
        await branch.commit()

        async with shop.session("stock") as session:
            await shop.execute("UPDATE stock SET count = 3 WHERE item = 'tea'")
            await shop.execute("INSERT INTO stock VALUES ('oil', 1)")
            changeset = await session.changeset()

        await branch.apply_changeset(changeset, conflict=newest_wins)
        print(await branch.fetch_all("SELECT * FROM stock ORDER BY item"))


if __name__ == "__main__":
    anyio.run(main)
