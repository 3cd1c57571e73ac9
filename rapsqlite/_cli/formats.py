"""How the shell writes rows: a class for each mode, which is given batches of rows and returns text.

List, csv, json and line follow SQLite's shell, except that BLOBs are literals such as ``x'00ff'`` in every mode.
https://sqlite.org/cli.html#changing_output_formats
"""

from __future__ import annotations

import json
import math
import re
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, ClassVar, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    Rows = list[Sequence[Any]]

# All but tabs, line feeds, and carriage returns in front of them. Some terminals obey U+0080 to U+009F.
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\r(?!\n)")
_JSON_CONTROLS = re.compile(r"[\x7f-\x9f]")
_NEEDS_CSV_QUOTES = re.compile(r"[^!#-&(-+\--~]")
_MOST_ALIGNED = 200  # every row is padded to the widest
_LEAST_CELL_WIDTH = 4  # in a box, with its border


def visible(text: str) -> str:
    """Return text that may go to a terminal: control characters as in SQLite's shell, ``^[`` for Escape."""
    return _CONTROLS.sub(_caret, text)


def one_line(message: str) -> str:
    """Return a message that may go to a terminal, in one line."""
    return visible(" ".join(message.split("\n")))


def _caret(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"^{chr(code ^ 0x40)}" if code < 0x80 else f"\\x{code:02x}"


def shown(value: Any) -> str:
    """Return a value as a table shows it."""
    return "NULL" if value is None else written(value)


def written(value: Any) -> str:
    """Return a value as SQLite's shell writes it: nothing for NULL, numbers as SQLite converts them to text."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    if isinstance(value, float):
        return _number(value)
    return str(value)


def _number(value: float) -> str:
    if math.isinf(value):
        return "Inf" if value > 0 else "-Inf"
    digits, e, exponent = repr(value).partition("e")
    return f"{digits}.0e{exponent}" if e and "." not in digits else f"{digits}{e}{exponent}"


class Format:
    """Writes one result: `start` is given the first rows too, to measure them, then `write` is."""

    has_headers: ClassVar[bool] = False  # unless ``.headers`` says otherwise
    is_safe: ClassVar[bool] = False  # control characters are visible already, and others are its own

    def __init__(self, names: list[str], headers: bool | None) -> None:
        self.names: list[str] = names
        self.headers: bool = self.has_headers if headers is None else headers

    def start(self, _rows: Rows) -> str:
        """Return what precedes the rows."""
        return self.write([self.names]) if self.headers else ""

    def write(self, rows: Rows) -> str:
        """Return some rows."""
        raise NotImplementedError

    def end(self) -> str:
        """Return what follows the rows."""
        return ""


class Table(Format):
    """Aligned columns; a later row may be wider than the rows that were measured."""

    has_headers = True

    def __init__(self, names: list[str], headers: bool | None) -> None:
        super().__init__(names, headers)
        self._widths: list[int] = []

    def start(self, _rows: Rows) -> str:
        """Return the column names, and measure the rows."""
        lines = [line for row in ([self.names, *_rows] if self.headers else _rows) for line in _lines_of(row)]
        widths = [max((len(line[index]) for line in lines), default=0) for index in range(len(self.names))]
        self._widths = [min(width, _MOST_ALIGNED) for width in widths]
        return self.write([self.names, ["-" * width for width in self._widths]]) if self.headers else ""

    def write(self, rows: Rows) -> str:
        """Return aligned rows."""
        return "".join(self._aligned(line) for row in rows for line in _lines_of(row))

    def _aligned(self, line: Sequence[str]) -> str:
        cells = [value.ljust(width) for value, width in zip(line, self._widths, strict=True)]
        return "  ".join(cells).rstrip() + "\n"


def _lines_of(row: Sequence[Any]) -> list[tuple[str, ...]]:
    """Return the lines of a row: as many as its longest value has."""
    cells = [visible(shown(value)).replace("\r\n", "\n").split("\n") for value in row]
    return list(zip_longest(*cells, fillvalue=""))


class Box(Table):
    """A table with borders that fits the terminal, drawn by ``rich``; one for each batch of rows."""

    is_safe = True

    def __init__(self, names: list[str], headers: bool | None, console: Console) -> None:
        super().__init__(names, headers)
        self._console = console

    def start(self, _rows: Rows) -> str:
        """Return an empty table if there are no rows."""
        return "" if _rows else self.write([])

    def write(self, rows: Rows) -> str:
        """Return a table."""
        from rich.table import Table as RichTable  # `console_for` has found it
        from rich.text import Text  # as above

        table = RichTable(show_header=self.headers)
        for name in self.names:
            table.add_column(Text(visible(name)), overflow="fold")
        for row in rows:
            table.add_row(*(Text(visible(shown(value))) for value in row))
        with self._console.capture() as drawn:
            self._console.print(table)
        table_text: str = drawn.get()
        return table_text


def console_for(out: TextIO, column_count: int) -> Console | None:
    """Return rich's console if it is installed and a box of so many columns fits the terminal."""
    try:
        from rich.console import Console  # optional
    except ImportError:
        return None
    console = Console(file=out, markup=False, emoji=False, highlight=False)
    return console if column_count * _LEAST_CELL_WIDTH < console.width else None


class List(Format):
    """Values with a bar in between."""

    def write(self, rows: Rows) -> str:
        """Return a line for each row."""
        return "".join("|".join(map(written, row)) + "\n" for row in rows)


class Csv(Format):
    """Comma-separated values as in RFC 4180; NULL is nothing, an empty string is ``""``."""

    def write(self, rows: Rows) -> str:
        """Return a line for each row."""
        return "".join(",".join(map(self._field, row)) + "\r\n" for row in rows)

    @staticmethod
    def _field(value: Any) -> str:
        text = written(value)
        if isinstance(value, str | bytes) and (not text or _NEEDS_CSV_QUOTES.search(text)):
            return '"' + text.replace('"', '""') + '"'
        return text


class Json(Format):
    """An array of objects; nothing if there are no rows."""

    def __init__(self, names: list[str], headers: bool | None) -> None:
        super().__init__(names, headers)
        self._keys = [_json(name) for name in names]
        self._before = "["

    def start(self, _rows: Rows) -> str:
        """Return nothing: each object has the names."""
        return ""

    def write(self, rows: Rows) -> str:
        """Return a line for each row."""
        text = []
        for row in rows:
            members = ",".join(f"{key}:{_json(value)}" for key, value in zip(self._keys, row, strict=True))
            text.append(f"{self._before}{{{members}}}")
            self._before = ",\n"
        return "".join(text)

    def end(self) -> str:
        """Return the array's end."""
        return "" if self._before == "[" else "]\n"


def _json(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, float) and math.isinf(value):
        return "1e999" if value > 0 else "-1e999"
    if isinstance(value, int | float):
        return written(value)
    text = json.dumps(written(value), ensure_ascii=False)
    return _JSON_CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class Line(Format):
    """One value per line, and an empty line between rows."""

    def __init__(self, names: list[str], headers: bool | None) -> None:
        super().__init__(names, headers)
        self._width = max([5, *map(len, names)])
        self._before = ""

    def start(self, _rows: Rows) -> str:
        """Return nothing: each value has its name."""
        return ""

    def write(self, rows: Rows) -> str:
        """Return the rows' values, each with its column's name."""
        text = []
        for row in rows:
            text.append(self._before)
            text += [f"{name:>{self._width}} = {written(value)}\n" for name, value in zip(self.names, row, strict=True)]
            self._before = "\n"
        return "".join(text)


MODES: dict[str, type[Format]] = {
    "box": Table, "column": Table, "csv": Csv, "json": Json, "line": Line, "list": List, "table": Table,
}  # fmt: skip
