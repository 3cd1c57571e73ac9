"""Reads lines from a terminal: with history and completion if ``prompt_toolkit`` is installed, else by `input`."""

from __future__ import annotations

import os
import re
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# The words of statements that people type; SQLite knows more.
KEYWORDS = """
ABORT ADD ALL ALTER ANALYZE AND AS ASC ATTACH AUTOINCREMENT BEGIN BETWEEN BY CASCADE CASE CAST CHECK COLLATE COLUMN
COMMIT CONFLICT CONSTRAINT CREATE CROSS DATABASE DEFAULT DEFERRED DELETE DESC DETACH DISTINCT DO DROP ELSE END
ESCAPE EXCEPT EXCLUSIVE EXISTS EXPLAIN FILTER FOREIGN FROM FULL GENERATED GLOB GROUP HAVING IF IMMEDIATE IN INDEX
INNER INSERT INTERSECT INTO IS JOIN KEY LEFT LIKE LIMIT MATCH NATURAL NOT NOTHING NULL OFFSET ON OR ORDER OUTER
OVER PARTITION PLAN PRAGMA PRIMARY QUERY RAISE RECURSIVE REFERENCES REINDEX RELEASE RENAME REPLACE RETURNING RIGHT
ROLLBACK ROW ROWS SAVEPOINT SELECT SET TABLE TEMP THEN TO TRANSACTION TRIGGER UNION UNIQUE UPDATE USING VACUUM
VALUES VIEW VIRTUAL WHEN WHERE WINDOW WITH WITHOUT
""".split()
_WORD = re.compile(r'["\w$]+')


def line_reader(commands: Iterable[str], names: Callable[[], list[str]]) -> Callable[[str], str]:
    """Return a function like `input`, which completes ``commands`` and what ``names`` returns as a line begins."""
    if sys.stdout.isatty():
        try:
            return _with_completion(commands, names)
        except ImportError:
            pass
    # Importing it gives `input` line editing. It is not available on every system, and pipes do not need it.
    try:
        import readline  # noqa: F401
    except ImportError:
        sys.stderr.write("(no line editing here)\n")
    return input


def _with_completion(commands: Iterable[str], names: Callable[[], list[str]]) -> Callable[[str], str]:
    # Optional, and slow to import.
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter, merge_completers
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    file = _history_file()
    known: list[str] = []
    dotted = WordCompleter([f".{command}" for command in commands], sentence=True)
    words = WordCompleter(lambda: KEYWORDS + known, ignore_case=True, pattern=_WORD)
    session = PromptSession[str](
        history=InMemoryHistory() if file is None else FileHistory(str(file)),
        completer=merge_completers([dotted, words]),
        complete_while_typing=False,
    )

    def read(prompt: str) -> str:
        known[:] = names()  # here, as the connection's loop cannot run while the session's does
        text: str = session.prompt(prompt)
        return text

    return read


def _history_file() -> Path | None:
    """Return the file, which nobody else can read: ``RAPSQLITE_HISTORY``, or one in the user's home directory."""
    try:
        path = Path(os.environ.get("RAPSQLITE_HISTORY") or Path.home() / ".rapsqlite_history")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _make_private(path, descriptor)
        finally:
            os.close(descriptor)
    except (OSError, RuntimeError):
        return None
    return path


def _make_private(path: Path, descriptor: int) -> None:
    """Let nobody else read a file that exists already, if it is this user's; a device is everyone's."""
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        with suppress(PermissionError):
            os.chmod(descriptor if os.chmod in os.supports_fd else path, 0o600)  # noqa: PTH101 - a descriptor
