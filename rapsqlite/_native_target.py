"""The target of a backup that is a connection of Python's own sqlite3: it copies the image itself, in a thread."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING

from rapsqlite import _constants as abi
from rapsqlite import errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite._image import Image

RETRIED = (abi.SQLITE_BUSY, abi.SQLITE_LOCKED)


async def pause(seconds: float) -> None:
    """Let other tasks run for a while."""
    from anyio import sleep  # only who meets a lock pays for the import

    await sleep(seconds)


async def hand_over(
    image: Image,
    target: sqlite3.Connection,
    progress: Callable[[int, int, int], object] | None,
    sleep_s: float,
    total: int,
) -> None:
    """Let Python's sqlite3 copy the image, in a thread, over a database of its own."""
    from anyio import to_thread  # as in pause

    image.require()  # sqlite3 would take a file that is not there for an empty database
    while True:
        try:
            status = await to_thread.run_sync(_restore, image.path, target)
        except sqlite3.Error as error:
            raise _translated(error) from error
        if status == abi.SQLITE_DONE:
            return
        if progress is not None:
            progress(status, total, total)
        await pause(sleep_s)


class _Locked(Exception):  # noqa: N818 - it ends one try, it is no error
    """The target is locked; sqlite3 itself would try again for ever."""


def _restore(path: bytes, target: sqlite3.Connection) -> int:
    def look(status: int, _remaining: int, _total: int) -> None:
        if status in RETRIED:
            raise _Locked(status)

    image = sqlite3.connect(os.fsdecode(path))
    try:
        image.backup(target, progress=look)
    except _Locked as locked:
        return int(locked.args[0])
    finally:
        image.close()
    return abi.SQLITE_DONE


def _translated(error: sqlite3.Error) -> errors.Error:
    """Return an error of sqlite3's as that of this package, which is one of sqlite3's too."""
    kind: type[errors.Error] = getattr(errors, type(error).__name__, errors.DatabaseError)
    translated = kind(f"the target: {error}")
    translated.sqlite_errorcode = getattr(error, "sqlite_errorcode", abi.SQLITE_ERROR)
    translated.sqlite_errorname = getattr(error, "sqlite_errorname", "SQLITE_ERROR")
    return translated
