"""Serialized databases of many megabytes: no more memory than the output bytes, or the input database."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.programs import run_python

ROOT = Path(__file__).resolve().parents[2]
MEGABYTES = 96
PROGRAM = """
import asyncio, json, re, sys, threading, time
import rapsqlite

# The peak of the process's own memory above the start; mapped files do not count.
class Peak:
    def __enter__(self):
        self.before = self.highest = own_mb()
        self.over = False
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self
    def watch(self):
        while not self.over:
            self.highest = max(self.highest, own_mb())
            time.sleep(0.002)
    def __exit__(self, *_):
        self.over = True
        self.thread.join()
        self.mb = max(self.highest, own_mb()) - self.before

def own_mb():
    with open("/proc/self/status") as status:
        return int(re.search(r"RssAnon:\\s*(\\d+)", status.read()).group(1)) / 1024

async def main(path, megabytes):
    made = {}
    async with rapsqlite.connect(path) as conn:
        await conn.execute("CREATE TABLE t (a)")
        for _ in range(megabytes):
            await conn.execute("INSERT INTO t VALUES (randomblob(1000000))")
        await conn.commit()
        with Peak() as peak:
            data = await conn.serialize()
        made["serialize"] = peak.mb
    async with rapsqlite.connect(":memory:") as conn:
        with Peak() as peak:
            await conn.deserialize(data)
        made["deserialize"] = peak.mb
        assert await conn.fetch_scalar("SELECT sum(length(a)) FROM t") == megabytes * 1000000
        async with rapsqlite.connect(path + ".copy") as copy:
            with Peak() as peak:
                await conn.backup(copy)
            made["backup"] = peak.mb
            assert await copy.fetch_scalar("PRAGMA quick_check") == "ok"
    made["size"] = len(data) / (1 << 20)
    print(json.dumps(made))

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's own memory so")
def test_large_databases_are_serialized_within_bounded_memory(tmp_path: Path) -> None:
    done = run_python("-c", PROGRAM, tmp_path / "large.db", MEGABYTES, cwd=ROOT)

    assert (done.returncode, done.stderr) == (0, "")
    made = json.loads(done.stdout)
    assert made["serialize"] < made["size"] + 24
    assert made["deserialize"] < made["size"] + 24
    assert made["backup"] < 24
