"""Marks of tests that only some systems can run, and the event loops that some tests are for."""

from __future__ import annotations

import sys

import pytest


def not_on_windows(reason: str) -> pytest.MarkDecorator:
    """Skip a test on Windows, for a reason that says what it lacks."""
    return pytest.mark.skipif(sys.platform == "win32", reason=reason)


LOOPS_THAT_POLL = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop", marks=not_on_windows("uvloop is not for Windows")),
]
"""The backends of anyio whose tasks may wait outside their loop."""
