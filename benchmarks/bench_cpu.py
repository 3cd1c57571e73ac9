"""CPU-bound SQL: ten statements by the processor time of the whole process, and two of them by the clock.

Other work on the machine disturbs processor time least. Tables are in memory, and each statement returns one row or
none.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from benchmarks.figures import Figures, rate, seconds_of

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.peers import Database, Peer

STATEMENTS = {
    "cte": (
        "WITH RECURSIVE steps(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM steps WHERE n < {size} * 4)"
        " SELECT sum(n) FROM steps"
    ),
    "group_by": "SELECT count(*) FROM (SELECT name, count(*), sum(score) FROM facts GROUP BY name)",
    "order_by": "SELECT length(group_concat(id)) FROM (SELECT id FROM facts ORDER BY score, name)",
    "like": "SELECT count(*) FROM facts WHERE name LIKE '%7%e'",
    "join": "SELECT count(*), sum(b.score) FROM facts a JOIN facts b ON b.id = a.other WHERE a.score < b.score",
    "distinct": "SELECT count(DISTINCT name), count(DISTINCT score) FROM facts",
    "json": "SELECT sum(json_extract(document, '$.b.c')), count(document ->> '$.tags[1]') FROM facts",
    "scan": "SELECT count(*), sum(score), max(other), min(length(name)) FROM facts WHERE other % 3 <> 1",
    "insert_select": "INSERT INTO copy SELECT id, name, score, other FROM facts",
    "create_index": "CREATE INDEX by_name ON facts (name, score)",
}
UNDO = {"insert_select": "DELETE FROM copy", "create_index": "DROP INDEX by_name"}
FACTS = """
INSERT INTO facts
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {size})
SELECT n, 'name of number ' || (n * 7919 % {size} / 3), (n * 104729 % 1000003) * 0.37, n * 15485863 % {size} + 1,
       json_object('a', n, 'tags', json_array('x', 'y' || n), 'b', json_object('c', n % 100, 'd', 'text ' || n))
FROM numbers
"""
ROUNDS = 3


async def _database(peer: Peer, size: int) -> Database:
    database = await peer.open_database(":memory:", {})
    await database.execute(
        "CREATE TABLE facts (id INTEGER PRIMARY KEY, name TEXT, score REAL, other INTEGER, document TEXT)"
    )
    await database.execute("CREATE TABLE copy (id INTEGER PRIMARY KEY, name TEXT, score REAL, other INTEGER)")
    await database.execute(FACTS.format(size=size))
    return database


async def cpu_statements(peer: Peer, _directory: Path, size: int) -> Figures:
    """Each statement's best processor time of several rounds, and their geometric mean; ``size`` rows."""
    database = await _database(peer, size)
    best = dict.fromkeys(STATEMENTS, math.inf)
    for _ in range(ROUNDS):
        for name, sql in STATEMENTS.items():
            best[name] = min(best[name], await _cpu_ms(database, sql.format(size=size)))
            if name in UNDO:
                await database.execute(UNDO[name])
    await database.close()
    mean = math.exp(sum(map(math.log, best.values())) / len(best))
    return {"geometric_mean_ms": mean, **{f"{name}_ms": spent for name, spent in best.items()}}


async def _cpu_ms(database: Database, sql: str) -> float:
    before = time.process_time()
    await database.fetch_all(sql)
    return (time.process_time() - before) * 1000


async def cte(peer: Peer, _directory: Path, size: int) -> Figures:
    """A recursive query of ``size`` × 4 steps."""
    return await _per_second(peer, "cte", size)


async def sorter(peer: Peer, _directory: Path, size: int) -> Figures:
    """GROUP BY of ``size`` rows without an index, so that SQLite sorts them."""
    return await _per_second(peer, "group_by", size)


async def _per_second(peer: Peer, name: str, size: int) -> Figures:
    database = await _database(peer, size)
    sql = STATEMENTS[name].format(size=size)
    await database.fetch_all(sql)
    seconds = sum([await seconds_of(database.fetch_all(sql)) for _ in range(ROUNDS)])
    await database.close()
    return rate(ROUNDS, seconds, "statements")
