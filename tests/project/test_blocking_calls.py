"""The check for calls that can block an event loop: which calls it records, and which it ignores."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import pytest

from tests import blocking_calls

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import builtins, fcntl, os, pathlib

def call(name, path):
    return CALLS[name](path)

CALLS = {
    "os.stat": os.stat,
    "os.open": lambda path: os.close(os.open(path, os.O_RDONLY)),
    "open": lambda path: open(path).close(),
    "exists, of pathlib": lambda path: os.path.exists(path),
    "read": lambda descriptor: os.read(descriptor, 1),
    "fsync": os.fsync,
    "lockf": lambda descriptor: fcntl.lockf(descriptor, fcntl.LOCK_UN),
}
"""


def as_the_package() -> Any:
    """Return a function that calls as if it were in a file of the package."""
    names: dict[str, Any] = {}
    exec(compile(PROGRAM, f"{blocking_calls.PACKAGE}/made_up.py", "exec"), names)
    return names["call"]


@pytest.mark.parametrize("name", ["os.stat", "os.open", "open", "exists, of pathlib"])
async def test_call_with_a_path_is_noted_on_the_thread_of_a_loop(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    as_the_package()(name, str(tmp_path / "file"))

    assert "made_up.py" in "".join(blocking_calls.take())


@pytest.mark.parametrize("name", ["read", "fsync", "lockf"])
async def test_call_with_a_descriptor_is_noted_on_the_thread_of_a_loop(name: str, tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    try:
        as_the_package()(name, descriptor)
    finally:
        os.close(descriptor)

    assert "made_up.py" in "".join(blocking_calls.take())


async def test_pipe_is_not_noted() -> None:
    """Pipes and event descriptors ring an event loop's bell; the package's never block."""
    reader, writer = os.pipe()
    os.write(writer, b"x")

    as_the_package()("read", reader)

    os.close(reader)
    os.close(writer)
    assert blocking_calls.take() == []


async def test_virtual_file_of_the_kernel_is_not_noted() -> None:
    as_the_package()("open", "/proc/self/status")

    assert blocking_calls.take() == []


async def test_call_in_another_thread_is_not_noted(tmp_path: Path) -> None:
    await anyio.to_thread.run_sync(as_the_package(), "os.stat", str(tmp_path))

    assert blocking_calls.take() == []


def test_call_without_a_loop_is_not_noted(tmp_path: Path) -> None:
    as_the_package()("os.stat", str(tmp_path))

    assert blocking_calls.take() == []


async def test_call_of_a_test_itself_is_not_noted(tmp_path: Path) -> None:
    os.stat(tmp_path)

    assert blocking_calls.take() == []
