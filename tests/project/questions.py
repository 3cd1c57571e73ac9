"""Questions that users of aiosqlite ask in public threads: words that they search for, and the page that answers.

The threads are issues of github.com/omnilib/aiosqlite.
"""

from __future__ import annotations

from typing import NamedTuple


class Question(NamedTuple):
    """The number of the thread, the words, and the page with its section."""

    thread: int
    words: str
    page: str
    section: str


QUESTIONS = [
    Question(251, "database is locked immediately", "troubleshooting", "database-is-locked"),
    Question(163, "connection pool", "pool", ""),
    Question(299, "program hangs at exit", "troubleshooting", "the-program-does-not-end"),
    Question(97, "many inserts slow", "troubleshooting", "it-is-slow"),
    Question(19, "transactions shared connection tasks", "transactions", "a-block-belongs-to-its-task"),
    Question(110, "commit missing changes not saved", "troubleshooting", "changes-are-missing"),
    Question(2, "thread per connection", "connection", "resources-per-connection"),
    Question(11, "rows as dict", "types", "rows-as-tuples-dicts-or-row"),
    Question(22, "load extension", "extensions", ""),
    Question(369, "SQLAlchemy engine dispose", "sqlalchemy", ""),
]
