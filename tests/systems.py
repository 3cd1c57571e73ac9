"""Marks of tests that only some systems can run."""

from __future__ import annotations

import sys

import pytest


def not_on_windows(reason: str) -> pytest.MarkDecorator:
    """Skip a test on Windows, for a reason that says what it lacks."""
    return pytest.mark.skipif(sys.platform == "win32", reason=reason)
