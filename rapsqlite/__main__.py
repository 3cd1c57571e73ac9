"""The command line: a small shell, a check of this machine, and a warm module cache.

    python -m rapsqlite FILE [SQL]      run SQL, or read statements from standard input
    python -m rapsqlite doctor [DIR]    what works on this machine, and in this directory
    python -m rapsqlite warm            compile the modules into the cache, for container images
    python -m rapsqlite --version       version of the bundled SQLite

To open a database named "doctor" or "warm", write ./doctor or ./warm.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

from rapsqlite import runtime
from rapsqlite._cli.doctor import examine
from rapsqlite._cli.formats import one_line
from rapsqlite._cli.prompt import line_reader
from rapsqlite._cli.shell import Shell
from rapsqlite._client.extension_loader import DIRECTORY
from rapsqlite._constants import SQLITE_VERSION
from rapsqlite._files import module_cache
from rapsqlite._wasm.dylink import read_side
from rapsqlite.connection import connect
from rapsqlite.errors import Error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rapsqlite.connection import Connection

_MARKS = {True: "ok  ", False: "FAIL", None: "    "}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code: 0 success, 1 failure, 2 invalid arguments."""
    words = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(words):
        print((__doc__ or "").strip())
        return 0
    if words in (["-v"], ["--version"]):
        print(f"SQLite version {SQLITE_VERSION}")
        return 0
    if not words or words[0].startswith("-") or len(words) > (1 if words[0] == "warm" else 2):
        print((__doc__ or "").strip(), file=sys.stderr)
        return 2
    try:
        if words[0] == "doctor":
            return asyncio.run(doctor(Path(words[1]) if len(words) > 1 else None))
        if words[0] == "warm":
            return warm()
        return shell(words[0], words[1] if len(words) > 1 else None)
    except Error as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Nobody reads, as after `| head`; the interpreter would report it when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


async def doctor(directory: Path | None) -> int:
    """Print every finding; fail if one is bad."""
    failures = 0
    async for name, well, found in examine(directory):
        failures += well is False
        print(f"{_MARKS[well]} {name:<16} {found}", flush=True)
    return 1 if failures else 0


def warm() -> int:
    """Compile the modules missing from the cache; fail if the cache cannot store them."""
    started = time.perf_counter()
    engine = runtime.shared_engine()
    directory = module_cache.cache_directory()
    if directory is None or not any(directory.glob("*.compiled")):
        print(
            f"error: {directory or 'a user without a home directory'} cannot keep the compiled module", file=sys.stderr
        )
        return 1
    engine.prepare_watching()
    for path in DIRECTORY.glob("*.wasm"):
        engine.side_module(read_side(path.read_bytes()).wasm)
    print(f"{directory} is warm ({time.perf_counter() - started:.2f} s)")
    return 0


def shell(database: str, sql: str | None) -> int:
    """Run the SQL, or lines from standard input; fail if a statement fails non-interactively."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        conn = loop.run_until_complete(_open(database))
        try:
            runner = Shell(conn, loop)
            if sql is None and sys.stdin.isatty():
                converse(runner)
                return 0
            run_lines(runner, sys.stdin if sql is None else sql.split("\n"))
            sys.stdout.flush()
            return 1 if runner.errors else 0
        finally:
            loop.run_until_complete(conn.close())
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _open(database: str) -> Connection:
    return await connect(database, isolation_level=None)


def run_lines(runner: Shell, lines: Iterable[str]) -> None:
    """Run a script; stop at the first error, so that later statements do not build on a failed one."""
    try:
        for line in lines:
            if not runner.feed(line.rstrip("\n")) or runner.errors:
                return
    except UnicodeDecodeError as error:
        runner.complain(str(error))
        return
    runner.finish()


def converse(runner: Shell) -> None:
    """Read lines interactively until .quit or the end of the input."""
    read = line_reader([*runner.commands, "export", "quit"], runner.names)
    print("SQL ends with a semicolon; .help lists commands")
    while take_line(runner, read):
        pass


def take_line(runner: Shell, read: Callable[[str], str]) -> bool:
    """Read and run one line, or several that were pasted. Return False to end the shell."""
    try:
        return all(runner.feed(line) for line in read(runner.prompt).split("\n"))
    except EOFError:
        print()
        return False
    except KeyboardInterrupt:
        print()
        runner.forget()
        return True


if __name__ == "__main__":
    sys.exit(main())
