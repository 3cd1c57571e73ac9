"""The DB-API exceptions, and the only place where an error reply becomes an exception.

Each class is a subclass of its namesake in `sqlite3`, so ``except sqlite3.IntegrityError`` also catches this package's.
Every exception has more attributes than in sqlite3:

``sqlite_errorcode``  SQLite's extended result code, or a fitting code for errors found before SQLite was called
``sqlite_errorname``  that code's name
``sqlite_offset``     byte offset of the offending token in the UTF-8 text of the statement, or None
``sql``               the statement, or None
``parameter_set``     for `executemany`: index of the offending parameter set, counted from 0, or None

``str(error)`` is only SQLite's message. The statement and the parameter set are added as a note, which tracebacks show
from Python 3.11 on. Parameter values appear nowhere.

https://peps.python.org/pep-0249/#exceptions, https://sqlite.org/rescode.html
"""

from __future__ import annotations

import sqlite3
import sys

from rapsqlite import _constants

__all__ = [
    "ClosedError",
    "DataError",
    "DatabaseError",
    "Error",
    "IntegrityError",
    "InterfaceError",
    "InternalError",
    "NotSupportedError",
    "OperationalError",
    "OutOfMemoryError",
    "PoolClosed",
    "PoolTimeout",
    "ProgrammingError",
    "TooManyWaiting",
    "Warning",
    "busy",
    "error_from_reply",
    "interrupted",
    "mark_parameter_set",
    "unsupported_parameters",
]

_NOTE_SQL_CHARACTERS = 200


class Warning(sqlite3.Warning):
    """Something the user should know that is not an error (PEP 249; never raised by SQLite)."""


class Error(sqlite3.Error):
    """Base class of all errors of this package."""

    # Class attributes are defaults, so an exception raised with only a message has them too, and pickling and copying
    # need no code: instances store theirs in ``__dict__``.
    sqlite_errorcode: int = _constants.SQLITE_ERROR
    sqlite_errorname: str = "SQLITE_ERROR"
    sqlite_offset: int | None = None
    sql: str | None = None
    parameter_set: int | None = None


class InterfaceError(Error, sqlite3.InterfaceError):
    """The package was used in a way its interface does not allow."""

    sqlite_errorcode = _constants.SQLITE_MISUSE
    sqlite_errorname = "SQLITE_MISUSE"


class DatabaseError(Error, sqlite3.DatabaseError):
    """An error of the database, such as a corrupt file or one that is not a database; base of all classes below."""


class DataError(DatabaseError, sqlite3.DataError):
    """A value or a result is too large, or does not have the requested type."""

    sqlite_errorcode = _constants.SQLITE_TOOBIG
    sqlite_errorname = "SQLITE_TOOBIG"


class OperationalError(DatabaseError, sqlite3.OperationalError):
    """SQLite could not execute the statement: unknown table, locked file, full disk, interrupted statement."""


class IntegrityError(DatabaseError, sqlite3.IntegrityError):
    """A constraint of the schema is violated."""

    sqlite_errorcode = _constants.SQLITE_CONSTRAINT
    sqlite_errorname = "SQLITE_CONSTRAINT"


class InternalError(DatabaseError, sqlite3.InternalError):
    """The engine contradicted itself or its contract with this package; please report it."""

    sqlite_errorcode = _constants.SQLITE_INTERNAL
    sqlite_errorname = "SQLITE_INTERNAL"


class ProgrammingError(DatabaseError, sqlite3.ProgrammingError):
    """The call is wrong: closed connection, wrong number of parameters, several statements in one string."""

    sqlite_errorcode = _constants.SQLITE_MISUSE
    sqlite_errorname = "SQLITE_MISUSE"


class ClosedError(ProgrammingError, ValueError):
    """The connection is closed or not open yet. Also a ValueError, which aiosqlite raises in this case."""


class PoolClosed(ClosedError):  # noqa: N818 - as in psycopg_pool
    """The pool is closed."""


class PoolTimeout(OperationalError, TimeoutError):  # noqa: N818
    """No connection of the pool became free in time."""

    sqlite_errorcode = _constants.SQLITE_BUSY
    sqlite_errorname = "SQLITE_BUSY"


class TooManyWaiting(OperationalError):  # noqa: N818
    """The pool's limit on waiting tasks, ``max_waiting``, is reached."""

    sqlite_errorcode = _constants.SQLITE_BUSY
    sqlite_errorname = "SQLITE_BUSY"


class PositionsRefusedError(ProgrammingError):
    """Internal: a sequence was given for named placeholders. `named_placeholders` decides what users see."""


class NotSupportedError(DatabaseError, sqlite3.NotSupportedError):
    """SQLite, or SQLite in the sandbox, does not support this."""


class OutOfMemoryError(OperationalError, MemoryError):
    """The engine's memory limit was reached. Also a MemoryError, which sqlite3 raises in this case."""

    sqlite_errorcode = _constants.SQLITE_NOMEM
    sqlite_errorname = "SQLITE_NOMEM"


class ExceptionAttributes:
    """The exceptions as attributes of a connection: an optional extension of PEP 249 that sqlite3 also has."""

    Warning = Warning
    Error = Error
    InterfaceError = InterfaceError
    DatabaseError = DatabaseError
    DataError = DataError
    OperationalError = OperationalError
    IntegrityError = IntegrityError
    InternalError = InternalError
    ProgrammingError = ProgrammingError
    NotSupportedError = NotSupportedError


# CPython 3.11 moved a few codes between classes; the running Python's choice applies.
_SINCE_311 = sys.version_info >= (3, 11)

_CLASS_BY_PRIMARY_CODE: dict[int, type[Error]] = {
    _constants.SQLITE_ERROR: OperationalError,
    _constants.SQLITE_INTERNAL: InternalError,
    _constants.SQLITE_PERM: OperationalError,
    _constants.SQLITE_ABORT: OperationalError,
    _constants.SQLITE_BUSY: OperationalError,
    _constants.SQLITE_LOCKED: OperationalError,
    _constants.SQLITE_NOMEM: OutOfMemoryError,
    _constants.SQLITE_READONLY: OperationalError,
    _constants.SQLITE_INTERRUPT: OperationalError,
    _constants.SQLITE_IOERR: OperationalError,
    _constants.SQLITE_NOTFOUND: InternalError,
    _constants.SQLITE_FULL: OperationalError,
    _constants.SQLITE_CANTOPEN: OperationalError,
    _constants.SQLITE_PROTOCOL: OperationalError,
    _constants.SQLITE_EMPTY: OperationalError,
    _constants.SQLITE_SCHEMA: OperationalError,
    _constants.SQLITE_TOOBIG: DataError,
    _constants.SQLITE_CONSTRAINT: IntegrityError,
    _constants.SQLITE_MISMATCH: IntegrityError,
    _constants.SQLITE_MISUSE: InterfaceError if _SINCE_311 else ProgrammingError,
    _constants.SQLITE_RANGE: InterfaceError if _SINCE_311 else DatabaseError,
}

_CLASS_BY_REPLY_CLASS: dict[int, type[Error]] = {
    _constants.ERROR_PROGRAMMING: ProgrammingError,
    _constants.ERROR_UNSUPPORTED: ProgrammingError if _SINCE_311 else InterfaceError,
    _constants.ERROR_TEXT: OperationalError,
    _constants.ERROR_DATA: DataError,
    _constants.ERROR_INTERNAL: InternalError,
    _constants.ERROR_POSITIONS: PositionsRefusedError,
}


def error_from_reply(code: int, message: str, offset: int, klass: int, row: int, sql: str | None) -> Exception:
    """Return the exception for an error reply, given its fields.

    ``code`` is an extended result code, or 0 if the error is not SQLite's; ``offset`` and ``row`` are -1 if unknown
    (docs/abi.md, "Errors"). Everything comes from the guest, so any value is accepted. An integer that does not fit
    becomes the builtin `OverflowError`, as in sqlite3; everything else an `Error`.
    """
    if klass == _constants.ERROR_OVERFLOW:
        overflow = OverflowError(message)
        _add_note(overflow, sql, row)
        return overflow
    if klass == _constants.ERROR_SQLITE:
        kind = _CLASS_BY_PRIMARY_CODE.get(code & 0xFF, DatabaseError)
    else:
        kind = _CLASS_BY_REPLY_CLASS.get(klass, InternalError)
    error = kind(message)
    if code:
        error.sqlite_errorcode = code
        error.sqlite_errorname = _name_of(code)
    if offset >= 0:
        error.sqlite_offset = offset
    error.sql = sql
    if row >= 0:
        error.parameter_set = row
    _add_note(error, sql, row)
    _add_hint(error, message)
    return error


def unsupported_parameters() -> Exception:
    """Return the exception that sqlite3 raises if parameters are neither a sequence nor a mapping."""
    message = "parameters are of unsupported type"
    error = ProgrammingError(message) if _SINCE_311 else ValueError(message)
    _add_hint(error, message)
    return error


def interrupted(message: str = "interrupted") -> OperationalError:
    """Return the exception of a statement that was interrupted before SQLite began it, or went on with it."""
    error = OperationalError(message)
    error.sqlite_errorcode = _constants.SQLITE_INTERRUPT
    error.sqlite_errorname = "SQLITE_INTERRUPT"
    return error


def busy(message: str) -> OperationalError:
    """Return the exception for a lock that was not available in time."""
    error = OperationalError(message)
    error.sqlite_errorcode = _constants.SQLITE_BUSY
    error.sqlite_errorname = "SQLITE_BUSY"
    return error


def _name_of(code: int) -> str:
    """Return the name of an extended result code, or of its primary code if the extended one is unknown."""
    names = _constants.RESULT_CODES
    return names.get(code) or names.get(code & 0xFF, "unknown")


def mark_parameter_set(error: Exception, index: int) -> None:
    """Record in any exception the index, counted from 0, of the `executemany` parameter set it is about."""
    if isinstance(error, Error):
        error.parameter_set = index
    _add_note(error, None, index)


def _add_note(error: Exception, sql: str | None, row: int) -> None:
    if sys.version_info >= (3, 11):
        if sql is not None:
            error.add_note(f"statement: {_shortened(sql)}")
        if row >= 0:
            error.add_note(f"parameter set {row}, counted from 0")


# SQLite's or sqlite3's message for a common mistake, and what to write instead.
_HINTS = (
    ("You can only execute one statement", "executescript() executes several statements"),
    ('near "%": syntax error', "placeholders are ? or :name, not %s"),
    ("parameters are of unsupported type", "pass parameters as a sequence, such as [value], or as a mapping"),
    ("Incorrect number of bindings", "pass parameters as a sequence, one value as [value], even a string"),
)


def _add_hint(error: Exception, message: str) -> None:
    if sys.version_info >= (3, 11):
        for beginning, hint in _HINTS:
            if message.startswith(beginning):
                error.add_note(hint)


def _shortened(sql: str) -> str:
    """Return the statement on one line, of bounded length."""
    line = " ".join(sql[: 4 * _NOTE_SQL_CHARACTERS].split())
    return line if len(line) <= _NOTE_SQL_CHARACTERS else line[: _NOTE_SQL_CHARACTERS - 1] + "…"
