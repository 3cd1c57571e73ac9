"""The exception classes, and how a guest's error becomes an exception."""

from __future__ import annotations

import copy
import pickle
import sqlite3
import sys
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from rapsqlite import _constants, errors
from rapsqlite.errors import error_from_reply

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = [
    "Warning", "Error", "InterfaceError", "DatabaseError", "DataError", "OperationalError", "IntegrityError",
    "InternalError", "ProgrammingError", "NotSupportedError",
]  # fmt: skip


def sqlite_error(code: int, message: str = "message") -> Exception:
    return error_from_reply(code, message, -1, _constants.ERROR_SQLITE, -1, None)


@pytest.mark.parametrize("name", CLASSES)
def test_class_derives_from_its_namesake_in_sqlite3(name: str) -> None:
    """Existing ``except sqlite3.X`` clauses keep working."""
    assert issubclass(getattr(errors, name), getattr(sqlite3, name))


@pytest.mark.parametrize("name", CLASSES)
def test_exception_hierarchy_matches_sqlite3(name: str) -> None:
    ours = {base.__name__ for base in getattr(errors, name).__mro__ if base.__module__ == errors.__name__}
    theirs = {base.__name__ for base in getattr(sqlite3, name).__mro__ if base.__module__ == "sqlite3"}

    assert ours == theirs


def provoked(provoke: str) -> sqlite3.Error:
    """Return the error that sqlite3 itself raises for a statement after some others."""
    connection = sqlite3.connect(":memory:")
    try:
        *before, last = provoke.split(";")
        for statement in before:
            connection.execute(statement)
        with pytest.raises(sqlite3.Error) as caught:
            connection.execute(last).fetchall()
        return caught.value
    finally:
        connection.close()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="sqlite3 gives no codes before Python 3.11")
@pytest.mark.parametrize(
    "statements",
    [
        "SELECT * FROM missing",
        "CREATE TABLE t (a UNIQUE);INSERT INTO t VALUES (1);INSERT INTO t VALUES (1)",
        "CREATE TABLE t (a NOT NULL);INSERT INTO t VALUES (NULL)",
        "CREATE TABLE t (a CHECK (a > 0));INSERT INTO t VALUES (0)",
        "CREATE TABLE t (a INTEGER PRIMARY KEY);INSERT INTO t VALUES ('x')",
        "SELECT zeroblob(2147483647)",
        "BEGIN;BEGIN",
        "ATTACH '/no/such/directory/file' AS a",
        "SELECT abs(-9223372036854775808)",
    ],
)
def test_class_code_and_name_match_sqlite3(statements: str) -> None:
    """The code of a real error, sent through a reply, gives the class that sqlite3 raised for it."""
    theirs: Any = provoked(statements)

    ours: Any = sqlite_error(theirs.sqlite_errorcode, str(theirs))

    assert isinstance(ours, type(theirs))
    assert type(ours).__name__ == type(theirs).__name__
    assert (ours.sqlite_errorcode, ours.sqlite_errorname) == (theirs.sqlite_errorcode, theirs.sqlite_errorname)
    assert str(ours) == str(theirs)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="sqlite3 publishes no codes before Python 3.11")
def test_error_names_match_sqlite3() -> None:
    theirs = {getattr(sqlite3, name): name for name in _constants.RESULT_CODES.values() if hasattr(sqlite3, name)}
    assert len(theirs) > 80

    assert {code: _constants.RESULT_CODES[code] for code in theirs} == theirs


@pytest.mark.parametrize(
    "code, expected",
    [
        (_constants.SQLITE_IOERR_READ, errors.OperationalError),
        (_constants.SQLITE_INTERRUPT, errors.OperationalError),
        (_constants.SQLITE_CORRUPT_INDEX, errors.DatabaseError),
        (_constants.SQLITE_NOTADB, errors.DatabaseError),
        (_constants.SQLITE_AUTH, errors.DatabaseError),
        (_constants.SQLITE_TOOBIG, errors.DataError),
        (_constants.SQLITE_MISMATCH, errors.IntegrityError),
        (_constants.SQLITE_NOTFOUND, errors.InternalError),
        (_constants.SQLITE_NOMEM, errors.OutOfMemoryError),
        (12345 << 8 | 0xFE, errors.DatabaseError),
    ],
)
def test_rare_codes_have_the_class_of_cpython(code: int, expected: type[Exception]) -> None:
    """As in CPython's Modules/_sqlite/util.c."""
    assert type(sqlite_error(code)) is expected


def test_misuse_has_the_class_of_the_running_python() -> None:
    expected = errors.InterfaceError if sys.version_info >= (3, 11) else errors.ProgrammingError

    assert type(sqlite_error(_constants.SQLITE_MISUSE)) is expected


def test_out_of_memory_is_a_memory_error_as_in_sqlite3() -> None:
    error = sqlite_error(_constants.SQLITE_NOMEM)

    assert isinstance(error, MemoryError)
    assert isinstance(error, errors.Error)


@pytest.mark.parametrize(
    "klass, expected",
    [
        (_constants.ERROR_PROGRAMMING, errors.ProgrammingError),
        (_constants.ERROR_TEXT, errors.OperationalError),
        (_constants.ERROR_DATA, errors.DataError),
        (_constants.ERROR_INTERNAL, errors.InternalError),
        (_constants.ERROR_OVERFLOW, OverflowError),
        (99, errors.InternalError),
    ],
)
def test_class_in_the_reply_is_used(klass: int, expected: type[Exception]) -> None:
    assert type(error_from_reply(0, "message", -1, klass, -1, None)) is expected


def test_unsupported_type_is_the_class_sqlite3_raises() -> None:
    connection = sqlite3.connect(":memory:")
    with pytest.raises(sqlite3.Error) as caught:
        connection.execute("SELECT ?", (object(),))
    connection.close()

    ours = error_from_reply(0, "message", -1, _constants.ERROR_UNSUPPORTED, -1, None)

    assert type(ours).__name__ == caught.type.__name__


@pytest.mark.parametrize("name", CLASSES[1:])
def test_error_made_with_a_message_alone_has_code_and_name(name: str) -> None:
    """Errors found before SQLite is called, such as a closed connection, also have them."""
    error = getattr(errors, name)("message")

    assert _constants.RESULT_CODES[error.sqlite_errorcode] == error.sqlite_errorname
    assert error.sqlite_errorcode != _constants.SQLITE_OK
    assert error.sqlite_offset is None


def test_error_has_its_offset_and_index() -> None:
    error: Any = error_from_reply(_constants.SQLITE_ERROR, "near x", 7, _constants.ERROR_SQLITE, 12, "SELECT x x x")

    assert (error.sqlite_offset, error.sql, error.parameter_set) == (7, "SELECT x x x", 12)
    assert str(error) == "near x"


def test_code_zero_keeps_the_code_of_the_class() -> None:
    error: Any = error_from_reply(0, "wrong count", -1, _constants.ERROR_PROGRAMMING, -1, "SELECT ?")

    assert error.sqlite_errorname == "SQLITE_MISUSE"


def test_unknown_extended_code_has_the_name_of_its_primary_code() -> None:
    error: Any = sqlite_error(_constants.SQLITE_IOERR | 200 << 8)

    assert error.sqlite_errorcode == _constants.SQLITE_IOERR | 200 << 8
    assert error.sqlite_errorname == "SQLITE_IOERR"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have notes since Python 3.11")
def test_note_shows_the_statement_shortened() -> None:
    error: Any = error_from_reply(1, "message", -1, _constants.ERROR_SQLITE, 3, "SELECT\n  " + "x" * 10_000)

    assert [len(note) < 300 for note in error.__notes__] == [True, True]
    assert error.__notes__[0].startswith("statement: SELECT xxx")
    assert error.__notes__[1] == "parameter set 3, counted from 0"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have notes since Python 3.11")
async def test_file_name_is_not_labelled_as_a_statement(tmp_path: Path) -> None:
    with pytest.raises(rapsqlite.DatabaseError) as opened:
        await rapsqlite.connect(tmp_path / "nowhere" / "a.db")
    async with rapsqlite.connect(":memory:") as conn, rapsqlite.connect(":memory:") as copy:
        with pytest.raises(rapsqlite.OperationalError) as copied:
            await conn.backup(copy, name="nowhere")

    assert getattr(opened.value, "__notes__", None) == [f"database: {tmp_path / 'nowhere' / 'a.db'}"]
    assert not hasattr(copied.value, "__notes__")
    assert opened.value.sql is copied.value.sql is None


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_error_survives_pickling_and_copying(duplicate: Any) -> None:
    """Process pools send exceptions through pickle."""
    error: Any = error_from_reply(2067, "UNIQUE constraint failed", 7, 0, 3, "INSERT INTO t VALUES (1)")

    again = duplicate(error)

    assert type(again) is type(error)
    assert again.args == error.args
    assert vars(again) == vars(error)
