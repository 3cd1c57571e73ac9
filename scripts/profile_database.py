"""The part of SQLite's C interface that the profile's workload needs, on an instrumented library, through ctypes."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

Value = int | float | str | bytes | None

OPEN_READWRITE_CREATE = 0x2 | 0x4
OK, ROW, DONE = 0, 100, 101
INTEGER, FLOAT, TEXT, BLOB, NULL = range(1, 6)
PREPARE_PERSISTENT = 1
_TRANSIENT = ctypes.c_void_p(-1)


class Database:
    """One connection. Errors raise RuntimeError with SQLite's message: a workload never deviates from its plan."""

    def __init__(self, library: Path, path: str) -> None:
        self._sqlite = ctypes.CDLL(str(library))
        self._declare()
        self._db = ctypes.c_void_p()
        code = self._sqlite.sqlite3_open_v2(path.encode(), ctypes.byref(self._db), OPEN_READWRITE_CREATE, None)
        self._check(code, path)

    def _declare(self) -> None:
        sqlite = self._sqlite
        pointer, i64 = ctypes.c_void_p, ctypes.c_int64
        sqlite.sqlite3_errmsg.restype = ctypes.c_char_p
        sqlite.sqlite3_bind_int64.argtypes = [pointer, ctypes.c_int, i64]
        sqlite.sqlite3_bind_double.argtypes = [pointer, ctypes.c_int, ctypes.c_double]
        sqlite.sqlite3_column_int64.restype = i64
        sqlite.sqlite3_column_double.restype = ctypes.c_double
        sqlite.sqlite3_column_text.restype = pointer
        sqlite.sqlite3_column_blob.restype = pointer

    def _check(self, code: int, what: str) -> None:
        if code not in (OK, ROW, DONE):
            message = self._sqlite.sqlite3_errmsg(self._db).decode()
            raise RuntimeError(f"{message} ({code}): {what}")

    def _prepare(self, sql: bytes) -> tuple[ctypes.c_void_p, bytes]:
        """Return the first statement of ``sql``, null if there is none, and what follows it."""
        statement, tail = ctypes.c_void_p(), ctypes.c_char_p()
        code = self._sqlite.sqlite3_prepare_v3(
            self._db, sql, len(sql), PREPARE_PERSISTENT, ctypes.byref(statement), ctypes.byref(tail)
        )
        self._check(code, sql.decode())
        return statement, tail.value or b""

    def _bind(self, statement: ctypes.c_void_p, values: Sequence[Value]) -> None:
        for index, value in enumerate(values, 1):
            match value:
                case None:
                    code = self._sqlite.sqlite3_bind_null(statement, index)
                case int():
                    code = self._sqlite.sqlite3_bind_int64(statement, index, value)
                case float():
                    code = self._sqlite.sqlite3_bind_double(statement, index, value)
                case str():
                    data = value.encode()
                    code = self._sqlite.sqlite3_bind_text(statement, index, data, len(data), _TRANSIENT)
                case _:
                    code = self._sqlite.sqlite3_bind_blob(statement, index, value, len(value), _TRANSIENT)
            self._check(code, f"parameter {index}")

    def _read_row(self, statement: ctypes.c_void_p, columns: int) -> None:
        """Fetch every value of the current row as the engine does: first its type, then its length."""
        for column in range(columns):
            match self._sqlite.sqlite3_column_type(statement, column):
                case 1:
                    self._sqlite.sqlite3_column_int64(statement, column)
                case 2:
                    self._sqlite.sqlite3_column_double(statement, column)
                case 3:
                    self._sqlite.sqlite3_column_text(statement, column)
                    self._sqlite.sqlite3_column_bytes(statement, column)
                case 4:
                    self._sqlite.sqlite3_column_blob(statement, column)
                    self._sqlite.sqlite3_column_bytes(statement, column)

    def _run(self, statement: ctypes.c_void_p, what: str) -> int:
        columns = self._sqlite.sqlite3_column_count(statement)
        rows = 0
        while (code := self._sqlite.sqlite3_step(statement)) == ROW:
            self._read_row(statement, columns)
            rows += 1
        self._check(code, what)
        self._sqlite.sqlite3_reset(statement)
        return rows

    def script(self, sql: str) -> int:
        """Run all statements of ``sql`` and return how many rows they returned."""
        rest, rows = sql.encode(), 0
        while rest.strip():
            statement, rest = self._prepare(rest)
            if statement.value:
                try:
                    rows += self._run(statement, sql)
                finally:
                    self._sqlite.sqlite3_finalize(statement)
        return rows

    def many(self, sql: str, parameters: Iterable[Sequence[Value]]) -> int:
        """Prepare ``sql`` once, run it with each of the parameters, and return how many rows it returned."""
        statement, _ = self._prepare(sql.encode())
        rows = 0
        try:
            for values in parameters:
                self._bind(statement, values)
                rows += self._run(statement, sql)
        finally:
            self._sqlite.sqlite3_finalize(statement)
        return rows

    def fails(self, sql: str) -> None:
        """Run ``sql``, which must fail: errors are part of ordinary use."""
        try:
            self.script(sql)
        except RuntimeError:
            return
        raise RuntimeError(f"expected to fail: {sql}")

    def close(self) -> None:
        """Close the connection."""
        self._check(self._sqlite.sqlite3_close(self._db), "close")
