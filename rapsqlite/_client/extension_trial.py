"""Loads an extension in a separate, temporary sandbox before its connection does.

SQLite can recover from an extension that returns an error, but code that traps or never returns ends its instance. The
trial, with the same limits but without files, keeps the user's instance out of it. What a module does while loading
rarely depends on where it is loaded; what its functions do later is not tried.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from rapsqlite import _constants as abi
from rapsqlite._client.extension_loader import Loader
from rapsqlite._wasm.rings import Request
from rapsqlite.errors import Error, OperationalError

if TYPE_CHECKING:
    from rapsqlite._client.opening import OpenOptions
    from rapsqlite._guest.guest import Guest


async def ask_loader(guest: Guest, operation: int, loader_handle: int, *arguments: str | bool | None) -> None:
    """Send one of the requests about extensions."""
    await guest.call(
        Request(abi.OP_CONTROL, params=msgspec.msgpack.encode([loader_handle, *arguments]), target=operation)
    )


async def try_out(target: OpenOptions, path: str, entrypoint: str | None) -> None:
    """Load the module where nothing can be lost; OperationalError if that ends the sandbox.

    Other errors are ignored: the connection's own SQLite will report them.
    """
    guest = await target.open_scratch()
    loader = Loader(guest)
    loader.announce(path)
    try:
        handle = guest.callbacks.hold_several(loader.methods)
        await ask_loader(guest, abi.CONTROL_OP_EXTENSIONS, handle, True)
        await ask_loader(guest, abi.CONTROL_OP_LOAD_EXTENSION, handle, path, entrypoint)
    except Error:
        if guest.state == "broken":
            raise OperationalError(
                f"extension {path!r} was tried in a separate sandbox and ended it, so it was not loaded: {guest.reason}"
            ) from None
    finally:
        await guest.close()
