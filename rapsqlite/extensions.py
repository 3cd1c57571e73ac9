"""SQLite extensions: the bundled ones by name, others by path, as WebAssembly side modules.

SQLite decides what is loaded when, and its messages report errors; docs/extensions.md has the list and explains how to
build one. https://sqlite.org/loadext.html
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
    """Loads extensions: methods of `Connection`."""

    _state: ConnectionState
    _target: OpenOptions
    _loader: Loader | None = None
    _loader_handle = 0

    async def enable_load_extension(self, enable: bool, /) -> None:
        """Allow or forbid `load_extension` and the SQL function of that name; initially forbidden."""
        await self._ask_about_extensions(abi.CONTROL_OP_EXTENSIONS, bool(enable))

    async def load_extension(self, name: str | os.PathLike[str], /, *, entrypoint: str | None = None) -> None:
        """Load an extension: a bundled one by name, or a WebAssembly side module by path.

        Without ``entrypoint``, SQLite looks for ``sqlite3_extension_init`` and for the name derived from the file name.
        Names of built-in extensions are accepted and do nothing.

        Your own module is first tried in a separate sandbox, so a module that traps or never returns while loading does
        no harm. A task cancelled meanwhile loads nothing.

        Raises OperationalError if loading is not enabled ("not authorized"), the extension does not exist, is damaged,
        has no entry point, traps, or its entry point fails, with its message; NotSupportedError for a native library
        and for a module that imports what the sandbox does not provide; OutOfMemoryError if it requests more memory
        than the engine may use. The connection stays usable.
        https://docs.python.org/3/library/sqlite3.html#sqlite3.Connection.load_extension
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
            # The guest knows only that loading failed; the loader's exception says why.
            if isinstance(error.__cause__, Error):
                raise error.__cause__ from None
            raise

    async def _may_load(self) -> bool:
        return await cast("Connection", self).getconfig(abi.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION)

    async def _ask_about_extensions(self, operation: int, *arguments: str | bool | None) -> None:
        guest = self._state.guest
        guest.state  # noqa: B018 - raises if the connection is closed
        if self._loader is None:
            self._loader = Loader(guest)
            self._loader_handle = guest.callbacks.hold_several(self._loader.methods)
        if operation == abi.CONTROL_OP_LOAD_EXTENSION:
            self._loader.announce(str(arguments[0]))
        await ask_loader(guest, operation, self._loader_handle, *arguments)
