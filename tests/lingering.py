"""Callbacks that do not return, in and outside of Python code, and connections that soon lose patience with them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import anyio.to_thread

if TYPE_CHECKING:
    import rapsqlite


class Endless:
    """A callback that runs for ever in Python code."""

    def __init__(self) -> None:
        self.started = threading.Event()

    def __call__(self, *_: object) -> Any:
        self.started.set()
        while True:
            pass


class Blocked:
    """A callback that waits outside of Python code, where no exception reaches it, until it is let go."""

    def __init__(self, answer: int) -> None:
        self.started = threading.Event()
        self.let_go = threading.Event()
        self.answer = answer

    def __call__(self, *_: object) -> int:
        self.started.set()
        self.let_go.wait()
        return self.answer


def impatient(conn: rapsqlite.Connection) -> None:
    conn._session.guest._traffic.patience_s = 0.05


async def started(callback: Endless | Blocked) -> None:
    await anyio.to_thread.run_sync(callback.started.wait, 30)
