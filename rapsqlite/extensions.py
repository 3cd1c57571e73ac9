"""Extensions of SQLite: those that come with the package, by name, and those of others, as WebAssembly side modules.

SQLite's own rules decide what is loaded when, and its own messages say what went wrong; docs/extensions.md has the list
and the way to build one.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

from rapsqlite import _constants as abi
from rapsqlite._client.extension_loader import BUILT_IN, SHIPPED, Loader
from rapsqlite._client.extension_trial import ask_loader, try_out
from rapsqlite.errors import Error, OperationalError

if TYPE_CHECKING:
    from rapsqlite._client.opening import OpenOptions
    from rapsqlite._client.state import ConnectionState
    from rapsqlite.connection import Connection


class Extensions:
    """What of `Connection` loads extensions."""

    _session: ConnectionState
    _target: OpenOptions
    _loader: Loader | None = None
    _loader_handle = 0

    async def enable_load_extension(self, enable: bool, /) -> None:
        """Allow `load_extension` and the SQL function of that name, or forbid them again, as they are at first."""
        await self._ask_about_extensions(abi.CONTROL_OP_EXTENSIONS, bool(enable))

    async def load_extension(self, name: str | os.PathLike[str], /, *, entrypoint: str | None = None) -> None:
        """Load an extension: one that comes with the package, by its name, or a *wasm* side module, by its path.

        Without ``entrypoint``, SQLite looks for ``sqlite3_extension_init`` and for the name made from the file's.
        What is built into the engine is there from the start; nothing is done for it.

        A module of yours is tried beside the connection first, so one that traps or never returns when it is loaded
        does no harm; a task that is cancelled meanwhile loads nothing.

        OperationalError if loading is not enabled ("not authorized"), if there is no such extension, if it is
        damaged or has no entry point, with the message of an entry point that fails, and if it traps; NotSupportedError
        for a native library, and for a module that imports what the sandbox does not have; OutOfMemoryError if it asks
        for more memory than the engine may have. The connection stays usable.

        https://sqlite.org/loadext.html, https://docs.python.org/3/library/sqlite3.html#sqlite3.Connection.load_extension
        """
        path = os.fspath(name)
        for text in (path, entrypoint or ""):
            if not isinstance(text, str):
                raise TypeError(f"load_extension() takes str, not {type(text).__name__}")
            if "\0" in text:
                raise ValueError("embedded null character")
        if path.lower() not in BUILT_IN | SHIPPED and await self._may_load():
            await try_out(self._target, path, entrypoint)
        try:
            await self._ask_about_extensions(abi.CONTROL_OP_LOAD_EXTENSION, path, entrypoint)
        except OperationalError as error:
            # The guest knows only that it failed; what the loader raised says why.
            if isinstance(error.__cause__, Error):
                raise error.__cause__ from None
            raise

    async def _may_load(self) -> bool:
        return await cast("Connection", self).getconfig(abi.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION)

    async def _ask_about_extensions(self, operation: int, *arguments: str | bool | None) -> None:
        guest = self._session.guest
        guest.state  # noqa: B018 - raises if the connection is closed
        if self._loader is None:
            self._loader = Loader(guest)
            self._loader_handle = guest.callbacks.hold_several(self._loader.methods)
        if operation == abi.CONTROL_OP_LOAD_EXTENSION:
            self._loader.announce(str(arguments[0]))
        await ask_loader(guest, operation, self._loader_handle, *arguments)
