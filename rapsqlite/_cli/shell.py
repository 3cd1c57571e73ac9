"""A small shell: statements and dot commands in, aligned tables out.

Reading a line blocks and running a statement awaits, so the event loop runs only during a statement. Ctrl-C then
cancels the statement, which interrupts SQLite; the connection stays usable.
"""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from rapsqlite._constants import SQLITE_VERSION
from rapsqlite.errors import Error

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from rapsqlite.connection import Connection

HELP = """\
.dump             print the database as SQL
.headers on|off   print column names above the rows
.help             print this
.quit             leave
.schema [NAME]    print the statements that created the tables, indexes, views and triggers
.tables           list tables and views
.timer on|off     print how long each statement took
.version          print the version of the bundled SQLite
"""
_TABLES = """
SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY 1
"""
_SCHEMA = """
SELECT sql || ';' FROM sqlite_schema WHERE sql IS NOT NULL AND (?1 IS NULL OR tbl_name = ?1 COLLATE NOCASE)
ORDER BY rowid
"""
# Rows kept to measure column widths; later rows may be wider.
_MEASURED_ROWS = 1000


def statements_of(text: str) -> Iterator[str]:
    """Split text into statements; the last one may be incomplete."""
    start = 0
    for position, character in enumerate(text):
        if character == ";" and sqlite3.complete_statement(text[start : position + 1]):
            yield text[start : position + 1].strip()
            start = position + 1
    if text[start:].strip():
        yield text[start:].strip()


def shown(value: Any) -> str:
    """Return a value as the shell prints it."""
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    return str(value)


class Shell:
    """Runs lines on one connection and prints to ``out``; ``errors`` counts failures."""

    def __init__(self, conn: Connection, loop: asyncio.AbstractEventLoop, out: TextIO = sys.stdout) -> None:
        self.conn: Connection = conn
        self.loop: asyncio.AbstractEventLoop = loop
        self.out: TextIO = out
        self.headers: bool = True
        self.timer: bool = False
        self.errors: int = 0
        self._unfinished = ""

    @property
    def prompt(self) -> str:
        """The prompt for the next line."""
        return "     ...> " if self._unfinished else "rapsqlite> "

    def feed(self, line: str) -> bool:
        """Process one line; run the statements it completes. Return False to end the shell."""
        if not self._unfinished and line.strip().startswith("."):
            return self._guarded(self._command(line.strip()[1:].split()))
        text = f"{self._unfinished}\n{line}" if self._unfinished else line
        if sqlite3.complete_statement(text) or not text.strip():
            self._unfinished = ""
            return self.run(text)
        self._unfinished = text
        return True

    def finish(self) -> None:
        """Run a final statement without a semicolon at the end of a script."""
        text, self._unfinished = self._unfinished, ""
        self.run(text)

    def forget(self) -> None:
        """Discard the lines of an unfinished statement."""
        self._unfinished = ""

    def run(self, text: str) -> bool:
        """Run every statement in the text, up to the first that fails."""
        for statement in statements_of(text):
            before = self.errors
            self._guarded(self._statement(statement))
            if self.errors > before:
                break
        return True

    def _guarded(self, work: Coroutine[Any, Any, bool]) -> bool:
        """Run a coroutine; print errors instead of raising them, and let Ctrl-C cancel it."""
        task = self.loop.create_task(work)
        # Cancelled through the loop: a KeyboardInterrupt could arrive anywhere, even between a request and its reply.
        before = signal.signal(signal.SIGINT, lambda *_: self.loop.call_soon_threadsafe(task.cancel))
        try:
            return self.loop.run_until_complete(task)
        except asyncio.CancelledError:
            self._complain("interrupted")
        except Error as error:
            self._complain(str(error))
        finally:
            signal.signal(signal.SIGINT, before)
        return True

    def _complain(self, message: str) -> None:
        self.errors += 1
        self.out.flush()
        sys.stderr.write(f"error: {message}\n")

    async def _statement(self, sql: str) -> bool:
        started = time.perf_counter()
        async with self.conn.execute(sql) as cursor:
            if cursor.description is not None:
                names = [column[0] for column in cursor.description]
                widths = None
                while rows := await cursor.fetchmany(_MEASURED_ROWS):
                    table = [[shown(value) for value in row] for row in rows]
                    if widths is None:
                        widths = self._heading(names, table)
                    self._write_rows(table, widths)
                if widths is None:
                    self._heading(names, [])
        if self.timer:
            self.out.write(f"{(time.perf_counter() - started) * 1000:.1f} ms\n")
        return True

    def _heading(self, names: list[str], table: list[list[str]]) -> list[int]:
        """Print the column names if headers are on; return the widths."""
        lines = [names, *table] if self.headers else table
        widths = [max((len(line[index]) for line in lines), default=0) for index in range(len(names))]
        if self.headers:
            self._write_rows([names, ["-" * width for width in widths]], widths)
        return widths

    def _write_rows(self, table: list[list[str]], widths: list[int]) -> None:
        for row in table:
            cells = [value.ljust(width) for value, width in zip(row, widths, strict=True)]
            self.out.write("  ".join(cells).rstrip() + "\n")

    async def _command(self, words: list[str]) -> bool:
        """Run a dot command; return False to end the shell."""
        name, arguments = words[0] if words else "", words[1:]
        if name in {"quit", "exit"}:
            return False
        if name == "help":
            self.out.write(HELP)
        elif name == "version":
            self.out.write(f"{SQLITE_VERSION}\n")
        elif name == "tables":
            await self._print_column(_TABLES, ())
        elif name == "schema":
            await self._print_column(_SCHEMA, (arguments[0] if arguments else None,))
        elif name == "dump":
            await self._dump()
        elif name in {"headers", "timer"} and arguments in (["on"], ["off"]):
            setattr(self, name, arguments == ["on"])
        else:
            self._complain(f"unknown command .{' '.join(words)}; .help lists them")
        return True

    async def _dump(self) -> None:
        """Print one snapshot, unaffected by other connections' commits."""
        begins = not self.conn.in_transaction
        if begins:
            await self.conn.begin()
        try:
            async for line in self.conn.iterdump(restorable=True):
                self.out.write(line + "\n")
        finally:
            if begins:
                await self.conn.rollback()

    async def _print_column(self, sql: str, parameters: tuple[Any, ...]) -> None:
        for (value,) in await self.conn.execute_fetchall(sql, parameters):
            self.out.write(f"{value}\n")
