"""A connection for tests below the public API: blocking, with access to its file table."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import msgspec

from rapsqlite import _constants as abi
from rapsqlite._files.file_table import FileTable
from rapsqlite._guest.guest import Guest
from rapsqlite._wasm.rings import Request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

CREATE = abi.SQLITE_OPEN_READWRITE | abi.SQLITE_OPEN_CREATE


class Driven:
    """One guest with a database open, driven by an event loop that runs only during its calls."""

    def __init__(
        self,
        database: Path | str,
        *,
        flags: int = CREATE,
        timeout_s: float = 0.0,
        files: FileTable | None = None,
    ) -> None:
        name = os.fsencode(database)
        self.files = files or FileTable(name, uri=bool(flags & abi.SQLITE_OPEN_URI))
        self.guest = Guest(os.fsdecode(name), self.files, timeout_s)
        self._loop = asyncio.new_event_loop()
        self.guest.start()
        options = {"flags": flags, "cached_statements": 16}
        try:
            self._run(lambda: self.guest.call(Request(abi.OP_OPEN, name, msgspec.msgpack.encode(options))))
        except BaseException:
            self.close()
            raise

    def _run(self, begin: Callable[[], Awaitable[Any]]) -> Any:
        async def run() -> Any:
            return await begin()

        return self._loop.run_until_complete(run())

    def sql(self, statement: str, *parameters: object) -> list[list[Any]]:
        """Run one statement and return its rows."""
        params = msgspec.msgpack.encode(parameters) if parameters else b""
        decode = msgspec.msgpack.decode
        answer = self._run(lambda: self.guest.collect(Request(abi.OP_FETCH, statement.encode(), params), decode))
        rows: list[list[Any]] = answer[0]
        return rows

    def script(self, statements: str) -> None:
        """Run any number of statements."""
        self._run(lambda: self.guest.call(Request(abi.OP_SCRIPT, statements.encode())))

    def value(self, statement: str, *parameters: object) -> Any:
        """Return the first column of the first row."""
        return self.sql(statement, *parameters)[0][0]

    def statistics(self) -> dict[str, int]:
        """Return the guest's own counters."""
        reply = self._run(lambda: self.guest.call(Request(abi.OP_CONTROL, target=abi.CONTROL_OP_STATISTICS)))
        counters: dict[str, int] = msgspec.msgpack.decode(reply.rows)
        return counters

    def imports(self) -> dict[str, int]:
        """Return how often each host function has been called."""
        return self.guest.statistics()

    def close(self) -> None:
        """Close the database and end the guest's thread."""
        if not self._loop.is_closed():
            self._run(self.guest.close)
            self._loop.close()

    def __enter__(self) -> Driven:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
