"""An extension is loaded beside its connection first, in a sandbox that is thrown away.

SQLite can take back an extension that answers with an error, but code that traps or never returns ends the instance it
runs in. Tried in another one, with the same limits but without the files, that is not the user's. What a module does
when it is loaded seldom depends on where; what it does when its functions are called later is not tried.
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

    Any other error is left to the connection's own SQLite, which will come to it in the same way.
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
