"""Locks that the event loop's thread takes and releases, so that a statement makes no host call for them.

A host call costs the guest a wait for the GIL, which the thread that polls for the reply holds anyway. That thread
takes the locks that the same statement took last time, before it sends the request, and releases them as it takes the
reply. It does so only on local file systems, where these calls do not block, and only while no connection of this
process waits for a lock. If a lock is not free, the guest requests it itself.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, NamedTuple

from rapsqlite import _constants as abi
from rapsqlite._files.file_error import FileError

if TYPE_CHECKING:
    from collections.abc import Hashable

    from rapsqlite._files.open_file import OpenFile

logger = logging.getLogger("rapsqlite")

_MOST_STATEMENTS = 256
_EXCLUSIVE = 0xFF * abi.LOCKS_EXCLUSIVE
_WRITER = abi.LOCKS_EXCLUSIVE  # the lock 0 of the index


class Prelock(NamedTuple):
    """Locks that are held for the next request: ``LOCKS_*`` of one database, and `OpenFile.facts`."""

    handle: int
    locks: int
    size_bytes: int = 0
    companions: int = 0


NO_PRELOCK = Prelock(0, 0)


class Prelocks:
    """What the statements of one connection ask for, and the locks that are held for the next one.

    The guest's thread calls ``note`` and closes files under ``guard``; the thread that sends requests calls the rest,
    with the guest's lock held.
    """

    def __init__(self, files: dict[int, OpenFile]) -> None:
        self._files = files
        self._wanted: dict[int, tuple[int, int]] = {}  # handle and locks, by the statement's hash: texts may be long
        self._asked: tuple[int, int] | None = (0, 0)  # by the statement that runs; None: nothing to learn from it
        self.held: Prelock | None = None  # until the statement is answered
        self.guard = threading.Lock()  # a file whose locks change here stays open

    def note(self, handle: int, locks: int) -> None:
        """The guest was granted a lock."""
        if self._asked is not None:
            first, asked = self._asked
            if first in (0, handle):
                self._asked = (handle, asked | locks)

    def disregard(self) -> None:
        """The statement that runs makes the index of a WAL, for which it needs locks that it usually does not."""
        self._asked = None

    def take(self, statement: Hashable) -> Prelock:
        """Take the locks that this statement needed last time, as far as they are free."""
        self._asked = (0, 0)
        wanted = self._wanted.get(hash(statement))
        if wanted is None:
            return NO_PRELOCK
        handle, locks = wanted
        with self.guard:
            file = self._files.get(handle)
            locks = 0 if file is None else file.prelockable(locks)
            if file is None or not locks:
                return NO_PRELOCK
            self.held = Prelock(handle, locks)  # first: after an exception below, ``recover`` drops them
            try:
                locks, size_bytes, companions = file.prelock(locks)
            except FileError:  # the guest gets the error
                locks, size_bytes, companions = 0, 0, 0
            held = Prelock(handle, locks, size_bytes, companions)
            self.held = held if locks else None
        return held if locks else NO_PRELOCK

    def learn(self, statement: Hashable, left: tuple[int, int] | None) -> None:
        """Note the locks that a finished statement needed.

        ``left``: the handle and locks that its reply left to the host, which has released them since; None if the guest
        may have released some.
        """
        held, self.held = self.held, None
        handle, asked = self._asked or (0, 0)
        if held is not None:
            if not self._was_apt(held, left) or (asked and _lacked(asked, held.locks)):
                self._wanted.pop(hash(statement), None)
        elif asked:
            if len(self._wanted) >= _MOST_STATEMENTS:
                self._wanted.clear()
            self._wanted[hash(statement)] = (handle, _worth_taking(asked))

    def _was_apt(self, held: Prelock, left: tuple[int, int] | None) -> bool:
        """Return False if some of the locks were released before the statement ran, because it did not need them."""
        if left is None:
            return True
        unused = _without_kind(held.locks)
        if left[0] == held.handle:
            unused &= ~left[1]
        if unused:
            with self.guard:
                file = self._files.get(held.handle)
                unused &= 0 if file is None else ~file.held_locks()  # its transaction has the others
        return not unused

    def recover(self) -> None:
        """Drop what was taken, or was about to be taken, for a request that was never sent."""
        held = self.held
        if held is not None:
            with self.guard:
                file = self._files.get(held.handle)
                if file is not None:
                    file.note_prelock(_without_kind(held.locks))
            self.drop(held.handle, _without_kind(held.locks))
        self.held = None  # last: after an exception above, all is done again

    def drop(self, handle: int, locks: int) -> None:
        """Drop locks of a database: ``LOCKS_FILE``, those on its index of either kind as bits 0 to 7.

        The numbers are the guest's: what is not open, not local, not held, or more than SHARED is left alone.
        """
        with self.guard:
            file = self._files.get(handle)
            if file is not None and file.is_local:
                try:
                    file.drop(locks)
                except FileError as error:
                    logger.warning("a lock was not given back: %s", error)  # until the connection closes


def _without_kind(locks: int) -> int:
    """Return the bits 0 to 7 of locks of either kind, and ``LOCKS_FILE``."""
    return (locks | locks >> 8) & 0xFF | locks & abi.LOCKS_FILE


def _lacked(asked: int, held: int) -> bool:
    """Return True if a statement requested locks that it had not been given, or a writer's of another kind."""
    others = _without_kind(asked) & ~_without_kind(held)
    return bool(others or (held & _WRITER and asked & _EXCLUSIVE & held << 8))


def _worth_taking(asked: int) -> int:
    """Return which of the locks that a statement was granted it asks for every time, and in which kind first.

    A writer moves a reader's mark in the WAL index, as its last commit made the log longer, and then shares it. A
    reader does that only after a commit of others.
    """
    exclusive = asked & _EXCLUSIVE
    if exclusive & _WRITER:
        return asked & ~(exclusive >> 8)
    return asked & ~_EXCLUSIVE
