"""Runs Python programs of tests in a separate interpreter, and what several of these do alike."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import rapsqlite

if TYPE_CHECKING:
    from collections.abc import Callable

SLOWNESS = int(os.environ.get("RAPSQLITE_SLOWNESS", "1"))
"""How many times as long a test may take as on a machine of its own: more where scripts/platforms emulates one."""


def run_python(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run this interpreter with these arguments; return its exit code and output, whatever they are."""
    command = [sys.executable, *map(str, arguments)]
    defaults = {"capture_output": True, "text": True, "timeout": 55 * SLOWNESS, "check": False}
    return subprocess.run(command, **{**defaults, **options})


async def compile_engine() -> None:
    """Open a connection: the first one on a machine compiles the engine, which takes seconds."""
    async with rapsqlite.connect(":memory:"):
        pass


def loop_maker(kind: str) -> Callable[[], Any]:
    """Return what makes an event loop of asyncio, or of uvloop."""
    if kind == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    return asyncio.new_event_loop
