"""The shell's ``.import`` and ``.export``: rows from CSV files, and to CSV and JSON files."""

from __future__ import annotations

import csv
import os
import re
import secrets
import stat
import sys
import time
from collections import Counter
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rapsqlite import _constants as abi
from rapsqlite._cli.formats import Csv, Format, Json
from rapsqlite._client.state import encode_sql
from rapsqlite._identifiers import quoted
from rapsqlite._wasm.rings import Request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rapsqlite.connection import Connection

SUFFIXES: dict[str, type[Format]] = {".csv": Csv, ".json": Json}
_LONGEST_FIELD = (1 << 31) - 1
_ROWS_AT_ONCE = 1000
_REPORTS_EVERY_S = 1.0


class CommandError(Exception):
    """A command cannot be run; the message says why."""


class Progress:
    """Counts rows, and on a terminal shows the count once a second, in a line that is erased in the end."""

    def __init__(self, terminal: TextIO | None) -> None:
        self.count: int = 0
        self._terminal = terminal
        self._next_s = time.monotonic() + _REPORTS_EVERY_S
        self._width = 0

    def add(self, rows: int = 1) -> None:
        """Count some rows."""
        self.count += rows
        if self._terminal is not None and time.monotonic() >= self._next_s:
            self._show(f"{self.count} rows")
            self._next_s = time.monotonic() + _REPORTS_EVERY_S

    def end(self) -> None:
        """Erase the line."""
        if self._width:
            self._show("")

    def _show(self, text: str) -> None:
        assert self._terminal is not None
        self._terminal.write(f"\r{text:<{self._width}}" if text else f"\r{'':<{self._width}}\r")
        self._terminal.flush()
        self._width = len(text)


class CsvRows:
    """The rows of a CSV file, each made as long as the table is wide."""

    def __init__(self, path: Path, file: TextIO, progress: Progress) -> None:
        # The module's limit of 128 KiB is the whole process's; the shell is one.
        csv.field_size_limit(_LONGEST_FIELD)
        self._path = path
        self._reader = csv.reader(file, strict=True)
        self._progress = progress
        self.short_count: int = 0
        self.long_count: int = 0

    def next(self) -> list[str] | None:
        """Return the next row; None at the end of the file."""
        try:
            row = next(self._reader, None)
        except csv.Error as exc:
            raise CommandError(f"{self._path}, line {self._reader.line_num}: {exc}") from exc
        except ValueError as exc:
            raise CommandError(f"{self._path} is not UTF-8: {exc}") from exc
        return [""] if row == [] else row

    def fitting(self, width: int) -> Iterator[list[str | None]]:
        """Yield the other rows: missing values are NULL, and surplus ones are left out."""
        while (row := self.next()) is not None:
            self.short_count += len(row) < width
            self.long_count += len(row) > width
            self._progress.add()
            yield [*row[:width], *[None] * (width - len(row))]

    def complaints(self) -> Iterator[str]:
        """Yield what was odd."""
        if self.short_count:
            yield f"rows with too few values: {self.short_count}; the rest of them is NULL"
        if self.long_count:
            yield f"rows with too many values: {self.long_count}; what was too many was left out"


async def import_csv(conn: Connection, path: Path, table: str, skip: int, progress: Progress) -> list[str]:
    """Insert the rows of a file in one transaction, and return complaints. A new table is named by the first row.

    Of an existing table, the first row is data as well, unless it is skipped.
    https://sqlite.org/cli.html#importing_files_as_csv_or_other_formats
    """
    with _opened(path) as file:
        rows = CsvRows(path, file, progress)
        for _ in range(skip):
            rows.next()
        async with conn.savepoint():
            width = await conn.fetch_scalar("SELECT count(*) FROM pragma_table_info(?)", [table])
            if not width:
                header = rows.next()
                if header is None:
                    raise CommandError(f"{path} has no row with the names of columns")
                width = len(header)
                columns = ", ".join(f"{quoted(name)} TEXT" for name in _distinct(header))
                await conn.execute(f"CREATE TABLE {quoted(table)} ({columns})")
            placeholders = ", ".join("?" * width)
            await conn.executemany(f"INSERT INTO {quoted(table)} VALUES ({placeholders})", rows.fitting(width))
    return list(rows.complaints())


def _opened(path: Path) -> TextIO:
    if not stat.S_ISREG(path.stat().st_mode):
        raise CommandError(f"{path} is not a regular file")  # Ctrl-C would not end waiting for a pipe
    return path.open(encoding="utf-8-sig", newline="")


def _distinct(names: list[str]) -> list[str]:
    """Return names that a table can have, as SQLite's shell chooses them."""
    counts = Counter(name.lower() for name in names)
    return [
        (f"{name}_{number}" if counts[name.lower()] > 1 else name) or "?" for number, name in enumerate(names, start=1)
    ]


async def export(conn: Connection, path: Path, source: str, progress: Progress) -> None:
    """Write the rows of a table, a view or a query to a file, whole or not at all."""
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise CommandError(f"name a file that ends in {' or '.join(SUFFIXES)}")
    # The outermost: what the statement deletes is gone only once the file is in place. If that fails, it is in both.
    async with conn.savepoint():
        sql = await _query(conn, source)
        if not await _returns_rows(conn, sql):
            raise CommandError("the statement returns no rows")
        with _replaced(path) as file:
            async with conn.execute(sql) as cursor:
                result = kind([column[0] for column in cursor.description or ()], True)
                file.write(result.start([]))
                while rows := await cursor.fetchmany(_ROWS_AT_ONCE):
                    file.write(result.write(rows))
                    progress.add(len(rows))
                file.write(result.end() if progress.count or kind is Csv else "[]\n")


async def _query(conn: Connection, source: str) -> str:
    """Return the query for a source: a table's or view's name, or SQL, which has a space or a parenthesis."""
    known = await conn.fetch_scalar("SELECT count(*) FROM pragma_table_list WHERE name = ? COLLATE NOCASE", [source])
    return f"SELECT * FROM {quoted(source)}" if known or not re.search(r"[\s(]", source) else source


async def _returns_rows(conn: Connection, sql: str) -> bool:
    """Return whether a statement has columns, without running it: a COMMIT could not be undone.

    https://sqlite.org/c3ref/column_count.html
    """
    guest = conn._state.guest
    reply = await guest.call(Request(abi.OP_PREPARE, encode_sql(sql, "export")))
    guest.post(Request(abi.OP_RELEASE, target=reply.handle))
    return reply.column_count > 0


@contextmanager
def _replaced(path: Path) -> Iterator[TextIO]:
    """Open a file that takes the place and the permissions of another one once it is complete."""
    path = Path(os.path.realpath(path))  # a symbolic link stays
    mode: int | None = None
    with suppress(FileNotFoundError):
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise CommandError(f"{path} is not a regular file")
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    opener = partial(os.open, mode=0o666 if mode is None else 0o600)
    file = open(unfinished, "x", encoding="utf-8", newline="", opener=opener)  # noqa: SIM115 - closed below
    try:
        with file:
            yield file
        if mode is not None:
            unfinished.chmod(mode & 0o777)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def progress_of(out: TextIO) -> Progress:
    """Return progress that is shown if the shell and its messages have a terminal."""
    return Progress(sys.stderr if out.isatty() and sys.stderr.isatty() else None)
