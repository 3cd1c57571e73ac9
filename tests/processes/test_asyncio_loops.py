"""Each event loop that asyncio has on this system, in programs of their own; Ctrl-C while a statement runs."""

from __future__ import annotations

import asyncio
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from tests.programs import run_python

if TYPE_CHECKING:
    from pathlib import Path

LOOPS = [name for name in ("SelectorEventLoop", "ProactorEventLoop") if hasattr(asyncio, name)]
HEAD = """
    import asyncio, os, signal, sqlite3, sys, threading
    import rapsqlite

    ENDLESS = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    new_loop, path = getattr(asyncio, sys.argv[1]), sys.argv[2]
"""


def run(program: str, loop: str, database: Path) -> list[str]:
    """Run a program with an event loop's class and a database's path; return what it prints."""
    code = textwrap.dedent(HEAD) + textwrap.dedent(program)
    done = run_python("-W", "error", "-c", code, loop, database)

    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize("loop", LOOPS)
def test_statements_and_cancellation_work_on_each_loop_of_asyncio(loop: str, database: Path) -> None:
    """Windows has two kinds, whose waiting and waking have nothing in common."""
    program = """
        async def main():
            async with rapsqlite.connect(path, isolation_level=None) as conn:
                await conn.execute("CREATE TABLE t (v)")
                await asyncio.gather(*(conn.execute("INSERT INTO t VALUES (?)", [number]) for number in range(50)))
                try:
                    await asyncio.wait_for(conn.fetch_all(ENDLESS), 0.05)
                except asyncio.TimeoutError:
                    print(await conn.fetch_scalar("SELECT count(*) FROM t"))
                async with conn.transaction():
                    await conn.execute("DELETE FROM t WHERE v >= 7")
                print(len([row async for row in conn.stream("SELECT v FROM t")]))

        loop = new_loop()
        loop.run_until_complete(main())
        loop.close()
    """

    assert run(program, loop, database) == ["50", "7"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="before 3.11, asyncio does not handle SIGINT itself")
@pytest.mark.parametrize("loop", LOOPS)
def test_interrupt_key_ends_a_running_statement_on_each_loop_of_asyncio(loop: str, database: Path) -> None:
    """And leaves the connection usable, with nothing lost.

    Windows runs the signal's handler in a new thread, as ``raise_signal`` does in one of the program's own.
    """
    if sys.platform == "win32" and loop == "SelectorEventLoop":
        pytest.skip("Ctrl-C does not wake its select()")
    program = """
        def interrupt():
            signal.raise_signal(signal.SIGINT) if sys.platform == "win32" else os.kill(os.getpid(), signal.SIGINT)

        async def opened():
            return await rapsqlite.connect(path, isolation_level=None)

        async def main():
            await conn.execute("CREATE TABLE t (v)")
            await conn.execute("INSERT INTO t VALUES (42)")
            threading.Timer(0.1, interrupt).start()
            await conn.fetch_all(ENDLESS)

        async def end():
            print(await conn.fetch_scalar("SELECT v FROM t"))
            await conn.close()

        with asyncio.Runner(loop_factory=new_loop) as runner:
            conn = runner.run(opened())
            try:
                runner.run(main())
            except KeyboardInterrupt:
                print("interrupted")
            runner.run(end())
        native = sqlite3.connect(path, timeout=0)
        print(native.execute("SELECT count(*) FROM t").fetchone()[0])
        native.close()
    """

    assert run(program, loop, database) == ["interrupted", "42", "1"]
