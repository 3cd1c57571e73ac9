"""What every test may use: the event loops it runs on and a place for its database."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

BACKENDS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("trio", {}), id="trio"),
]
if sys.platform != "win32":
    BACKENDS.append(pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"))


@pytest.fixture(scope="module", params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Each async test runs once on each of these event loops."""
    backend: tuple[str, dict[str, Any]] = request.param
    return backend


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """The path of a database file that does not exist yet."""
    return tmp_path / "test.db"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what is marked ``slow`` unless RAPSQLITE_LONG=1 asks for it."""
    if os.environ.get("RAPSQLITE_LONG") == "1":
        return
    skip = pytest.mark.skip(reason="long test: set RAPSQLITE_LONG=1")
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(skip)
