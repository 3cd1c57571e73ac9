"""A hostile guest in a separate process, for attacks that may end it: ``python -m tests.attacks.hostile``.

Prints the outcome of each connection; another connection must not be affected.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import anyio
import pytest

import rapsqlite
from rapsqlite import _constants as abi
from rapsqlite._files import sigbus
from rapsqlite._files.file_table import FileTable
from rapsqlite._wasm.rings import Request
from tests.guest.played import AWAIT_REQUEST, FREE, guest_of
from tests.programs import run_python

ROOT = Path(__file__).parents[2]
OUT = FREE + 32_768  # where host functions put results
SIZE = 1 << 20
DATABASE = abi.SQLITE_OPEN_READWRITE | abi.SQLITE_OPEN_CREATE | abi.SQLITE_OPEN_MAIN_DB
WINDOW = f"(i32.const {abi.WINDOWS_START - (1 << 32)})"
# The name of the database is at FREE: `open_database` leaves the number of the open file in $fd.
FD = f"(i32.load (i32.const {OUT}))"


def text(address: int, data: bytes) -> str:
    """Return instructions that store bytes."""
    return " ".join(f"(i32.store8 (i32.const {address + at}) (i32.const {byte}))" for at, byte in enumerate(data))


def open_database(path: Path) -> str:
    """Return instructions that open a file as a database, for `FD`."""
    name = os.fsencode(path)
    call = f"(call $file_open (i32.const {FREE}) (i32.const {len(name)}) (i32.const {DATABASE}) (i32.const {OUT}))"
    return f"{text(FREE, name)} {must_be_ok(call)}"


def must_be_ok(call: str) -> str:
    """Return instructions that make a call and log its result code unless that is 0."""
    return f"(if {call} (then {text(FREE, b'refused')} (call $log (i32.const {FREE}) (i32.const 7)) (unreachable)))"


def outcomes(attacks: dict[str, str], database: Path) -> dict[str, str]:
    """Run service loops, one after another, in a separate process; return why each guest ended.

    Results after the one that ends the process are missing, and replaced by "the process ended".
    """
    done = run_python("-m", "tests.attacks.hostile", database, cwd=ROOT, input=json.dumps(attacks), timeout=120)
    said = dict(json.loads(line) for line in done.stdout.splitlines())
    if done.returncode:
        said[next(name for name in attacks if name not in said)] = f"the process ended: {done.returncode} {done.stderr}"
    return said


async def _attack(run: str, database: Path) -> str:
    guest = guest_of(
        AWAIT_REQUEST + open_database(database) + run + "(i32.const 0)", files=FileTable(os.fsencode(database))
    )
    guest.start()
    with pytest.raises(rapsqlite.Error):
        await guest.call(Request(abi.OP_FETCH, b"SELECT 1"))
    await guest.close()
    failure = guest._queue.failure
    assert guest.state == "broken"
    assert failure is not None
    return str(failure.__cause__ or failure).splitlines()[-1].rpartition(": ")[2]


async def _attack_all(attacks: dict[str, str], database: Path) -> None:
    async with rapsqlite.connect(database) as bystander:
        await bystander.execute("CREATE TABLE t(x)")
        await bystander.execute("INSERT INTO t VALUES (zeroblob(100000))")
        await bystander.commit()
        assert sigbus.turns_into_trap()
        for name, run in attacks.items():
            os.truncate(database, SIZE)  # in case it was truncated
            print(json.dumps([name, await _attack(run, database)]), flush=True)
            assert await bystander.fetch_scalar("SELECT 1 + 1") == 2


if __name__ == "__main__":
    anyio.run(_attack_all, json.load(sys.stdin), Path(sys.argv[1]))
