"""The pipe through which a guest wakes an event loop without the GIL, and the choice of that loop.

The pipe is the guest's standard output: the guest rings by writing through wasmtime's own WASI, which runs no Python
and reports errors as numbers. The first loop that uses the guest watches the other end. If a second loop comes while
the first still exists, the guest goes back to calling the import, which finds out which loops wait; rings in progress
reach the first loop, which drains the replies for all.
"""

from __future__ import annotations

import os
import select
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rapsqlite import _constants as abi
from rapsqlite._platform import system
from rapsqlite._values.bounds import MOST_IDLE_BELLS
from rapsqlite._wasm.rings import MalformedReplyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rapsqlite._loops import Loop
    from rapsqlite._wasm.control_block import Words

_MOST_RINGS = 65_536  # pipe capacity in bytes: beyond it a write blocks
_READ_ON_MS = 100


def check_bells(rings: int, words: Words) -> None:
    """Raise MalformedReplyError if the guest rings more often than it was asked to: the loop would run for nothing."""
    if rings > words.bells_asked + MOST_IDLE_BELLS:
        raise MalformedReplyError("the guest rings although nobody has asked it to")


class Bell:
    """One guest's pipe. Call ``watch_from`` and ``unwatch`` with the guest's lock held."""

    def __init__(self) -> None:
        """Open the pipe; OSError if there are too many open files."""
        self._reader = self._writer = -1
        self._closing = threading.Lock()
        self._wait = system.new_pipe_wait()
        self._reader, self._writer = system.open_pipe()
        self._loop: Loop | None = None
        self._drain: Callable[[Loop], object] = lambda _loop: None
        self._is_shared = False
        self._key: object = None  # of the newest loop
        self.is_heard = False  # whether the newest loop watches it
        self.rings = 0  # so far
        self._is_read_on = False
        self._wait.fd = self._reader

    @property
    def path(self) -> str:
        """Return the file for the guest to write to. It is opened anew, so that writes block instead of failing."""
        return system.path_of(self._writer)

    def hand_over(self) -> None:
        """Close our write end: the guest now has its own descriptor."""
        writer, self._writer = self._writer, -1
        _close(writer)

    def watch_from(self, loop: Loop, words: Words, drain: Callable[[Loop], object]) -> None:
        """Let ``loop``, which runs in this thread, watch the pipe and call ``drain``, unless another loop does."""
        if loop.key is self._key:
            return
        self._drain = drain
        is_heard = self._is_watched_by(loop)
        words.set_bell(abi.BELL_WRITES if is_heard else abi.BELL_CALLS)
        self._key, self.is_heard = loop.key, is_heard

    def _is_watched_by(self, loop: Loop) -> bool:
        if self._is_shared or self._reader < 0:
            return False
        if self._loop is not None and not self._loop.is_closed():
            self._is_shared = self._loop.key is not loop.key  # the same one if an exception ended the first attempt
            return not self._is_shared
        self._loop = loop if loop.watch(self._reader, self._on_ring, loop) else None
        return self._loop is not None

    def _on_ring(self, loop: Loop) -> None:
        try:
            if not self.drain():
                self._end_watch(loop)
            self._drain(loop)
        except BaseException:
            loop.post(self._drain, loop)  # the rings may have been read
            raise

    def drain(self) -> bool:
        """Read the rings so far; False if there will be no more."""
        try:
            rings = len(os.read(self._reader, _MOST_RINGS)) if self._reader >= 0 else 0
        except BlockingIOError:
            return True
        self.rings += rings
        return rings > 0

    def wait(self, seconds: float) -> None:
        """Sleep until it rings, at most ``seconds``, less than 1. Call in the thread of the watching loop."""
        if self._wait.wait(seconds):
            self.drain()

    def unwatch(self) -> None:
        """Close the pipe once the guest has ended, in the thread of the loop that watches it. Idempotent.

        Not earlier: writing to a pipe without a reader ends a process in which SIGPIPE has its default action.
        """
        if self._loop is None or not self._loop.post(self._end_watch, self._loop):
            self.close()

    def read_on(self, has_ended: Callable[[], bool]) -> None:
        """Read what the guest writes until it has ended: it may block because it wrote more than requested."""
        if self._reader < 0 or self._is_read_on:
            return
        self._is_read_on = True
        with suppress(
            OSError, RuntimeError
        ):  # too many open files, or the interpreter is exiting: then the guest stays blocked
            # Uses its own descriptor: the pipe's may be closed, and its number reused for another file, at any time.
            reader = os.dup(self._reader)
            threading.Thread(target=_read_until, args=(reader, has_ended), name="rapsqlite bell", daemon=True).start()

    def _end_watch(self, loop: Loop) -> None:
        if self._reader >= 0:
            loop.unwatch(self._reader)
        self.close()

    def close(self) -> None:
        """Close the pipe. No loop watches it (any more)."""
        self._wait.fd = -1
        with self._closing:  # a descriptor closed twice may be another file's by then
            reader, self._reader = self._reader, -1
            writer, self._writer = self._writer, -1
        for descriptor in (reader, writer):
            if descriptor >= 0:
                _close(descriptor)

    def abandon_after_fork(self) -> None:
        """Drop the pipe in a forked child: its watcher is the parent's, one of whose threads may be closing it."""
        self._closing = threading.Lock()
        self.close()

    def __del__(self) -> None:
        """For a loop that never runs again and therefore cannot close it."""
        self.close()


@contextmanager
def bell_here(can_write: Callable[[], bool]) -> Iterator[tuple[Bell | None, str]]:
    """Return a new bell and the file through which a guest created meanwhile opens it; None and "" without a bell.

    ``can_write`` says, once the pipe is open, whether a guest can write to a file; otherwise there is no bell.
    """
    bell = _open(can_write)
    yield bell, bell.path if bell is not None else ""
    if bell is not None:
        bell.hand_over()


def _read_until(reader: int, has_ended: Callable[[], bool]) -> None:
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    try:
        while not has_ended():
            if poll.poll(_READ_ON_MS):
                with suppress(BlockingIOError):  # a loop that watches the pipe was faster
                    if not os.read(reader, _MOST_RINGS):
                        return
    finally:
        _close(reader)


def _open(can_write: Callable[[], bool]) -> Bell | None:
    if not system.has_bells:
        return None
    try:
        bell = Bell()
        if Path(bell.path).exists() and can_write():
            return bell
        bell.close()
    except OSError:
        pass
    return None


def _close(descriptor: int) -> None:
    with suppress(OSError):  # it is closed, whatever it reports
        os.close(descriptor)
