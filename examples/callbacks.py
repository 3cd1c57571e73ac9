"""SQL calls Python: a function, an aggregate, and a hook that records changes.

Run it: python examples/callbacks.py
"""

import statistics

import anyio

from rapsqlite import connect


class Median:
    """An aggregate: one instance per group of rows."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def step(self, value: float) -> None:
        """Process one row."""
        self.values.append(value)

    def finalize(self) -> float:
        """Return the result of all rows."""
        return statistics.median(self.values)


async def main() -> None:
    changes: list[str] = []
    async with connect(":memory:") as conn:
        # Deterministic: SQLite may reuse the result for the same argument within a statement.
        await conn.create_function("celsius", 1, lambda f: round((f - 32) / 1.8, 1), deterministic=True)
        await conn.create_aggregate("median", 1, Median)
        await conn.set_update_hook(lambda _action, _database, table, rowid: changes.append(f"{table}:{rowid}"))

        await conn.execute("CREATE TABLE reading (place TEXT, fahrenheit REAL)")
        readings = [("roof", 50), ("roof", 59), ("cellar", 41), ("roof", 77)]
        await conn.executemany("INSERT INTO reading VALUES (?, ?)", readings)

        print(await conn.fetch_all("SELECT place, median(celsius(fahrenheit)) FROM reading GROUP BY place"))
        print(changes)


if __name__ == "__main__":
    anyio.run(main)
