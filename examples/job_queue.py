"""A job queue in one table: any number of workers in any number of processes; each job is done once.

A worker that dies leaves its job to the others, once the job's lease is over.

python examples/job_queue.py [FILE]
"""

import asyncio
import sys
import uuid

from rapsqlite import Connection, connect

SCHEMA = """
CREATE TABLE IF NOT EXISTS job (
    id INTEGER PRIMARY KEY, payload TEXT NOT NULL, lease REAL NOT NULL DEFAULT 0, worker TEXT, result TEXT
);
CREATE INDEX IF NOT EXISTS waiting ON job (lease) WHERE result IS NULL;
"""
LEASE_SECONDS = 60
# One statement, so that no two workers can take the same job.
TAKE = """
UPDATE job SET lease = unixepoch('subsec') + ?, worker = ?
WHERE id = (SELECT id FROM job WHERE result IS NULL AND lease < unixepoch('subsec') ORDER BY lease, id LIMIT 1)
RETURNING id, payload
"""
FINISH = "UPDATE job SET result = ? WHERE id = ? AND worker = ?"


async def work(conn: Connection, name: str) -> int:
    """Do jobs until none are left; return how many were done."""
    done = 0
    while job := await conn.fetch_optional(TAKE, [LEASE_SECONDS, name]):
        number, payload = job
        await asyncio.sleep(0)  # what the job is about
        await conn.execute(FINISH, [payload.upper(), number, name])
        done += 1
    return done


async def main() -> None:
    path = sys.argv[1] if len(sys.argv) > 1 else "jobs.db"
    # In autocommit mode each statement is a transaction of its own.
    async with connect(path, isolation_level=None, timeout=30, pragmas={"journal_mode": "WAL"}) as conn:
        await conn.executescript(SCHEMA)
        if len(sys.argv) == 1:
            await conn.executemany("INSERT INTO job (payload) VALUES (?)", [(f"job {n}",) for n in range(100)])
        done = await asyncio.gather(*(work(conn, uuid.uuid4().hex) for _ in range(8)))
        print(sum(done), "jobs done by", len(done), "workers")


asyncio.run(main())
