"""Fixtures of the durability tests."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def quick_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory whose syncs are cheap, for tests that create thousands of databases; otherwise any directory."""
    memory = Path("/dev/shm")
    if sys.platform == "win32" or not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        yield Path(directory)
