"""A blocking wrapper of rapsqlite in the shape of sqlite3, so that CPython's own tests can run on it, unmodified.

Each call runs a new event loop, asyncio's or Trio's, until it is answered: a connection works in any loop. Features of
sqlite3 that this package lacks (indexing of blobs, ``with`` for transactions, factories of cursors, calling a
connection) are built from their replacements, as listed in docs/compatibility.md.
"""

from __future__ import annotations

import sqlite3
import sys
import threading
import types
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

import rapsqlite

if TYPE_CHECKING:
    from collections.abc import Iterator

BACKEND = "asyncio"


def use_backend(name: str) -> None:
    """Run everything from now on in this event loop."""
    global BACKEND
    BACKEND = name


def run(function: Any, *given: Any, **options: Any) -> Any:
    """Call a function; if its result is awaitable, block until it is awaited."""

    # A run of Trio leaves its main task in a reference cycle. The task returns nothing, so the cycle keeps no cursor.
    answers: list[Any] = []

    async def main() -> None:
        result = function(*given, **options)
        answers.append(await result if hasattr(result, "__await__") else result)

    if not in_event_loop():
        anyio.run(main, backend=BACKEND)
    else:
        # A callback of the event loop, such as a backup's progress handler, calls us: that loop waits for another
        # thread.
        thread = threading.Thread(target=partial(anyio.run, main, backend=BACKEND))
        thread.start()
        thread.join()
    return answers.pop()


def in_event_loop() -> bool:
    import asyncio

    trio = sys.modules.get("trio")
    return asyncio._get_running_loop() is not None or (trio is not None and trio.lowlevel.in_trio_run())


class Blob:
    __iter__ = None

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return partial(run, getattr(self._real, name))

    def __len__(self) -> int:
        return len(self._real)

    def __getitem__(self, key: Any) -> Any:
        return run(self._real.get, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        run(self._real.set, key, value)

    def __delitem__(self, key: Any) -> None:
        raise TypeError("Blob object doesn't support item deletion")

    def __enter__(self) -> Blob:
        run(self._real.__aenter__)
        return self

    def __exit__(self, *raised: Any) -> None:
        run(self._real.__aexit__, *raised)


class Cursor:
    def __init__(self, connection: Any) -> None:
        if not isinstance(connection, Connection):
            raise TypeError("a cursor is made of a connection")
        self.connection = connection
        self._real = run(connection._real.cursor)

    def __getattr__(self, name: str) -> Any:
        if name == "_real":
            raise rapsqlite.ProgrammingError("Base Cursor.__init__ not called.")
        value = getattr(self._real, name)
        return partial(run, value) if isinstance(value, types.MethodType) else value

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "connection" and hasattr(rapsqlite.Cursor, name):
            setattr(self._real, name, value)
        else:
            object.__setattr__(self, name, value)

    def execute(self, *given: Any) -> Cursor:
        run(self._real.execute, *given)
        return self

    def executemany(self, *given: Any) -> Cursor:
        run(self._real.executemany, *given)
        return self

    def executescript(self, *given: Any) -> Cursor:
        run(self._real.executescript, *given)
        return self

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        row = self.fetchone()
        if row is None:
            raise StopIteration
        return row


class Connection:
    def __init__(self, database: Any, **options: Any) -> None:
        options.pop("factory", None)
        self._real = rapsqlite.connect(database, **options)
        run(lambda: self._real)

    def __getattr__(self, name: str) -> Any:
        if name == "_real":
            raise rapsqlite.ProgrammingError("Base Connection.__init__ not called.")
        value = getattr(self._real, name)
        return partial(run, value) if isinstance(value, types.MethodType) else value

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_real":
            object.__setattr__(self, name, value)
        else:
            setattr(self._real, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._real, name)

    def cursor(self, factory: Any = Cursor) -> Any:
        cursor = factory(self)
        if not issubclass(type(cursor), Cursor):
            raise TypeError("factory must return a cursor")
        return cursor

    def _cursor_of(self, verb: Any, *given: Any) -> Cursor:
        cursor = Cursor.__new__(Cursor)
        cursor.connection = self
        cursor._real = run(verb, *given)
        return cursor

    def execute(self, *given: Any) -> Cursor:
        return self._cursor_of(self._real.execute, *given)

    __call__ = execute

    def executemany(self, *given: Any) -> Cursor:
        return self._cursor_of(self._real.executemany, *given)

    def executescript(self, *given: Any) -> Cursor:
        return self._cursor_of(self._real.executescript, *given)

    def blobopen(self, *given: Any, **options: Any) -> Blob:
        return Blob(run(self._real.blobopen, *given, **options))

    def backup(self, target: Any, **options: Any) -> None:
        run(self._real.backup, getattr(target, "_real", target), **options)

    def iterdump(self, **options: Any) -> Iterator[str]:
        return iter(run(self._real.iterdump, **options))

    # CPython's tests check the class for these.

    def serialize(self, **options: Any) -> Any:
        return run(self._real.serialize, **options)

    def deserialize(self, *given: Any, **options: Any) -> None:
        run(self._real.deserialize, *given, **options)

    def __enter__(self) -> Connection:
        self._real.in_transaction  # noqa: B018 - raises if it is closed
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is not None:
            run(self._real.rollback)
            return
        try:
            run(self._real.commit)
        except BaseException:
            run(self._real.rollback)
            raise


def connect(database: Any, *given: Any, factory: Any = Connection, **options: Any) -> Any:
    return factory(database, *given, **options)


def adapt(*given: Any) -> Any:
    """Same as `rapsqlite.adapt`, which is sqlite3's, with this package's class of exception."""
    try:
        return rapsqlite.adapt(*given)
    except sqlite3.ProgrammingError as error:
        raise rapsqlite.ProgrammingError(*error.args) from None


def module() -> types.ModuleType:
    """Return a module to use instead of sqlite3."""
    face: Any = types.ModuleType("sqlite3")
    vars(face).update({name: getattr(rapsqlite, name) for name in rapsqlite.__all__})
    vars(face).update(Blob=Blob, Cursor=Cursor, Connection=Connection, connect=connect, adapt=adapt)
    face.adapters, face.converters = vars(sqlite3)["adapters"], vars(sqlite3)["converters"]
    face.dbapi2 = face
    face.__path__ = sqlite3.__path__
    made: types.ModuleType = face
    return made
