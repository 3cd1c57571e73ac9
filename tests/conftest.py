"""Fixtures for every test: the event loops it runs on and a path for its database."""

from __future__ import annotations

import os
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import rapsqlite
from tests import blocking_calls
from tests.played_time import let_guests_answer_late
from tests.programs import SLOWNESS

if TYPE_CHECKING:
    from collections.abc import Iterator

blocking_calls.watch()
if SLOWNESS > 1:
    let_guests_answer_late()

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


@pytest.fixture(autouse=True)
def _event_loop_is_never_blocked() -> Iterator[None]:
    """Fail a test in which the package used a file on the thread of an event loop."""
    yield
    calls = blocking_calls.take()
    if calls:
        pytest.fail("\n".join(calls), pytrace=False)


def pytest_configure() -> None:
    """Test the package in the environment that RAPSQLITE_INSTALLED_IN names, if it is set: see
    scripts/test_wheel.sh.
    """
    expected = os.environ.get("RAPSQLITE_INSTALLED_IN")
    if expected is not None and not Path(rapsqlite.__file__).is_relative_to(expected):
        raise pytest.UsageError(f"{rapsqlite.__file__} would be tested, which is not in {expected}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests marked ``slow`` unless RAPSQLITE_LONG=1, and deselect the tests of other shares. Extend the limits."""
    keep_share(config, items, os.environ.get("RAPSQLITE_SHARE", "1/1"))
    if SLOWNESS > 1:
        for item in items:
            item.add_marker(pytest.mark.timeout(60 * SLOWNESS), append=False)  # before the test's own
    if os.environ.get("RAPSQLITE_LONG") == "1":
        return
    skip = pytest.mark.skip(reason="long test: set RAPSQLITE_LONG=1")
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(skip)


def keep_share(config: pytest.Config, items: list[pytest.Item], share: str) -> None:
    """Keep the tests of one share, such as "2/4", and the running Python's own, which differ between versions."""
    number, count = map(int, share.split("/"))
    in_share = {
        item: "test_cpython_suite" in item.nodeid or zlib.crc32(item.nodeid.encode()) % count == number - 1
        for item in items
    }
    config.hook.pytest_deselected(items=[item for item in items if not in_share[item]])
    items[:] = [item for item in items if in_share[item]]
