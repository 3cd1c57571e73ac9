"""The line that tells people at a terminal why their first connection takes a second or two."""

from __future__ import annotations

import logging
import os
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

logger: logging.Logger = logging.getLogger("rapsqlite")


@contextmanager
def announced() -> Iterator[None]:
    """Announce that the engine is being compiled, and how long it took: on a terminal, and to the logger at INFO."""
    terminal = _terminal()
    _write(terminal, "rapsqlite: compiling the engine, once")
    rest, started = "\n", time.monotonic()
    try:
        yield
        took_s = time.monotonic() - started
        rest = f" ({took_s:.1f} s)\n"
        logger.info("compiled the engine in %.1f s", took_s)
    finally:
        _write(terminal, rest)


def _terminal() -> int | None:
    """Return the descriptor of standard error if it is a terminal, and nothing has replaced ``sys.stderr``."""
    stream = sys.__stderr__
    if stream is None or sys.stderr is not stream:
        return None
    try:
        descriptor = stream.fileno()
        return descriptor if os.isatty(descriptor) else None
    except (OSError, ValueError):  # it is closed
        return None


def _write(terminal: int | None, text: str) -> None:
    # Not through the stream: this thread may not hold its lock when the interpreter ends.
    if terminal is not None:
        with suppress(OSError):  # the terminal has gone
            os.write(terminal, text.encode())
