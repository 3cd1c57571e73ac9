"""The dialect ``sqlite+rapsqlite``: URLs and options, pools, isolation levels, errors that end a connection.

https://docs.sqlalchemy.org/en/21/dialects/sqlite.html
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import exc, util
from sqlalchemy.dialects.sqlite.base import SQLiteExecutionContext
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine.interfaces import ExecuteStyle
from sqlalchemy.sql.compiler import InsertmanyvaluesSentinelOpts

import rapsqlite
from rapsqlite import errors
from rapsqlite._client.transaction_control import LEGACY_TRANSACTION_CONTROL
from rapsqlite.sqlalchemy.driver import Adapted, Driver
from rapsqlite.sqlalchemy.pools import FilePool, MemoryPool, Mutex

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import URL, Engine
    from sqlalchemy.pool import Pool


def _flag(value: str) -> bool:
    return util.asbool(value)


def _autocommit(value: str) -> bool | int:
    return LEGACY_TRANSACTION_CONTROL if value.lower() in {"legacy", "-1"} else util.asbool(value)


def _isolation_level(value: str) -> str | None:
    return None if value.lower() == "none" else value


_OPTIONS: dict[str, Callable[[str], Any]] = {
    "timeout": float,
    "isolation_level": _isolation_level,
    "detect_types": int,
    "cached_statements": int,
    "uri": _flag,
    "autocommit": _autocommit,
    "iter_chunk_size": int,
    "read_only": _flag,
    "strict_strings": _flag,
    "transaction_mode": str,
    "transaction_scope": str,
    "check_same_thread": _flag,
    "aiosqlite_compat": _flag,
}
"""Options of `rapsqlite.connect` that a URL's query may contain. ``connect_args`` takes the rest."""

_GROUPS = {"pragma_": "pragmas", "limit_": "limits"}
"""Prefixes of query arguments that are entries of an option: ``pragma_foreign_keys=1``."""


class Context(SQLiteExecutionContext):
    """The execution of one statement."""

    def create_server_side_cursor(self) -> Any:
        """Return a cursor over a running statement."""
        return cast("Adapted", self._dbapi_connection).cursor(server_side=True)

    def fetchall_for_returning(self, cursor: Any) -> Any:
        """Return the rows of INSERT … RETURNING.

        SQLAlchemy sorts them by id and matches them with the parameter sets in that order. SQLite returns them in the
        order of insertion, and their ids ascend until the largest possible id is in use; then it assigns random ones.
        """
        rows = cursor.fetchall()
        values = getattr(self.compiled, "_insertmanyvalues", None)
        if self.execute_style is ExecuteStyle.INSERTMANYVALUES and values is not None and values.implicit_sentinel:
            ids = [row[-1] for row in rows]
            if any(first >= second for first, second in pairwise(ids)):
                raise exc.InvalidRequestError(
                    "SQLite did not assign ascending ids to the rows of an INSERT, so they cannot be told apart;"
                    " insert them one by one, or set ids"
                )
        return rows


class RapsqliteDialect(SQLiteDialect_pysqlite):
    """SQLite through this package: ``sqlite+rapsqlite:///file.db``."""

    driver = "rapsqlite"
    is_async = True
    has_terminate = True
    supports_statement_cache = True
    supports_server_side_cursors: bool = True
    insertmanyvalues_implicit_sentinel = InsertmanyvaluesSentinelOpts.AUTOINCREMENT
    execution_ctx_cls: type[Context] = Context

    @classmethod
    def import_dbapi(cls) -> Any:
        """Return this package as a DB-API module."""
        return Driver()

    def retrieve_dbapi_version(self, dbapi: Any) -> Any:  # noqa: ARG002
        """Return the version of this package (SQLAlchemy 2.1)."""
        return util.parse_version_string(rapsqlite.__version__)

    @classmethod
    def load_provisioning(cls) -> None:
        """Import what SQLAlchemy's own test suite does for SQLite."""
        SQLiteDialect_pysqlite.load_provisioning()  # type: ignore[no-untyped-call]

    # -- URLs ----------------------------------------------------------------------------------------

    @classmethod
    def get_pool_class(cls, url: URL) -> type[Pool]:
        """Return the pool for a URL: one connection for a private in-memory database, else a queue of them."""
        return FilePool if cls._is_url_file_db(url) else MemoryPool

    @classmethod
    def _is_url_file_db(cls, url: URL) -> bool:
        """Return whether several connections can share the database."""
        database, query = url.database or ":memory:", url.query
        if not util.asbool(query.get("uri", False)):
            return database != ":memory:"
        is_memory = query.get("mode") == "memory" or database in {":memory:", "file::memory:", "file:"}
        return not is_memory or query.get("cache") == "shared"

    def create_connect_args(self, url: URL) -> Any:
        """Return the arguments for `rapsqlite.connect`; ArgumentError for a URL with anything else in it."""
        if url.username or url.password or url.host or url.port:
            raise exc.ArgumentError(
                f"Invalid SQLite URL: {url}: a file is sqlite+rapsqlite:///relative/path.db or"
                " sqlite+rapsqlite:////absolute/path.db, a database in memory is sqlite+rapsqlite://"
            )
        options: dict[str, Any] = {}
        rest: dict[str, str] = {}
        for name, value in url.query.items():
            if not isinstance(value, str):
                raise exc.ArgumentError(f"Invalid SQLite URL: {name!r} is given more than once")
            prefix = next((prefix for prefix in _GROUPS if name.startswith(prefix)), None)
            if prefix is not None:
                options.setdefault(_GROUPS[prefix], {})[name.removeprefix(prefix)] = _entry(prefix, value)
            elif name in _OPTIONS:
                options[name] = _option(name, value)
            else:
                rest[name] = value
        return [_database(url, rest, is_uri=options.get("uri", False))], options

    # -- connections ---------------------------------------------------------------------------------

    @classmethod
    def engine_created(cls, engine: Engine) -> None:
        """Let tasks of any event loop wait while the first connection is examined."""
        connect: Any = engine.pool.dispatch.connect
        connect._exec_once_mutex = Mutex()

    def on_connect(self) -> Callable[[Any], None]:
        """Return the function that prepares a connection: REGEXP is Python's `re.search`."""

        def connect(connection: Adapted) -> None:
            connection.create_function("regexp", 2, _regexp, deterministic=True)

        return connect

    def get_driver_connection(self, connection: Any) -> Any:
        """Return the `rapsqlite.Connection`."""
        return connection.driver_connection

    def do_terminate(self, dbapi_connection: Any) -> None:
        """Close a connection that may be in use."""
        dbapi_connection.terminate()

    def do_ping(self, dbapi_connection: Any) -> bool:
        """Return whether the connection is usable, without a request: there is no network that could fail."""
        return cast("Adapted", dbapi_connection).is_alive()

    def is_disconnect(self, e: Any, connection: Any, cursor: Any) -> bool:  # noqa: ARG002
        """Return whether the connection is lost: closed, in a forked child, or its guest broken."""
        if isinstance(e, errors.ClosedError):
            return True
        adapted = getattr(connection, "dbapi_connection", connection)
        return isinstance(e, errors.Error) and isinstance(adapted, Adapted) and not adapted.is_alive()

    # -- isolation -----------------------------------------------------------------------------------

    def get_isolation_level_values(self, dbapi_conn: Any) -> Any:  # noqa: ARG002
        """Return the levels: SQLite's two, AUTOCOMMIT, and SNAPSHOT, in which reads belong to the transaction."""
        return ["SERIALIZABLE", "READ UNCOMMITTED", "SNAPSHOT", "AUTOCOMMIT"]

    def set_isolation_level(self, dbapi_connection: Any, level: Any) -> None:
        """Set one of the levels."""
        is_autocommit, is_snapshot = level == "AUTOCOMMIT", level == "SNAPSHOT"
        adapted = cast("Adapted", dbapi_connection)
        adapted.set_transactions(autocommit=is_autocommit, snapshots=is_snapshot)
        adapted.set_read_uncommitted(level == "READ UNCOMMITTED")

    def get_isolation_level(self, dbapi_connection: Any) -> Any:
        """Return the level."""
        if dbapi_connection.autocommit is True:
            return "AUTOCOMMIT"
        if dbapi_connection.has_snapshots:
            return "SNAPSHOT"
        return super().get_isolation_level(dbapi_connection)  # type: ignore[no-untyped-call]

    def detect_autocommit_setting(self, dbapi_conn: Any) -> bool:
        """Return whether each statement is committed by itself."""
        return dbapi_conn.autocommit is True


def _regexp(pattern: str, text: str | None) -> bool | None:
    return None if text is None else re.search(pattern, text) is not None


def _option(name: str, value: str) -> Any:
    try:
        return _OPTIONS[name](value)
    except ValueError as error:
        raise exc.ArgumentError(f"Invalid SQLite URL: {name}={value!r}: {error}") from error


def _entry(prefix: str, value: str) -> Any:
    """Return the value of one PRAGMA or limit."""
    if prefix == "pragma_":
        return value
    try:
        return float(value) if "." in value else int(value)
    except ValueError:
        return util.asbool(value)


def _database(url: URL, rest: dict[str, str], *, is_uri: bool) -> str:
    """Return the name of the database. What is left of the query belongs to SQLite's URI, if it is one."""
    database = url.database or ":memory:"
    if is_uri:
        query = "&".join(f"{name}={value}" for name, value in sorted(rest.items()))
        return f"{database}?{query}" if query else database
    if rest:
        names = ", ".join(sorted(rest))
        raise exc.ArgumentError(
            f"Invalid SQLite URL: unknown options {names}. Pass options that are not text as connect_args;"
            " parameters of an SQLite URI need uri=true"
        )
    return database if database == ":memory:" else str(Path(database).absolute())
