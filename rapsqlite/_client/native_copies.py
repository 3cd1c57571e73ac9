"""Copies to and from connections of Python's sqlite3, which reads or writes the image itself, in a thread.

https://docs.python.org/3/library/sqlite3.html#sqlite3.Connection.backup
"""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
from typing import TYPE_CHECKING

from rapsqlite import _constants as abi
from rapsqlite import errors
from rapsqlite._loops.worker import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from rapsqlite._client.image import Image

RETRIED = (abi.SQLITE_BUSY, abi.SQLITE_LOCKED)


async def pause(seconds: float) -> None:
    """Let other tasks run for a while."""
    from anyio import sleep  # imported only when a lock is met

    await sleep(seconds)


async def hand_over(
    image: Image,
    target: sqlite3.Connection,
    progress: Callable[[int, int, int], object] | None,
    sleep_s: float,
    total: int,
) -> None:
    """Let Python's sqlite3 copy the image over its own database, in a thread."""
    while True:
        try:
            status = await in_thread(lambda: _restore(image, target), grace_period_s=math.inf)
        except sqlite3.Error as error:
            raise _translated(error, "target") from error
        if status == abi.SQLITE_DONE:
            return
        if progress is not None:
            progress(status, total, total)
        await pause(sleep_s)


async def take_over(image: Image, source: sqlite3.Connection, name: str, sleep_s: float) -> None:
    """Let Python's sqlite3 copy its own database into the image; in a thread if the connection allows that."""
    while True:
        try:
            try:
                status = await in_thread(lambda: _save(image, source, name), grace_period_s=math.inf)
            except sqlite3.ProgrammingError as error:
                if "thread" not in str(error):
                    raise
                status = _save(image, source, name)  # it was made with check_same_thread, for this thread
        except sqlite3.Error as error:
            raise _translated(error, "source") from error
        if status == abi.SQLITE_DONE:
            return
        await pause(sleep_s)


class _Locked(Exception):  # noqa: N818 - it ends one try, it is no error
    """One end is locked; sqlite3 itself would retry forever."""


def _restore(image: Image, target: sqlite3.Connection) -> int:
    # sqlite3 would treat a missing file as an empty database.
    with contextlib.closing(sqlite3.connect(str(image.existing()))) as copy:
        return _copied(copy, target, "main")


def _save(image: Image, source: sqlite3.Connection, name: str) -> int:
    with contextlib.closing(sqlite3.connect(os.fsdecode(image.path))) as copy:
        return _copied(source, copy, name)


def _copied(source: sqlite3.Connection, target: sqlite3.Connection, name: str) -> int:
    """Copy all pages; return SQLITE_DONE, or the reason why it is not possible now."""

    def check(status: int, _remaining: int, _total: int) -> None:
        if status in RETRIED:
            raise _Locked(status)

    try:
        source.backup(target, progress=check, name=name)
    except _Locked as locked:
        return int(locked.args[0])
    return abi.SQLITE_DONE


def _translated(error: sqlite3.Error, end: str) -> errors.Error:
    """Return a sqlite3 error as this package's subclass of it."""
    kind: type[errors.Error] = getattr(errors, type(error).__name__, errors.DatabaseError)
    translated = kind(f"the {end}: {error}")
    translated.sqlite_errorcode = getattr(error, "sqlite_errorcode", abi.SQLITE_ERROR)
    translated.sqlite_errorname = getattr(error, "sqlite_errorname", "SQLITE_ERROR")
    return translated
