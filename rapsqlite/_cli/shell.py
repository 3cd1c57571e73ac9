"""A shell: statements and dot commands in, rows out in the form that ``.mode`` names.

Reading a line blocks and running a statement awaits, so the event loop runs only during a statement. Ctrl-C then
cancels the statement, which interrupts SQLite; the connection stays usable. What is written to a terminal contains no
control characters of the database: they could be commands to the terminal. https://sqlite.org/cli.html
"""

from __future__ import annotations

import asyncio
import re
import shlex
import signal
import sqlite3
import sys
import time
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rapsqlite._cli.formats import MODES, Box, Format, Table, console_for, one_line, visible
from rapsqlite._cli.transfer import CommandError, export, import_csv, progress_of
from rapsqlite._constants import SQLITE_VERSION
from rapsqlite._identifiers import quoted
from rapsqlite.errors import Error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator

    from rapsqlite.connection import Connection
    from rapsqlite.cursor import Cursor

HELP = """\
.dump                      print the database as SQL
.export FILE TABLE|SQL     write a table's or a query's rows to a file that ends in .csv or .json
.headers on|off            print column names above the rows
.help                      print this
.import FILE TABLE         insert the rows of a CSV file; a new table's columns are named by the first row
   --csv                   (the default)
   --skip N                leave out the first N rows
.indexes [TABLE]           list indexes, of tables LIKE the pattern
.mode [MODE]               print rows in the form of box, column, csv, json, line, list or table
.quit                      leave
.schema [TABLE]            print the statements that created the tables, indexes, views and triggers
.tables [PATTERN]          list tables and views LIKE the pattern
.timer on|off              print how long each statement took
.version                   print the version of the bundled SQLite
"""
_TABLES = """
SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
AND name LIKE ? ORDER BY 1
"""
_INDEXES = "SELECT name FROM sqlite_schema WHERE type = 'index' AND tbl_name LIKE ? ORDER BY 1"
_SCHEMA = "SELECT sql || ';' FROM sqlite_schema WHERE sql IS NOT NULL AND tbl_name LIKE ? ORDER BY rowid"
_NAMES = (
    "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') LIMIT 1000",
    "SELECT DISTINCT c.name FROM sqlite_schema AS t, pragma_table_info(t.name) AS c WHERE t.type = 'table' LIMIT 5000",
)
_ROWS_AT_ONCE = 1000  # also measured for the widths of columns
_NAMES_WITHIN_S = 0.2
_NEEDS_NO_QUOTES = re.compile(r"[^\W\d]\w*")


def statements_of(text: str) -> Iterator[str]:
    """Split text into statements; the last one may be incomplete."""
    start = 0
    for position, character in enumerate(text):
        if character == ";" and sqlite3.complete_statement(text[start : position + 1]):
            yield text[start : position + 1].strip()
            start = position + 1
    if text[start:].strip():
        yield text[start:].strip()


class Words:
    """The words of a dot command, which may be in quotes. Backslashes are part of names."""

    def __init__(self, line: str) -> None:
        self._text = StringIO(line)
        self._lexer = shlex.shlex(self._text, posix=True)
        self._lexer.whitespace_split = True
        self._lexer.commenters = self._lexer.escape = ""

    def next(self) -> str:
        """Return the next word, or an empty string."""
        return next(self._lexer, "")

    def rest(self) -> str:
        """Return the rest of the line as it is."""
        return self._text.read().strip()


class Shell:
    """Runs lines on one connection and prints to ``out``; ``errors`` counts failures."""

    def __init__(self, conn: Connection, loop: asyncio.AbstractEventLoop, out: TextIO = sys.stdout) -> None:
        self.conn: Connection = conn
        self.loop: asyncio.AbstractEventLoop = loop
        self.out: TextIO = out
        self.headers: bool | None = None  # as the mode has it
        self.mode: str = "table"
        self.timer: bool = False
        self.errors: int = 0
        self.commands: dict[str, Callable[[list[str]], Awaitable[None]]] = {
            "dump": self._dump,
            "headers": self._switch_headers,
            "help": self._help,
            "import": self._import,
            "indexes": self._indexes,
            "mode": self._switch_mode,
            "schema": self._schema,
            "tables": self._tables,
            "timer": self._switch_timer,
            "version": self._version,
        }
        self._unfinished = ""
        self._names: list[str] = []

    @property
    def prompt(self) -> str:
        """The prompt for the next line."""
        return "     ...> " if self._unfinished else "rapsqlite> "

    def feed(self, line: str) -> bool:
        """Process one line; run the statements it completes. Return False to end the shell."""
        if not self._unfinished and line.strip().startswith("."):
            return self._guarded(self._command(line.strip()[1:]))
        text = f"{self._unfinished}\n{line}" if self._unfinished else line
        try:
            is_complete = ";" in text and sqlite3.complete_statement(text)
        except ValueError as error:  # a NUL, or what is not Unicode
            self.forget()
            self.complain(str(error))
            return True
        if is_complete or not text.strip():
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
        return self._guarded(self._statements(text))

    def names(self) -> list[str]:
        """Return the names of tables and columns as SQL needs them; none if the database is busy.

        In a transaction they are the latest known: looking them up would begin its snapshot and lock the database.
        """
        if not self.conn.in_transaction:
            found: set[str] = set()
            for sql in _NAMES:
                self._guarded(self._find_names(sql, found))
            self._names = sorted(name if _NEEDS_NO_QUOTES.fullmatch(name) else quoted(name) for name in found)
        return self._names

    async def _find_names(self, sql: str, found: set[str]) -> bool:
        try:
            rows = await asyncio.wait_for(self.conn.fetch_all(sql), _NAMES_WITHIN_S)
        except (Error, asyncio.TimeoutError):
            return True
        found.update(name for (name,) in rows if isinstance(name, str) and name.isprintable())
        return True

    def _guarded(self, work: Coroutine[Any, Any, bool]) -> bool:
        """Run a coroutine; print errors instead of raising them, and let Ctrl-C cancel it."""
        task: asyncio.Task[bool] | None = None

        def cancel() -> None:
            if task is not None:
                task.cancel()

        before = self._catch_interrupt(cancel)
        try:
            task = self.loop.create_task(work)
            return self.loop.run_until_complete(task)
        except asyncio.CancelledError:
            self.complain("interrupted")
        except BrokenPipeError:
            raise  # nobody reads
        except (Error, CommandError, OSError, ValueError) as error:
            self.complain(str(error))
        finally:
            self._restore_interrupt(before)
        return True

    def _catch_interrupt(self, cancel: Callable[[], None]) -> Any:
        """Let Ctrl-C call ``cancel`` in the loop: a KeyboardInterrupt could come between a request and its reply.

        The loop's own handler also wakes it if the system delivers the signal to a guest's thread.
        """
        before = signal.getsignal(signal.SIGINT)
        try:
            self.loop.add_signal_handler(signal.SIGINT, cancel)
        except NotImplementedError:  # Windows, whose loop any signal wakes
            signal.signal(signal.SIGINT, lambda *_: self.loop.call_soon_threadsafe(cancel))
        return before

    def _restore_interrupt(self, before: Any) -> None:
        with suppress(NotImplementedError):
            self.loop.remove_signal_handler(signal.SIGINT)
            # A Ctrl-C that came too late must not cancel the next statement.
            self.loop.run_until_complete(asyncio.sleep(0))
        signal.signal(signal.SIGINT, before)

    def complain(self, message: str) -> None:
        """Print an error, in one line."""
        self.errors += 1
        self._say(f"error: {message}")

    def _say(self, message: str) -> None:
        self.out.flush()
        sys.stderr.write(one_line(message) + "\n")

    def _write(self, text: str) -> None:
        self.out.write(visible(text) if self.out.isatty() else text)

    async def _statements(self, text: str) -> bool:
        for statement in statements_of(text):
            await self._statement(statement)
        return True

    async def _statement(self, sql: str) -> None:
        started = time.perf_counter()
        async with self.conn.execute(sql) as cursor:
            if cursor.description is not None:
                await self._print(cursor, [column[0] for column in cursor.description])
        if self.timer:
            self._write(f"{(time.perf_counter() - started) * 1000:.1f} ms\n")

    async def _print(self, cursor: Cursor, names: list[str]) -> None:
        result = self._format(names)
        write = self.out.write if result.is_safe else self._write
        rows = await cursor.fetchmany(_ROWS_AT_ONCE)
        write(result.start(rows))
        while rows:
            write(result.write(rows))
            rows = await cursor.fetchmany(_ROWS_AT_ONCE)
        write(result.end())

    def _format(self, names: list[str]) -> Format:
        kind = MODES[self.mode]
        if kind is Table and self.out.isatty():
            console = console_for(self.out, len(names))
            if console is not None:
                return Box(names, self.headers, console)
        return kind(names, self.headers)

    async def _command(self, line: str) -> bool:
        """Run a dot command; return False to end the shell."""
        words = Words(line)
        name = words.next()
        if name in {"quit", "exit"}:
            return False
        if name == "export":
            await self._export(words)
            return True
        command = self.commands.get(name)
        if command is None:
            raise CommandError(f"unknown command .{name}; .help lists them")
        await command(list(iter(words.next, "")))
        return True

    async def _help(self, _arguments: list[str]) -> None:
        self._write(HELP)

    async def _version(self, _arguments: list[str]) -> None:
        self._write(f"{SQLITE_VERSION}\n")

    async def _tables(self, arguments: list[str]) -> None:
        await self._print_column(_TABLES, arguments)

    async def _indexes(self, arguments: list[str]) -> None:
        await self._print_column(_INDEXES, arguments)

    async def _schema(self, arguments: list[str]) -> None:
        await self._print_column(_SCHEMA, arguments)

    async def _print_column(self, sql: str, arguments: list[str]) -> None:
        for (value,) in await self.conn.execute_fetchall(sql, [one_of(arguments) if arguments else "%"]):
            self._write(f"{value}\n")

    async def _switch_headers(self, arguments: list[str]) -> None:
        self.headers = switch_of(arguments)

    async def _switch_timer(self, arguments: list[str]) -> None:
        self.timer = switch_of(arguments)

    async def _switch_mode(self, arguments: list[str]) -> None:
        if not arguments:
            self._write(f"{self.mode}\n")
        elif arguments[0] in MODES and len(arguments) == 1:
            self.mode = arguments[0]
        else:
            raise CommandError(f".mode takes one of {', '.join(MODES)}")

    async def _import(self, arguments: list[str]) -> None:
        names, skip = [], 0
        words = iter(arguments)
        for word in words:
            if word in {"--skip", "-skip"}:
                skip = int(next(words, "-"))
            elif word not in {"--csv", "-csv"}:
                names.append(word)
        if len(names) != 2 or skip < 0 or names[0].startswith("-"):
            raise CommandError("write .import [--skip N] FILE TABLE")
        progress = progress_of(self.out)
        try:
            for complaint in await import_csv(self.conn, Path(names[0]), names[1], skip, progress):
                self._say(f"warning: {complaint}")
        finally:
            progress.end()

    async def _export(self, words: Words) -> None:
        path, source = words.next(), words.rest()
        if not source:
            raise CommandError("write .export FILE TABLE, or .export FILE SELECT ...")
        if source[0] in "\"'":
            source = Words(source).next()
        progress = progress_of(self.out)
        try:
            await export(self.conn, Path(path), source, progress)
        finally:
            progress.end()

    async def _dump(self, _arguments: list[str]) -> None:
        """Print one snapshot, unaffected by other connections' commits."""
        begins = not self.conn.in_transaction
        if begins:
            await self.conn.begin()
        try:
            async for line in self.conn.iterdump(restorable=True):
                self._write(line + "\n")
        finally:
            if begins:
                await self.conn.rollback()


def one_of(arguments: list[str]) -> str:
    """Return the only argument."""
    if len(arguments) != 1:
        raise CommandError("write one name or pattern; one with spaces in quotes")
    return arguments[0]


def switch_of(arguments: list[str]) -> bool:
    """Return whether the only argument is "on"."""
    if arguments not in (["on"], ["off"]):
        raise CommandError("write on or off")
    return arguments == ["on"]
